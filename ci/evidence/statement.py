"""What is stated: in-toto Statements v1 about an image and its chart.

A test result is the predicate of that name (v0.1): a result, what it was configured with, and
the names of the cases. What the predicate has no field for (durations, skipped cases, tools,
times) stands in one extension field, which other verifiers ignore. Fields that are unknown here
are ignored likewise; what is missing or of another type makes a statement not understood.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ci.digest import Digest
from ci.model import Case, ReleaseState
from ci.results import Check, Outcome, sound

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
APPROVAL = "urn:queue-timeout-gate:approval:v1"
REHEARSAL = "urn:queue-timeout-gate:rehearsal:v1"
REHEARSAL_SCHEMA = 2
"""Version of what a rehearsal's predicate means. Version 1, which did not say so, had its checks by
titles and sentences."""
TEST_RUN = "urn:queue-timeout-gate:test-run:v1"
"""The extension field of a test result: the run as we saw it."""
TAG = "org.opencontainers.image.ref.name"
"""OCI's annotation for the tag an image was proven under."""

PASSED, FAILED = "PASSED", "FAILED"


class NotUnderstood(Exception):
    """The payload is no statement of the expected kind; the message says why."""


class OtherVersion(NotUnderstood):
    """The payload was made by a version of this project that means something else with it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An artifact a statement is about. Only its digest identifies it."""

    name: str
    digest: str
    """SHA-256 in hexadecimal."""
    tag: str = ""

    @property
    def short(self) -> str:
        """The digest for a reader; empty where the subject has none."""
        return Digest.from_hex(self.digest).short if self.digest else ""


@dataclass(frozen=True, slots=True)
class TestResult:
    """One run of the whole suite: of what, with which outcome, when, and by what."""

    __test__ = False

    subjects: tuple[Subject, ...]
    result: str
    cases: tuple[Case, ...]
    started: datetime
    finished: datetime
    run: str
    tools: tuple[tuple[str, str], ...] = ()
    settings: str = ""
    """The settings of the proof as JSON, without secrets."""
    suite: str = ""
    """Digest of the suite's files."""
    api: str = ""
    """How the image described its API; empty where it did not."""

    def of(self, digest: str) -> Subject | None:
        """The subject with this digest, in hexadecimal."""
        return next((s for s in self.subjects if s.digest == digest), None)

    def to_json(self) -> bytes:
        run = {
            "runId": self.run,
            "startedOn": self.started.isoformat(),
            "finishedOn": self.finished.isoformat(),
            "tools": dict(self.tools),
            "cases": [
                {
                    "name": case.name,
                    "outcome": case.outcome.value,
                    "seconds": case.seconds,
                    **({"message": case.message} if case.message else {}),
                    **({"shows": list(case.shows)} if case.shows else {}),
                }
                for case in self.cases
            ],
            **({"api": _resource("api", self.api)} if self.api else {}),
        }
        named = {
            outcome: [case.name for case in self.cases if case.outcome is outcome]
            for outcome in Outcome
        }
        predicate = {
            "result": self.result,
            "configuration": [
                _resource("settings", self.settings),
                {"name": "suite", "digest": {"sha256": self.suite}},
            ],
            "passedTests": named[Outcome.PASSED],
            "warnedTests": [],
            "failedTests": named[Outcome.FAILED],
            TEST_RUN: run,
        }
        return _statement(self.subjects, TEST_RESULT, predicate)


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's consent to promote an image to a target."""

    subjects: tuple[Subject, ...]
    by: str
    target: str
    at: datetime

    def to_json(self) -> bytes:
        predicate = {
            "approvedBy": self.by,
            "approvedOn": self.at.isoformat(),
            "target": self.target,
        }
        return _statement(self.subjects, APPROVAL, predicate)


