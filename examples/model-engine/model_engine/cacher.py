"""The cacher: writes the endpoints' records into Redis. ``python -m model_engine.cacher``."""

from __future__ import annotations

import asyncio
import json
import logging
import signal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from model_engine import records
from model_engine.api import cache_key
from model_engine.database import Database, DatabaseDown
from model_engine.settings import Settings, start_process

log = logging.getLogger(__name__)


class Cacher:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database_url, size=1)
        self._redis = Redis.from_url(
            settings.redis_url, socket_timeout=3, socket_connect_timeout=3, decode_responses=True
        )
        self._keep_seconds = max(60, int(settings.cache_seconds * 10))
        """A view that is no longer written disappears instead of growing old."""

    async def run(self) -> None:
        """Until SIGTERM: write the view every few seconds."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stopping.set)
        ready = self._settings.ready_file
        ready.unlink(missing_ok=True)
        schema = False
        while not stopping.is_set():
            try:
                if not schema:
                    await self._database.create_schema()
                    schema = True
                await self.write()
                ready.touch()
            except (*DatabaseDown, RedisError, OSError) as problem:
                log.warning("not usable now: %s", type(problem).__name__)
                ready.unlink(missing_ok=True)
            pause = self._settings.cache_seconds
            try:
                async with asyncio.timeout(pause if ready.exists() else min(pause, 1.0)):
                    await stopping.wait()
            except TimeoutError:
                continue
        ready.unlink(missing_ok=True)
        await self._redis.aclose()
        await self._database.close()

    async def write(self) -> None:
        """Every endpoint, and none that is gone."""
        async with self._database.transaction() as connection:
            endpoints = await records.list_endpoints(connection)
        wanted = {
            cache_key(endpoint.name): json.dumps(endpoint.as_json()) for endpoint in endpoints
        }
        gone = [
            key async for key in self._redis.scan_iter(match=cache_key("*")) if key not in wanted
        ]
        async with self._redis.pipeline(transaction=True) as pipeline:
            for key, text in wanted.items():
                pipeline.set(key, text, ex=self._keep_seconds)
            if gone:
                pipeline.delete(*gone)
            await pipeline.execute()


def main() -> None:
    settings = start_process("cacher")
    if not settings.redis_url:
        raise SystemExit("model-engine cacher: set REDIS_URL")
    asyncio.run(Cacher(settings).run())


if __name__ == "__main__":
    main()
