"""A dispatch system of a small house, over HTTP: it makes a trip of each assignment, acknowledges it and drives it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import orjson

from shared import topics
from shared.broker import Message
from tests import witness

STATES = ("en_route", "arrived", "on_board", "arrived_at_destination", "completed")


class Cad:
    """Its trips, its cursor, and the results of its commands; all of which a crash may take."""

    def __init__(self, url: str, token: str, *, drives: bool = True) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._drives = drives
        self.cursor = "0"
        self.trips: dict[str, dict[str, Any]] = {}
        self.results: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Cad"]:
        """Works while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()):
                raise error

    async def _run(self) -> None:
        async with aiohttp.ClientSession(self._url, headers=self._headers) as session:
            while True:
                try:
                    await self._page(session)
                except aiohttp.ClientConnectionError:  # the receiver is away
                    await asyncio.sleep(0.1)

    async def _page(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/v1/events", params={"after": self.cursor, "wait": "20"}) as response:
            assert response.status == 200, await response.text()
            page = await response.json()
            witness.answer("GET", "/v1/events", response.status, page)
        for event in page["events"]:
            await self._event(session, event)
        self.cursor = page["cursor"]

    async def _event(self, session: aiohttp.ClientSession, event: dict[str, Any]) -> None:
        self.seen.append(event)
        told = event["data"]
        if told["schema"] != "assignment/1":
            self.results.append(told)
            return
        request, before = told["service_request_id"], self.trips.get(told["service_request_id"])
        if before and before["revision"] >= told["revision"]:
            return
        self.trips[request] = told
        if told["state"] == "assigned" and told["confirmed"] and self._drives:
            await self.command(session, told, "acknowledge", {"trip_id": f"trip-{request}"})
            began = datetime.now(UTC) - timedelta(minutes=10)
            for number, name in enumerate(STATES):
                at = (began + timedelta(minutes=number)).isoformat(timespec="milliseconds")
                await self.command(session, told, "state", {"name": name, "timestamp": at}, name)

    async def command(
        self, session: aiohttp.ClientSession, told: dict[str, Any], word: str, args: dict[str, Any], mark: str = ""
    ) -> None:
        """One command for a trip, under an id that is the same when it is sent again."""
        body = {
            "schema": "command/1",
            "id": f"{told['service_request_id']}-{word}-{mark}",
            "customer_id": told["customer_id"],
            "service_request_id": told["service_request_id"],
            "command": word,
            "args": args,
            "actor": "cad",
        }
        witness.message(topics.COMMANDS, Message(f"{word}.{told['customer_id']}", {}, orjson.dumps(body)))
        async with session.post("/v1/commands", json=body) as response:
            assert response.status in {200, 202}, await response.text()
            witness.answer("POST", "/v1/commands", response.status, await response.json())
