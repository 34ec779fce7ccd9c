"""A real SMTP server for the tests: it notes who came in with what, each mail, and whether that was under TLS."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from shared.settings import NotifySettings
from tests.processes import free_port

USER, PASSWORD = "receiver", "a-password-of-the-mail-server"


@dataclass
class Office:
    """A mail server: who came in with what, and each mail; and whether that was under TLS."""

    mails: list[tuple[bool, str]] = field(default_factory=list)
    logins: list[tuple[bool, bytes, bytes]] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    def login(self, _: SMTP, session: Session, __: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword), mechanism
        self.logins.append((session.ssl is not None, data.login, data.password))
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        self.mails.append((session.ssl is not None, envelope.content.decode()))
        return "250 ok"


class Implicit(Controller):
    """Speaks TLS from the first byte; aiosmtpd itself does not know then that the session has it."""

    def factory(self) -> SMTP:
        server: SMTP = super().factory()  # type: ignore[no-untyped-call]
        made = server.connection_made

        def connected(transport: Any) -> None:
            made(transport)
            assert server.session is not None
            server.session.ssl = transport.get_extra_info("ssl_object")

        server.connection_made = connected  # type: ignore[method-assign]
        return server


@contextlib.contextmanager
def office(kind: str, certificate: trustme.LeafCert | None = None) -> Iterator[Office]:
    """`kind`: starttls, tls, or none, which takes a login in the clear."""
    each, context = Office(), None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
    rules: dict[str, Any] = {"authenticator": each.login, "auth_require_tls": False}
    if kind == "tls":
        server: Controller = Implicit(each, "127.0.0.1", each.port, ssl_context=context, **rules)
    else:
        server = Controller(each, "127.0.0.1", each.port, tls_context=context, **rules)
    server.start()
    try:
        yield each
    finally:
        server.stop()


def told_to(port: int, tls: str, **more: Any) -> NotifySettings:
    """The settings of somebody who is told by this server's mail."""
    address = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_tls": tls, "to": ["night@house.example"]}
    return NotifySettings.model_validate(address | {"smtp_user": USER, "smtp_password": PASSWORD} | more)
