"""Whose webhooks are taken: each customer's keys, parsed once, and the token of its URL."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.errors import Problem
from shared.keys import read_keys
from shared.settings import Settings
from shared.signature import PublicKey


@dataclass(frozen=True, slots=True)
class Sender:
    """A customer as the ingress knows it."""

    customer_id: str
    keys: tuple[PublicKey, ...]
    token: bytes | None = field(repr=False)

    def allows(self, tokens: list[str]) -> bool:
        """Whether the URL carried this customer's token, once; any URL will do where it has none."""
        if self.token is None:
            return True
        return len(tokens) == 1 and hmac.compare_digest(tokens[0].encode(), self.token)


def senders(settings: Settings) -> tuple[Mapping[str, Sender | None], list[Problem]]:
    """Each declared customer; None for one that is disabled by its own configuration, with the problems."""
    found: dict[str, Sender | None] = dict.fromkeys(settings.declared)
    problems = list(settings.customer_problems)
    for customer_id, customer in settings.customers.items():
        keys, mine = read_keys(settings, customer_id)
        problems += mine
        if not mine:
            token = customer.webhook_token
            found[customer_id] = Sender(
                customer_id, keys, token.get_secret_value().encode() if token is not None else None
            )
    return found, problems
