"""The flow's machinery: what runs beside what, who is told what, what is cleaned up."""

from __future__ import annotations

import threading

import pytest

from ci.errors import BuildFailed, ClusterFailed, Interrupted
from ci.results import StepId
from ci.run.events import Events
from ci.run.scheduler import Flow
from ci.tools.command import Programs
from ci.tools.wait import SystemClock


@pytest.fixture
def programs() -> Programs:
    return Programs(env={})


@pytest.fixture
def events() -> Events:
    return Events(SystemClock())


@pytest.fixture
def flow(programs: Programs, events: Events) -> Flow:
    return Flow(events, programs)


def test_steps_beside_each_other_really_are(flow: Flow) -> None:
    meeting = threading.Barrier(2)

    def meet(name: str) -> str:
        meeting.wait(5)
        return name

    with flow:
        one = flow.beside(StepId.BUILD, "", meet, "one")
        two = flow.beside(StepId.GATE_CLUSTER, "", meet, "two")
        assert (one.result(), two.result()) == ("one", "two")


def test_the_first_failure_is_what_is_told(flow: Flow, programs: Programs) -> None:
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        programs.cancel.wait(5)
        raise Interrupted("interrupted while making the cluster")

    def wrong() -> None:
        begun.wait(5)
        raise BuildFailed("no such package")

    def both() -> None:
        with flow:
            cluster = flow.beside(StepId.GATE_CLUSTER, "", slow)
            flow.beside(StepId.BUILD, "", wrong)
            cluster.result()

    with pytest.raises(BuildFailed, match="no such package"):
        both()
    assert programs.cancel.is_set()


def test_a_failure_nobody_waited_for_still_fails_the_flow(flow: Flow) -> None:
    def wrong() -> None:
        raise BuildFailed("no")

    with pytest.raises(BuildFailed), flow:
        flow.beside(StepId.BUILD, "", wrong)


def test_a_failed_step_alone_leaves_the_programs_of_its_cleanup_alone(
    flow: Flow, programs: Programs
) -> None:
    def wrong() -> None:
        raise ClusterFailed("no")

    with pytest.raises(ClusterFailed), flow:
        flow.step(StepId.GATE_CLUSTER, "", wrong)
    assert not programs.cancel.is_set()


def test_cleanups_run_last_in_reverse_and_all_of_them(flow: Flow, events: Events) -> None:
    done: list[str] = []

    def fail() -> None:
        done.append("second")
        raise ClusterFailed("still there")

    def broken() -> None:
        with flow:
            flow.cleanup(StepId.CLEAN_UP, done.append, "first")
            flow.cleanup(StepId.DELETE_GATE_CLUSTER, fail)
            raise BuildFailed("no")

    with pytest.raises(BuildFailed):
        broken()
    assert done == ["second", "first"]
    assert any("delete the gate cluster failed: still there" in event.text for event in events.all)


def test_cleanups_wait_for_steps_that_are_still_ending(flow: Flow, programs: Programs) -> None:
    order: list[str] = []

    def slow() -> None:
        programs.cancel.wait(5)
        order.append("step ended")

    def wrong() -> None:
        raise BuildFailed("no")

    def both() -> None:
        with flow:
            flow.cleanup(StepId.CLEAN_UP, order.append, "cleaned up")
            flow.beside(StepId.BUILD, "", slow)
            flow.step(StepId.DEPLOY, "", wrong)

    with pytest.raises(BuildFailed):
        both()
    assert order == ["step ended", "cleaned up"]


def test_nothing_starts_after_a_cancel(flow: Flow, programs: Programs) -> None:
    programs.end_all()
    with pytest.raises(Interrupted), flow:
        flow.step(StepId.BUILD, "", lambda: pytest.fail("started"))
