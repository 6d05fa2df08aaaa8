"""What Azure takes: names and settings."""

from __future__ import annotations

import re

from servicebus_emulator.broker.model import (
    MAX_LOCK_DURATION,
    MAX_NAME_LENGTH,
    MIN_LOCK_DURATION,
    QueueSettings,
)
from servicebus_emulator.errors import ArgumentError

MAX_SUBSCRIPTION_NAME_LENGTH = 50
TIERS = {"basic": 256 << 10, "standard": 256 << 10, "premium": 1 << 20}
"""The size that a message may have, in bytes, by tier; an entity can allow more in the last."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9_-])?", re.ASCII)


def check_name(name: str) -> None:
    """Raise where Azure would not take a queue's name."""
    if not 0 < len(name) <= MAX_NAME_LENGTH or not _NAME.fullmatch(name) or "//" in name:
        raise ArgumentError(
            f"The entity name or path '{name}' is invalid: letters, digits, periods, hyphens, "
            f"underscores and slashes, at most {MAX_NAME_LENGTH}."
        )


def check_settings(settings: QueueSettings, tier: str = "standard") -> None:
    """Raise where Azure would not take a queue's settings."""
    if not MIN_LOCK_DURATION <= settings.lock_duration <= MAX_LOCK_DURATION:
        raise ArgumentError(
            "The supplied lock duration is outside the range of "
            f"{MIN_LOCK_DURATION:g} to {MAX_LOCK_DURATION:g} seconds."
        )
    if not 1 <= settings.max_delivery_count <= 2000:
        raise ArgumentError("MaxDeliveryCount must be between 1 and 2000.")
    if settings.default_time_to_live < 1:
        raise ArgumentError("DefaultMessageTimeToLive must be at least one second.")
    if not 20 <= settings.duplicate_detection_window <= 604_800:
        raise ArgumentError(
            "DuplicateDetectionHistoryTimeWindow must be between 20 seconds and 7 days."
        )
    if settings.auto_delete_on_idle < 300:
        raise ArgumentError("AutoDeleteOnIdle must be at least 5 minutes.")
    if not 1 <= settings.max_size_in_megabytes <= 81_920:
        raise ArgumentError("MaxSizeInMegabytes must be between 1 and 81920.")
    if len(settings.user_metadata or "") > 1024:
        raise ArgumentError("UserMetadata must not be longer than 1024 characters.")
    limit = settings.max_message_size_in_kilobytes
    if limit is None or limit << 10 == TIERS[tier]:
        return  # as it is anyway: clients send back what they were told
    if tier != "premium":
        raise ArgumentError(
            "MaxMessageSizeInKilobytes can only be set in a namespace of the premium tier."
        )
    if not 1024 <= limit <= 102_400:
        raise ArgumentError("MaxMessageSizeInKilobytes must be between 1024 and 102400.")


def check_subscription_name(name: str) -> None:
    """Raise where Azure would not take a subscription's name."""
    if len(name) > MAX_SUBSCRIPTION_NAME_LENGTH or "/" in name or not _NAME.fullmatch(name):
        raise ArgumentError(
            f"The subscription name '{name}' is invalid: letters, digits, periods, hyphens and "
            f"underscores, at most {MAX_SUBSCRIPTION_NAME_LENGTH}."
        )