_CHECKS = TypeAdapter(tuple[Check, ...])


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """How the change of one target's release went on the gate cluster."""

    subjects: tuple[Subject, ...]
    """The image and the chart."""
    target: str
    state: ReleaseState
    """Of the target's release that was rehearsed."""
    result: str
    checks: tuple[Check, ...]
    require: tuple[str, ...]
    """Globs of the checks that must not be skipped or unknown."""
    changes: tuple[str, ...]
    """What was otherwise than on the target."""
    run: str
    at: datetime

    def to_json(self) -> bytes:
        predicate = {
            "schemaVersion": REHEARSAL_SCHEMA,
            "result": self.result,
            "target": self.target,
            "revision": self.state.revision,
            "before": self.state.digest,
            "values": self.state.values,
            "checks": _CHECKS.dump_python(self.checks, mode="json"),
            "require": list(self.require),
            "changes": list(self.changes),
            "runId": self.run,
            "finishedOn": self.at.isoformat(),
        }
        return _statement(self.subjects, REHEARSAL, predicate)


def kind(payload: bytes) -> str:
    """The predicate type a payload claims, ``""`` when it is no statement. Says only whether it
    is worth a look: anybody may attach statements of any kind to an image."""
    try:
        return str(_mapping(json.loads(payload), "it").get("predicateType", ""))
    except (ValueError, RecursionError, NotUnderstood):
        return ""


def read_result(payload: bytes) -> TestResult:
    """A test result. Raises :class:`NotUnderstood`."""
    subjects, predicate = _parsed(payload, TEST_RESULT)
    run = _mapping(predicate.get(TEST_RUN), "the run")
    configuration = {
        str(entry.get("name")): entry
        for entry in (_mapping(e, "a configuration") for e in _list(predicate, "configuration"))
    }
    cases = tuple(_case(_mapping(entry, "a case")) for entry in _list(run, "cases"))
    failed = {_text(name, "a failed test") for name in _list(predicate, "failedTests")}
    if failed != {case.name for case in cases if case.outcome is Outcome.FAILED}:
        raise NotUnderstood("its failed tests are not the failed ones of its cases")
    tools = _mapping(run.get("tools", {}), "tools")
    return TestResult(
        subjects=subjects,
        result=_text(predicate.get("result"), "result"),
        cases=cases,
        started=_time(run, "startedOn"),
        finished=_time(run, "finishedOn"),
        run=_text(run.get("runId"), "runId"),
        tools=tuple((str(name), str(version)) for name, version in tools.items()),
        settings=_content(configuration.get("settings", {}), "settings"),
        suite=_sha256(configuration.get("suite", {})),
        api=_content(_mapping(run["api"], "its API"), "API") if "api" in run else "",
    )


def read_approval(payload: bytes) -> Approval:
    """An approval. Raises :class:`NotUnderstood`."""
    subjects, predicate = _parsed(payload, APPROVAL)
    return Approval(
        subjects,
        by=_text(predicate.get("approvedBy"), "approvedBy"),
        target=_text(predicate.get("target"), "target"),
        at=_time(predicate, "approvedOn"),
    )


def read_rehearsal(payload: bytes) -> Rehearsed:
    """The verdict of a rehearsal. Raises :class:`NotUnderstood`, and :class:`OtherVersion` for one
    that another version of this project made."""
    subjects, predicate = _parsed(payload, REHEARSAL)
    _refuse_other_version(predicate)
    revision = predicate.get("revision")
    if isinstance(revision, bool) or not isinstance(revision, int):
        raise NotUnderstood("its revision is not a number")
    checks = _checks(_list(predicate, "checks"))
    require = tuple(_text(entry, "a glob") for entry in _list(predicate, "require"))
    result = _text(predicate.get("result"), "result")
    if (result == PASSED) != sound(checks, require):
        raise NotUnderstood("its result is not that of its checks")
    state = ReleaseState(
        revision,
        digest=_image_digest(predicate),
        values=_text(predicate.get("values"), "values"),
    )
    return Rehearsed(
        subjects,
        target=_text(predicate.get("target"), "target"),
        state=state,
        result=result,
        checks=checks,
        require=require,
        changes=tuple(_text(entry, "a change") for entry in _list(predicate, "changes")),
        run=_text(predicate.get("runId"), "runId"),
        at=_time(predicate, "finishedOn"),
    )


