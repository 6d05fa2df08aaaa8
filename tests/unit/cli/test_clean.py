"""What ``clean`` lists, what it removes, and what it leaves alone unless it is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.cli import app, clean
from ci.cli.clean import Choice, Item, Kind, Left, Plan, Scope, Survey
from ci.cli.session import Session
from ci.errors import DockerUnavailable, Interrupted, Locked
from ci.evidence import keys
from ci.run.state import ClusterRecord, Home, Proven
from ci.settings import Settings
from ci.toolchain import daemon
from ci.toolchain.services import CONFIG
from ci.tools.command import Output, Programs
from ci.tools.process_identity import Process
from ci.tools.wait import SystemClock
from tests.unit.evidence.fakes import proof

NODE = "queue-timeout-gate/kind-node:1"
GONE = Process(1, "0", "another boot")


class Docker:
    """A Docker daemon as a dictionary, behind :meth:`Programs.run`."""

    def __init__(self) -> None:
        self.containers = {
            "gate-registry": ("queue-timeout-gate/registry:1", "config"),
            "dagger-engine-v1": ("queue-timeout-gate/dagger-engine:1", "config"),
            "queue-timeout-gate-assemble-node": ("debian", "label"),
            "somebody-elses": ("nginx", ""),
        }
        self.images = {
            "queue-timeout-gate/registry:1": 3 << 20,
            "queue-timeout-gate/dagger-engine:1": 2 << 30,
            NODE: 1 << 30,
            "0123456789ab": 1 << 20,
        }
        self.volumes = {
            "gate-registry-data": "1.5GB",
            "queue-timeout-gate-engine": "4GB",
            "x": "1B",
        }
        self.refuses: dict[str, str] = {}
        self.answers = True

    def cluster(self, name: str) -> None:
        self.containers[f"{name}-control-plane"] = (NODE, f"cluster={name}")

    def run(self, words: Sequence[str]) -> Output:
        match words:
            case ["version", *_]:
                return Output(0 if self.answers else 1, "", "")
            case ["ps", "--all", "--format", _]:
                rows = (f"{name}\t{image}" for name, (image, _) in self.containers.items())
                return self.said(*rows)
            case ["ps", "--all", "--filter", wanted, *_]:
                label = {
                    f"label={CONFIG}": "config",
                    f"label={clean.KIND_LABEL}": "cluster=",
                }.get(wanted) or wanted.replace(f"label={clean.KIND_LABEL}", "cluster")
                found = [n for n, (_, of) in self.containers.items() if of.startswith(label)]
                return self.said(*found)
            case ["images", *_]:
                none = "0123456789ab"
                rows = (f"{'<none>:<none>' if n == none else n} {n}" for n in self.images)
                return self.said(*rows)
            case ["image", "inspect", "--format", _, *names]:
                return self.said(*(str(self.images[name]) for name in names))
            case ["image", "inspect", "-f", _, name]:
                return Output(0 if name in self.images else 1, "", "")
            case ["volume", "ls", *_]:
                return self.said(*self.volumes)
            case ["system", "df", *_]:
                return self.said(
                    json.dumps([{"Name": n, "Size": size} for n, size in self.volumes.items()])
                )
            case ["network", "ls", *_]:
                return self.said("bridge", "kind")
            case ["stop", *_]:
                return self.said()
            case ["rm", "--force", "--volumes", name]:
                return self.remove(self.containers, name)
            case ["rmi", name]:
                return self.remove(self.images, name)
            case ["volume", "rm", name]:
                return self.remove(self.volumes, name)
        raise AssertionError(f"docker {words} is not known here")

    def remove(self, of: dict[str, Any], name: str) -> Output:
        if name in self.refuses:
            return Output(1, "", self.refuses[name])
        del of[name]
        return self.said()

    @staticmethod
    def said(*lines: str) -> Output:
        return Output(0, "".join(f"{line}\n" for line in lines), "")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    fake = Docker()
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "module").write_bytes(b"x" * 2048)
    for name in ("docker", "go"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("")
        program.chmod(0o755)

    def run(_: Programs, argv: Sequence[Any], **how: Any) -> Output:
        program, *words = [str(word) for word in argv]
        if Path(program).name == "go":
            return Output(0, f"{modules}\n", "")
        assert program == str(tmp_path / "bin" / "docker")
        return fake.run(words)

    monkeypatch.setattr(Programs, "run", run)
    return fake


@pytest.fixture
def home(tmp_path: Path, docker: Docker) -> Home:
    """A machine that was used: two clusters, tools, a key."""
    home = Home(tmp_path / "home")
    for name, kept in (("gate", False), ("launch", True)):
        docker.cluster(name)
        home.put_cluster(ClusterRecord(name, GONE, kept, ""))
        home.kubeconfig(name).parent.mkdir(exist_ok=True)
        home.kubeconfig(name).write_text("x")
    for folder in ("store/helm", "venvs/a", "certs.d", "bin", "engine"):
        (home.folder / folder).mkdir(parents=True)
    (home.folder / "store/helm/helm").write_bytes(b"x" * (5 << 20))
    home.put_image("source", {"digest": "sha256:1"})
    made = proof("sha256:" + "a" * 64)
    home.put_proven(Proven("model-engine", "/checkout", made.image, made.finished, "run"))
    keys.ensure(home.state / "keys")
    home.put_installed(["docker.io"])
    (tmp_path / "runs/20261130-100000-aaaa").mkdir(parents=True)
    return home


@pytest.fixture
def here(home: Home, tmp_path: Path) -> Session:
    env = {"PATH": str(tmp_path / "bin")}
    clock = SystemClock()
    events: Any = None
    return Session(
        tmp_path, env, home, Settings(), Programs(env=env), clock, events, tmp_path, None, 0.0
    )


def names(items: Sequence[Item]) -> set[str]:
    return {Path(item.name).name for item in items}


def planned(here: Session, **choice: bool) -> Plan:
    return clean.plan(clean.survey(here), Choice(**choice))


def removed(here: Session, **choice: bool) -> Plan:
    made = planned(here, **choice)
    assert clean.carry_out(here, made, lambda _: None) == ()
    return made


def test_clean_removes_test_clusters_and_containers_and_not_the_target(
    here: Session, home: Home, docker: Docker
) -> None:
    removed(here)
    assert set(docker.containers) == {"launch-control-plane", "gate-registry", "somebody-elses"}
    assert set(home.clusters()) == {"launch"}
    assert home.kubeconfig("launch").exists()
    assert not home.kubeconfig("gate").exists()
    assert len(docker.images) == 4
    assert (home.folder / "store").is_dir()


def test_with_the_target_all_containers_go(here: Session, home: Home, docker: Docker) -> None:
    removed(here, demo_target=True)
    assert set(docker.containers) == {"somebody-elses"}
    assert home.clusters() == {}


def test_all_never_removes_the_keys(here: Session, home: Home) -> None:
    before = {file: file.read_bytes() for file in (home.state / "keys").iterdir()}
    made = removed(here, everything=True, demo_target=True)
    assert {file: file.read_bytes() for file in (home.state / "keys").iterdir()} == before
    assert [(k.item.kind, k.reason) for k in made.kept] == [(Kind.KEYS, "only removed with --keys")]


def test_keys_go_by_their_own_flag_alone(here: Session, home: Home) -> None:
    removed(here, keys=True)
    assert not (home.state / "keys").exists()
    assert (home.folder / "store").is_dir()


def test_all_leaves_no_tool_image_or_environment(here: Session, home: Home, docker: Docker) -> None:
    removed(here, everything=True, demo_target=True)
    assert docker.images == {}
    assert set(docker.volumes) == {"x"}, "somebody else's"
    assert sorted(path.name for path in home.folder.iterdir()) == [
        "bin", "kubeconfigs", "locks", "state",
    ]  # fmt: skip
    left = {str(file.relative_to(home.state)) for file in home.state.rglob("*") if file.is_file()}
    assert left == {"installed.json", "keys/evidence-key.pem", "keys/evidence-key.pub"}


def test_a_target_that_stays_keeps_what_it_pulls_from(
    here: Session, home: Home, docker: Docker
) -> None:
    made = removed(here, everything=True)
    assert set(docker.containers) == {"launch-control-plane", "gate-registry", "somebody-elses"}
    assert set(docker.images) == {NODE, "queue-timeout-gate/registry:1"}
    assert "gate-registry-data" in docker.volumes
    assert (home.folder / "certs.d").is_dir()
    assert {k.reason for k in made.kept if k.item.needed} == {"the cluster launch needs it"}
    assert made.asks


def test_a_cluster_that_another_run_uses_stays(here: Session, home: Home, docker: Docker) -> None:
    docker.cluster("matrix")
    home.put_cluster(ClusterRecord("matrix", Process.this(), False, ""))
    made = removed(here, everything=True, demo_target=True)
    assert "matrix-control-plane" in docker.containers
    assert "gate-registry" in docker.containers
    [busy] = [kept for kept in made.kept if kept.item.used_by]
    assert "in use by another run, process" in busy.reason
    assert not made.asks, "consent would change nothing"


def test_another_run_on_the_gate_keeps_everything(
    here: Session, home: Home, docker: Docker
) -> None:
    made = planned(here, everything=True, demo_target=True, keys=True)
    before = set(docker.containers)
    with home.lock("gate", "the gate cluster"), pytest.raises(Locked):
        clean.carry_out(here, made, lambda _: None)
    assert set(docker.containers) == before
    assert (home.state / "keys").is_dir()


def test_the_list_says_what_each_is_and_how_large(here: Session) -> None:
    text = "\n".join(clean.listing(planned(here, everything=True, demo_target=True)))
    assert "to be removed:" in text
    assert "cluster launch: the demonstration target" in text
    assert "image queue-timeout-gate/dagger-engine:1: assembled here, 2.0 GiB" in text
    built = "every image built on this machine, with its evidence"
    assert f"volume gate-registry-data: {built}, 1.4 GiB" in text
    assert "store: tools that were downloaded or built, 5.0 MiB" in text
    assert "somebody-elses" not in text


def test_what_is_left_behind_is_said(here: Session, home: Home, tmp_path: Path) -> None:
    (home.folder / "logs").mkdir()
    (home.folder / "logs/dockerd.log").write_text("")
    text = "\n".join(clean.leaving(planned(here)))
    assert "apt-get purge --autoremove docker.io" in text
    assert "go clean -modcache" in text
    assert f"rm -r {tmp_path / 'runs'}" in text
    assert "the Docker daemon that the pipeline started" in text
    assert "docker network rm kind" in text


def test_what_would_not_go_is_returned(here: Session, docker: Docker) -> None:
    docker.refuses = {"gate-control-plane": "device or\nresource busy"}
    made = planned(here, demo_target=True)
    said: list[str] = []
    [failure] = clean.carry_out(here, made, said.append)
    assert (failure.item.name, failure.reason) == ("gate", "device or resource busy")
    assert "removed cluster gate" not in said
    assert "removed cluster launch" in said
    assert "gate" in here.home.clusters(), "it is still known, for the next time"


def test_ctrl_c_stops_before_the_next_item(here: Session, home: Home) -> None:
    made = planned(here, everything=True, demo_target=True, keys=True)
    said: list[str] = []

    def cancel_after(line: str) -> None:
        said.append(line)
        here.programs.cancel.set()

    with pytest.raises(Interrupted) as stopped:
        clean.carry_out(here, made, cancel_after)
    assert said == ["removed cluster gate"]
    assert (home.state / "keys").is_dir()
    assert "clean` again" in stopped.value.remedy


def test_without_docker_nothing_in_it_is_listed_as_gone(here: Session, docker: Docker) -> None:
    docker.answers = False
    made = planned(here, demo_target=True)
    assert "no Docker daemon answers" in "\n".join(clean.listing(made))
    failures = clean.carry_out(here, made, lambda _: None)
    assert {failure.item.name for failure in failures} == {"gate", "launch"}
    assert set(here.home.clusters()) == {"gate", "launch"}


def test_an_unused_machine_has_nothing_to_remove(tmp_path: Path) -> None:
    env = {"PATH": ""}
    events: Any = None
    fresh = Session(
        tmp_path, env, Home(tmp_path / "home"), Settings(), Programs(env=env), SystemClock(),
        events, tmp_path, None, 0.0,
    )  # fmt: skip
    made = planned(fresh, everything=True, keys=True, demo_target=True)
    assert made.remove == ()
    assert clean.listing(made)[0] == "nothing to remove"
    assert clean.leaving(made) == []


@pytest.mark.parametrize(
    ("text", "bytes"),
    [("0B", 0), ("12.5kB", 12500), ("4.312GB", 4312000000), ("N/A", None), ("", None)],
)
def test_sizes_as_docker_writes_them(text: str, bytes: int | None) -> None:
    assert clean.bytes_of(text) == bytes


items = st.builds(
    Item,
    st.sampled_from(Kind),
    st.text("ab", min_size=1, max_size=3),
    st.just(""),
    st.sampled_from(Scope),
    target=st.booleans(),
    needed=st.booleans(),
    used_by=st.sampled_from([0, 0, 7]),
).filter(lambda item: item.kind is not Kind.CLUSTER or item.scope is Scope.ALWAYS)


@given(st.lists(items, max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_nothing_goes_without_its_own_word(
    there: list[Item], everything: bool, keys: bool, demo_target: bool
) -> None:
    made = clean.plan(
        Survey(tuple(there), (Left("x", "y"),), True), Choice(everything, keys, demo_target)
    )
    for item in made.remove:
        assert not item.used_by
        assert keys or item.scope is not Scope.KEYS
        assert everything or item.scope is not Scope.ALL
        assert demo_target or not (item.kind is Kind.CLUSTER and item.target)
    stays = [k.item for k in made.kept if k.item.kind is Kind.CLUSTER]
    if stays:
        assert not any(item.needed for item in made.remove)
    assert set(made.remove).isdisjoint(kept.item for kept in made.kept)
    assert made.left == (Left("x", "y"),)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(here: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    monkeypatch.setattr(app, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PIPELINE_HOME", str(here.home.folder))
    return here


def test_a_dry_run_removes_nothing(
    command: Session, docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    containers, images = dict(docker.containers), dict(docker.images)
    files = sorted(command.home.folder.rglob("*"))
    assert app.main(["clean", "--all", "--keys", "--yes", "--dry-run"]) == 0
    assert (docker.containers, docker.images) == (containers, images)
    assert sorted(command.home.folder.rglob("*")) == files
    said = capsys.readouterr().out
    assert said.startswith("would be removed:\n")
    assert "left behind:" in said


def test_where_nobody_can_be_asked_the_target_stays(
    command: Session, docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["clean"]) == 0
    assert "launch-control-plane" in docker.containers
    assert "gate-control-plane" not in docker.containers
    assert "only removed with --demo-target" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--yes", "--demo-target"])
def test_by_its_flag_or_consent_given_before_it_goes(
    command: Session, docker: Docker, word: str
) -> None:
    assert app.main(["clean", word]) == 0
    assert "launch-control-plane" not in docker.containers


@pytest.mark.parametrize("agrees", [True, False])
def test_on_a_terminal_the_person_is_asked_after_the_list(
    command: Session,
    docker: Docker,
    agrees: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def confirm(question: str) -> bool:
        asked.append(question)
        assert "container dagger-engine-v1" in capsys.readouterr().out, "the list comes first"
        assert "gate-control-plane" in docker.containers, "nothing was removed yet"
        return agrees

    monkeypatch.setattr(app, "_on_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    assert app.main(["clean"]) == 0
    assert len(asked) == 1
    assert ("launch-control-plane" in docker.containers) is not agrees
    assert "gate-control-plane" not in docker.containers


def test_what_was_not_removed_is_an_error(
    command: Session, docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.refuses = {"dagger-engine-v1": "busy"}
    assert app.main(["clean"]) == 41
    error = capsys.readouterr().err.splitlines()[0]
    assert error == "error: container dagger-engine-v1 was not removed: busy"


def test_ctrl_c_at_the_question_removes_nothing(
    command: Session,
    docker: Docker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import typer

    def interrupted(_: str) -> bool:
        raise typer.Abort

    monkeypatch.setattr(app, "_on_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", interrupted)
    before = set(docker.containers)
    assert app.main(["clean"]) == 130
    assert set(docker.containers) == before
    assert "nothing was removed" in capsys.readouterr().err


# -- what apt installed ---------------------------------------------------------------------------


def test_only_packages_that_were_not_there_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def run(_: Programs, argv: Sequence[Any], **how: Any) -> Output:
        started.append(str(argv[0]))
        if argv[0] == "dpkg-query":
            return Output(1, "ii  ca-certificates\nrc  iptables\n", "no packages found")
        return Output(0, "", "")

    monkeypatch.setattr(Programs, "run", run)
    programs = Programs(env={})

    def install(*packages: str) -> None:
        daemon.install_packages(packages, programs, home=tmp_path, error=DockerUnavailable)

    install("docker.io", "iptables", "ca-certificates")
    assert started == ["dpkg-query", "apt-get", "apt-get"]
    assert Home(tmp_path).installed() == ("docker.io", "iptables")
    install("mmdebstrap", "docker.io")
    assert Home(tmp_path).installed() == ("docker.io", "iptables", "mmdebstrap")


def test_packages_that_were_not_installed_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Programs, "run", lambda *_, **__: Output(100, "", "no network"))
    with pytest.raises(DockerUnavailable):
        daemon.install_packages(
            ("docker.io",), Programs(env={}), home=tmp_path, error=DockerUnavailable
        )
    assert Home(tmp_path).installed() == ()
