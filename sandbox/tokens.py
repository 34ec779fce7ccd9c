"""Access tokens: given for client credentials, good for a while, void once their credentials are deleted."""

from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from secrets import compare_digest

from sandbox.identifiers import short_id
from sandbox.organizations import Receiver, Requester

Organization = Receiver | Requester


@dataclass(frozen=True, slots=True)
class _Token:
    organization: Organization
    client_id: str
    expires: float
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for. `token`: `good`, `none`, `unknown`, `expired`, `revoked` or
    `deleted`. `mark` tells tokens apart without telling them."""

    token: str
    organization: Organization | None = None
    mark: str = ""

    @property
    def name(self) -> str:
        """The organization's name, empty for nobody."""
        return self.organization.name if self.organization else ""


class Tokens:
    """All tokens that were given and have not been expired for long. Times are Unix seconds."""

    def __init__(self, chance: Random, seconds: float) -> None:
        self._chance = chance
        self._given: dict[str, _Token] = {}
        self.seconds = seconds

    def give(self, organization: Organization, client_id: str, now: float) -> str:
        """A new token for credentials that were checked."""
        token = short_id(self._chance, 43)
        self._given[token] = _Token(organization, client_id, now + self.seconds)
        if len(self._given) % 1000 == 0:
            self._given = {t: g for t, g in self._given.items() if g.expires > now - 3600}
        return token

    def identify(self, authorization: str | None, now: float) -> Identity:
        """What an Authorization header is worth now."""
        if not authorization:
            return Identity("none")
        scheme, _, token = authorization.partition(" ")
        given = self._given.get(token.strip())
        mark = sha256(authorization.encode()).hexdigest()[:8]
        if scheme.lower() != "bearer" or given is None:
            return Identity("unknown", None, mark)
        if given.revoked:
            return Identity("revoked", given.organization, mark)
        if given.expires <= now:
            return Identity("expired", given.organization, mark)
        if all(c.client_id != given.client_id for c in given.organization.credentials):
            return Identity("deleted", given.organization, mark)
        return Identity("good", given.organization, mark)

    def expire(self, organization: Organization) -> None:
        """Ends all tokens of an organization before their time."""
        for token, given in self._given.items():
            if given.organization is organization:
                self._given[token] = replace(given, revoked=True)


def client(organizations: list[Organization], client_id: str, secret: str) -> Organization | None:
    """The organization that these credentials belong to."""
    for organization in organizations:
        for credential in organization.credentials:
            if credential.client_id == client_id and compare_digest(credential.client_secret.encode(), secret.encode()):
                return organization
    return None
