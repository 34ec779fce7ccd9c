"""The public listener: one route, TLS where it is configured, and nothing said about what runs behind it."""

import ssl
from typing import Final

from aiohttp import web

from ingress.receive import Reception, receive
from shared.errors import ConfigurationError, Problem
from shared.settings import IngressSettings, Settings

_IDLE_SECONDS: Final = 30.0  # of a connection on which nothing, or half a header, has come
_RECEPTION: Final[web.AppKey[Reception]] = web.AppKey("reception")


async def listen(reception: Reception, settings: Settings) -> web.AppRunner:
    """Serve until the runner is cleaned up, which lets requests in hand finish for `drain_seconds`."""
    app = web.Application(client_max_size=reception.max_body_bytes)
    app[_RECEPTION] = reception
    app.add_routes([web.post("/webhook", _webhook)])
    app.on_response_prepare.append(_say_nothing)
    part = settings.ingress
    runner = web.AppRunner(
        app,
        access_log=None,  # it would hold the query string, and with it the token
        handler_cancellation=False,  # a sender that hangs up must not stop a publish half-way
        shutdown_timeout=part.drain_seconds,
        auto_decompress=False,  # the signature covers the bytes as they came
        keepalive_timeout=_IDLE_SECONDS,
    )
    await runner.setup()
    await web.TCPSite(runner, part.host, part.port, ssl_context=tls(settings), backlog=128).start()
    return runner


def port(runner: web.AppRunner) -> int:
    """The port that a runner listens on, also where the configuration said 0."""
    address: tuple[str, int] = runner.addresses[0]
    return address[1]


async def _webhook(request: web.Request) -> web.Response:
    return await receive(request.app[_RECEPTION], request)


async def _say_nothing(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "vectorcare-receiver"


def tls(settings: Settings) -> ssl.SSLContext | None:
    """The listener's certificate; None where a proxy speaks TLS. ConfigurationError where it can't be used."""
    part: IngressSettings = settings.ingress
    if part.tls_certificate is None and part.tls_key is None:
        return None
    if part.tls_certificate is None or part.tls_key is None:
        raise ConfigurationError([Problem("ingress.tls_certificate", "and tls_key go together; one is missing")])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.path(part.tls_certificate), settings.path(part.tls_key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            [
                Problem(
                    "ingress.tls_certificate",
                    f"can't be used with tls_key: {error.strerror or 'not a PEM pair'}",
                )
            ]
        ) from None
    return context
