"""Tells people how a promotion goes: at its start, its success, its failure, its rollback.

Notices are sent beside the promotion, in their order. One that cannot be sent is a note of the
run, and changes nothing of how it ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from ci.errors import CommandFailed, PipelineError, PromotionFailed
from ci.model import Image, Promotion
from ci.promotion.release.session import TargetSession
from ci.run.context import Context
from ci.settings import Notify, Occasion
from ci.tools.command import Programs
from ci.tools.notify import Kind, send

LAST_SECONDS = 15.0
"""How long the end of a promotion waits for notices that are still under way."""

KINDS: dict[Occasion, Kind] = {
    "start": "info",
    "success": "success",
    "failure": "failure",
    "rollback": "warning",
}


class Notices:
    """Sends while in the ``with`` block; at its end waits a while for what is under way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notices")
        self._sent: list[Future[None]] = []

    def __enter__(self) -> Notices:
        return self

    def __exit__(self, *problem: object) -> None:
        late = wait(self._sent, timeout=LAST_SECONDS).not_done
        if late:
            self._context.events.note(f"{len(late)} notifications were still under way")
        self._pool.shutdown(wait=False, cancel_futures=True)

    def tell(self, occasion: Occasion, title: str, body: str) -> None:
        """Send to everyone who wants to hear of such an occasion."""
        title, body = (self._context.programs.redact(each) for each in (title, body))
        inherited = contextvars.copy_context()  # notes belong to the step that told
        for number, whom in enumerate(self._context.settings.notify, 1):
            if occasion in whom.on:
                job = self._pool.submit(inherited.copy().run, self._one, number, whom, occasion,
                                        title, body)  # fmt: skip
                self._sent.append(job)

    def _one(self, number: int, whom: Notify, occasion: Occasion, title: str, body: str) -> None:
        url, problem = address(self._context, whom)
        if url:
            problem = send(url, title=title, body=body, kind=KINDS[occasion])
        how = f"was not sent: {problem}" if problem else "was sent"
        self._context.events.note(f"notification {number} ({occasion}) {how}")


def address(context: Context, whom: Notify) -> tuple[str, str]:
    """The address, and why there is none. It is a secret: it holds tokens."""
    if whom.url_env:
        found = context.programs.env.get(whom.url_env, "")
        problem = "" if found else f"the environment has no {whom.url_env}"
    else:
        # Without a log: the output is the address. After Ctrl-C people are still told.
        silent = Programs(env=context.programs.env, redactor=context.programs.redactor)
        try:
            said = silent.run(whom.url_command, timeout=30, check=False)
        except CommandFailed as failure:
            return "", str(failure)
        found = said.stdout.strip()
        bad = said.status != 0 or not found
        problem = f"{whom.url_command[0]} ended with {said.status}" if bad else ""
    context.programs.hide(found)
    return ("", problem) if problem else (found, "")


@contextmanager
def told(session: TargetSession, image: Image) -> Iterator[list[Promotion]]:
    """Tell of the promotion in the block, which appends what it made to the list."""
    context, target = session.context, session.target
    what = f"{target.release} in {target.namespace} ({target.name})"
    done: list[Promotion] = []
    with Notices(context) as notices:
        notices.tell("start", f"Promoting {what}", f"to {image.by_digest}\ntag {image.tag}")
        try:
            yield done
        except PromotionFailed as problem:
            notices.tell("rollback", f"Rolled back: {what}", _of(problem))
            raise
        except PipelineError as problem:
            notices.tell("failure", f"Not promoted: {what}", _of(problem))
            raise
        except BaseException as problem:
            notices.tell("failure", f"Not promoted: {what}", type(problem).__name__)
            raise
        for moved in done:
            if not moved.changed:
                notices.tell(
                    "success",
                    f"Already served: {what}",
                    f"revision {moved.to_revision}, {moved.after.tag}, verified; nothing was"
                    f" changed\n{moved.after.by_digest}",
                )
                continue
            notices.tell(
                "success",
                f"Promoted {what}",
                f"revision {moved.from_revision} -> {moved.to_revision}, {moved.before.tag} ->"
                f" {moved.after.tag}\n{moved.after.by_digest}",
            )


def _of(problem: PipelineError) -> str:
    return f"{problem}\n{problem.remedy}"
