"""Tasks through a canary queue while a release is rolled out, every one accounted for.

The canary is an endpoint of the service's own API, made for one promotion: its queue is on the
release's Service Bus, and the release's own workers consume it, old and new ones during the
rollout. Tasks are sent at a steady rate; at the end each must have been executed once: a
delivery that a stopping worker hands back unfinished (``abandoned``) is none. After the change
the new version is asked for another lock duration, and Service Bus itself is asked whether the
queue has it, whether it is empty, and what it could not deliver.
"""

from __future__ import annotations

import importlib
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import Any

from ci import redaction
from ci.errors import PipelineError, PlanRefused, PromotionFailed, WaitTimeout, error_summary
from ci.model import ServiceBusEndpoints, Target
from ci.promotion.probes.prober import Prober
from ci.promotion.probes.queues import BrokerUnavailable, Queues
from ci.promotion.release import health
from ci.promotion.release.failure import failure
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    Check,
    CheckId,
    Phase,
    Problem,
    QueueState,
    Tasks,
    failed,
    judged,
    skipped,
    unknown,
)
from ci.tools.api import Answer
from ci.tools.kube import Kube
from ci.tools.wait import wait_until

ENDPOINTS = "/v1/model-endpoints"
PREFIX = "promotion-canary-"
LOCK_BEFORE, LOCK_AFTER = 30, 45
"""Seconds that the canary's queue is asked to lock for, by the old version and by the new one."""
TASK_SECONDS = 0.2
READY_SECONDS = 30
FIRST_TASKS = 1
"""Tasks that must have been executed before the change."""
SETTLE_SECONDS = LOCK_AFTER + 15
"""How long the last tasks may take: a lock that was left behind has run out by then."""
RATE_SETTING, ACCESS_SETTING = "canary_per_second", "servicebus_connection_string_env"
CHECKS = (CheckId.TASKS_EXECUTED_ONCE, CheckId.QUEUE_LOCK_DURATION)


# -- the account. Pure. ---------------------------------------------------------------------------


def executions(task: Mapping[str, Any]) -> list[str]:
    """Outcomes of a task's executions, without those handed back by a stopping worker."""
    found = [str(each["outcome"]) for each in task.get("executions") or []]
    return [outcome for outcome in found if outcome != "abandoned"]


def settled(task: Mapping[str, Any]) -> bool:
    """Whether nothing runs, and nothing will run again."""
    done = task.get("status") in ("completed", "dead-lettered")
    return done and "running" not in executions(task)


def tally(
    tasks: Mapping[str, Mapping[str, Any] | None], refused: int = 0, problem: str = ""
) -> Tasks:
    """Sum up tasks by their identifiers; ``None`` for one that the service does not know. Lost is
    a task that was never executed to its end. ``refused`` were not accepted, and ``problem`` says
    why."""
    once, lost, twice = 0, [], []
    for name, task in tasks.items():
        outcomes = executions(task) if task is not None else []
        if "completed" not in outcomes:
            lost.append(name)
        elif len(outcomes) > 1:
            twice.append(name)
        else:
            once += 1
    example = problem
    for name in (lost + twice)[:1]:
        task = tasks[name]
        example = (", ".join(executions(task)) or str(task["status"])) if task else ""
    return Tasks(once, len(lost), len(twice), refused, example)


# -- the broker -----------------------------------------------------------------------------------


@contextmanager
def broker(session: TargetSession, *, during_cleanup: bool = False) -> Iterator[Queues]:
    """The target's Service Bus: its stand-in's, else the one of ``servicebus_env``."""
    target = session.target
    # Its SDK takes a third of a second to load, which no other command has to spend.
    from ci.promotion.probes.servicebus_admin import Broker

    with ExitStack() as held:
        options: dict[str, Any] = {}
        if target.standins is None:
            connection = session.programs.env[target.servicebus_env]
            session.programs.hide(connection)
            endpoints = ServiceBusEndpoints(connection, connection)
        elif session.reach is None:
            raise PipelineError("a session of a target with stand-ins has no way to them")
        else:
            kube = session.context.kube(target.standins.cluster)
            kube = kube.for_cleanup() if during_cleanup else kube
            endpoints = held.enter_context(session.reach(kube, target.standins))
        if endpoints.ca_pem:
            authority = held.enter_context(NamedTemporaryFile(suffix=".pem"))
            authority.write(endpoints.ca_pem)
            authority.flush()
            options = {"connection_verify": authority.name}
        opened = Broker(endpoints.amqp, endpoints.admin, options)
        held.callback(opened.close)
        yield opened


# -- the canary -----------------------------------------------------------------------------------


