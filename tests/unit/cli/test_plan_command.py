"""``pipeline.py plan``: what it shows, and its status."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ci.cli import app
from ci.model import Difference, PlanRecord, Preview
from ci.promotion.plan import diff
from ci.promotion.release import manifest
from ci.report import terminal
from ci.results import (
    Because,
    Check,
    CheckId,
    DifferenceReason,
    ImageRef,
    Names,
    RevisionRef,
    Unit,
    failed,
    judged,
    passed,
    skipped,
    unknown,
)
from ci.tools.command import Programs
from ci.workflow import commands

OLD, NEW = ImageRef("registry:5000/x", "old"), ImageRef("registry:5000/x", "new")
IMAGE = Difference(
    "Deployment/x",
    "spec.template.spec.containers[x].image",
    "registry:5000/x:old",
    "registry:5000/x:new",
    True,
    DifferenceReason.IMAGE,
)
LABEL = Difference(
    "Deployment/x", "metadata.labels.version", "old", "new", True, DifferenceReason.TAG
)
ADDED = Difference(
    "ConfigMap/more", "", "absent", "present", False, DifferenceReason.NOT_FROM_IMAGE
)
BROKEN = Names(Unit.API_CHANGES, ("/a is gone",), 1)


def preview(*differences: Difference, checks: tuple[Check, ...] = ()) -> Preview:
    return Preview(PlanRecord(OLD, NEW, 4, 5, differences), checks)


def shown(*differences: Difference, checks: tuple[Check, ...] = ()) -> str:
    out = io.StringIO()
    terminal.plan(preview(*differences, checks=checks), out)
    return out.getvalue()


def test_fields_stand_under_their_object_each_side_on_its_line() -> None:
    lines = shown(LABEL, IMAGE).splitlines()
    assert lines[:3] == ["revision 4 -> 5", "- registry:5000/x:old", "+ registry:5000/x:new"]
    assert lines.count("  Deployment/x") == 1
    at = lines.index("    spec.template.spec.containers[x].image  (the image)")
    assert lines[at + 1 : at + 3] == ["    - registry:5000/x:old", "    + registry:5000/x:new"]
    assert lines[-1] == "2 changes in 1 object: all from the image's tag"


def test_what_is_refused_comes_first_and_is_marked() -> None:
    lines = shown(IMAGE, ADDED).splitlines()
    assert lines.index("! ConfigMap/more") < lines.index("  Deployment/x")
    assert "    the whole object  (does not derive from the image)" in lines
    assert lines[-1] == "2 changes in 2 objects: 1 refused (!)"


def test_every_outcome_of_what_was_asked_has_its_sign_and_is_counted() -> None:
    asked = (
        passed(CheckId.CHART_UNCHANGED, RevisionRef(4, "", "x-1")),
        failed(CheckId.API_COMPATIBLE, BROKEN),
        skipped(CheckId.TEAM_NOTIFIED, "notify"),
        unknown(CheckId.HEALTH_UNDER_LOAD, Because.NOT_IN_EVIDENCE),
    )
    lines = shown(IMAGE, checks=asked).splitlines()
    at = lines.index("checks: 1 passed, 1 failed, 1 skipped, 1 unknown")
    signs = [line.split(" ")[0] for line in lines[at + 1 : at + 5]]
    assert signs == ["✓", "✗", "\N{EN DASH}", "?"]
    assert lines[at + 2].endswith("the API is backward compatible: /a is gone")
    assert lines[at + 3].endswith("the team is notified: not enabled (setting notify)")
    assert lines[at + 4].endswith("the proof does not contain it")


def test_the_live_image_changes_nothing() -> None:
    assert shown().splitlines()[-1] == "nothing would change"


def test_text_with_brackets_is_no_markup() -> None:
    text = "[bold]not markup[/bold]"
    assert text in shown(replace(ADDED, path="data.a", before=text))


def test_a_secret_is_never_shown() -> None:
    def secret(value: str) -> manifest.Rendered:
        return manifest.parse(
            f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{p: {value}}}\n", ""
        )

    made = diff.make(
        diff.Change("old", "new", "registry:5000/x", "registry:5000/x", 4, 5),
        live=secret("swordfish"),
        same=secret("swordfish"),
        new=secret("marlin"),
        again=secret("marlin"),
    )
    said = shown(*made.differences)
    assert "Secret/s" in said
    assert "swordfish" not in said
    assert "marlin" not in said


@pytest.mark.parametrize(
    ("differences", "kept", "status"),
    [((IMAGE, LABEL), True, 0), ((), True, 0), ((IMAGE, ADDED), True, 31), ((IMAGE,), False, 31)],
)
def test_the_status_says_whether_it_would_be_refused(
    differences: tuple[Difference, ...],
    kept: bool,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []

    def made(_context: object, options: Any, image: str) -> Preview:
        asked.append((options.target, image))
        checks = (judged(CheckId.API_COMPATIBLE, kept, BROKEN),)
        return preview(*differences, checks=checks)

    monkeypatch.setattr(commands, "plan", made)

    def ask(command: str, _common: object, body: Any, *, targets: object) -> object:
        assert (command, targets) == ("plan", ("prod",))
        return body(None)

    monkeypatch.setattr(app, "_ask", ask)
    assert app.main(["plan", "--target", "prod", "--image", "last"]) == status
    assert asked == [("prod", "last")]
    said = capsys.readouterr()
    assert "revision 4 -> 5" in said.out
    assert ("1 of 2 differences" in said.err) == (ADDED in differences)
    assert ("would be refused: the API is backward compatible: /a is gone" in said.err) is not kept


def test_a_required_check_that_will_not_be_made_would_be_refused() -> None:
    unmet = skipped(CheckId.QUEUE_TIMEOUTS, "servicebus_connection_string_env")
    refusal = app._refusal(replace(preview(IMAGE), target="prod", unmet=(unmet,)))
    assert refusal is not None
    assert refusal.exit_code == 31
    assert "servicebus_connection_string_env" in str(refusal)
    assert "[targets.prod]" in refusal.remedy


def test_what_is_shown_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = Difference(
        "Deployment/x",
        "spec.x",
        "SharedAccessKey=swordfish1",
        "known-to-the-run",
        True,
        DifferenceReason.TAG,
    )
    programs = Programs(env={})
    programs.hide("known-to-the-run")
    ended = SimpleNamespace(
        session=SimpleNamespace(programs=programs),
        value=preview(broker),
        problem=None,
        supervised=None,
    )
    monkeypatch.setattr(app, "_with_tools", lambda *_, **__: ended)
    assert app.main(["plan", "--target", "prod", "--image", "last"]) == 0
    out = capsys.readouterr().out
    assert "- SharedAccessKey=***" in out
    assert "+ ***" in out


def test_it_wants_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan"]) == 2
    assert "--image" in capsys.readouterr().err
