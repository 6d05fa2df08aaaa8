"""How a run ended, by its data alone: exit code, where its target stands, its checks. Pure.

The rules, the first that applies:

1. a promotion of several targets ends as its targets did;
2. a run without an end (killed, or still under way) is judged by where its target stands;
3. a run that passed is named by what its command does;
4. a run that failed is named by where its target stands, and then by its exit code.

Nothing here reads a text, and no text is made here: :data:`ci.texts.VERDICTS` has the words.
"""

from __future__ import annotations

from collections.abc import Mapping

from ci.errors import (
    Interrupted,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    ProofFailed,
    RehearsalFailed,
    RollbackFailed,
    VerifyFailed,
)
from ci.model import RunRecord
from ci.results import ChangeState, Check, Outcome, Phase, RunRef, Tone, VerdictId

PROMOTING = ("run", "promote")
"""Commands that change a target to another image."""
ROLLBACK = "rollback"
TEST = "test"


def identify(run: RunRecord, *, finished: bool) -> VerdictId:
    """``finished`` is false for a run that left no summary."""
    targets = several(run)
    if targets and finished:
        return _of_several(targets)
    state = run.change.state if run.change else ChangeState.NONE
    if not finished:
        return _UNFINISHED[state]
    if run.outcome is Outcome.PASSED:
        return _passed(run.command, state)
    return _failed(run.command, run.exit_code, state)


def several(run: RunRecord) -> tuple[Check, ...]:
    """A check per target, of a promotion of several."""
    return tuple(
        check for group in run.groups if group.phase is Phase.TARGETS for check in group.checks
    )


def tone(id: VerdictId) -> Tone:
    return _TONES[id]


def _of_several(targets: tuple[Check, ...]) -> VerdictId:
    if not all(check.passed for check in targets):
        return VerdictId.NOT_EVERYWHERE
    states = {
        value.state for check in targets for value in check.measured if isinstance(value, RunRef)
    }
    nothing = states == {ChangeState.ALREADY_SERVED}
    return VerdictId.ALL_SERVED if nothing else VerdictId.ALL_PROMOTED


_UNFINISHED: Mapping[ChangeState, VerdictId] = {
    ChangeState.NONE: VerdictId.UNFINISHED,
    ChangeState.UNTOUCHED: VerdictId.UNFINISHED,
    ChangeState.UNDER_WAY: VerdictId.UNFINISHED_UNDER_WAY,
    ChangeState.PROMOTED: VerdictId.UNFINISHED_PROMOTED,
    ChangeState.ALREADY_SERVED: VerdictId.UNFINISHED,
    ChangeState.ROLLED_BACK: VerdictId.UNFINISHED_ROLLED_BACK,
    ChangeState.ROLLBACK_FAILED: VerdictId.ROLLBACK_FAILED,
}

_BY_COMMAND: Mapping[str, VerdictId] = {
    "build": VerdictId.BUILT,
    "prove": VerdictId.PROVEN,
    "rehearse": VerdictId.REHEARSED,
    "approve": VerdictId.APPROVED,
    "verify": VerdictId.VERIFIED,
    TEST: VerdictId.CHECKS_PASSED,
}


def _passed(command: str, state: ChangeState) -> VerdictId:
    if command == ROLLBACK:
        served = state is ChangeState.ALREADY_SERVED
        return VerdictId.ALREADY_RETURNED if served else VerdictId.RETURNED
    if command in PROMOTING:
        served = state is ChangeState.ALREADY_SERVED
        return VerdictId.ALREADY_SERVED if served else VerdictId.PROMOTED
    return _BY_COMMAND.get(command, VerdictId.PASSED)


def _failed(command: str, exit_code: int, state: ChangeState) -> VerdictId:
    match state:
        case ChangeState.ROLLBACK_FAILED:
            return _not_rolled_back(command)
        case ChangeState.UNDER_WAY:
            if exit_code == RollbackFailed.exit_code:
                return _not_rolled_back(command)
            interrupted = exit_code == Interrupted.exit_code
            return VerdictId.INTERRUPTED_UNDER_WAY if interrupted else VerdictId.FAILED_UNDER_WAY
        case ChangeState.ROLLED_BACK:
            return _after_rollback(exit_code)
        case ChangeState.PROMOTED:
            return _after_promotion(exit_code)
        case ChangeState.NONE | ChangeState.UNTOUCHED | ChangeState.ALREADY_SERVED:
            return _unchanged(command, exit_code, state)


