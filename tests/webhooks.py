"""Keys and signed webhooks for the tests, made apart from the product's own code."""

import base64
import functools
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.event import Event, read
from shared.signature import PublicKey, parse_public_key, verify


@functools.cache
def private_key(name: str) -> rsa.RSAPrivateKey:
    """A customer's private key, the same for the whole run."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(name: str) -> bytes:
    """The public half, as VectorCare shows it."""
    return private_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_key(name: str) -> PublicKey:
    """The public half, parsed."""
    return parse_public_key(pem(name))


def sign(name: str, body: bytes) -> str:
    """The signature header's value."""
    return base64.b64encode(private_key(name).sign(body, padding.PKCS1v15(), SHA256())).decode()


def envelope(**changes: Any) -> dict[str, Any]:
    """A webhook's fields, some changed."""
    return {
        "event_id": "0" * 31 + "1",
        "event_timestamp": "2026-11-23T12:00:00.000Z",
        "service_request_id": "VC-BSBBCY5Q",
        "request_status": "AVAILABLE",
        "action": "BROADCAST_RECEIVED",
        "data": {"pickup_date_time": "2026-11-23T18:00:00.000Z"},
        **changes,
    }


def event(customer: str = "acme", **changes: Any) -> Event:
    """A verified, readable event."""
    body = orjson.dumps(envelope(**changes))
    verified = verify(customer, [public_key(customer)], body, sign(customer, body))
    assert verified is not None
    found = read(verified)
    assert isinstance(found, Event), found
    return found
