"""Reads what a server answers, to a limit, whole or as far as it came."""

from typing import Final

import aiohttp

LONGEST: Final = 65536  # bytes; VectorCare's answers have a few hundred


async def limited_body(response: aiohttp.ClientResponse) -> bytes:
    """The body; raises aiohttp.ClientError where it breaks off."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LONGEST:
            break
    return bytes(body[:LONGEST])
