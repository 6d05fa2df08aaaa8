"""What is watched beside a change, where there is a terminal and where there is none."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from ci.report.terminal import WATCHED_LINES, Lines, Redrawn, columns, console_for, plain
from ci.run.events import Event


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


def test_a_line_of_the_run_itself_has_the_sign_of_how_it_ended() -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines(Event("run.failed", 1.0, "", "prod: its pods crash"))
    lines(Event("run.passed", 1.0, "", "stage: promoted"))
    lines(Event("run.cancelled", 1.0, "", "SIGINT: stopping"))
    said = [line.partition(" s  ")[2] for line in out.getvalue().splitlines()]
    assert said == ["✗ prod: its pods crash", "✓ stage: promoted", "SIGINT: stopping"]


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[1;1H", "\x1b[31;1m", "\x1b]0;another title\x07", "\x1b]8;;u\x1b\\",
        "\x1bc", "\x1b(B", "\r", "\x08", "\x07", "\x9b2J", "\x7f", "\x00",
    ],
)  # fmt: skip
def test_what_a_terminal_would_act_on_is_never_shown(hostile: str) -> None:
    assert plain(f"before{hostile}after") == "beforeafter"
    out = io.StringIO()
    Lines(out)(watched("pods", f"before{hostile}after"))
    assert not set(out.getvalue()) & set("\x1b\r\x08\x07\x9b\x7f\x00")


def test_of_a_table_in_a_pipe_nothing_is_moved_or_cut() -> None:
    out = io.StringIO()
    columns(console_for(out), ("name", "why"), [("a" * 300, ""), ("世界", "because " * 50)])
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["name", "why"]
    assert lines[1] == "a" * 300
    assert lines[2].startswith("世界" + " " * 298 + "because")
    assert len(lines) == 3


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
