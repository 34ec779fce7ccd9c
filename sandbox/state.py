"""Keeps a sandbox in a directory, so that it goes on later with the same organizations, keys and requests.

What is on its way when the sandbox stops, tokens, trouble and times to expire are not kept: the record has the
webhooks, and they can be redelivered.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from sandbox.chance import stream
from sandbox.life import Offer, ServiceRequest, Stage
from sandbox.marketplace import Marketplace
from sandbox.options import Status
from sandbox.organizations import Credential, Receiver, Requester, Webhook
from sandbox.signing import SigningKey

FILE = "state.json"
RECORD = "record.jsonl"
VERSION = 1


def _receiver(receiver: Receiver) -> dict[str, Any]:
    return {
        "name": receiver.name,
        "organization_id": receiver.organization_id,
        "key": receiver.key.private_pem(),
        "next_key": receiver.next_key.private_pem() if receiver.next_key else None,
        "credentials": [asdict(c) for c in receiver.credentials],
        "webhooks": [asdict(w) for w in receiver.webhooks],
        "permissions": sorted(receiver.permissions),
    }


def _request(request: ServiceRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "requester": request.requester,
        "data": dict(request.data),
        "offers": {name: asdict(offer) for name, offer in request.offers.items()},
        "stage": request.stage,
        "assigned_to": request.assigned_to,
    }


def dump(market: Marketplace) -> dict[str, Any]:
    """All that is kept, as JSON values. It holds secrets and private keys."""
    return {
        "version": VERSION,
        "shared_key": market.shared_key.private_pem() if market.shared_key else None,
        "requesters": [asdict(requester) for requester in market.requesters.values()],
        "receivers": [_receiver(receiver) for receiver in market.receivers.values()],
        "requests": [_request(request) for request in market.requests.values()],
    }


def _restored_receiver(values: dict[str, Any], seed: int, requests: int) -> Receiver:
    key, next_key = values["key"], values["next_key"]
    return Receiver(
        name=values["name"],
        organization_id=values["organization_id"],
        key=SigningKey.from_pem(key),
        chance=stream(seed, "receiver", values["name"], requests),
        credentials=[Credential(**c) for c in values["credentials"]],
        webhooks=[Webhook(**w) for w in values["webhooks"]],
        permissions=set(values["permissions"]),
        next_key=SigningKey.from_pem(next_key) if next_key else None,
    )


def _restored_request(values: dict[str, Any]) -> ServiceRequest:
    offers = {
        name: Offer(**{**offer, "status": Status(offer["status"]), "states": tuple(offer["states"])})
        for name, offer in values["offers"].items()
    }
    return ServiceRequest(**{**values, "offers": offers, "stage": Stage(values["stage"])})


def restore(market: Marketplace, values: dict[str, Any]) -> None:
    """Puts into a new marketplace what was dumped. Raises ValueError for another version."""
    if values.get("version") != VERSION:
        raise ValueError(f"the state is of version {values.get('version')}, not {VERSION}")
    shared = values["shared_key"]
    market.shared_key = SigningKey.from_pem(shared) if shared else market.shared_key
    for raw in values["requesters"]:
        credentials = [Credential(**c) for c in raw["credentials"]]
        market.requesters[raw["name"]] = Requester(**{**raw, "credentials": credentials})
    for raw in values["requests"]:
        market.requests[raw["id"]] = _restored_request(raw)
    for raw in values["receivers"]:
        receiver = _restored_receiver(raw, market.options.seed, len(market.requests))
        market.receivers[receiver.name] = receiver
    market.reseed(len(market.requests))


def load(market: Marketplace, directory: Path) -> bool:
    """Restores from the directory; False if there is nothing yet."""
    path = directory / FILE
    if not path.exists():
        return False
    restore(market, orjson.loads(path.read_bytes()))
    return True


def save(market: Marketplace, directory: Path) -> None:
    """Writes the state whole or not at all, readable by its owner only."""
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{FILE}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(orjson.dumps(dump(market)))
    new.replace(directory / FILE)
