"""Keeps aiohttp from sending a call twice.

aiohttp repeats a PUT by itself when a kept connection breaks under it. An accept that was taken before the break would
then be refused the second time and look lost. So this client middleware turns those errors into one that aiohttp leaves
alone, and that says what the caller needs to know.
"""

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse


class Broken(Exception):
    """The connection broke; `sent` says whether the request may have reached VectorCare."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the connection broke")
        self.sent = sent


async def sent_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """The middleware. Raises Broken where the connection could not be made or broke."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Broken(sent=False) from error
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Broken(sent=True) from error
