"""Times the pipeline against a plain sequential script, side by side in one run.

Each figure is a ratio of medians measured in turn (pipeline, script, pipeline, script …) on one
machine, and goes to ``benchmarks/RESULTS.md``. Both use the same tools, images and clusters.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

import servicebus_emulator
from ci import standins
from ci.model import Tools
from ci.run import state as homes
from ci.run.events import Events
from ci.run.state import Home
from ci.settings import load
from ci.stages import deploy
from ci.stages.build import EMULATOR_NAME, emulator_tag
from ci.toolchain import obtain
from ci.tools.command import Programs
from ci.tools.kind import configuration
from ci.tools.wait import SystemClock

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "sequential.sh"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
WORK = ROOT / "runs" / "benchmark"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Measured:
    """One program's run. ``memory`` is the machine's highest use meanwhile, in bytes."""

    seconds: float
    memory: int


def used_memory() -> int:
    """Bytes in use on the machine: what the kernel does not count as available."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return values["MemTotal"] - values["MemAvailable"]


def measure(argv: list[str], env: Mapping[str, str], log: Path) -> Measured:
    """Run ``argv`` to its end; a failure ends the benchmark, for it measured nothing."""
    peak = used_memory()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            peak = max(peak, used_memory())

    log.parent.mkdir(parents=True, exist_ok=True)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun = time.monotonic()
    with open(log, "ab") as sink:
        status = subprocess.run(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=ROOT
        ).returncode
    seconds = time.monotonic() - begun
    over.set()
    watcher.join()
    if status != 0:
        sys.exit(f"error: {' '.join(argv[:3])} ended with {status}\nremedy: see {log}")
    return Measured(seconds, peak)


def prepared(tools: Tools, home: Home) -> dict[str, str]:
    """The files and variables that the sequential script needs; its secrets are its own."""
    settings = load(ROOT / "pipeline.toml")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    authority = servicebus_emulator.make_authority("benchmark")
    names = [standins.SERVICEBUS_HOST, standins.SERVICEBUS, *servicebus_emulator.DEFAULT_NAMES]
    issued = servicebus_emulator.issue(authority, names)
    secrets = standins.Secrets(
        postgres_password=os.urandom(16).hex(),
        redis_password=os.urandom(16).hex(),
        servicebus_key=os.urandom(32).hex(),
        ca_pem=authority.certificate.decode(),
        certificate_pem=issued.certificate.decode(),
        key_pem=issued.key.decode(),
    )
    emulator = f"{tools.registry.name}/{EMULATOR_NAME}:{emulator_tag(ROOT)}"
    workloads = standins.workloads(tools.postgres_image, tools.redis_image, emulator)
    service = {
        deploy.DATABASE_SECRET: {"database_url": secrets.database_url},
        deploy.SERVICEBUS_SECRET: {
            "connection_string": secrets.connection_string(),
            "ca.crt": secrets.ca_pem,
        },
        deploy.REDIS_SECRET: {"redis_url": secrets.redis_url},
    }
    made: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "launch"}}
    ]
    for name, data in service.items():
        metadata = {"name": name, "namespace": "launch"}
        made.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        )
    documents: dict[str, list[dict[str, object]]] = {
        "standins.yaml": [*standins.secret(secrets), *workloads],
        "service-secrets.yaml": made,
        "values.yaml": [
            {
                **settings.gate.values,
                "image": {"repository": f"{tools.registry.name}/{settings.image.name}"},
                "secrets": {
                    "databaseSecretName": deploy.DATABASE_SECRET,
                    "servicebusSecretName": deploy.SERVICEBUS_SECRET,
                    "redisSecretName": deploy.REDIS_SECRET,
                },
            }
        ],
    }
    for file, content in documents.items():
        (WORK / file).write_text(yaml.safe_dump_all(content), encoding="utf-8")
    kind = configuration(
        tools.node_certs_dir, tools.kubelet_patch, brings_cni=tools.node_brings_cni
    )
    (WORK / "kind.yaml").write_text(kind, encoding="utf-8")
    return {
        "DAGGER": str(tools.dagger),
        "_EXPERIMENTAL_DAGGER_RUNNER_HOST": tools.runner_host,
        "DAGGER_NO_NAG": "1",
        "DO_NOT_TRACK": "1",
        "KIND": str(tools.kind),
        "HELM": str(tools.helm),
        "KUBECTL": str(tools.kubectl),
        "NODE_IMAGE": tools.node_image,
        "REGISTRY": tools.registry.name,
        "REGISTRY_URL": tools.registry.host_url,
        "PYTHON": sys.executable,
        "SOURCE": str(ROOT / settings.image.context),
        "CHART": str(ROOT / settings.gate.chart),
        "TAG_PREFIX": settings.image.tag_prefix,
        "WORKERS": str(settings.prove.workers),
        "GATE": "benchmark",
        "KIND_CONFIG": str(WORK / "kind.yaml"),
        "STANDINS": str(WORK / "standins.yaml"),
        "SERVICE_SECRETS": str(WORK / "service-secrets.yaml"),
        "VALUES": str(WORK / "values.yaml"),
        "PROBER": str(ROOT / "ci" / "promotion" / "probe_pod.py"),
        "TARGET_KUBECONFIG": str(home.kubeconfig("launch")),
        "TARGET_CONTEXT": "kind-launch",
        "PORT": "20100",  # below the ephemeral ports,
    }


