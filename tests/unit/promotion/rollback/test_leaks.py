"""A unique secret in every place where a cluster can hold one, and a post-upgrade test that fails
on the target: none of them is in the run's folder, the archive, the report, the journal or on
the terminal. All but the programs and the API is the real thing."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from ci.cli import app
from ci.cli import session as sessions
from ci.errors import PipelineError, PromotionFailed
from ci.model import Cluster, Release, Result
from ci.promotion.release import health, lease
from ci.promotion.upgrade import watch as watch_
from ci.report import terminal
from ci.results import Check, CheckId, HttpAnswer, passed
from ci.run.context import Context
from ci.run.events import Events
from ci.run.state import Home
from ci.settings import Settings
from ci.stages import promote, prove
from ci.tools import api, diagnostics
from ci.tools.api import Answer
from ci.tools.command import Invocation, Output, Programs
from ci.tools.wait import Cancellable, SystemClock, wait_until
from tests.unit.promotion import test_promote_flow as flow
from tests.unit.promotion.test_promote_flow import NEW, World, go, said

NAMESPACE = "launch"
POD = "model-engine-1"
KEY = [base64.b64encode(f"private key line {n}{'x' * 30}".encode()).decode() for n in range(4)]
PEM = "\n".join(("-----BEGIN RSA PRIVATE KEY-----", *KEY, "-----END RSA PRIVATE KEY-----"))

PLANTED = {
    "Secret": "Zq1SecretValue77x",
    "Secret of a plain name": "Zq2PlainlyNamed88y",
    "env value": "Zq3EnvValue99z",
    "ConfigMap": "Zq4ConfigMap11w",
    "log line": "Zq5LogLine22v",
    "event message": "Zq6EventMessage33u",
    "last-applied-configuration": "Zq7LastApplied44t",
    "Helm values": "Zq8HelmValues55s",
    "userinfo of a URL": "Zq9UserInfo66r",
    "connection string": "Zq10ConnString77q+/abc=",
    "bearer token": "zq11bearertoken88p.abcdefghijklmnop",
    "annotation": "Zq12Annotation99o",
    "argument": "Zq13Argument00n",
    "known to the run": "zq14 known to the run \"quoted\"",
}  # fmt: skip
ALL = (*PLANTED.values(), *KEY)

DIGEST = "sha256:" + "c" * 64


def forms(secret: str) -> Iterator[bytes]:
    """A secret as bytes, and in base64 wherever it may begin within what is encoded."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    for skipped in range(3):
        encoded = base64.b64encode(b"\0" * skipped + raw).rstrip(b"=")
        yield encoded[(skipped * 8 + 5) // 6 : (skipped + len(raw)) * 8 // 6]


def leaks(content: bytes) -> list[str]:
    return [secret for secret in ALL if any(form in content for form in forms(secret))]


def connection_string() -> str:
    key = PLANTED["connection string"]
    return f"Endpoint=sb://x.servicebus/;SharedAccessKeyName=Root;SharedAccessKey={key}"


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SECRET = {
    "apiVersion": "v1",
    "data": {
        "password": in_base64(PLANTED["Secret"]),
        "plain": in_base64(PLANTED["Secret of a plain name"]),
        "tls.key": in_base64(PEM),
        "username": in_base64("engine"),
    },
    "kind": "Secret",
    "metadata": {"name": "database", "namespace": NAMESPACE},
}
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "settings"},
    "data": {
        "DB_PASSWORD": PLANTED["ConfigMap"],
        "app.properties": f"pool=5\ndb.password={PLANTED['ConfigMap']}\nurl=http://engine:80/v1\n",
        "broker": connection_string(),
    },
}

