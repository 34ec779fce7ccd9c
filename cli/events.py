"""The events on the topics: as they pass, as a subscription's queue holds them, and once more."""

import asyncio
import contextlib
import re
import signal
import sys
from datetime import datetime
from typing import Annotated, Final

import typer
from sqlalchemy import Connection, insert

from cli.configured import Config, configuration, known
from cli.house import House, open_house
from shared import logs, topics
from shared.broker import Binding, Delivery, Message
from shared.errors import DeliveryLost, Unavailable
from shared.settings import Settings
from worker import told
from worker.outbox import Outbox
from worker.tables import outbox

app = typer.Typer(help="The events on the topics.", no_args_is_help=True)

_PATTERN: Final = re.compile(r"[A-Za-z0-9_*#-]+(\.[A-Za-z0-9_*#-]+)*")
_SHOWN: Final = ("ce-time", "ce-subject", "ce-id", "ce-reason")
_IN_HAND: Final = 100
_CONNECT_SECONDS: Final = 10.0
_REPLAY_SECONDS: Final = 60.0


@app.command("tail")
def tail(
    pattern: Annotated[str, typer.Argument(help="A topic pattern: * is one word, # any number of them.")] = "#",
    config: Config = None,
) -> None:
    """Show events as they are published, without patient data. Ctrl-C ends it."""
    logs.configure()
    if not _PATTERN.fullmatch(pattern):
        raise typer.BadParameter("a pattern is words of letters, digits, _, -, * and #, parted by dots")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_tail(configuration(config), pattern))


@app.command("consume")
def consume(
    name: Annotated[str, typer.Argument(help="A subscription of the configuration that is a queue.")],
    ack: Annotated[
        bool, typer.Option("--ack", help="Take each event out of the queue once its line is written.")
    ] = False,
    most: Annotated[int | None, typer.Option("--most", min=1, help="End after so many.")] = None,
    config: Config = None,
) -> None:
    """Print the whole events of a subscription, patient data included, as a JSON object a line. Ctrl-C ends it."""
    logs.configure()
    settings = configuration(config)
    queues = [each.name for each in settings.subscriptions if each.is_queued]
    if name not in queues:
        raise typer.BadParameter(
            f"there is no subscription {name} with a queue; there are {', '.join(queues) or 'none'}"
        )
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_consume(settings, name, most, ack=ack))


@app.command("replay")
def replay(
    customer: Annotated[str, typer.Option("--customer", help="Whose assignments.")],
    since: Annotated[
        str | None,
        typer.Option("--since", help="Those that changed since then (2026-11-23T18:00:00Z), ended ones too."),
    ] = None,
    config: Config = None,
) -> None:
    """Publish the present state of every live assignment once more, under the same ids."""
    logs.configure()
    settings = configuration(config)
    known(settings, customer)
    count = asyncio.run(_replay(settings, customer, None if since is None else _moment(since)))
    sys.stdout.write(f"{count} assignments of {customer} were told again\n")


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise typer.BadParameter("a time is like 2026-11-23T18:00:00Z") from None
    if moment.tzinfo is None:
        raise typer.BadParameter("say the time zone too, as in 2026-11-23T18:00:00Z")
    return moment.timestamp()


def _cancelled_by_signals() -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _tail(settings: Settings, pattern: str) -> None:
    _cancelled_by_signals()
    bindings = (Binding(topics.WEBHOOKS, pattern), Binding(topics.OUTCOMES, pattern))
    async with (
        open_house(settings, with_store=False) as house,
        contextlib.aclosing(house.broker.tail(bindings)) as messages,
    ):
        async for message in messages:
            _print(line(message))


async def _consume(settings: Settings, name: str, most: int | None, *, ack: bool) -> None:
    _cancelled_by_signals()
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    in_hand: list[Delivery] = []
    async with open_house(settings, with_store=False) as house:
        consumer = await house.broker.consume(name, min(most or _IN_HAND, _IN_HAND), arrived.put_nowait)
        try:
            printed = 0
            while most is None or printed < most:
                delivery = await arrived.get()
                in_hand.append(delivery)
                _print(delivery.message.body.decode())
                printed += 1
                if ack:
                    await delivery.ack()
                    in_hand.remove(delivery)
        finally:
            await consumer.cancel()
            while not arrived.empty():
                in_hand.append(arrived.get_nowait())
            for delivery in in_hand:
                with contextlib.suppress(DeliveryLost, Unavailable):
                    await delivery.retry(0, counted=False)


async def _replay(settings: Settings, customer: str, since: float | None) -> int:
    def again(connection: Connection, _: float) -> int:
        rows = told.present(connection, customer, since)
        for row in rows:
            copied = {"routing_key": row.routing_key, "headers": row.headers, "body": row.body, "claimed_until": 0.0}
            mine = {"customer_id": row.customer_id, "service_request_id": row.service_request_id}
            connection.execute(insert(outbox).values(**copied, **mine))
        return len(rows)

    async with open_house(settings, with_store=True) as house:
        assert house.store is not None
        await _connected(house)
        count = await house.store.transact(again)
        publisher = Outbox(house.store, house.broker, house.sealer, settings.subscriptions)
        await asyncio.sleep(0)  # so that it has begun, and finishes before it stops
        await publisher.stop(_REPLAY_SECONDS)
        return count


async def _connected(house: House) -> None:
    """Until the broker can be published to; Unavailable where it can't be had."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            while house.broker.problem is not None:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"the broker can't be had: {house.broker.problem}") from None


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def line(message: Message) -> str:
    """An event in one line: its key and what names it. The body, where patients are, is not opened."""
    return "  ".join([message.routing_key, *(message.headers[name] for name in _SHOWN if name in message.headers)])