def _not_rolled_back(command: str) -> VerdictId:
    return VerdictId.RETURN_FAILED if command == ROLLBACK else VerdictId.ROLLBACK_FAILED


def _after_rollback(exit_code: int) -> VerdictId:
    if exit_code == Interrupted.exit_code:
        return VerdictId.INTERRUPTED_ROLLED_BACK
    if exit_code == PromotionFailed.exit_code:
        return VerdictId.ROLLED_BACK
    return VerdictId.FAILED_ROLLED_BACK


def _after_promotion(exit_code: int) -> VerdictId:
    if exit_code == Interrupted.exit_code:
        return VerdictId.INTERRUPTED_PROMOTED
    if exit_code == VerifyFailed.exit_code:
        return VerdictId.PROMOTED_NOT_VERIFIED
    return VerdictId.FAILED_PROMOTED


def _unchanged(command: str, exit_code: int, state: ChangeState) -> VerdictId:
    promotes = command in PROMOTING
    match exit_code:
        case Interrupted.exit_code:
            return VerdictId.INTERRUPTED
        case ProofFailed.exit_code:
            return VerdictId.NOT_PROMOTED_NOT_PROVEN if promotes else VerdictId.NOT_PROVEN
        case RehearsalFailed.exit_code:
            return VerdictId.NOT_PROMOTED_NOT_REHEARSED if promotes else VerdictId.NOT_REHEARSED
        case PlanRefused.exit_code:
            return VerdictId.REFUSED
        case PromotionFailed.exit_code if state is ChangeState.UNTOUCHED:
            return VerdictId.UPGRADE_NOT_BEGUN
        case PromotionFailed.exit_code:
            return VerdictId.ROLLED_BACK
        case RollbackFailed.exit_code:
            return _not_rolled_back(command)
        case VerifyFailed.exit_code:
            return VerdictId.NOT_VERIFIED
        case PipelineError.exit_code if command == TEST:
            return VerdictId.CHECKS_FAILED
        case _:
            return VerdictId.NOT_PROMOTED if promotes else VerdictId.FAILED


_TONES: Mapping[VerdictId, Tone] = {
    id: tone
    for tone, ids in {
        Tone.GOOD: (
            VerdictId.PROMOTED,
            VerdictId.ALREADY_SERVED,
            VerdictId.ALL_PROMOTED,
            VerdictId.ALL_SERVED,
            VerdictId.BUILT,
            VerdictId.PROVEN,
            VerdictId.REHEARSED,
            VerdictId.APPROVED,
            VerdictId.VERIFIED,
            VerdictId.RETURNED,
            VerdictId.ALREADY_RETURNED,
            VerdictId.CHECKS_PASSED,
            VerdictId.PASSED,
        ),
        Tone.WARN: (
            VerdictId.REFUSED,
            VerdictId.UPGRADE_NOT_BEGUN,
            VerdictId.ROLLED_BACK,
            VerdictId.FAILED_ROLLED_BACK,
            VerdictId.INTERRUPTED_ROLLED_BACK,
            VerdictId.UNFINISHED,
            VerdictId.UNFINISHED_PROMOTED,
            VerdictId.UNFINISHED_ROLLED_BACK,
        ),
        Tone.BAD: (
            VerdictId.NOT_PROVEN,
            VerdictId.NOT_PROMOTED_NOT_PROVEN,
            VerdictId.NOT_REHEARSED,
            VerdictId.NOT_PROMOTED_NOT_REHEARSED,
            VerdictId.NOT_PROMOTED,
            VerdictId.NOT_EVERYWHERE,
            VerdictId.PROMOTED_NOT_VERIFIED,
            VerdictId.NOT_VERIFIED,
            VerdictId.CHECKS_FAILED,
            VerdictId.FAILED,
            VerdictId.FAILED_PROMOTED,
            VerdictId.INTERRUPTED,
            VerdictId.INTERRUPTED_PROMOTED,
        ),
        Tone.ALARM: (
            VerdictId.ROLLBACK_FAILED,
            VerdictId.RETURN_FAILED,
            VerdictId.FAILED_UNDER_WAY,
            VerdictId.INTERRUPTED_UNDER_WAY,
            VerdictId.UNFINISHED_UNDER_WAY,
        ),
    }.items()
    for id in ids
}
