"""Who signed a webhook: RSA PKCS#1 v1.5 with SHA-256 over the raw body (VectorCare's guide, v2).

Pure. `verify` is the only maker of `Verified`, so whatever asks for a `Verified` can't be handed anything else.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

SIGNATURE_HEADER: Final = "X-VectorCare-Signature"
_LONGEST_SIGNATURE: Final = 4096  # characters; RSA-16384 needs 2732
_SMALLEST_KEY: Final = 2048  # bits; anything smaller can be forged
_PADDING: Final = PKCS1v15()
_HASH: Final = SHA256()
_MAKER: Final = object()


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One of a customer's RSA keys, parsed once; `fingerprint` (16 hex digits) is fit for logs."""

    fingerprint: str
    key: RSAPublicKey = field(repr=False)


def parse_public_key(pem: bytes) -> PublicKey:
    """Read a PEM RSA public key of at least 2048 bits; ValueError says what is wrong with it."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            "is not a PEM public key; copy the whole block from VectorCare's Settings > Open API"
        ) from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError("is not an RSA key; VectorCare signs with RSA")  # noqa: TRY004 - one error for a bad file
    if key.key_size < _SMALLEST_KEY:
        raise ValueError(f"has {key.key_size} bits; an RSA key under {_SMALLEST_KEY} bits can be forged")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(der).hexdigest()[:16], key)


@dataclass(frozen=True, slots=True)
class Verified:
    """A webhook whose signature was checked: the exact bytes, and which customer they were signed for."""

    customer_id: str
    body: bytes = field(repr=False)
    signature: str = field(repr=False)
    _maker: object = field(repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self._maker is not _MAKER:
            raise TypeError("a Verified comes from verify() alone")


def verify(customer_id: str, keys: Sequence[PublicKey], body: bytes, signature: str | None) -> Verified | None:
    """Check `signature` (base64, the header's value) of `body` against each key; None where none fits."""
    if not signature or len(signature) > _LONGEST_SIGNATURE:
        return None
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return None
    for public_key in keys:
        try:
            public_key.key.verify(raw, body, _PADDING, _HASH)
        except InvalidSignature:
            continue
        return Verified(customer_id, body, signature, _MAKER)
    return None
