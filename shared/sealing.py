"""Seals bodies (PHI) before they touch a disk: AES-256-GCM under a ring of keys, the first seals, any opens.

Without keys a body is stored as it is, marked as such, so that sealing can be switched on later.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import Unavailable

PLAIN: Final = b"\x00"
_SEALED: Final = b"\x01"
NAME_LENGTH: Final = 4  # of a key: the beginning of its hash
_NONCE: Final = 12


class CannotOpen(Unavailable):
    """A stored body was sealed with a key that is not in `store.encryption_key_files`, or it was altered."""


def parse_key(text: str) -> bytes:
    """32 bytes in base64, as `openssl rand -base64 32` prints them; ValueError says what is wrong."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ValueError("is not 32 bytes in base64; make one with: openssl rand -base64 32")
    return key


class Sealer:
    """Seals and opens stored bodies. Stored form: 0x00 body, or 0x01 key name (4) nonce (12) ciphertext."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._ring = {hashlib.sha256(key).digest()[:NAME_LENGTH]: AESGCM(key) for key in keys}
        self._first = next(iter(self._ring), None)

    @property
    def prefix(self) -> bytes:
        """What every body begins with that is sealed now."""
        return PLAIN if self._first is None else _SEALED + self._first

    def seal(self, body: bytes) -> bytes:
        """The form to store."""
        if self._first is None:
            return PLAIN + body
        nonce = os.urandom(_NONCE)
        return _SEALED + self._first + nonce + self._ring[self._first].encrypt(nonce, body, None)

    def open(self, stored: bytes) -> bytes:
        """The body again; CannotOpen where its key is not on the ring or a bit has changed."""
        if stored[:1] == PLAIN:
            return stored[1:]
        name, nonce = stored[1 : 1 + NAME_LENGTH], stored[1 + NAME_LENGTH : 1 + NAME_LENGTH + _NONCE]
        cipher = self._ring.get(name)
        if cipher is None:
            raise CannotOpen(f"sealed with key {name.hex()}, which is not among store.encryption_key_files")
        try:
            return cipher.decrypt(nonce, stored[1 + NAME_LENGTH + _NONCE :], None)
        except InvalidTag:
            raise CannotOpen(f"a body sealed with key {name.hex()} was altered") from None
