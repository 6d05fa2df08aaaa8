"""The sample service's cacher, a process of its own, with a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path

import redis
from model_engine import records
from model_engine.api import cache_key
from model_engine.database import Database

from ci.tools.command import Programs
from ci.tools.wait import SystemClock, wait_until

SERVICE = Path(__file__).parents[2] / "examples" / "model-engine"


async def test_the_view_follows_the_records(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    database = Database(database_url, size=1)
    await database.create_schema()
    async with database.transaction() as connection:
        endpoint = await records.insert_endpoint(connection, uuid.uuid4().hex, "one", 42, 3)
    assert endpoint is not None
    programs = Programs(env=os.environ)
    env = {
        "PYTHONPATH": str(SERVICE),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SERVICEBUS_NAMESPACE": "unused",
        "CACHE_SECONDS": "0.2",
        "READY_FILE": str(tmp_path / "readyz"),
    }
    said: list[str] = []
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as view,
        programs.background(
            [sys.executable, "-m", "model_engine.cacher"],
            log="cacher",
            env=env,
            on_line=said.append,
        ),
    ):

        def record() -> dict[str, object] | None:
            text = view.get(cache_key("one"))
            return json.loads(text) if isinstance(text, str) else None

        seen = wait_until(
            "the record in Redis",
            record,
            timeout=30,
            clock=SystemClock(),
            interval=0.1,
            diagnose=lambda: " ".join(said[-3:]),
        )
        assert seen["queue_message_timeout_duration"] == 42

        async with database.transaction() as connection:
            await records.delete_endpoint(connection, endpoint.id)
        wait_until(
            "the record's end in Redis",
            lambda: record() is None,
            timeout=30,
            clock=SystemClock(),
            interval=0.1,
            diagnose=lambda: f"{record()}",
        )
    await database.close()
