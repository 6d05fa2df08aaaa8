"""Messages to people through apprise: Slack, Teams, mail, a webhook and a hundred others."""

from __future__ import annotations

import logging
import re
from typing import Literal

Kind = Literal["info", "success", "warning", "failure"]

APP = "queue-timeout-gate"


def send(url: str, *, title: str, body: str, kind: Kind) -> str:
    """Send one message to the service of an apprise URL; returns an empty text, or why it was not
    sent.

    The URL is a secret, so neither it nor the service's response is repeated. Raises nothing.
    https://appriseit.com/services/
    """
    try:
        import apprise  # imported here: it takes half a second, and few runs need it

        log = logging.getLogger("apprise")
        log.propagate = False  # its log may contain parts of the URL
        log.setLevel(logging.WARNING)
        asset = apprise.AppriseAsset(app_id=APP, app_desc=APP, async_mode=False)
        service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            return "its URL is not one that apprise supports"
        with apprise.LogCapture(level=log.level) as capture:  # type: ignore[no-untyped-call]
            sent = service.notify(title=title, body=body, notify_type=apprise.NotifyType(kind))
            log_text = capture.getvalue()
    except Exception as problem:
        return f"apprise failed with {type(problem).__name__}"
    if sent:
        return ""
    code = re.search(r"error=(\d+)", log_text)
    return f"{service.service_name} {f'answered {code[1]}' if code else 'did not answer'}"
