"""Which configuration a command uses."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.configuration import load
from shared.settings import Settings

_DEFAULT_FILE: Final = "receiver.toml"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="RECEIVER_CONFIG",
        help=f"The configuration file; without it {_DEFAULT_FILE} if there is one. Any setting can also be a "
        "variable: RECEIVER_BROKER__URL, RECEIVER_CUSTOMERS__acme__CLIENT_SECRET.",
    ),
]


def configuration(file: Path | None) -> Settings:
    """The settings of a command: the file that was named, else receiver.toml here if there is one, else variables."""
    default = Path(_DEFAULT_FILE)
    return load(file or (default if default.exists() else None), os.environ)
