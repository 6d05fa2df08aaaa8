"""Azure's SDKs for JavaScript, Go and Java, unmodified, over TLS and with a shared access key.

Each scenario is the same in every language (``peers/``), and so is what it has to find; where the
SDKs themselves differ, in their names for errors above all, a table says so. .NET's is not among
them: there is no .NET where this is made.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.compatibility import languages
from tests.compatibility.conftest import HOST, KEY, KEY_NAME, Emulator
from tests.compatibility.languages import LANGUAGES, RUN_SECONDS
from tests.compatibility.programs import Programs

CONNECTION = f"Endpoint=sb://{HOST}/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY}"

JAVASCRIPT = {
    "exists": "MessageEntityAlreadyExistsError",
    "rule exists": "MessagingEntityAlreadyExists",
    "entity missing": "MessageEntityNotFoundError",
    "missing": "MessagingEntityNotFound",
    "rule missing": "MessagingEntityNotFound",
    "message missing": "MessageNotFound",
    "cancelled": "MessageNotFound",
    "lost": "MessageLockLost",
    "session message lost": "SessionLockLost",
    "session lost": "SessionLockLost",
    "held": "SessionCannotBeLocked",
    "sessions needed": "GeneralError",
    "no sessions": "SessionCannotBeLocked",  # its one word for whatever a session is refused for
    "large": "MessageSizeExceeded",
    "disabled": "MessagingEntityDisabled",
    "stranger": "UnauthorizedAccess",
}
GO = {
    "exists": "409",
    "entity missing": "nothing",  # the SDK returns nil, and no error
    "missing": "amqp:not-found",
    "message missing": "notfound",
    "cancelled": "notfound",
    "lost": "locklost",
    # The SDK takes the session again, and then believes the message to be settled. It is not.
    "session message lost": "nothing",
    "session lost": "nothing",
    "held": "com.microsoft:session-cannot-be-locked",
    "sessions needed": "amqp:not-allowed",
    "no sessions": "amqp:not-allowed",
    "large": "the message is too large",  # the SDK goes by the link's limit
    "disabled": "com.microsoft:entity-disabled",
    "stranger": "unauthorized",
}
JAVA = {
    "exists": "409",
    "rule exists": "MESSAGING_ENTITY_ALREADY_EXISTS",
    "entity missing": "404",
    "missing": "MESSAGING_ENTITY_NOT_FOUND",
    "rule missing": "MESSAGING_ENTITY_NOT_FOUND",
    "cancelled": "nothing",  # the SDK takes a message that is not there for a success
    "lost": "MESSAGE_LOCK_LOST",
    "session message lost": "MESSAGE_LOCK_LOST",
    "session lost": "SESSION_LOCK_LOST",
    "held": "SESSION_CANNOT_BE_LOCKED",
    "sessions needed": "unsupported",
    "no sessions": "unsupported",
    "large": "MESSAGE_SIZE_EXCEEDED",
    "disabled": "MESSAGING_ENTITY_DISABLED",
    "stranger": "UNAUTHORIZED",
}
NAMES = {"javascript": JAVASCRIPT, "go": GO, "java": JAVA}
FIRST = {"javascript": 0, "go": 1, "java": 0}
"""What an SDK calls a message's first delivery; on the wire it is 0."""


@dataclass
class Peer:
    """What one language's program said, asked for once."""

    language: str
    said: dict[str, dict[str, Any]] = field(default_factory=dict)

    def result(self, scenario: str) -> dict[str, Any]:
        """What it found in a scenario; where it failed, why is the test's failure."""
        line = self.said.get(scenario, {"error": "the program ended before"})
        assert "error" not in line, line["error"]
        return dict(line["result"])

    def name(self, problem: str) -> str:
        """The SDK's name for a problem."""
        return NAMES[self.language][problem]


