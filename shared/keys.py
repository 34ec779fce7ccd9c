"""Reads the key files that the configuration names: customers' public keys, and the ring that seals bodies."""

from pathlib import Path

from shared.errors import ConfigurationError, Problem
from shared.sealing import Sealer, parse_key
from shared.settings import Settings
from shared.signature import PublicKey, parse_public_key


def read_keys(settings: Settings, customer_id: str) -> tuple[tuple[PublicKey, ...], list[Problem]]:
    """A customer's public keys, and what is wrong with any of them."""
    keys = []
    problems = []
    for number, file in enumerate(settings.customers[customer_id].public_keys):
        place = f"customers.{customer_id}.public_keys[{number}]"
        try:
            keys.append(parse_public_key(settings.path(file).read_bytes()))
        except OSError as error:
            problems.append(Problem(place, f"{file} can't be read: {error.strerror}", customer_id))
        except ValueError as error:  # also of a name with a NUL in it
            problems.append(Problem(place, f"{file} {error}", customer_id))
    return tuple(keys), problems


def read_sealer(settings: Settings) -> Sealer:
    """The ring of `store.encryption_key_files`; ConfigurationError lists what is wrong with any of them."""
    keys = []
    problems = []
    for number, file in enumerate(settings.store.encryption_key_files):
        place = f"store.encryption_key_files[{number}]"
        try:
            keys.append(parse_key(_text(settings.path(file))))
        except OSError as error:
            problems.append(Problem(place, f"{file} can't be read: {error.strerror}"))
        except ValueError as error:
            problems.append(Problem(place, f"{file} {error}"))
    if problems:
        raise ConfigurationError(problems)
    return Sealer(keys)


def _text(file: Path) -> str:
    return file.read_bytes().decode("ascii", "replace")
