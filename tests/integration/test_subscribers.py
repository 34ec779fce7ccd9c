"""What a dispatch system's user may do on a real RabbitMQ: its own queue and its own customers' commands, no more."""

from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelClosed, ConnectionClosed
from aiormq.exceptions import ChannelAccessRefused
from pamqp.common import FieldValue
from yarl import URL

from cli.subscribers import make, rights
from shared import topics
from shared.broker import Message
from shared.rabbitmq import RabbitBroker
from shared.topics import topology
from tests.brokers import Hands, until
from tests.rabbit_node import Node

PASSWORD = "a-password"


def management(rabbit: Node) -> str:
    """The management API's address with the node's own user."""
    return str(URL(rabbit.management_url).with_user("guest").with_password("guest"))


@pytest.fixture
async def broker(rabbit: Node) -> AsyncIterator[RabbitBroker]:
    """Our own side, and the users of two customers' dispatch systems."""
    each = RabbitBroker([rabbit.url], topology())
    await until(lambda: each.problem is None, 20)
    for name, customers in (("acme-cad", ["acme"]), ("birch-cad", ["birch"])):
        await make(rights(name, customers, PASSWORD), management(rabbit), "/")
    yield each
    await each.close()


async def channel_of(rabbit: Node, user: str) -> AbstractChannel:
    url = URL(rabbit.url).with_user(user).with_password(PASSWORD)
    connection = await aio_pika.connect(url)
    return connection.channel(on_return_raises=True)


async def closed(channel: AbstractChannel) -> None:
    await (await channel.get_underlay_channel()).connection.close()


async def test_a_subscriber_reads_its_own_queue_and_commands_for_its_own_customer(
    rabbit: Node, broker: RabbitBroker
) -> None:
    hands = Hands()
    await broker.consume(topics.COMMANDS_QUEUE, 10, hands)
    for key in ("assignment.held.acme", "assignment.held.birch", "command.done.acme"):
        await broker.publish(topics.OUTCOMES, Message(key, {}, key.encode()), mandatory=False, timeout=5)
    channel = await channel_of(rabbit, "acme-cad")
    await channel.initialize()
    queue = await channel.get_queue("acme-cad", ensure=False)
    read: list[bytes] = []

    async def take(incoming: aio_pika.abc.AbstractIncomingMessage) -> None:
        read.append(incoming.body)
        await incoming.ack()

    tag = await queue.consume(take)
    await until(lambda: len(read) == 2, 10)
    await queue.cancel(tag)
    assert read == [b"assignment.held.acme", b"command.done.acme"]
    exchange = await channel.get_exchange(topics.COMMANDS, ensure=False)
    forged: dict[str, FieldValue] = {"receiver-retry-key": "pause.birch", "ce-customerid": "birch"}
    await exchange.publish(aio_pika.Message(b"{}", headers=forged), "pause.acme")
    delivery = await hands.next()
    assert delivery.message.routing_key == "pause.acme"  # whatever its publisher wrote into the headers
    await delivery.ack()
    await closed(channel)


async def bind_everything(channel: AbstractChannel) -> None:
    queue = await channel.get_queue("acme-cad", ensure=False)
    await queue.bind(topics.OUTCOMES, "#")


async def bind_another_customer(channel: AbstractChannel) -> None:
    queue = await channel.get_queue("acme-cad", ensure=False)
    await queue.bind(topics.OUTCOMES, "assignment.*.birch")


async def bind_the_webhooks(channel: AbstractChannel) -> None:
    queue = await channel.get_queue("acme-cad", ensure=False)
    await queue.bind(topics.WEBHOOKS, "*.*.acme")


async def declare_a_queue(channel: AbstractChannel) -> None:
    await channel.declare_queue("mine")


async def declare_a_temporary_queue(channel: AbstractChannel) -> None:
    await channel.declare_queue(exclusive=True)


async def _read(channel: AbstractChannel, name: str) -> None:
    queue = await channel.get_queue(name, ensure=False)
    await queue.get()


async def read_another_queue(channel: AbstractChannel) -> None:
    await _read(channel, "birch-cad")


async def read_the_dead_letters(channel: AbstractChannel) -> None:
    await _read(channel, topics.DEAD_LETTERS)


async def purge_another_queue(channel: AbstractChannel) -> None:
    await (await channel.get_queue("birch-cad", ensure=False)).purge()


async def delete_its_queue(channel: AbstractChannel) -> None:
    await channel.queue_delete("acme-cad")


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> None:
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)


async def publish_a_webhook(channel: AbstractChannel) -> None:
    await _publish(channel, topics.WEBHOOKS, "BROADCAST_RECEIVED.AVAILABLE.acme")


async def publish_an_outcome(channel: AbstractChannel) -> None:
    await _publish(channel, topics.OUTCOMES, "assignment.assigned.acme")


async def publish_to_the_default_exchange(channel: AbstractChannel) -> None:
    await _publish(channel, "", topics.COMMANDS_QUEUE)


async def command_for_another_customer(channel: AbstractChannel) -> None:
    await _publish(channel, topics.COMMANDS, "accept.birch")


async def command_for_a_customer_that_begins_alike(channel: AbstractChannel) -> None:
    await _publish(channel, topics.COMMANDS, "accept.acme2")


@pytest.mark.parametrize(
    "deed",
    [
        bind_everything,
        bind_another_customer,
        bind_the_webhooks,
        declare_a_queue,
        declare_a_temporary_queue,
        read_another_queue,
        read_the_dead_letters,
        purge_another_queue,
        delete_its_queue,
        publish_a_webhook,
        publish_an_outcome,
        publish_to_the_default_exchange,
        command_for_another_customer,
        command_for_a_customer_that_begins_alike,
    ],
)
async def test_what_a_subscriber_may_not_do_is_refused(
    rabbit: Node, broker: RabbitBroker, deed: Callable[[AbstractChannel], Awaitable[None]]
) -> None:
    channel = await channel_of(rabbit, "acme-cad")
    await channel.initialize()
    with pytest.raises((ChannelAccessRefused, ChannelClosed, ConnectionClosed), match=r"(?i)refused"):
        await deed(channel)
    await closed(channel)
