"""The organizations: a Requester who broadcasts, Receivers with credentials, webhooks and a public key."""

from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

from sandbox.identifiers import short_id
from sandbox.signing import SigningKey

PERMISSIONS = (
    "Can access Open API",
    "Can configure Open API Client Credentials",
    "Can configure Open API for account",
    "Can configure Webhooks",
)
"""The four of the guide. Without the first the API refuses; without the others the settings do."""

ACTIVE_WEBHOOKS = 2
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SettingRefused(Exception):
    """A setting that VectorCare's settings would not take; the message says why."""


@dataclass
class Credential:
    """One pair for the token endpoint. The secret is shown once, when it is made."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass
class Webhook:
    """One endpoint of a Receiver, version v2.0. The URL may carry a token, so it stays out of reprs."""

    id: str
    url: str = field(repr=False)
    active: bool = True


def checked_url(url: str) -> str:
    """The URL, if VectorCare would take it: https, or http where the host is loopback."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname in LOOPBACK:
        return url
    raise SettingRefused("a webhook needs an HTTPS URL (http on loopback only)")


@dataclass
class Requester:
    """A hospital: creates service requests and broadcasts them."""

    name: str
    organization_id: str
    account_name: str
    credentials: list[Credential] = field(default_factory=list)


@dataclass
class Receiver:
    """A transport provider, and what its Settings > Open API hold."""

    name: str
    organization_id: str
    key: SigningKey
    chance: Random
    credentials: list[Credential] = field(default_factory=list)
    webhooks: list[Webhook] = field(default_factory=list)
    permissions: set[str] = field(default_factory=lambda: set(PERMISSIONS))
    next_key: SigningKey | None = None
    """Set while the key is being rotated: shown in the settings, not used for signing yet."""

    @property
    def client_id(self) -> str:
        """Of the newest credentials."""
        return self.credentials[-1].client_id

    @property
    def client_secret(self) -> str:
        """Of the newest credentials."""
        return self.credentials[-1].client_secret

    @property
    def public_key_pem(self) -> str:
        """The key that signatures verify with now."""
        return self.key.public_pem

    def require(self, permission: str) -> None:
        """Raises SettingRefused without that permission."""
        if permission not in self.permissions:
            raise SettingRefused(f"{self.name} lacks the permission: {permission}")

    def add_credential(self) -> Credential:
        """A further pair; the old ones stay valid until they are deleted."""
        self.require(PERMISSIONS[1])
        credential = new_credential(self.chance)
        self.credentials.append(credential)
        return credential

    def delete_credential(self, client_id: str) -> None:
        """Tokens got with it are refused from now on."""
        self.require(PERMISSIONS[1])
        if all(c.client_id != client_id for c in self.credentials):
            raise SettingRefused(f"{self.name} has no credentials {client_id}")
        self.credentials = [c for c in self.credentials if c.client_id != client_id]

    def add_webhook(self, url: str, *, active: bool = True) -> Webhook:
        """A further webhook; at most two may be active."""
        self.require(PERMISSIONS[3])
        checked_url(url)
        if active and sum(w.active for w in self.webhooks) >= ACTIVE_WEBHOOKS:
            raise SettingRefused(f"at most {ACTIVE_WEBHOOKS} webhooks may be active")
        webhook = Webhook(id=short_id(self.chance), url=url, active=active)
        self.webhooks.append(webhook)
        return webhook

    def set_webhook(self, url: str) -> Webhook:
        """Makes this the one webhook: the first is changed, any other is removed."""
        self.require(PERMISSIONS[3])
        checked_url(url)
        if not self.webhooks:
            return self.add_webhook(url)
        first = self.webhooks[0]
        first.url, first.active = url, True
        self.webhooks = [first]
        return first

    def change_webhook(self, webhook_id: str, url: str | None, active: bool | None) -> Webhook:
        """Changes what is given."""
        self.require(PERMISSIONS[3])
        webhook = self.webhook(webhook_id)
        others = sum(w.active for w in self.webhooks if w is not webhook)
        if active and others >= ACTIVE_WEBHOOKS:
            raise SettingRefused(f"at most {ACTIVE_WEBHOOKS} webhooks may be active")
        webhook.url = webhook.url if url is None else checked_url(url)
        webhook.active = webhook.active if active is None else active
        return webhook

    def delete_webhook(self, webhook_id: str) -> None:
        """Nothing is sent there any more."""
        self.require(PERMISSIONS[3])
        self.webhooks.remove(self.webhook(webhook_id))

    def webhook(self, webhook_id: str) -> Webhook:
        """By its id. Raises SettingRefused if there is none."""
        for webhook in self.webhooks:
            if webhook.id == webhook_id:
                return webhook
        raise SettingRefused(f"{self.name} has no webhook {webhook_id}")

    def rotate_key(self) -> str:
        """Signs with a new key from now on (the announced one, if any); returns its public PEM."""
        self.key, self.next_key = self.next_key or SigningKey(), None
        return self.key.public_pem

    def announce_key(self) -> str:
        """Makes the key of the next rotation, so that a Receiver can take it into its ring before."""
        self.next_key = self.next_key or SigningKey()
        return self.next_key.public_pem


def new_credential(chance: Random) -> Credential:
    """A pair after VectorCare's kind: an id and a long secret."""
    return Credential(client_id=short_id(chance, 24), client_secret=short_id(chance, 48))
