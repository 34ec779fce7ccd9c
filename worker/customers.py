"""Whom the workers act for: each customer's keys, credentials, policy and mode, checked before anything connects."""

from dataclasses import dataclass, field

from shared.errors import Problem
from shared.keys import read_keys
from shared.settings import CustomerSettings, Limits, Settings
from shared.signature import PublicKey
from worker import policy
from worker.assignment import Mode
from worker.policy import NO_POLICY, Policy, PolicyError


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer as the workers know it. Secrets are in no repr."""

    customer_id: str
    environment: str
    keys: tuple[PublicKey, ...]
    organization_ids: frozenset[str]
    api_url: str
    token_url: str
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    policy: Policy = field(repr=False)
    mode: Mode
    limits: Limits


def customers(settings: Settings) -> tuple[dict[str, Customer], list[Problem]]:
    """The customers that can be acted for, and what keeps the others from it."""
    found: dict[str, Customer] = {}
    problems = list(settings.customer_problems)
    for customer_id, part in settings.customers.items():
        keys, mine = read_keys(settings, customer_id)
        mine += _missing(customer_id, part)
        rules = NO_POLICY
        if part.policy is not None:
            try:
                rules = policy.load(settings.path(part.policy))
            except PolicyError as error:
                place = f"customers.{customer_id}.policy"
                mine += [
                    Problem(place, f"{part.policy} {where}: {what}", customer_id) for where, what in error.problems
                ]
        problems += mine
        if not mine:
            found[customer_id] = _customer(customer_id, part, keys, rules)
    return found, problems


def _missing(customer_id: str, part: CustomerSettings) -> list[Problem]:
    place = f"customers.{customer_id}"
    wanted = {
        "api_url": (part.api, f"is required with environment {part.environment}"),
        "token_url": (part.token, f"is required with environment {part.environment}"),
        "client_id": (part.client_id, "is required; VectorCare shows it under Settings > Open API"),
        "client_secret": (
            part.client_secret,
            "is required; VectorCare shows it once, under Settings > Open API",
        ),
    }
    return [Problem(f"{place}.{key}", why, customer_id) for key, (value, why) in wanted.items() if value is None]


def _customer(customer_id: str, part: CustomerSettings, keys: tuple[PublicKey, ...], rules: Policy) -> Customer:
    assert part.api and part.token and part.client_id and part.client_secret  # _missing has seen to it
    return Customer(
        customer_id,
        part.environment,
        keys,
        frozenset(part.organization_ids),
        part.api,
        part.token,
        part.client_id.get_secret_value(),
        part.client_secret.get_secret_value(),
        rules,
        Mode(part.mode),
        part.limits,
    )