LOG = f"""\
2026-11-23T10:00:00Z INFO engine starting, image {flow.REPOSITORY}@{DIGEST}
2026-11-23T10:00:01Z DEBUG connecting with password={PLANTED["log line"]} to engine-db:5432
2026-11-23T10:00:01Z DEBUG amqp://engine:{PLANTED["userinfo of a URL"]}@broker:5672/launch
2026-11-23T10:00:02Z DEBUG {connection_string()}
2026-11-23T10:00:02Z DEBUG Authorization: Bearer {PLANTED["bearer token"]}
2026-11-23T10:00:02Z DEBUG {{"level": "debug", "password": "{PLANTED["log line"]}", "try": 2}}
2026-11-23T10:00:03Z ERROR the database refused {PLANTED["Secret"]} ({PLANTED["known to the run"]})
{PEM}
2026-11-23T10:00:04Z ERROR giving up after 3 attempts
"""

EVENTS = f"""\
LAST SEEN   TYPE      REASON      OBJECT    MESSAGE
5s          Warning   Unhealthy   pod/model-engine-1   Readiness probe failed: Get "http://probe:\
{PLANTED["userinfo of a URL"]}@10.0.0.7:5000/readyz": token={PLANTED["event message"]}
4s          Warning   BackOff     pod/model-engine-1   refused {PLANTED["Secret of a plain name"]}
3s          Normal    Pulled      pod/model-engine-1   image "{flow.REPOSITORY}@{DIGEST}" present
"""

DESCRIBED = f"""\
Name:         model-engine-1
Annotations:  vendor.example/auth: {{"password":"{PLANTED["annotation"]}"}}
Containers:
  model-engine:
    Image ID:      {flow.REPOSITORY}@{DIGEST}
    Args:
      --listen=:5000
      --api-key
      {PLANTED["argument"]}
    Environment:
      DB_PASSWORD:  {PLANTED["env value"]}
      LOCK_SECONDS: 60
      OTHER:        <set to the key 'password' in secret 'database'>  Optional: false
"""

