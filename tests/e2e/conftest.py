"""The target, its two doors, and endpoints and queues that leave nothing behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.e2e import target as targets
from tests.e2e.broker import Broker
from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway
from tests.e2e.target import Target
from tests.e2e.waiting import wait_for

_TARGET = pytest.StashKey[Target]()


def pytest_configure(config: pytest.Config) -> None:
    """Without a target nothing is tested, and nothing is skipped silently either."""
    if not _patience():
        config.stash[_TARGET] = targets.load(os.environ.get("E2E_TARGET"))
    # A few cases wait for locks to run out: idle workers take what queues up behind them.
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker begin with a slow case, as far as there are any.

    xdist's work stealing gives each worker a contiguous part first (``scheduler/worksteal.py``),
    and a slow case that has to wait behind others is what everybody waits for in the end.
    """
    for item in items:
        if item.get_closest_marker("queue_timeouts"):
            item.user_properties.append(("topic", "queue-timeouts"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)
    left = len(items)
    items[:] = []
    for worker in range(workers):
        part = left // (workers - worker)
        left -= part
        first = slow[: max(1, len(slow) // (workers - worker))] if slow else []
        del slow[: len(first)]
        others = quick[: max(0, part - len(first))]
        del quick[: len(others)]
        items += first + others
    items += slow + quick


def pytest_collection_finish(session: pytest.Session) -> None:
    """Everything is imported: now the target has to be there. Not in a fixture, for no case
    shall answer for the time that passes here."""
    if patience := _patience():
        targets.wait(os.environ.get("E2E_TARGET"), patience)
        session.config.stash[_TARGET] = targets.load(os.environ.get("E2E_TARGET"))


def _patience() -> float:
    """Seconds for which the target may not be known yet: the suite may start beside it."""
    return float(os.environ.get("E2E_TARGET_WAIT") or 0)


def pytest_report_header(config: pytest.Config) -> str:
    target = config.stash.get(_TARGET, None)
    if target is None:
        return f"target: whatever E2E_TARGET describes within {_patience():g} s"
    return f"target: {target.name} at {target.gateway_url}, version {target.image_version}"


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> Target:
    return pytestconfig.stash[_TARGET]


@pytest.fixture(scope="session")
def gateway(target: Target) -> Iterator[Gateway]:
    gateway = Gateway(target.gateway_url)
    yield gateway
    gateway.close()


@pytest.fixture(scope="session")
def broker_if_known(target: Target) -> Iterator[Broker | None]:
    """The broker under the gateway, or ``None`` when the target does not say how to reach it."""
    if target.servicebus is None:
        yield None
        return
    broker = Broker(target.servicebus)
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def broker(broker_if_known: Broker | None) -> Broker:
    if broker_if_known is None:
        pytest.skip("the target does not say how to reach its Service Bus")
    return broker_if_known


@pytest.fixture
def endpoints(gateway: Gateway, broker_if_known: Broker | None) -> Iterator[Endpoints]:
    made = Endpoints(gateway, broker_if_known)
    yield made
    made.remove_all()


@pytest.fixture
def scratch_queue(broker: Broker) -> Iterator[str]:
    """A queue of the test's own with a lock of 5 s, which no worker consumes."""
    name = f"e2e-scratch-{uuid.uuid4().hex[:12]}"
    broker.admin.create_queue(name, lock_duration=timedelta(seconds=5), max_delivery_count=3)
    yield name
    broker.delete(name)
    wait_for(f"queue {name} to be gone", lambda: broker.queue(name), lambda seen: seen is None)


@pytest.fixture
def same_lock(record_property: Callable[[str, object], None]) -> Callable[[int, timedelta], None]:
    """Asserts that the broker has the lock duration that was asked for, in seconds; both go into
    the report."""

    def check(asked: int, seen: timedelta) -> None:
        record_property("lock_duration_asked", f"{asked} s")
        record_property("lock_duration_seen", f"{seen.total_seconds():g} s")
        assert seen == timedelta(seconds=asked)

    return check