def disk(tools: Tools, home: Home) -> int:
    """Bytes of the toolchain's folder, and of the daemon's images, containers and volumes."""
    own = sum(f.lstat().st_size for f in home.folder.rglob("*") if f.is_file())
    root = subprocess.run(
        [tools.docker, "info", "-f", "{{.DockerRootDir}}"], capture_output=True, text=True
    ).stdout.strip()
    said = subprocess.run(["du", "-sb", root], capture_output=True, text=True).stdout
    return own + int(said.split()[0] if said else 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each (default 3)")
    chosen = parser.parse_args()
    env = dict(os.environ)
    clock = SystemClock()
    programs = Programs(env=env)
    home = Home(homes.path(env))
    say = note_to(sys.stderr.write)

    say("warming up: one run that is not counted")
    pipeline = [sys.executable, str(ROOT / "pipeline.py")]
    measure(pipeline, env, WORK.with_suffix(".log"))
    begun = time.monotonic()
    tools = obtain(home.folder, programs, clock, Events(clock), env)
    found = time.monotonic() - begun
    script_env = {**env, **prepared(tools, home)}

    pipeline_runs: list[Measured] = []
    script_runs: list[Measured] = []
    for number in range(chosen.runs):
        pipeline_runs.append(measure(pipeline, env, WORK / "pipeline.log"))
        script_runs.append(measure([str(SCRIPT)], script_env, WORK / "sequential.log"))
        say(
            f"{number + 1} of {chosen.runs}: pipeline {pipeline_runs[-1].seconds:.1f} s, "
            f"script {script_runs[-1].seconds:.1f} s"
        )
    say("the inner loop: prove on a kept cluster")
    prove = [*pipeline, "prove", "--keep-cluster"]
    measure(prove, env, WORK / "prove.log")
    loops = [measure(prove, env, WORK / "prove.log") for _ in range(chosen.runs)]
    clean = [*pipeline, "clean", "--demo-target"]
    subprocess.run(clean, stdout=subprocess.DEVNULL, cwd=ROOT, check=False)
    RESULTS.write_text(
        report(pipeline_runs, script_runs, loops, found, disk(tools, home), os.cpu_count() or 0),
        encoding="utf-8",
    )
    print(RESULTS.read_text(encoding="utf-8"))


def report(
    ours: list[Measured],
    theirs: list[Measured],
    loops: list[Measured],
    found: float,
    size: int,
    cores: int,
) -> str:
    """RESULTS.md. The figure that counts is the first: a ratio measured in one run."""

    def median(runs: list[Measured]) -> float:
        return statistics.median(run.seconds for run in runs)

    ratio = median(ours) / median(theirs)
    peak = max(run.memory for run in ours)
    rows = [
        ("warm full run / plain sequential script", f"{ratio:.2f}", "<= 0.80"),
        ("warm full run", f"{median(ours):.1f} s", "<= 90 s"),
        ("plain sequential script", f"{median(theirs):.1f} s", ""),
        ("`prove` on a kept cluster, source unchanged", f"{median(loops):.1f} s", "<= 25 s"),
        ("finding the whole toolchain", f"{found:.1f} s", "<= 3 s"),
        ("peak memory of the whole machine meanwhile", f"{peak / GIB:.1f} GiB", "<= 6 GiB"),
        ("disk: toolchain, images, volumes", f"{size / GIB:.1f} GiB", "<= 15 GiB"),
    ]
    table = "\n".join(f"| {what} | {value} | {goal} |" for what, value, goal in rows)
    times = json.dumps(
        {
            "pipeline": [round(run.seconds, 1) for run in ours],
            "script": [round(run.seconds, 1) for run in theirs],
            "prove": [round(run.seconds, 1) for run in loops],
        }
    )
    return (
        "# Results\n\n"
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `benchmarks/run` on {cores} cores "
        f"({platform.machine()}), {len(ours)} runs of each in turn, medians.\n\n"
        f"| what | measured | goal |\n|---|---|---|\n{table}\n\n"
        f"Every run, in seconds: `{times}`\n"
    )


def note_to(write: Callable[[str], object]) -> Callable[[str], None]:
    return lambda text: (write(f"{time.strftime('%H:%M:%S')} {text}\n"), None)[1]


if __name__ == "__main__":
    main()
