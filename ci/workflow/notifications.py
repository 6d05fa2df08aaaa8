"""Notifications about a promotion: of its start, its success, its failure, its rollback.

They are sent beside the promotion, in their order. One that cannot be sent is a note of the run,
and changes nothing of how it ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from ci.errors import CommandFailed, PipelineError, PromotionFailed, RollbackFailed
from ci.model import Image, Promotion
from ci.promotion.release.session import TargetSession
from ci.run.context import Context
from ci.settings import Notify, Occasion
from ci.tools.command import Programs
from ci.tools.notify import Kind, send

LAST_SECONDS = 15.0
"""How long the end of a promotion waits for notifications that are still under way."""

KINDS: dict[Occasion, Kind] = {
    "start": "info",
    "success": "success",
    "failure": "failure",
    "rollback": "warning",
}


class Notifier:
    """Sends while in the ``with`` block; at its end waits a while for what is under way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notify")
        self._sent: list[Future[None]] = []

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *problem: object) -> None:
        late = wait(self._sent, timeout=LAST_SECONDS).not_done
        if late:
            self._context.events.note(
                f"{len(late)} notifications were not sent within {LAST_SECONDS:g} s"
            )
        self._pool.shutdown(wait=False, cancel_futures=True)

    def notify(self, occasion: Occasion, title: str, body: str) -> None:
        """Send to every recipient of such an occasion."""
        title, body = (self._context.programs.redact(each) for each in (title, body))
        inherited = contextvars.copy_context()  # notes belong to the step that sends
        for number, recipient in enumerate(self._context.settings.notify, 1):
            if occasion in recipient.on:
                job = self._pool.submit(inherited.copy().run, self._one, number, recipient,
                                        occasion, title, body)  # fmt: skip
                self._sent.append(job)

    def _one(
        self, number: int, recipient: Notify, occasion: Occasion, title: str, body: str
    ) -> None:
        url, problem = address(self._context, recipient)
        if url:
            problem = send(url, title=title, body=body, kind=KINDS[occasion])
        how = f"was not sent: {problem}" if problem else "was sent"
        self._context.events.note(f"notification {number} ({occasion}) {how}")


def address(context: Context, recipient: Notify) -> tuple[str, str]:
    """The address, and why there is none. It is a secret: it holds tokens."""
    if recipient.url_env:
        url = context.programs.env.get(recipient.url_env, "")
        problem = "" if url else f"the environment has no {recipient.url_env}"
    else:
        # Without a log: the output is the address. Not cancelled: it is also sent after Ctrl-C.
        silent = Programs(env=context.programs.env, redactor=context.programs.redactor)
        command = recipient.url_command
        try:
            answer = silent.run(command, timeout=30, check=False)
        except CommandFailed as failure:
            return "", str(failure)
        url = answer.stdout.strip()
        bad = answer.status != 0 or not url
        problem = f"{command[0]} ended with status {answer.status}" if bad else ""
    context.programs.hide(url)
    return ("", problem) if problem else (url, "")


@contextmanager
def notifying(session: TargetSession, image: Image) -> Iterator[list[Promotion]]:
    """Notify of the promotion in the block, which appends what it made to the list."""
    target = session.target
    what = f"{target.release} in {target.namespace} ({target.name})"
    done: list[Promotion] = []
    with Notifier(session.context) as notifier:
        notifier.notify("start", f"Promoting {what}", f"to {image.by_digest}\ntag {image.tag}")
        try:
            yield done
        except PromotionFailed as problem:
            notifier.notify("rollback", f"Rolled back: {what}", _of(problem))
            raise
        except RollbackFailed as problem:
            notifier.notify("failure", f"Act now, the rollback failed: {what}", _of(problem))
            raise
        except PipelineError as problem:
            notifier.notify("failure", f"Not promoted: {what}", _of(problem))
            raise
        except BaseException as problem:
            notifier.notify("failure", f"Not promoted: {what}", type(problem).__name__)
            raise
        for promotion in done:
            notifier.notify("success", *_success(promotion, what))


def _success(promotion: Promotion, what: str) -> tuple[str, str]:
    """Title and body."""
    before, after = promotion.before, promotion.after
    if not promotion.changed:
        return f"Already served: {what}", (
            f"revision {promotion.to_revision}, {after.tag}, verified; nothing was changed\n"
            f"{after.by_digest}"
        )
    return f"Promoted {what}", (
        f"revision {promotion.from_revision} -> {promotion.to_revision}, {before.tag} ->"
        f" {after.tag}\n{after.by_digest}"
    )


def _of(problem: PipelineError) -> str:
    return f"{problem}\n{problem.remedy}"
