"""Speaks to a running sandbox through its JSON API."""

from typing import Any

import aiohttp
import orjson


class Refused(Exception):
    """The sandbox is not there, or answered with an error; the message says which."""


async def ask(base: str, method: str, path: str, value: Any = None, timeout: float = 600.0) -> Any:
    """One call to `{base}/sandbox/{path}`; returns the JSON value. Raises Refused."""
    body = None if value is None else orjson.dumps(value)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
            session.request(method, f"{base.rstrip('/')}/sandbox/{path}", data=body) as answer,
        ):
            raw = await answer.read()
            if answer.content_type != "application/json":
                raise Refused(f"{base} is no sandbox: it answered {answer.status}")
            told = orjson.loads(raw)
            if answer.status >= 400:
                raise Refused(str(told.get("message", told)))
            return told
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Refused(f"no sandbox at {base}: {str(error) or type(error).__name__}") from None
