"""A Receiver's API client for the tests, as plain as can be."""

from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import orjson

from sandbox.server import Sandbox


class Reply(NamedTuple):
    """What the API answered."""

    status: int
    value: Any


class Client:
    """Speaks to the API as one Receiver."""

    def __init__(self, sandbox: Sandbox, receiver: str = "acme") -> None:
        self.sandbox = sandbox
        self.receiver = sandbox.receivers[receiver]
        self.token = ""

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession()
        # aiohttp sends a PUT once more by itself when the connection is cut, and the record would show two.
        self.session._retry_connection = False
        reply = await self.get_token()
        self.token = reply.value["access_token"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def get_token(self, **changes: str) -> Reply:
        form = {
            "client_id": self.receiver.client_id,
            "client_secret": self.receiver.client_secret,
            "grant_type": "client_credentials",
            **changes,
        }
        async with self.session.post(f"{self.sandbox.url}/v2.0/oauth2/token", data=form) as answer:
            return Reply(answer.status, await answer.json())

    async def call(
        self, method: str, path: str, value: Any = None, *, raw: bytes | None = None, token: str | None = None
    ) -> Reply:
        """`path` follows `/openapi/v2.0/`."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = raw if raw is not None else (None if value is None else orjson.dumps(value))
        url = f"{self.sandbox.url}/openapi/v2.0/{path}"
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            return Reply(answer.status, await answer.json())

    async def accept(self, request_id: str, value: Any = None) -> Reply:
        return await self.call("PUT", f"requests/{request_id}/accept/", value)

    async def decline(self, request_id: str, value: Any = None) -> Reply:
        return await self.call("PUT", f"requests/{request_id}/decline/", value)
