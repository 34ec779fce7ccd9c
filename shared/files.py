"""Copies of SQLite files: one taken while others write, and one put in a file's place."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.errors import Unavailable

_BUSY_SECONDS: Final = 5.0


def copy(source: Path, target: Path) -> None:
    """A whole and checked copy of a SQLite file as it is at one moment, for its owner alone, on the disk for good.

    Nobody who writes meanwhile waits for it. `target` must not exist; it appears when it is complete and not before.
    """
    if target.exists():
        raise Unavailable(f"{target} is there already; nothing is overwritten")
    if not source.exists():
        raise Unavailable(f"there is no {source}")
    part = target.with_name(f"{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(source, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))  # into a file that is there and empty
        check(part)
        _sync(part)
        part.rename(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise Unavailable(f"{target} was not written: {_why(error)}") from None


def check(file: Path) -> None:
    """Unavailable unless this is a SQLite file without damage."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        raise Unavailable(f"{file} can't be used: {error}") from None
    if found != ["ok"]:
        raise Unavailable(f"{file} is damaged: {found[0]}")


@contextlib.contextmanager
def held_alone(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that no other process has open, nor can open meanwhile; Unavailable where one has."""
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield connection
        if connection.in_transaction:
            connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Unavailable(f"{file} is in use: stop every receiver process first") from None
        raise Unavailable(f"{file} can't be used: {error}") from None
    except sqlite3.Error as error:
        raise Unavailable(f"{file} can't be used: {error}") from None
    finally:
        connection.close()


def put_aside(file: Path) -> Path | None:
    """Rename a file that nobody has open, its log written into it; the new name, None where there is no file."""
    if not file.exists():
        return None
    aside = file.with_name(f"{file.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    with held_alone(file) as connection:
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=DELETE")
        if aside.exists():
            raise Unavailable(f"{aside} is there already; try again in a second")
        file.rename(aside)
        _sync(aside.parent)
    return aside


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError | sqlite3.Error) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
