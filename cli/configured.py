"""The options that commands share, and what they lead to: the configuration, and who is asking."""

import getpass
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
Actor = Annotated[
    str | None, typer.Option("--actor", help="Who does it, for the audit; without it this machine's user.")
]


def configuration(file: Path | None) -> Settings:
    """The settings of a command: the file that was named, else receiver.toml here if there is one, else variables."""
    default = Path(_DEFAULT_FILE)
    return load(file or (default if default.exists() else None), os.environ)


def acting(actor: str | None) -> str:
    """Who does it: as given, else the user that runs the command."""
    try:
        return actor or getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"


def known(settings: Settings, customer_id: str) -> str:
    """A customer of the configuration; a wrong call where there is none of this name."""
    if customer_id not in settings.declared:
        raise typer.BadParameter(
            f"there is no customer {customer_id}; there are {', '.join(sorted(settings.declared))}"
        )
    return customer_id
