"""What Prometheus reads at ``/metrics`` (text format 0.0.4)."""

from __future__ import annotations

from servicebus_emulator.gateway.hub import Hub

_STATES = ("active", "locked", "scheduled", "deferred", "dead_letter", "transfer_dead_letter")


def write_metrics(hub: Hub) -> str:
    """Gauges of every queue, topic and subscription, and what has happened to their messages."""
    namespace = hub.namespace
    lines = [
        "# HELP servicebus_connections AMQP connections that are open.",
        "# TYPE servicebus_connections gauge",
        f"servicebus_connections {len(hub.peers)}",
        "# HELP servicebus_queue_messages Messages by state; locked ones are active too.",
        "# TYPE servicebus_queue_messages gauge",
    ]
    sizes = []
    for queue in namespace.entities():
        label, counts = _label(queue.name), queue.counts()
        for state in _STATES:
            count = getattr(counts, state)
            lines.append(f'servicebus_queue_messages{{queue="{label}",state="{state}"}} {count}')
        sizes.append(f'servicebus_queue_size_bytes{{queue="{label}"}} {counts.size_in_bytes}')
    lines += [
        "# HELP servicebus_queue_size_bytes Bytes of a queue's messages, dead letters included.",
        "# TYPE servicebus_queue_size_bytes gauge",
        *sizes,
        "# HELP servicebus_events_total What happened to queues and messages, by kind.",
        "# TYPE servicebus_events_total counter",
    ]
    for (name, kind), count in sorted(namespace.journal.totals.items()):
        lines.append(f'servicebus_events_total{{queue="{_label(name)}",kind="{kind}"}} {count}')
    return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
