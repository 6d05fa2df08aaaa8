"""The rules of a queue, under a clock that is moved by hand."""

from __future__ import annotations

import pytest

from servicebus_emulator.broker.model import Delivery, MessageState, QueueSettings, Status
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.errors import (
    EntityDisabled,
    MessageLockLost,
    MessageNotFound,
    MessageTooLarge,
    NotAllowed,
    QuotaExceeded,
    SessionCannotBeLocked,
    SessionLockLost,
)
from tests.unit.conftest import draft

START = 1_000.0


def make(namespace: Namespace, **settings: object) -> Queue:
    return namespace.create("q", QueueSettings(**settings), START)  # type: ignore[arg-type]


def received(queue: Queue, now: float) -> Delivery:
    delivery = queue.receive(now)
    assert delivery is not None
    return delivery


def token(delivery: Delivery):  # type: ignore[no-untyped-def]
    assert delivery.lock is not None
    return delivery.lock.token


def dead(queue: Queue) -> Queue:
    assert queue.dead_letters is not None
    return queue.dead_letters


def test_messages_come_in_the_order_in_which_they_were_sent(namespace: Namespace) -> None:
    queue = make(namespace)
    assert queue.send_all([draft("a"), draft("b"), draft("c")], START) == [1, 2, 3]
    assert [received(queue, START).message.content for _ in range(3)] == ["a", "b", "c"]
    assert queue.receive(START) is None


