"""Topics and subscriptions.

A topic is a queue that keeps nothing but what is scheduled: a message whose time has come is
copied into the subscriptions whose rules match, and is gone. A subscription is a queue into which
nothing is sent but by its topic:

- one copy where rules without an action match, however many;
- one more copy for each rule with an action that matches, changed by the action;
- where a rule cannot be evaluated, one copy in the dead letters, or none, as it is set;
- where the subscription has sessions and the message none, the copies are dead letters.

A disabled subscription gets its copies, and gives none of them away.
"""

from __future__ import annotations

from dataclasses import replace

from servicebus_emulator.broker.model import (
    FOREVER,
    Counts,
    Message,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.queue import Queue, Surroundings
from servicebus_emulator.broker.rules import CorrelationFilter, Filterable, Rule, TrueFilter, View
from servicebus_emulator.broker.sql import FilterError
from servicebus_emulator.errors import EntityExists, EntityNotFound, NotAllowed

FILTER_FAILED_REASON = "FilterEvaluationException"
NO_SESSION_REASON = "Session ID is null"
NO_SESSION_DESCRIPTION = (
    "Session enabled entity doesn't allow a message whose session identifier is null."
)


class Topic(Queue):
    """A topic. ``settings`` are :class:`~servicebus_emulator.broker.model.TopicSettings`."""

    def __init__(
        self, name: str, settings: TopicSettings, surroundings: Surroundings, now: float
    ) -> None:
        super().__init__(name, settings, surroundings, now)
        self._subscriptions: dict[str, Subscription] = {}

    @property
    def subscriptions(self) -> list[Subscription]:
        """By name."""
        return [self._subscriptions[key] for key in sorted(self._subscriptions)]

    def find(self, name: str) -> Subscription | None:
        """The subscription of that name; names do not depend on case."""
        return self._subscriptions.get(name.lower())

    def get(self, name: str) -> Subscription:
        """The subscription of that name; raises EntityNotFound."""
        found = self.find(name)
        if found is None:
            raise EntityNotFound(
                f"The messaging entity '{self.name}/Subscriptions/{name}' could not be found."
            )
        return found

    def add(self, subscription: Subscription) -> None:
        """From now on it gets what matches its rules."""
        self._subscriptions[subscription.short_name.lower()] = subscription

    def remove(self, subscription: Subscription) -> None:
        """It is gone."""
        del self._subscriptions[subscription.short_name.lower()]

    def check_receive(self) -> None:
        """Nobody receives from a topic."""
        raise NotAllowed(f"Messages cannot be received from the topic '{self.name}' itself.")

    @property
    def size(self) -> int:
        """Bytes of all that waits in the topic and its subscriptions."""
        return self._size + sum(
            queue.size
            for subscription in self._subscriptions.values()
            for queue in (subscription, subscription.dead_letters)
            if queue is not None
        )

    @property
    def used_at(self) -> float:
        """A topic whose subscriptions are used is not idle."""
        return max([self.times.accessed_at, *(s.used_at for s in self._subscriptions.values())])

    def counts(self) -> Counts:
        """What is scheduled, and the size of everything."""
        counts = super().counts()
        counts.size_in_bytes = self.size
        return counts

    def _enqueue(self, message: Message, now: float) -> None:
        message.enqueued_at = now
        self._note(now, "enqueued", message)
        self._drop(message)
        ttl = self.settings.default_time_to_live
        if ttl < FOREVER and (message.time_to_live is None or message.time_to_live > ttl):
            message.time_to_live = ttl
        view = _LazyView(message)
        for subscription in list(self._subscriptions.values()):
            subscription.distribute(message, view, now)


class Subscription(Queue):
    """A subscription.

    ``settings`` are :class:`~servicebus_emulator.broker.model.SubscriptionSettings`. Its name as a
    queue is its path; ``short_name`` is what its owner calls it.
    """

    def __init__(
        self,
        topic: Topic,
        short_name: str,
        settings: SubscriptionSettings,
        surroundings: Surroundings,
        now: float,
    ) -> None:
        super().__init__(f"{topic.name}/Subscriptions/{short_name}", settings, surroundings, now)
        self.topic = topic
        self.short_name = short_name
        self._rules: dict[str, Rule] = {}

    # --- rules -----------------------------------------------------------------------------------

    @property
    def rules(self) -> list[Rule]:
        """By name."""
        return [self._rules[key] for key in sorted(self._rules)]

    def rule(self, name: str) -> Rule:
        """The rule of that name; raises EntityNotFound."""
        found = self._rules.get(name.lower())
        if found is None:
            # JavaScript's and Java's clients tell what is missing by the words of this line.
            path = f"{self.topic.name}|{self.short_name}|{name}"
            raise EntityNotFound(f"The messaging entity '{path}' could not be found.")
        return found

    def add_rule(self, rule: Rule, now: float) -> Rule:
        """A new rule: it holds for what comes from now on."""
        if rule.name.lower() in self._rules:
            raise EntityExists(f"The rule '{rule.name}' of '{self.name}' already exists.")
        return self._put_rule(replace(rule, created_at=now), now)

    def update_rule(self, rule: Rule, now: float) -> Rule:
        """Other filter, other action."""
        before = self.rule(rule.name)
        return self._put_rule(replace(rule, created_at=before.created_at), now)

    def remove_rule(self, name: str, now: float) -> None:
        """A subscription without any rule gets nothing."""
        rule = self.rule(name)
        del self._rules[name.lower()]
        self._rules_changed(now)
        self._record(now, "rule-deleted", self.name, detail=rule.name)

    def restore_rules(self, rules: list[Rule]) -> None:
        """Put back the rules that were kept."""
        self._rules = {rule.name.lower(): rule for rule in rules}

    def _put_rule(self, rule: Rule, now: float) -> Rule:
        self._rules[rule.name.lower()] = rule
        self._rules_changed(now)
        self._record(now, "rule-set", self.name, detail=rule.name)
        return rule

    def _rules_changed(self, now: float) -> None:
        self.times.accessed_at = now
        if self._changes is not None:
            self._changes.queues[self] = None

    # --- messages --------------------------------------------------------------------------------

    def check_send(self) -> None:
        """Only its topic sends to a subscription."""
        raise NotAllowed(f"Messages cannot be sent to the subscription '{self.name}'.")

    def distribute(self, message: Message, view: _LazyView, now: float) -> None:
        """Take the copies of a message that the rules ask for."""
        try:
            copies = self._copies(message, view)
        except FilterError as error:
            assert isinstance(self.settings, SubscriptionSettings)
            if self.settings.dead_lettering_on_filter_evaluation_exceptions:
                self._reject(replace(message), now, FILTER_FAILED_REASON, str(error))
            return
        for copy in copies:
            if self.settings.requires_session and copy.session_id is None:
                self._reject(copy, now, NO_SESSION_REASON, NO_SESSION_DESCRIPTION)
            else:
                self.take_in(copy, now, renumber=True)

    def _copies(self, message: Message, view: _LazyView) -> list[Message]:
        plain, changed = False, []
        for rule in self._rules.values():
            if rule.action is None:
                plain = plain or _matches(rule, view)
            elif _matches(rule, view):
                changed.append(_change(message, rule))
        return [replace(message), *changed] if plain else changed

    def _reject(self, message: Message, now: float, reason: str, description: str) -> None:
        if message.enqueued_sequence_number is None:
            message.enqueued_sequence_number = message.sequence_number
        message.sequence_number = self._next_number()
        self._keep(message)
        self._to_dead_letters(message, now, reason, description)


class _LazyView:
    """A message's properties, read once for all rules, and only where one asks."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._view: View | None = None

    def get(self) -> View:
        if self._view is None:
            self._view = View(self._message)
        return self._view


def _matches(rule: Rule, view: _LazyView) -> bool:
    return isinstance(rule.filter, TrueFilter) or rule.filter.matches(view.get())


def _change(message: Message, rule: Rule) -> Message:
    """A copy that the rule's action has changed."""
    assert rule.action is not None
    view = View(message)
    rule.action.apply(view)
    copy = replace(message)
    changes = view.changes
    if isinstance(copy.content, Filterable):
        copy.content = copy.content.changed(changes)
    if message.properties:
        copy.properties = {k: v for k, v in message.properties.items() if k not in changes.user}
    for key, attribute in (("messageid", "message_id"), ("sessionid", "session_id")):
        if key in changes.system:
            setattr(copy, attribute, changes.system[key])
    return copy


def count_filters(topic: Topic) -> tuple[int, int]:
    """How many rules filter by SQL, true and false included, and how many by correlation."""
    rules = [rule for subscription in topic.subscriptions for rule in subscription.rules]
    by_correlation = sum(isinstance(rule.filter, CorrelationFilter) for rule in rules)
    return len(rules) - by_correlation, by_correlation