@pytest.fixture(scope="module", params=LANGUAGES)
def peer(
    request: pytest.FixtureRequest,
    emulator: Emulator,
    programs: Programs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Peer:
    language = request.param
    if missing := LANGUAGES[language].missing():
        pytest.skip(f"{language}: {', '.join(missing)} not found on this machine")
    logs = tmp_path_factory.mktemp(language)
    # What is downloaded is verified as this machine wants it, the emulator by its own authority.
    tools = Programs(env=os.environ, logs=logs)
    built = languages.obtain(language, tools, logs / "peer", emulator.authority)
    output = programs.run(
        emulator.inside.argv(built.argv),
        log=language,
        env={**built.env, **_identity(logs), "SERVICEBUS_CONNECTION_STRING": CONNECTION},
        timeout=RUN_SECONDS,
    )
    return Peer(language, languages.read(output))


def _identity(folder: Path) -> dict[str, str]:
    """The environment of a pod with a workload identity."""
    claims = {"aud": "api://AzureADTokenExchange", "exp": time.time() + 600}
    (folder / "token").write_text(jwt.encode(claims, "the key of a cluster that is not there"))
    return {
        "AZURE_AUTHORITY_HOST": f"https://{HOST}",
        "AZURE_CLIENT_ID": "a-client",
        "AZURE_TENANT_ID": "a-tenant",
        "AZURE_FEDERATED_TOKEN_FILE": str(folder / "token"),
    }


def test_queues_are_administered(peer: Peer) -> None:
    assert peer.result("administration") == {
        "lock_seconds": [30, 45],
        "max_delivery_count": 3,
        "active": 2,
        "listed": True,
        "again": peer.name("exists"),
        "exists": [True, False],
        "missing": "404" if peer.language == "go" else peer.name("entity missing"),
    }


def test_messages_arrive_as_they_were_sent(peer: Peer) -> None:
    """One alone, a batch filled to its limit, one of several frames."""
    assert peer.result("sending") == {
        "single": ["single", "id", "correlation", "subject", "text/plain", "to", "reply-to"],
        "time_to_live": 60,
        "life": 60,
        "properties": ["é", 7, 1.5, True],
        "delivery_count": FIRST[peer.language],
        "sequence_number": 1,
        "state": "active",
        "is_enqueued_now": True,
        "batch_is_full": True,
        "batch_in_order": True,
        "pair": ["a", "b"],
        "large": [200_000, True],
    }


def test_bodies_may_be_values_and_sequences(peer: Peer) -> None:
    assert peer.result("bodies") == {
        "value": ["value", "text"],
        "sequence": ["sequence", [[1, "two"]]],
    }


def test_scheduled_messages_come_at_their_time_or_not_at_all(peer: Peer) -> None:
    assert peer.result("scheduling") == {
        "peeked": ["scheduled", "scheduled"],
        "received": "kept",
        "is_another_number": True,
        "too_early_ms": 0,
        "enqueued_at": True,
        "cancelled_again": peer.name("cancelled"),
    }


def test_messages_are_abandoned_deferred_and_dead_lettered(peer: Peer) -> None:
    found = peer.result("settlement")
    again = found.pop("deferred_again")
    if peer.language == "java":  # the SDK trips over what it takes for an empty answer
        assert "didn't observe any onNext signal" in again
    else:
        assert again == peer.name("message missing")
    assert found == {
        "abandoned": ["abandoned", FIRST[peer.language] + 1, 1, 1],
        "deferred": [True, "deferred", "deferred", "aside"],
        "dead_letter": ["dead", "reason", "description", "more"],
        "dead_letters_left": False,
        "left": False,
    }


def test_a_renewed_lock_holds(peer: Peer) -> None:
    found = peer.result("renewal")
    assert 5 <= found.pop("longer_by") < 10
    assert found == {"kept": True, "empty": True}


def test_a_lock_runs_out_and_the_message_comes_again_until_it_is_a_dead_letter(
    peer: Peer,
) -> None:
    found = peer.result("expiry")
    assert 0 <= found.pop("late_ms") < 5_000
    first = FIRST[peer.language]
    assert found == {
        "delivery_counts": [first, first + 1, first + 2],
        "lost": peer.name("lost"),
        "not_renewed": peer.name("lost"),
        "reason": "MaxDeliveryCountExceeded",
        "is_one": True,
    }


def test_peeking_takes_nothing_and_receive_and_delete_all(peer: Peer) -> None:
    assert peer.result("peeking") == {
        "all": ["a", "b", "c"],
        "from": ["b"],
        "beyond": 0,
        "deleted": ["a", "b", "c"],
        "left": 0,
    }


def test_sessions_are_held_by_one_and_keep_their_state(peer: Peer) -> None:
    found = peer.result("sessions")
    if peer.language == "go":  # Java's cannot list sessions, nor JavaScript's
        assert found.pop("listed") == ["a", "b"]
        assert found.pop("none_free") == "timeout"
    assert found == {
        "ids": ["a", "b"],
        "held": peer.name("held"),
        # Go's SDK sends no bytes where the others send null.
        "states": [None, "state", "" if peer.language == "go" else None],
        "renewed": True,
        "messages": ["a1", "a2"],
        "other": ["b1", "b1", "b"],
        "peeked": 0,
        "without_session": peer.name("sessions needed"),
        "wrong_mode": peer.name("no sessions"),
    }


def test_a_session_s_lock_runs_out(peer: Peer) -> None:
    found = peer.result("session_expiry")
    if found["lost"] == "locklost":  # Go's, where it was told of the loss before it settled
        found["lost"] = "nothing"
    assert found == {
        "lost": peer.name("session message lost"),
        "not_renewed": peer.name("session lost"),
        "again": "late",
        "delivery_count": FIRST[peer.language] + 1,
    }


def test_subscriptions_get_what_their_rules_select(peer: Peer) -> None:
    assert peer.result("topics") == {
        "all": ["big", "paint", "small"],
        "large": [["big"], True],
        "red": ["paint"],
        "dead_letter": ["paint", "off"],
        "active": 3,
        "updated": "about",
        "rules": [["above", "amount > 100", "SET large = TRUE"]],
        "missing": peer.name("entity missing"),
    }


def test_rules_are_managed_over_amqp(peer: Peer) -> None:
    if peer.language == "go":
        pytest.skip("Go's SDK has no rule manager")
    assert peer.result("rules") == {
        "names": ["red", "sql"],
        "sql": ["a = 1", "SET b = 2"],
        "red": ["paint", "red"],
        "again": peer.name("rule exists"),
        "missing": peer.name("rule missing"),
    }


def test_a_processor_renews_locks_and_completes_each_message_once(peer: Peer) -> None:
    """Also messages without an id of their own."""
    if peer.language == "go":
        pytest.skip("Go's SDK has no processor")
    assert peer.result("processing") == {
        "seen": list(range(20)),
        "delivery_counts": FIRST[peer.language],
        "errors": [],
        "left": 0,
    }


def test_amqp_goes_over_websockets(peer: Peer) -> None:
    assert peer.result("websockets") == {"bytes": 200_000, "empty": True}


def test_an_application_s_identity_takes_the_place_of_a_key(peer: Peer) -> None:
    assert peer.result("identity") == {"queue_found": True, "body": "without a key"}


def test_refusals_are_told_apart(peer: Peer) -> None:
    found = peer.result("refusals")
    if peer.language == "java":
        assert found.pop("transaction") == "unsupported"
    assert found == {
        "large": peer.name("large"),
        "usable": "still usable",
        "disabled": peer.name("disabled"),
        "no_queue_to_send": peer.name("missing"),
        # Java's receivers say it by another exception than its senders.
        "no_queue_to_receive": "NOT_FOUND" if peer.language == "java" else peer.name("missing"),
        "stranger": peer.name("stranger"),
    }
