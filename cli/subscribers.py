"""`subscribers`: a dispatch system's user on RabbitMQ, who reads its own queue and commands for its own customers."""

import asyncio
import base64
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import quote

import aiohttp
import typer
from pydantic import ValidationError
from yarl import URL

from cli.configured import Config, configuration, known
from shared import logs, topics
from shared.errors import Unavailable
from shared.settings import Subscription

app = typer.Typer(help="The dispatch systems' users on RabbitMQ.", no_args_is_help=True)

_SECONDS: Final = 10.0


@app.callback()
def _group() -> None:
    """The dispatch systems' users on RabbitMQ."""


@dataclass(frozen=True, slots=True)
class Rights:
    """A user, its queue, and what it may do: regular expressions, as RabbitMQ takes them."""

    name: str
    patterns: tuple[str, ...]
    configure: str
    write: str
    read: str
    commands: str
    password: str = field(repr=False)


def rights(name: str, customers: Sequence[str], password: str) -> Rights:
    """Nothing may be declared or bound, so that no other customer's pattern can be; what is written are commands."""
    patterns = tuple(f"{kind}.*.{customer}" for customer in customers for kind in ("assignment", "command"))
    mine = "|".join(re.escape(customer) for customer in customers)
    return Rights(
        name,
        patterns,
        "^$",
        f"^{re.escape(topics.COMMANDS)}$",
        f"^{re.escape(name)}$",
        rf"^[a-z_]+\.({mine})$",
        password,
    )


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The user, and its queue.")],
    customer: Annotated[list[str], typer.Option("--customer", help="Whose events and commands; may be repeated.")],
    management_url: Annotated[
        str | None,
        typer.Option(
            "--management-url",
            help="RabbitMQ's management API, with user and password in it: make it all there. Without it: print how.",
        ),
    ] = None,
    vhost: Annotated[str, typer.Option("--vhost", help="RabbitMQ's virtual host.")] = "/",
    config: Config = None,
) -> None:
    """Print, or make, a user that reads its own queue and writes commands of its own customers, and nothing else."""
    logs.configure()
    settings = configuration(config)
    customers = [known(settings, each) for each in dict.fromkeys(customer)]
    try:
        Subscription(name=name)
    except ValidationError:
        raise typer.BadParameter("a name is letters, digits, ., _ and -, and no queue of ours") from None
    mine = rights(name, customers, secrets.token_urlsafe(24))
    if management_url is None:
        sys.stdout.write(_instructions(mine, customers, vhost))
        return
    asyncio.run(make(mine, management_url, vhost))
    sys.stdout.write(f"user {name}\npassword {mine.password}\nqueue {name}\n")
    sys.stdout.write(f"bound to {', '.join(mine.patterns)} of {topics.OUTCOMES}\nThe password is shown this once.\n")


def _instructions(mine: Rights, customers: Sequence[str], vhost: str) -> str:
    listed = ", ".join(f'"{each}"' for each in customers)
    return f"""\
Add to receiver.toml, and start anew, so that the queue exists:

[[subscriptions]]
name = "{mine.name}"
customers = [{listed}]

On RabbitMQ, with a password of your own making on standard input of the first:

rabbitmqctl add_user '{mine.name}'
rabbitmqctl set_permissions -p '{vhost}' '{mine.name}' '{mine.configure}' '{mine.write}' '{mine.read}'
rabbitmqctl set_topic_permissions -p '{vhost}' '{mine.name}' {topics.COMMANDS} '{mine.commands}' '^$'
"""


async def make(mine: Rights, management_url: str, vhost: str) -> None:
    """Make user, queue, bindings and permissions; Unavailable where the management API does not do it."""
    at, user, queue = quote(vhost, safe=""), quote(mine.name, safe=""), quote(mine.name, safe="")
    topic = {"exchange": topics.COMMANDS, "write": mine.commands, "read": "^$"}
    permissions = {"configure": mine.configure, "write": mine.write, "read": mine.read}
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", f"exchanges/{at}/{topics.OUTCOMES}", {"type": "topic", "durable": True}),
        ("PUT", f"exchanges/{at}/{topics.COMMANDS}", {"type": "topic", "durable": True}),
        ("PUT", f"queues/{at}/{queue}", {"durable": True, "arguments": {"x-queue-type": "quorum"}}),
        *(
            ("POST", f"bindings/{at}/e/{topics.OUTCOMES}/q/{queue}", {"routing_key": pattern})
            for pattern in mine.patterns
        ),
        ("PUT", f"users/{user}", {"password": mine.password, "tags": ""}),
        ("PUT", f"permissions/{at}/{user}", permissions),
        ("PUT", f"topic-permissions/{at}/{user}", topic),
    ]
    address, credentials = _split(management_url)
    headers = {"Authorization": f"Basic {credentials}"} if credentials else {}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        for method, path, body in steps:
            await _step(session, method, f"{address}/api/{path}", body)


async def _step(session: aiohttp.ClientSession, method: str, url: str, body: dict[str, Any]) -> None:
    place = url.partition("/api/")[2]
    try:
        async with session.request(method, URL(url, encoded=True), json=body, allow_redirects=False) as response:
            if response.status >= 300:
                raise Unavailable(f"RabbitMQ's management API answered {response.status} to {method} {place}")
    except (aiohttp.ClientError, TimeoutError):
        raise Unavailable(f"RabbitMQ's management API can't be reached: {method} {place}") from None


def _split(url: str) -> tuple[str, str | None]:
    """The address without its credentials, and those as HTTP's basic authorization."""
    kind, _, rest = url.rpartition("://")
    user, at, host = rest.rpartition("@")
    credentials = base64.b64encode(user.encode()).decode() if at else None
    return f"{kind or 'http'}://{host}".rstrip("/"), credentials
