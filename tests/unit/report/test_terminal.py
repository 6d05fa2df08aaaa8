"""What is watched beside a change, where there is a terminal and where there is none."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from ci.events import Event
from ci.report.terminal import WATCHED_LINES, Lines, Redrawn


def watched(step: str, text: str, at: float = 1.0) -> Event:
    return Event("watch", at, step, text)


@pytest.mark.parametrize("every", [False, True])
def test_a_services_own_words_are_in_its_file_unless_all_is_asked_for(every: bool) -> None:
    out = io.StringIO()
    lines = Lines(out, every=every)
    for each in (watched("pods", "engine-1: Running"), watched("logs", "engine-1: serving")):
        lines(each)
    assert "pods: engine-1: Running" in out.getvalue()
    assert ("logs: engine-1: serving" in out.getvalue()) is every


def on_a_terminal(height: int) -> tuple[Redrawn, Callable[[], str]]:
    """A view, and what it shows at the moment of the call."""
    view, out = Redrawn(io.StringIO()), io.StringIO()
    view._console = Console(
        file=out, width=100, height=height, force_terminal=True, color_system=None
    )

    def rendered() -> str:
        view._console.print(view._render())
        return out.getvalue()

    return view, rendered


@pytest.mark.parametrize(("height", "shown"), [(60, WATCHED_LINES), (24, 1)])
def test_a_terminal_shows_the_newest_lines_of_each(height: int, shown: int) -> None:
    view, rendered = on_a_terminal(height)
    view(Event("step.started", 0.5, "upgrade", "only the tag"))
    for number in range(10):
        view(watched("pods", f"pod line {number}"))
        view(watched("events", f"event line {number}"))
    text = rendered()
    assert "upgrade" in text
    for what in ("pod", "event"):
        there = [number for number in range(10) if f"{what} line {number}" in text]
        assert there == list(range(10 - shown, 10))
    assert text.count("pods ") == 1


def test_one_that_is_opened_again_goes_on_below() -> None:
    view, rendered = on_a_terminal(60)
    with view:
        view(Event("step.started", 0.1, "tools", "found"))
        view(Event("step.finished", 0.2, "tools", "", {"seconds": 0.1}))
    with view:
        view(watched("pods", "engine-1: Running"))
        text = rendered()
    assert "engine-1: Running" in text
    assert "since the start" in text
    assert "tools" not in text
