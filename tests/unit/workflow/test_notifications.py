"""Notifications over apprise's own sender to a receiver on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import UNKNOWN, Digest
from ci.errors import Interrupted, PipelineError, PlanRefused, PromotionFailed, RollbackFailed
from ci.model import Cluster, Image, Promotion, Target
from ci.promotion.release.session import TargetSession
from ci.results import ChangeState
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import Notify, Settings, parse
from ci.tools.command import Programs
from ci.tools.wait import SystemClock
from ci.workflow import notifications
from tests.unit.serving import serving

# Plugins of apprise import it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

IMAGE = Image("r/engine", "new", Digest.from_hex("b" * 64))
TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")
MOVED = Promotion("prod", Image("r/engine", "old", UNKNOWN), IMAGE, 1, 2, Path("b"), ())
TOKEN = "s3cret-token-of-the-hook"


class Receiver(ThreadingHTTPServer):
    got: list[dict[str, Any]]
    status: int = 200


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        server: Receiver

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append({"path": self.path, **json.loads(body)})
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = Receiver(("127.0.0.1", 0), Handler)
    server.got = []
    with serving(server):
        yield server


def url(receiver: Receiver) -> str:
    return f"json://127.0.0.1:{receiver.server_address[1]}/{TOKEN}"


def context(tmp_path: Path, *whom: Notify, **env: str) -> Context:
    programs = Programs(env={**os.environ, **env}, logs=tmp_path / "logs")
    events = Events(SystemClock(), path=tmp_path / "events.jsonl", redactor=programs.redactor)
    made = SimpleNamespace(settings=Settings(notify=whom), programs=programs, events=events)
    return cast(Context, made)


def opened(context: Context) -> TargetSession:
    """Nothing is asked of the cluster."""
    nothing = cast(Any, None)
    return TargetSession(context, TARGET, nothing, nothing, SystemClock())


def noted(context: Context) -> list[str]:
    return [event.text for event in context.events.all]


def test_a_start_and_a_success_are_sent(receiver: Receiver, tmp_path: Path) -> None:
    here = context(tmp_path, Notify(url_env="HOOK"), HOOK=url(receiver))
    with notifications.notifying(opened(here), IMAGE) as done:
        done.append(MOVED)
    first, second = receiver.got
    assert first["title"] == "Promoting rel in launch (prod)"
    assert IMAGE.digest in first["message"]
    assert (second["title"], second["type"]) == ("Promoted rel in launch (prod)", "success")
    assert "revision 1 -> 2, old -> new" in second["message"]
    assert first["path"] == f"/{TOKEN}"
    assert noted(here) == ["notification 1 (start) was sent", "notification 1 (success) was sent"]


@pytest.mark.parametrize(
    ("problem", "title", "kind"),
    [
        (PromotionFailed("requests were lost"), "Rolled back", "warning"),
        (RollbackFailed("it failed, too", remedy="do this"), "Act now", "failure"),
        (PlanRefused("more than the image"), "Not promoted", "failure"),
        (Interrupted("interrupted"), "Not promoted", "failure"),
    ],
)
def test_how_it_failed_is_sent_and_raised(
    receiver: Receiver, tmp_path: Path, problem: PipelineError, title: str, kind: str
) -> None:
    here = context(tmp_path, Notify(url_env="HOOK"), HOOK=url(receiver))
    with pytest.raises(type(problem)), notifications.notifying(opened(here), IMAGE):
        raise problem
    last = receiver.got[-1]
    assert last["title"].startswith(title)
    assert last["type"] == kind
    assert str(problem) in last["message"]
    assert problem.remedy in last["message"]


def test_what_is_served_already_is_no_promotion(receiver: Receiver, tmp_path: Path) -> None:
    here = context(tmp_path, Notify(url_env="HOOK", on=("success",)), HOOK=url(receiver))
    with notifications.notifying(opened(here), IMAGE) as done:
        done.append(Promotion("prod", IMAGE, IMAGE, 2, 2, None, (), ChangeState.ALREADY_SERVED))
    (only,) = receiver.got
    assert only["title"] == "Already served: rel in launch (prod)"
    assert "nothing was changed" in only["message"]
    assert "->" not in only["message"]


def test_only_the_occasions_of_a_recipient_are_sent(receiver: Receiver, tmp_path: Path) -> None:
    here = context(tmp_path, Notify(url_env="HOOK", on=("rollback",)), HOOK=url(receiver))
    with notifications.notifying(opened(here), IMAGE) as done:
        done.append(MOVED)
    assert receiver.got == []


def test_secrets_are_not_sent(receiver: Receiver, tmp_path: Path) -> None:
    here = context(tmp_path, Notify(url_env="HOOK"), HOOK=url(receiver))
    here.programs.hide("swordfish-9")
    with pytest.raises(PromotionFailed), notifications.notifying(opened(here), IMAGE):
        raise PromotionFailed("cannot log in with swordfish-9 to amqp://user:hunter2hunter2@bus")
    assert "swordfish-9" not in str(receiver.got)
    assert "hunter2" not in str(receiver.got)


@pytest.mark.program
def test_a_program_may_print_the_address(receiver: Receiver, tmp_path: Path) -> None:
    command = ("printf", "%s\\n", url(receiver))
    here = context(tmp_path, Notify(url_command=command))
    with notifications.notifying(opened(here), IMAGE) as done:
        done.append(MOVED)
    assert len(receiver.got) == 2
    assert not (tmp_path / "logs").exists(), "the address was logged"


@pytest.mark.program
@pytest.mark.parametrize(
    ("whom", "env", "says"),
    [
        (Notify(url_env="HOOK"), {}, "the environment has no HOOK"),
        (Notify(url_env="HOOK"), {"HOOK": f"what://{TOKEN}"}, "not one that apprise supports"),
        (
            Notify(url_env="HOOK"),
            {"HOOK": f"json://127.0.0.1:9/{TOKEN}"},
            "JSON did not answer",
        ),
        (Notify(url_command=("false",)), {}, "false ended with status 1"),
        (Notify(url_command=("no-such-program",)), {}, "cannot start no-such-program"),
    ],
)
def test_a_notification_that_fails_is_noted_and_fails_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whom: Notify, env: dict[str, str], says: str
) -> None:
    here = context(tmp_path, whom, **env)
    with notifications.notifying(opened(here), IMAGE) as done:
        done.append(MOVED)
    assert all("was not sent" in text and says in text for text in noted(here))
    assert len(noted(here)) == 2
    written = (tmp_path / "events.jsonl").read_text() + "".join(capfd.readouterr())
    assert TOKEN not in written


def test_a_receiver_that_refuses_is_noted(receiver: Receiver, tmp_path: Path) -> None:
    receiver.status = 500
    here = context(tmp_path, Notify(url_env="HOOK", on=("start",)), HOOK=url(receiver))
    with notifications.notifying(opened(here), IMAGE):
        pass
    assert noted(here) == ["notification 1 (start) was not sent: JSON answered 500"]


@pytest.mark.parametrize(
    "block", [{}, {"url_env": "A", "url_command": ("b",)}, {"url_env": "A", "on": ("end",)}]
)
def test_a_block_that_makes_no_sense_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="notify"):
        parse({"notify": (block,)}, origin="pipeline.toml")