JUNIT = f"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="1"><testcase classname="test_flow" name="test_lock"
 time="1"><failure message="AssertionError: {connection_string()}&#10;x">password =
 '{PLANTED["log line"]}'</failure><system-out>Bearer {PLANTED["bearer token"]}
{PEM}</system-out></testcase></testsuite></testsuites>"""


def planted_pod(pod: dict[str, Any]) -> dict[str, Any]:
    applied = json.dumps({"stringData": {"a": PLANTED["last-applied-configuration"]}})
    pod["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": applied,
        "vendor.example/auth": json.dumps({"password": PLANTED["annotation"]}),
        "checksum/config": "0123456789abcdef",
    }
    pod["spec"]["containers"][0] |= {
        "args": ["--listen=:5000", "--api-key", PLANTED["argument"]],
        "env": [
            {"name": "DB_PASSWORD", "value": PLANTED["env value"]},
            {"name": "BROKER", "value": connection_string()},
            {
                "name": "OTHER",
                "valueFrom": {"secretKeyRef": {"name": "database", "key": "password"}},
            },
            {"name": "LOCK_SECONDS", "value": "60"},
        ],
        "envFrom": [{"secretRef": {"name": "database"}}],
    }
    pod["status"]["containerStatuses"][0] |= {"restartCount": 1, "state": {"running": {}}}
    return pod


@dataclass
class LeakyWorld(World):
    """Says a secret wherever a cluster can."""

    looked: list[str] = field(default_factory=list)
    reads: int = 0

    def items(self) -> list[dict[str, Any]]:
        found = super().items()
        for item in found:
            if item["kind"] == "Pod":
                item["metadata"]["name"] = POD
                planted_pod(item)
            if item["kind"] == "EndpointSlice":
                item["endpoints"][0]["targetRef"]["name"] = POD
        return found

    def helm(self, words: list[str]) -> Output:
        match words:
            case ["get", "values", *_]:
                broker = {"connectionString": connection_string()}
                values = {"tag": self.tag, "password": PLANTED["Helm values"], "broker": broker}
                return Output(0, json.dumps(values), "")
            case ["history", *rest] if "json" not in rest:
                return Output(0, f"1 deployed password={PLANTED['Helm values']}", "")
        return super().helm(words)

    def kubectl(self, words: list[str]) -> Output:
        match words:
            case ["get", "events", *_]:
                return Output(0, EVENTS, "")
            case ["describe", *_]:
                return Output(0, DESCRIBED, "")
            case ["get", "secret", *_]:
                return Output(0, yaml.safe_dump(SECRET), "")
            case ["get", "configmap", *_]:
                return Output(0, json.dumps(CONFIG_MAP, indent=4), "")
            case ["get", "pods", "-o", "json", *_]:
                return Output(0, json.dumps({"kind": "List", "items": self.items()}), "")
            case ["get", "missing", *_]:
                return Output(1, "", f"Error: Invalid value: password={PLANTED['log line']}")
            case ["logs", *_]:
                return Output(0, LOG, "")
        return super().kubectl(words)

    def api_(self, method: str, path: str, *, body: Any, query: Any, **more: Any) -> Answer:
        match (method, path.rpartition("/namespaces/launch/")[2].split("/")):
            case ("GET", ["secrets", "database"]):
                self.looked.append("database")
                return said({k: v for k, v in SECRET.items() if k not in ("kind", "apiVersion")})
            case ("GET", ["pods", _, "log"]) if "timestamps" in query:
                self.reads += 1  # everything is said once more each time, so all of it is new
                stamp = f"2026-11-23T10:{self.reads // 60:02}:{self.reads % 60:02}.000000000Z "
                return Answer(200, "".join(f"{stamp}{line}\n" for line in LOG.splitlines()))
            case ("GET", ["pods", _, "log"]):
                return Answer(200, LOG)
            case ("GET", ["events"]):
                about = {"kind": "Pod", "name": POD}
                message = f"token={PLANTED['event message']} {PLANTED['known to the run']}"
                found = {"metadata": {"name": "e"}, "type": "Warning", "reason": "Unhealthy"}
                return said({"items": [{**found, "message": message, "involvedObject": about}]})
        return super().api_(method, path, body=body, query=query, **more)


class Process:
    """A program that has said everything already."""

    def __init__(self, output: Output, *, runs_on: bool = False) -> None:
        self.stdout = io.BytesIO(output.stdout.encode())
        self.stderr = io.BytesIO(output.stderr.encode())
        self.stdin = io.BytesIO()
        self.returncode = output.status
        self.pid = 0
        self._runs_on = runs_on

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode

    def poll(self) -> int | None:
        return None if self._runs_on else self.returncode


class LeakyPrograms(Programs):
    """The real ones, but that what they start is not."""

    world: LeakyWorld

    def unlogged(self) -> Programs:
        return type(self)(env=self.env, cancel=self.cancel, redactor=self.redactor)

    def _start(self, wanted: Invocation) -> Any:
        words = wanted.argv
        match words:
            case ["helm", *_] if "upgrade" in words and "--dry-run=server" not in words:
                noise = f"using password={PLANTED['Helm values']}\n{PEM}\n"
                return Process(Output(self.world.upgrade(list(words)), noise, ""))
            case ["helm", *_]:
                return Process(self.world.helm(list(words[7:])))
            case ["kubectl", *_] if "port-forward" in words:
                line = "Forwarding from 127.0.0.1:41234 -> 5000\n"
                return Process(Output(0, line, ""), runs_on=True)
            case ["kubectl", *_]:
                return Process(self.world.kubectl(list(words[5:])))
            case ["sh", *_]:
                return Process(Output(0, "", ""))
            case [_, "-m", "pytest", *rest]:
                (junit,) = [word.partition("=")[2] for word in rest if "--junitxml=" in word]
                Path(junit).write_text(JUNIT, encoding="utf-8")
                return Process(Output(1, f"FAILED test_flow.py::test_lock\n{LOG}", ""))
        raise AssertionError(words)

    def _end(self, process: Any) -> None:
        """Nothing runs."""


HEALTHY = passed(CheckId.HEALTH_PATH, HttpAnswer(200), subject="/readyz")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> LeakyWorld:
    world = LeakyWorld()
    monkeypatch.setattr(health, "health", lambda *a, **k: (HEALTHY,))
    monkeypatch.setattr(promote, "proven_image", lambda _, proof: (proof.image, frozenset({NEW})))
    monkeypatch.setattr(LeakyPrograms, "world", world, raising=False)
    monkeypatch.setattr(api, "ask", lambda _, *words, **more: world.api_(*words, **more))
    monkeypatch.setattr(watch_, "INTERVAL_SECONDS", 0.01)
    return world


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def context(tmp_path: Path, world: LeakyWorld, shown: io.StringIO) -> Context:
    (tmp_path / "chart").mkdir()
    (tmp_path / "chart" / "Chart.yaml").write_text(flow.CHART)
    (tmp_path / "kubeconfig").write_text("contexts: [{name: launch}]")
    run_dir = tmp_path / "runs" / "20261123-100000-aaaa"
    programs = LeakyPrograms(env={}, logs=run_dir / "logs")
    programs.hide(PLANTED["known to the run"])
    clock = Cancellable(SystemClock(), programs.cancel)
    events = Events(clock, path=run_dir / "events.jsonl", redactor=programs.redactor)
    events.listen(terminal.Lines(shown, every=True))
    tools = SimpleNamespace(helm="helm", kubectl="kubectl", registry=None)
    return Context(
        root=tmp_path,
        settings=Settings(),
        tools=tools,  # type: ignore[arg-type]
        programs=programs,
        clock=clock,
        events=events,
        run_dir=run_dir,
        home=Home(tmp_path / "home"),
    )


def leave(context: Context, problem: Exception, shown: io.StringIO) -> None:
    """What the command line does at the end of a run."""
    session = SimpleNamespace(
        events=context.events, run_dir=context.run_dir, folder=context.folder,
        programs=context.programs, handed=None, elapsed=lambda: 1.0, begun=0.0,
    )  # fmt: skip
    record = app._record("promote", cast(Any, session), Result(), problem, ())
    finished = context.programs.redactor.data(record)
    app._leave(cast(Any, session), finished)
    terminal.summary(finished, shown)
    assert isinstance(problem, PipelineError)
    print(sessions.explain(problem, context.programs.redact), file=shown)


def everything(folder: Path) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                for entry in archive:
                    if (file := archive.extractfile(entry)) is not None:
                        found[f"{path.name}:{entry.name}"] = file.read()
    return found


def test_a_failed_test_on_the_target_leaks_nothing(
    context: Context, world: LeakyWorld, shown: io.StringIO
) -> None:
    kube = context.kube(Cluster("launch", context.root / "kubeconfig", "launch", True))
    for words in (
        ("secret", "database", "-o", "yaml"),
        ("configmap", "-o", "json"),
        ("pods", "-o", "json"),
    ):
        assert leaks(kube.run("get", *words).stdout.encode()), "who asked reads it as it is"
    with pytest.raises(PipelineError) as refused:
        kube.run("get", "missing", PLANTED["known to the run"])
    context.events.note(LOG, data=SECRET, also={"password": PLANTED["log line"]})

    def after(release: Release) -> tuple[Check, ...]:
        seen = world.asked.copy()
        watch = context.run_dir / "watch" / "logs.txt"
        wait_until("the logs", watch.exists, timeout=10, clock=SystemClock())
        assert seen == ["upgrade"]
        try:
            prove.prove(context, lambda: release, None, select=prove.QUICK, label="target")
        except PipelineError as problem:
            raise PromotionFailed(str(problem)) from problem
        raise AssertionError("the test on the target fails")

    with pytest.raises(PromotionFailed, match="rolled back to revision 1") as failed:
        go(context, after)
    leave(context, failed.value, shown)

    files = everything(context.run_dir)
    wanted = {
        "junit-target.xml", "summary.json", "report.html", "events.jsonl", "watch/logs.txt",
        "logs/kubectl-launch.log", "logs/pytest-target.log", "logs/helm-launch.log",
        "backups/quick-rollback.sh", "backups/helm-values-backup.yaml", "plan.txt",
        "evidence/target-launch/launch/pods.yaml", "evidence/target-launch/launch/events.txt",
        "evidence/target-launch/launch/logs/model-engine-1.model-engine.log", "evidence/cause.txt",
        "evidence/target-launch/launch/logs/model-engine-1.model-engine.previous.log",
        "evidence/helm-values.yaml", "evidence/logs/model-engine-1.model-engine.previous.log",
        "evidence.tar.gz:evidence/target-launch/launch/pods.yaml",
        "evidence.tar.gz:evidence/logs/model-engine-1.model-engine.log",
        "evidence.tar.gz:evidence/events.txt",
    }  # fmt: skip
    assert wanted <= set(files)
    assert {name: found for name, text in files.items() if (found := leaks(text))} == {}
    assert leaks(json.dumps(world.lease).encode()) == []
    assert leaks(shown.getvalue().encode()) == []
    assert leaks(str(refused.value).encode()) == []
    assert "database" in world.looked, "the values of the Secrets that pods use are known"

    log = files["evidence/logs/model-engine-1.model-engine.log"].decode()
    assert f"image {flow.REPOSITORY}@{DIGEST}" in log
    assert "ERROR giving up after 3 attempts" in log
    assert "amqp://engine:***@broker:5672/launch" in log
    pods = yaml.safe_load(files["evidence/target-launch/launch/pods.yaml"])
    assert {"name": "LOCK_SECONDS", "value": "60"} in pods["spec"]["containers"][0]["env"]
    assert pods["metadata"]["annotations"]["checksum/config"] == "0123456789abcdef"
    assert f'"{flow.REPOSITORY}@{DIGEST}" present' in files["evidence/events.txt"].decode()
    assert "LOCK_SECONDS: 60" in files["evidence/pods-described.txt"].decode()


def test_all_of_a_run_is_its_owners_alone(
    context: Context, world: LeakyWorld, shown: io.StringIO
) -> None:
    def after(_: Release) -> tuple[Check, ...]:
        raise PromotionFailed("the lock duration is ignored")

    with pytest.raises(PromotionFailed) as failed:
        go(context, after)
    (context.run_dir / "left by a program").write_text("x")
    leave(context, failed.value, shown)
    modes = {
        path.relative_to(context.run_dir).as_posix(): path.stat().st_mode & 0o777
        for path in (context.run_dir, *context.run_dir.rglob("*"))
    }
    programs = {name for name in modes if name.endswith("quick-rollback.sh")}
    assert programs == {"backups/quick-rollback.sh"}
    for name, mode in modes.items():
        whole = (context.run_dir / name).is_dir() or name in programs
        assert mode == (0o700 if whole else 0o600), name
    with tarfile.open(context.run_dir / "evidence.tar.gz") as archive:
        for entry in archive:
            assert entry.mode == (0o700 if entry.isdir() else 0o600), entry.name
            assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")


def test_the_journal_on_the_cluster_holds_no_secret(context: Context, world: LeakyWorld) -> None:
    kube = context.kube(Cluster("launch", context.root / "kubeconfig", "launch", True))
    with lease.Lease(kube, release="rel", namespace=NAMESPACE) as lock:
        lock.note(step="upgrading", digests=f"{NEW},{DIGEST}", why=f"{connection_string()} {PEM}")
    assert leaks(json.dumps(world.lease).encode()) == []
    assert lease.journal(world.lease)["digests"] == f"{NEW},{DIGEST}"


def test_a_defect_of_the_collector_does_not_stop_the_rollback(
    context: Context, world: LeakyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> diagnostics.Collected:
        raise KeyError("a defect")

    def after(_: Release) -> tuple[Check, ...]:
        raise PromotionFailed("the lock duration is ignored")

    monkeypatch.setattr(diagnostics, "collect", broken)
    with pytest.raises(PromotionFailed, match="rolled back to revision 1"):
        go(context, after)
    assert world.asked == ["upgrade", "rollback 1"]


def test_an_error_of_the_api_repeats_no_secret(context: Context, world: LeakyWorld) -> None:
    kube = context.kube(Cluster("launch", context.root / "kubeconfig", "launch", True))
    refused = json.dumps({"reason": "Invalid", "message": f"value {connection_string()}"})
    with pytest.raises(PipelineError) as caught:
        kube._good("POST", Answer(422, refused))
    assert leaks(str(caught.value).encode()) == []
