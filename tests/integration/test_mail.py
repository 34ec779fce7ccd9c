"""Notices by mail, over TLS to a real SMTP server: what the setting asks for is had, or nothing is said."""

from pathlib import Path

import pytest
import trustme

from shared.settings import NotifySettings
from tests.brokers import until
from tests.mail import PASSWORD, USER, office, told_to
from worker.acknowledging import Missing
from worker.notify import Notifier


async def say(settings: NotifySettings) -> None:
    notifier = Notifier(settings)
    notifier.unacknowledged(Missing("acme", "VC-1"))
    await notifier.stop()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Whom this machine trusts."""
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "trusted.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    return trusted


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_login_and_mail_go_over_tls(authority: trustme.CA, tls: str) -> None:
    with office(tls, authority.issue_cert("127.0.0.1")) as mails:
        await say(told_to(mails.port, tls))
        await until(lambda: mails.mails, 10)
    assert mails.logins == [(True, USER.encode(), PASSWORD.encode())]
    ((over_tls, text),) = mails.mails
    assert over_tls
    assert "Subject: acme: 1 trip is in no dispatch system" in text
    assert "To: night@house.example" in text


@pytest.mark.parametrize(
    ("asked", "offered", "whose"),
    [
        pytest.param("starttls", "none", None, id="the server has no STARTTLS"),
        pytest.param("tls", "none", None, id="the server speaks no TLS"),
        pytest.param("starttls", "starttls", "a stranger", id="STARTTLS with a stranger's certificate"),
        pytest.param("tls", "tls", "a stranger", id="TLS with a stranger's certificate"),
        pytest.param("starttls", "starttls", "another", id="STARTTLS with another host's certificate"),
        pytest.param("tls", "tls", "another", id="TLS with another host's certificate"),
    ],
)
async def test_where_the_tls_that_is_asked_for_cannot_be_had_neither_login_nor_mail_is_sent(
    authority: trustme.CA, capsys: pytest.CaptureFixture[str], asked: str, offered: str, whose: str | None
) -> None:
    certificates = {
        "a stranger": lambda: trustme.CA().issue_cert("127.0.0.1"),
        "another": lambda: authority.issue_cert("mail.house.example"),
    }
    with office(offered, certificates[whose]() if whose else None) as mails:
        await say(told_to(mails.port, asked))
    assert (mails.logins, mails.mails) == ([], [])
    logged = capsys.readouterr().err
    assert '"event":"notice_not_sent"' in logged
    assert PASSWORD not in logged


async def test_a_login_that_is_refused_is_logged_without_the_password(
    authority: trustme.CA, capsys: pytest.CaptureFixture[str]
) -> None:
    with office("starttls", authority.issue_cert("127.0.0.1")) as mails:
        await say(told_to(mails.port, "starttls", smtp_password="canary-of-a-password"))
    assert mails.logins
    assert mails.mails == []
    logged = capsys.readouterr().err
    assert "SMTPAuthenticationError" in logged
    assert "canary" not in logged