def test_a_locked_message_is_not_given_to_another_receiver(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    received(queue, START)
    assert queue.receive(START + 59.9) is None


def test_a_lock_expires_at_its_time_and_the_message_returns_counted(namespace: Namespace) -> None:
    queue = make(namespace, lock_duration=30.0)
    queue.send(draft(), START)
    first = received(queue, START)
    assert first.lock is not None
    assert first.lock.until == START + 30
    assert first.message.delivery_count == 0
    assert namespace.next_due() == START + 30

    namespace.advance(START + 29.999)
    assert queue.receive(START + 29.999) is None
    namespace.advance(START + 30)
    second = received(queue, START + 30)
    assert second.message.delivery_count == 1
    assert token(second) != token(first)


def test_an_expired_lock_settles_nothing(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    delivery = received(queue, START)
    with pytest.raises(MessageLockLost):  # even before the timer fired
        queue.complete(token(delivery), START + 60)
    assert received(queue, START + 60).message.delivery_count == 1
    with pytest.raises(MessageLockLost):
        queue.renew(token(delivery), START + 60)


def test_a_renewed_lock_lasts_another_duration(namespace: Namespace) -> None:
    queue = make(namespace, lock_duration=30.0)
    queue.send(draft(), START)
    delivery = received(queue, START)
    assert queue.renew(token(delivery), START + 20) == START + 50
    namespace.advance(START + 30)
    assert queue.receive(START + 30) is None
    assert namespace.next_due() == START + 50
    namespace.advance(START + 50)
    assert received(queue, START + 50).message.delivery_count == 1


def test_completing_removes(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    delivery = received(queue, START)
    queue.complete(token(delivery), START + 1)
    assert queue.counts().total == 0
    with pytest.raises(MessageLockLost):
        queue.complete(token(delivery), START + 1)
    assert namespace.next_due() is None


def test_an_abandoned_message_returns_to_its_place(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send_all([draft("a"), draft("b")], START)
    queue.abandon(token(received(queue, START)), START, {"why": "busy"})
    again = received(queue, START)
    assert again.message.content == "a"
    assert again.message.delivery_count == 1
    assert again.message.properties == {"why": "busy"}


def test_a_released_message_is_not_counted(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    queue.release(token(received(queue, START)), START)
    assert received(queue, START).message.delivery_count == 0


@pytest.mark.parametrize("way", ["abandon", "expire"])
def test_the_last_failed_delivery_dead_letters(namespace: Namespace, way: str) -> None:
    queue = make(namespace, max_delivery_count=3, lock_duration=10.0)
    queue.send(draft(), START)
    now = START
    for count in range(3):
        delivery = received(queue, now)
        assert delivery.message.delivery_count == count
        if way == "abandon":
            queue.abandon(token(delivery), now)
        else:
            now += 10
            namespace.advance(now)
    assert queue.receive(now) is None
    letter = received(dead(queue), now).message
    assert letter.properties is not None
    assert letter.properties["DeadLetterReason"] == "MaxDeliveryCountExceeded"
    assert letter.delivery_count == 3
    assert letter.sequence_number == 1


def test_dead_letters_neither_die_again_nor_expire(namespace: Namespace) -> None:
    queue = make(namespace, max_delivery_count=1, default_time_to_live=20.0)
    queue.send(draft(), START)
    queue.abandon(token(received(queue, START)), START)
    letters = dead(queue)
    for _ in range(5):
        letters.abandon(token(received(letters, START)), START)
    namespace.advance(START + 1_000)
    assert letters.counts().total == 1


def test_dead_lettering_says_why(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    queue.dead_letter(
        token(received(queue, START)),
        START,
        reason="unreadable",
        description="not JSON",
        properties={"more": 1},
    )
    assert received(dead(queue), START).message.properties == {
        "DeadLetterReason": "unreadable",
        "DeadLetterErrorDescription": "not JSON",
        "more": 1,
    }
    counts = queue.counts()
    assert (counts.active, counts.dead_letter, counts.total) == (0, 1, 1)


def test_a_deferred_message_is_found_by_its_number_only(namespace: Namespace) -> None:
    queue = make(namespace)
    number = queue.send(draft(), START)
    queue.defer(token(received(queue, START)), START)
    assert queue.receive(START) is None
    assert queue.counts().deferred == 1
    [again] = queue.receive_deferred([number], START, lock=True)
    assert again.message.state is MessageState.DEFERRED
    with pytest.raises(MessageNotFound):
        queue.receive_deferred([number], START, lock=True)
    namespace.advance(START + 60)
    assert queue.receive(START + 60) is None
    [again] = queue.receive_deferred([number], START + 60, lock=False)
    assert again.message.delivery_count == 1
    assert queue.counts().total == 0


def test_all_deferred_messages_or_none(namespace: Namespace) -> None:
    queue = make(namespace)
    number = queue.send(draft(), START)
    queue.defer(token(received(queue, START)), START)
    with pytest.raises(MessageNotFound):
        queue.receive_deferred([number, 77], START, lock=False)
    assert len(queue.receive_deferred([number], START, lock=False)) == 1


def test_a_scheduled_message_comes_at_its_time_with_a_new_number(namespace: Namespace) -> None:
    queue = make(namespace)
    assert queue.send(draft("later", scheduled_for=START + 100), START) == 1
    queue.send(draft("now"), START)
    assert queue.counts().scheduled == 1
    first = received(queue, START)
    assert first.message.content == "now"
    queue.complete(token(first), START)
    assert queue.receive(START) is None
    namespace.advance(START + 100)
    message = received(queue, START + 100).message
    assert (message.content, message.sequence_number) == ("later", 3)
    assert message.enqueued_at == START + 100


def test_a_scheduled_message_can_be_taken_back_before_its_time(namespace: Namespace) -> None:
    queue = make(namespace)
    number = queue.send(draft(scheduled_for=START + 100), START)
    queue.cancel_scheduled([number], START + 50)
    namespace.advance(START + 100)
    assert queue.counts().total == 0
    with pytest.raises(MessageNotFound):
        queue.cancel_scheduled([number], START + 50)


def test_a_message_expires(namespace: Namespace) -> None:
    queue = make(namespace, default_time_to_live=50.0)
    queue.send_all([draft(time_to_live=10.0), draft(time_to_live=500.0)], START)
    namespace.advance(START + 10)
    assert queue.counts().total == 1
    namespace.advance(START + 50)
    assert queue.counts().total == 0
    assert dead(queue).counts().total == 0


def test_an_expired_message_is_dead_lettered_where_that_is_asked(namespace: Namespace) -> None:
    queue = make(namespace, dead_lettering_on_message_expiration=True)
    queue.send(draft(time_to_live=10.0), START)
    namespace.advance(START + 10)
    properties = received(dead(queue), START + 10).message.properties
    assert properties is not None
    assert properties["DeadLetterReason"] == "TTLExpiredException"


def test_a_locked_message_expires_when_its_lock_ends(namespace: Namespace) -> None:
    queue = make(namespace, lock_duration=30.0)
    queue.send(draft(time_to_live=10.0), START)
    delivery = received(queue, START + 5)
    namespace.advance(START + 20)
    assert queue.renew(token(delivery), START + 20) == START + 50
    namespace.advance(START + 50)
    assert queue.receive(START + 50) is None
    assert queue.counts().total == 0


def test_an_expired_message_is_not_delivered_before_the_timer_fired(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(time_to_live=10.0), START)
    assert queue.receive(START + 10) is None


def test_receive_and_delete_removes(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send(draft(), START)
    delivery = queue.receive_and_delete(START)
    assert delivery is not None
    assert delivery.lock is None
    assert queue.counts().total == 0


def test_peeking_touches_nothing(namespace: Namespace) -> None:
    queue = make(namespace)
    queue.send_all([draft("a"), draft("b"), draft("c", scheduled_for=START + 9)], START)
    received(queue, START)
    peeked = queue.peek(0, 10, START)
    assert [message.content for message in peeked] == ["a", "b", "c"]
    assert [message.content for message in queue.peek(2, 1, START)] == ["b"]
    assert received(queue, START).message.content == "b"


def test_a_duplicate_is_dropped_within_the_window(namespace: Namespace) -> None:
    queue = make(namespace, requires_duplicate_detection=True, duplicate_detection_window=20.0)
    assert queue.send(draft(message_id="x"), START) == 1
    assert queue.send(draft(message_id="x"), START + 19) == 0
    assert queue.send(draft(message_id="y"), START + 19) == 2
    assert queue.send(draft(), START + 19) == 3
    assert queue.send(draft(message_id="x"), START + 20) == 4


def test_the_status_is_obeyed(namespace: Namespace) -> None:
    queue = make(namespace, status=Status.SEND_DISABLED)
    with pytest.raises(EntityDisabled):
        queue.send(draft(), START)
    queue.check_receive()
    namespace.update("q", QueueSettings(status=Status.RECEIVE_DISABLED), START)
    queue.send(draft(), START)
    with pytest.raises(EntityDisabled):
        queue.check_receive()
    with pytest.raises(EntityDisabled):
        dead(queue).check_receive()


def test_sizes_are_limited(namespace: Namespace) -> None:
    queue = make(namespace, max_size_in_megabytes=1)
    big = draft()
    big.size = (256 << 10) + 1
    with pytest.raises(MessageTooLarge):
        queue.send(big, START)
    big.size = 256 << 10
    for _ in range(4):
        queue.send(big, START)
    with pytest.raises(QuotaExceeded):
        queue.send(draft(), START)


def test_a_batch_is_taken_whole_or_not_at_all(namespace: Namespace) -> None:
    queue = make(namespace)
    big = draft()
    big.size = 1 << 20
    with pytest.raises(MessageTooLarge):
        queue.send_all([draft(), big], START)
    assert queue.counts().total == 0


def test_nothing_is_sent_to_a_sub_queue(namespace: Namespace) -> None:
    queue = make(namespace)
    with pytest.raises(NotAllowed):
        dead(queue).send(draft(), START)


# --- sessions ------------------------------------------------------------------------------------


def with_sessions(namespace: Namespace, **settings: object) -> Queue:
    return make(namespace, requires_session=True, lock_duration=30.0, **settings)


def test_a_session_is_held_by_one_receiver(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    queue.send_all([draft("a", session_id="A"), draft("b", session_id="B")], START)
    lock = queue.accept_session("A", START)
    assert lock is not None
    with pytest.raises(SessionCannotBeLocked):
        queue.accept_session("A", START + 29)
    delivery = queue.receive(START, lock)
    assert delivery is not None
    assert delivery.message.content == "a"
    assert queue.receive(START, lock) is None
    other = queue.accept_session(None, START)
    assert other is not None
    assert other.session_id == "B"
    assert queue.accept_session(None, START) is None


def test_a_message_without_a_session_is_refused(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    with pytest.raises(NotAllowed):
        queue.send(draft(), START)


def test_a_session_that_expires_returns_its_messages_counted(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    queue.send_all([draft("a", session_id="A"), draft("b", session_id="A")], START)
    lock = queue.accept_session("A", START)
    assert lock is not None
    delivery = queue.receive(START, lock)
    assert delivery is not None
    namespace.advance(START + 30)
    assert lock.lost
    assert namespace.take_lost_sessions() == [(queue, lock)]
    with pytest.raises(MessageLockLost):
        queue.complete(token(delivery), START + 30)
    with pytest.raises(SessionLockLost):
        queue.receive(START + 30, lock)
    with pytest.raises(SessionLockLost):
        queue.renew_session(lock, START + 30)
    again = queue.accept_session("A", START + 30)
    assert again is not None
    counts = []
    for _ in range(2):
        delivery = queue.receive(START + 30, again)
        assert delivery is not None
        counts.append((delivery.message.content, delivery.message.delivery_count))
    assert counts == [("a", 1), ("b", 0)]


def test_a_session_given_back_returns_its_messages_uncounted(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    queue.send(draft("a", session_id="A"), START)
    lock = queue.accept_session("A", START)
    assert lock is not None
    assert queue.receive(START, lock) is not None
    queue.release_session(lock, START + 1)
    again = queue.accept_session(None, START + 1)
    assert again is not None
    delivery = queue.receive(START + 1, again)
    assert delivery is not None
    assert delivery.message.delivery_count == 0


def test_a_renewed_session_keeps_its_messages(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    queue.send(draft("a", session_id="A"), START)
    lock = queue.accept_session("A", START)
    assert lock is not None
    delivery = queue.receive(START, lock)
    assert delivery is not None
    assert queue.renew_session(lock, START + 20) == START + 50
    namespace.advance(START + 30)
    queue.complete(token(delivery), START + 49)
    assert not lock.lost


def test_a_session_keeps_its_state(namespace: Namespace) -> None:
    queue = with_sessions(namespace)
    lock = queue.accept_session("A", START)
    assert lock is not None
    assert queue.session_state("A") is None
    queue.set_session_state("A", b"half way", START)
    queue.release_session(lock, START)
    assert queue.session_state("A") == b"half way"
    assert queue.session_ids() == ["A"]
    assert queue.session_ids(updated_after=START) == []
    assert queue.session_ids(updated_after=START - 1) == ["A"]


def test_a_queue_without_sessions_has_none_to_accept(namespace: Namespace) -> None:
    with pytest.raises(NotAllowed):
        make(namespace).accept_session("A", START)