def _statement(subjects: tuple[Subject, ...], kind: str, predicate: Mapping[str, Any]) -> bytes:
    described = [
        {
            "name": subject.name,
            "digest": {"sha256": subject.digest},
            **({"annotations": {TAG: subject.tag}} if subject.tag else {}),
        }
        for subject in subjects
    ]
    return json.dumps(
        {
            "_type": STATEMENT,
            "subject": described,
            "predicateType": kind,
            "predicate": predicate,
        },
        indent=1,
    ).encode()


def _resource(name: str, text: str) -> dict[str, Any]:
    """JSON as in-toto's ResourceDescriptor carries it."""
    content = text.encode()
    return {
        "name": name,
        "digest": {"sha256": hashlib.sha256(content).hexdigest()},
        "mediaType": "application/json",
        "content": base64.b64encode(content).decode(),
    }


def _content(entry: Mapping[str, Any], name: str) -> str:
    """What a ResourceDescriptor carries."""
    try:
        return base64.b64decode(_text(entry.get("content", ""), name), validate=True).decode()
    except ValueError:
        raise NotUnderstood(f"its {name} are damaged") from None


def _parsed(payload: bytes, kind: str) -> tuple[tuple[Subject, ...], Mapping[str, Any]]:
    try:
        raw = _mapping(json.loads(payload), "it")
    except (ValueError, RecursionError):
        raise NotUnderstood("it is not JSON") from None
    if raw.get("_type") != STATEMENT or raw.get("predicateType") != kind:
        raise NotUnderstood(f"it is no {STATEMENT} with the predicate {kind}")
    entries = [_mapping(entry, "a subject") for entry in _list(raw, "subject")]
    subjects = tuple(
        Subject(
            name=str(entry.get("name", "")),
            digest=_sha256(entry),
            tag=str(_mapping(entry.get("annotations", {}), "annotations").get(TAG, "")),
        )
        for entry in entries
    )
    return subjects, _mapping(raw.get("predicate"), "the predicate")


def _case(entry: Mapping[str, Any]) -> Case:
    seconds = entry.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise NotUnderstood("a case has no duration")
    try:
        outcome = Outcome(str(entry.get("outcome")))
    except ValueError:
        raise NotUnderstood("a case has no outcome") from None
    name = _text(entry.get("name"), "a case's name")
    shows = _list(entry, "shows") if "shows" in entry else []
    return Case(
        name,
        outcome,
        float(seconds),
        str(entry.get("message", "")),
        tuple(_text(id, "the id of a check") for id in shows),
    )


def _checks(entries: list[Any]) -> tuple[Check, ...]:
    try:
        return _CHECKS.validate_python(entries)
    except ValidationError as problem:
        where = ".".join(str(part) for part in problem.errors()[0]["loc"])
        raise NotUnderstood(f"its checks are not as they should be (checks.{where})") from None


def _refuse_other_version(predicate: Mapping[str, Any]) -> None:
    version = predicate.get("schemaVersion", 1)
    if isinstance(version, bool) or not isinstance(version, int):
        raise NotUnderstood("its schema version is not a number")
    if version < REHEARSAL_SCHEMA:
        raise OtherVersion("was made by an older version of this project: rehearse again")
    if version > REHEARSAL_SCHEMA:
        raise OtherVersion("was made by a newer version of this project: update this checkout")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotUnderstood(f"{what} is not an object")
    return value


def _list(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if not isinstance(value, list):
        raise NotUnderstood(f"{key} is not a list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise NotUnderstood(f"{what} is not a text")
    return value


def _image_digest(predicate: Mapping[str, Any]) -> Digest:
    try:
        return Digest(_text(predicate.get("before"), "before"))
    except ValueError:
        raise NotUnderstood("what it began with is not a digest") from None


def _sha256(holder: Mapping[str, Any]) -> str:
    digest = holder.get("digest")
    value = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise NotUnderstood("a digest is not SHA-256")
    return value


def _time(holder: Mapping[str, Any], key: str) -> datetime:
    try:
        found = datetime.fromisoformat(_text(holder.get(key), key))
    except ValueError:
        raise NotUnderstood(f"{key} is not a time") from None
    if found.tzinfo is None:
        raise NotUnderstood(f"{key} has no time zone")
    return found