class Refused(Exception):
    """The service answered otherwise than expected. Never leaves this module."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message)
        self.by_service = bool(answer.code) and not _of_kubernetes(answer)
        """Whether the service itself answered, and not the API server for it."""
        self.not_offered = self.by_service and answer.code in (404, 405, 501)
        """Whether the service has no such API."""
        self.not_now = self.by_service and answer.code in (429, 503)
        """Whether the service may do it later: it has lost its broker for a moment."""


def _of_kubernetes(answer: Answer) -> bool:
    try:
        body = answer.object()
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("kind") == "Status"


class Service:
    """The calls of the service's API that the canary needs, through the API server: to any ready
    pod, each time anew."""

    def __init__(self, kube: Kube, target: Target) -> None:
        self._kube, self._target = kube, target

    def call(self, method: str, path: str, expected: int, body: Any = None) -> Any:
        """Raises :class:`Refused` for another status, and for none."""
        where = health.service_path(self._target, path)
        seconds = self._target.probing.timeout_seconds
        answer = self._kube.ask(method, where, body=body, timeout=seconds)
        if answer.code != expected:
            body = redaction.text(" ".join(answer.text.split())[:160])
            status = f"HTTP {answer.code}: " if answer.code else ""
            raise Refused(f"{method} {path}: {status}{body}", answer)
        return json.loads(answer.text)

    def task(self, id: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self.call("GET", f"/v1/tasks/{id}", 200)
        except Refused:
            return None
        return found


class Canary:
    """Begins beside the next steps; sends until :meth:`account` is asked for.

    Sends nothing where it is turned off, where the target's Service Bus is not known and where the
    service has no such API: its checks are skipped or unknown then.
    """

    def __init__(self, session: TargetSession) -> None:
        target = session.target
        self._session, self._target = session, target
        # Cleanup mode: the endpoint goes after Ctrl-C, too.
        self._service = Service(session.for_cleanup().kube, target)
        self._held = ExitStack()
        self._name = f"{PREFIX}{secrets.token_hex(3)}"
        self._queue = ""
        self._ids: list[str] = []
        self._prober: Prober | None = None
        self._absent = absent(session)
        self._refusals: list[str] = []
        """Of tasks, by the service itself."""
        self._problem: PipelineError | None = None
        self._thread = threading.Thread(target=self._begin, name="canary", daemon=True)

    def __enter__(self) -> Canary:
        if not self._absent:
            self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._thread.is_alive():
            self._thread.join(READY_SECONDS)
        if self._prober is not None:
            self._prober.stop()
        if self._queue:
            # What cannot be removed now is removed by the next promotion.
            with suppress(Refused):
                self._service.call("DELETE", f"{ENDPOINTS}/{self._name}", 202)
        self._held.close()

    def _begin(self) -> None:
        target = self._target
        try:
            self._create()
            self._prober = self._held.enter_context(
                Prober(
                    self._send,
                    per_second=target.canary_per_second,
                    timeout=target.probing.timeout_seconds,
                    clock=self._session.for_cleanup().clock,
                )
            )
            # What :func:`broker` needs at the end, beside the steps that wait for programs.
            importlib.import_module("ci.promotion.probes.servicebus_admin")
        except Refused as problem:
            because = Because.NOT_OFFERED if problem.not_offered else Because.NO_ANSWER
            self._absent = tuple(unknown(id, because, Problem(str(problem))) for id in CHECKS)
        except PipelineError as problem:
            self._problem = problem

    def _create(self) -> None:
        """The canary's endpoint, ready; those of promotions that were killed go."""
        service = self._service
        for left in service.call("GET", ENDPOINTS, 200)["model_endpoints"]:
            if left["name"].startswith(PREFIX):
                with suppress(Refused):
                    service.call("DELETE", f"{ENDPOINTS}/{left['name']}", 202)
        self._queue = self._created()
        self._wait_ready()

    def _created(self) -> str:
        """The name of the queue of the canary's endpoint. A service that cannot create one now may
        have lost its broker for a moment, and is asked again for a while. Raises
        :class:`Refused` with its last answer."""
        wanted = {"name": self._name, "queue_message_timeout_duration": LOCK_BEFORE}
        refusals: list[Refused] = []

        def created() -> str | None:
            try:
                return str(self._service.call("POST", ENDPOINTS, 201, wanted)["queue_name"])
            except Refused as problem:
                if not problem.not_now:
                    raise
                refusals.append(problem)
                return None

        try:
            return wait_until(
                "the canary's endpoint to be created",
                created,
                timeout=READY_SECONDS,
                clock=self._session.for_cleanup().clock,
                interval=0.5,
            )
        except WaitTimeout as late:
            raise refusals[-1] from late

    def _wait_ready(self) -> None:
        def ready() -> bool:
            with suppress(Refused):
                found = self._service.call("GET", f"{ENDPOINTS}/{self._name}", 200)
                if found["status"] == "FAILED":
                    raise PlanRefused(f"the canary's endpoint is FAILED: {found.get('error')}")
                return bool(found["status"] == "READY")
            return False

        wait_until(
            "the canary's endpoint to be READY",
            ready,
            timeout=READY_SECONDS,
            clock=self._session.for_cleanup().clock,
            interval=0.2,
        )

    def _send(self) -> str:
        path = f"{ENDPOINTS}/{self._name}/tasks"
        try:
            id = self._service.call("POST", path, 202, {"seconds": TASK_SECONDS})["task_id"]
        except Refused as problem:
            # A request that got no answer at all may have been the API server's failure: whether
            # requests are lost is the prober's account.
            if problem.by_service:
                self._refusals.append(str(problem))
            return str(problem)
        self._ids.append(str(id))
        return ""

    def steady(self) -> tuple[Check, ...]:
        """Wait until tasks are executed; the checks that are known now to be skipped or unknown.
        Raises :class:`PlanRefused` when none is executed before the change: there would be nothing
        to compare with."""
        if not self._absent:
            self._thread.join()
        if self._problem is not None:
            raise PlanRefused(
                f"no canary can be sent before the change: {self._problem}",
                remedy="repair the service's queues, or turn the canary off (canary_per_second)",
            ) from self._problem
        if self._absent:
            return self._absent

        def executed() -> bool:
            done = [id for id in self._ids[:FIRST_TASKS] if settled(self._service.task(id) or {})]
            return len(done) >= FIRST_TASKS

        try:
            wait_until(
                "the first task of the canary queue",
                executed,
                timeout=READY_SECONDS,
                clock=self._session.clock,
                interval=0.1,
                diagnose=lambda: f"{len(self._ids)} sent",
            )
        except WaitTimeout as problem:
            raise PlanRefused(
                f"the service does not execute tasks before the change: {problem}",
                remedy="repair its workers, or turn the canary off (canary_per_second)",
            ) from problem
        return ()

    def account(self) -> tuple[Check, ...]:
        """Every task, and the queue itself. Raises :class:`PromotionFailed` with what was lost,
        processed twice or ignored."""
        if self._absent or self._prober is None:
            return self._absent
        self._prober.stop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="canary") as pool:
            lock_ = pool.submit(self._new_lock)
            with broker(self._session) as bus:
                tasks = self._settled()
                refused = lock_.result()
                queue = self._queue_check(bus, refused)
        sums = tally(tasks, len(self._refusals), next(iter(self._refusals), ""))
        once = not (sums.lost or sums.twice or sums.refused)
        checks = (judged(CheckId.TASKS_EXECUTED_ONCE, once, sums), queue)
        if not all(check.passed for check in checks):
            raise failure(PromotionFailed, Phase.DURING, checks)
        return checks

    def _new_lock(self) -> str:
        """Ask the new version for another lock duration; what is wrong with its answer."""
        try:
            asked = {"queue_message_timeout_duration": LOCK_AFTER}
            self._service.call("PUT", f"{ENDPOINTS}/{self._name}", 202, asked)
            self._wait_ready()
        except (Refused, PipelineError) as problem:
            return error_summary(problem)
        return ""

    def _settled(self) -> dict[str, Mapping[str, Any] | None]:
        """Every task once nothing runs any more, or the time is over."""
        tasks: dict[str, Mapping[str, Any] | None] = {}

        def all_settled() -> bool:
            open_ = [id for id in self._ids if not settled(tasks.get(id) or {})]
            with ThreadPoolExecutor(max_workers=8, thread_name_prefix="canary") as pool:
                tasks.update(zip(open_, pool.map(self._service.task, open_), strict=True))
            return all(settled(tasks[id] or {}) for id in self._ids)

        with suppress(WaitTimeout):
            wait_until(
                "the canary's tasks",
                all_settled,
                timeout=SETTLE_SECONDS,
                clock=self._session.clock,
                interval=0.2,
            )
        return tasks

    def _queue_check(self, bus: Queues, refused: str) -> Check:
        """The queue as Service Bus has it; ``refused`` is why the new version did not change its
        lock duration."""
        id, asked = CheckId.QUEUE_LOCK_DURATION, float(LOCK_AFTER)
        try:
            lock = bus.lock_duration(self._queue)
            if lock is None:
                return failed(id, QueueState(self._queue, None, asked, exists=False))
            active, dead = bus.messages(self._queue)
            why = bus.undelivered(self._queue) if dead else ""
        except BrokerUnavailable as problem:
            return unknown(id, Because.NO_ANSWER, Problem(str(problem)))
        state = QueueState(self._queue, lock.total_seconds(), asked, active, dead, why)
        ok = not refused and state.lock_seconds == asked and not active and not dead
        return judged(id, ok, state, *([Problem(refused)] if refused else []))


def absent(session: TargetSession) -> tuple[Check, ...]:
    """The checks that are skipped where no canary is sent; none where one is."""
    if session.target.canary_per_second <= 0:
        return tuple(skipped(id, RATE_SETTING) for id in CHECKS)
    if not known(session):
        return tuple(skipped(id, ACCESS_SETTING) for id in CHECKS)
    return ()


def known(session: TargetSession) -> bool:
    """Whether the target's Service Bus can be asked."""
    target = session.target
    return target.standins is not None or bool(session.programs.env.get(target.servicebus_env))


def queue_states(session: TargetSession) -> str:
    """How every queue is now, for what is kept when a promotion fails. Raises
    :class:`ci.errors.PipelineError`."""
    if not known(session):
        return f"no Service Bus access for the target ({ACCESS_SETTING})\n"
    try:
        with broker(session, during_cleanup=True) as bus:
            return "\n".join(bus.states()) + "\n"
    except BrokerUnavailable as problem:
        return f"Service Bus does not answer: {problem}\n"
