"""RabbitMQ as it fails: each trap of aio-pika and RabbitMQ that the adapter steps around, on a node of our own."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from pamqp.common import FieldValue

from shared import topics
from shared.broker import Delivery
from shared.errors import DeliveryLost, Unavailable, Unroutable
from shared.parking import ORIGIN_KEY, ORIGIN_QUEUE, REASON
from shared.rabbitmq import DEAD_LETTERING, RETRY_SECONDS, RabbitBroker, retry_queue
from shared.topics import topology
from tests.brokers import Hands, emptied, message, until
from tests.rabbit_node import Node

MARK = "MRS-CANARY-PATIENT"


@pytest.fixture
async def broker(rabbit: Node) -> AsyncIterator[RabbitBroker]:
    await emptied(rabbit.url)
    each = RabbitBroker([rabbit.url], topology())
    await until(lambda: each.problem is None, 10)
    yield each
    await each.close()


async def publish(broker: RabbitBroker, body: bytes = b"{}", timeout: float = 5, key: str = "A.AVAILABLE.acme") -> None:
    await broker.publish(topics.WEBHOOKS, message(key, body), mandatory=True, timeout=timeout)


@contextlib.asynccontextmanager
async def plain_channel(node: Node) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
        yield channel


async def test_the_topology_has_the_arguments_that_the_contract_fixes_for_ever(
    broker: RabbitBroker, rabbit: Node
) -> None:
    arguments = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "receiver.dead-letters",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert arguments == DEAD_LETTERING
    async with plain_channel(rabbit) as channel:
        for name in ("broadcast-received", "broadcast-accepted", "lifecycle", "dead-letters"):
            await channel.declare_queue(f"receiver.{name}", durable=True, arguments=DEAD_LETTERING)
        for seconds in RETRY_SECONDS:
            await channel.declare_queue(retry_queue(seconds), passive=True)
        for name in ("vectorcare.events", "dispatch.events"):
            await channel.declare_exchange(name, "topic", durable=True)


async def test_messages_are_persistent_json_with_a_fresh_id_each(broker: RabbitBroker, rabbit: Node) -> None:
    await asyncio.gather(*(publish(broker) for _ in range(20)))
    async with plain_channel(rabbit) as channel:
        queue = await channel.get_queue(topics.BROADCAST_RECEIVED)
        messages = [await queue.get(no_ack=True) for _ in range(20)]
    assert {each.delivery_mode for each in messages} == {aio_pika.DeliveryMode.PERSISTENT}
    assert {each.content_type for each in messages} == {"application/json"}
    assert len({each.message_id for each in messages}) == 20


async def test_routable_and_unroutable_messages_in_flight_together_are_never_mistaken(broker: RabbitBroker) -> None:
    keys = ["A.AVAILABLE.acme", "nowhere"] * 50
    results = await asyncio.gather(*(publish(broker, key=key) for key in keys), return_exceptions=True)
    for key, result in zip(keys, results, strict=True):
        assert isinstance(result, Unroutable) == (key == "nowhere"), (key, result)


async def test_what_cannot_be_routed_is_refused_without_a_word_of_its_body(
    broker: RabbitBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unroutable) as refused:
        await publish(broker, MARK.encode(), key="nowhere")
    assert MARK not in repr(refused.value) + str(refused.value.__cause__) + capsys.readouterr().err


async def test_a_deleted_queue_is_declared_again_and_consumed_again(broker: RabbitBroker, rabbit: Node) -> None:
    hands = Hands()
    consumer = await broker.consume(topics.BROADCAST_RECEIVED, 10, hands)
    await until(lambda: consumer.alive, 10)
    async with plain_channel(rabbit) as channel:
        await channel.queue_delete(topics.BROADCAST_RECEIVED)
    await until(lambda: not consumer.alive, 5)
    await publish(broker, b"after")
    assert (await hands.next(15)).message.body == b"after"
    assert consumer.alive


async def test_a_queue_with_other_arguments_is_named_as_the_problem(rabbit: Node) -> None:
    await emptied(rabbit.url)
    async with plain_channel(rabbit) as channel:
        await channel.declare_queue(topics.LIFECYCLE, durable=True)
        broker = RabbitBroker([rabbit.url], topology())
        try:
            await until(lambda: "other arguments" in (broker.problem or ""), 10)
            assert topics.LIFECYCLE in str(broker.problem)
        finally:
            await broker.close()
            await channel.queue_delete(topics.LIFECYCLE)


async def test_foreign_headers_of_any_type_do_no_harm(broker: RabbitBroker, rabbit: Node) -> None:
    hands = Hands()
    await broker.consume(topics.BROADCAST_RECEIVED, 10, hands)
    async with plain_channel(rabbit) as channel:
        exchange = await channel.get_exchange(topics.WEBHOOKS)
        foreign: dict[str, FieldValue] = {"number": 7, "list": [1], "text": "kept"}
        foreign |= {"receiver-retry-due": "soon", "x-death": [{"a": 1}]}
        await exchange.publish(aio_pika.Message(b"{}", headers=foreign), "A.AVAILABLE.acme")
    delivery = await hands.next()
    assert dict(delivery.message.headers) == {"text": "kept"}


async def test_a_handler_goes_on_when_its_channel_drops_and_its_late_ack_is_told_as_lost(
    broker: RabbitBroker, rabbit: Node
) -> None:
    went_on = asyncio.Event()
    dropped = asyncio.Event()
    lost: list[bool] = []

    async def handle(delivery: Delivery) -> None:
        await dropped.wait()
        try:
            await delivery.ack()
        except DeliveryLost:
            lost.append(True)
        went_on.set()

    tasks: list[asyncio.Task[None]] = []
    again = Hands()

    def take(delivery: Delivery) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(handle(delivery)))
        else:
            again(delivery)

    await broker.consume(topics.BROADCAST_RECEIVED, 10, take)
    await publish(broker, b"in hand")
    await until(lambda: tasks, 10)
    rabbit.ctl("close_all_connections", "test")
    second = await again.next(15)
    dropped.set()
    await asyncio.wait_for(went_on.wait(), 5)
    assert lost
    assert second.message.body == b"in hand"
    await second.ack()


async def test_a_memory_alarm_costs_a_deadline_and_no_more(broker: RabbitBroker, rabbit: Node) -> None:
    rabbit.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            while time.monotonic() - began < 10:  # the alarm takes a moment to reach the connection
                await publish(broker, timeout=1)
        took = time.monotonic()
        with pytest.raises(Unavailable):
            await publish(broker, timeout=1)
        assert time.monotonic() - took < 1.5
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.6")
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Unavailable):
                await publish(broker, timeout=2)
                return


async def test_a_paused_broker_ends_a_publish_with_unavailable_in_time_and_nothing_else(
    broker: RabbitBroker, rabbit: Node
) -> None:
    await publish(broker)
    rabbit.pause()
    try:
        began = time.monotonic()
        results = await asyncio.gather(*(publish(broker, timeout=2) for _ in range(10)), return_exceptions=True)
        assert time.monotonic() - began < 3
        assert {type(result) for result in results} == {Unavailable}
    finally:
        rabbit.resume()
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(Unavailable):
                await publish(broker, timeout=2)
                return


async def test_a_queue_that_is_full_refuses_and_takes_again_on_a_fresh_channel(
    broker: RabbitBroker, rabbit: Node
) -> None:
    rabbit.ctl("set_policy", "full", "^receiver.broadcast-received$", '{"max-length": 1}', "--apply-to", "queues")
    try:
        with pytest.raises(Unavailable):
            for _ in range(200):  # a quorum queue refuses a little late
                await publish(broker, timeout=1)
    finally:
        rabbit.ctl("clear_policy", "full")
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                await publish(broker, timeout=2)
                return


async def test_what_cannot_be_handed_on_during_an_alarm_is_handed_back_and_comes_again(
    broker: RabbitBroker, rabbit: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.rabbitmq._SETTLE_SECONDS", 1.0)
    hands = Hands()
    consumer = await broker.consume(topics.BROADCAST_RECEIVED, 2, hands)
    await publish(broker, b"1")
    await publish(broker, b"2")
    held = [await hands.next(), await hands.next()]
    rabbit.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        async with asyncio.timeout(20):
            while True:  # the alarm takes a moment to reach the connection
                try:
                    await publish(broker, timeout=1)
                except Unavailable:
                    break
        results = await asyncio.gather(held[0].retry(1), held[1].park("why"), return_exceptions=True)
        assert {type(result) for result in results} == {Unavailable}
        again = {(await hands.next()).message.body, (await hands.next()).message.body}
        assert again == {b"1", b"2"}
        assert consumer.alive
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.6")


async def test_a_broker_paused_until_the_heartbeat_gives_up_is_connected_again_by_itself(
    broker: RabbitBroker, rabbit: Node
) -> None:
    hands = Hands()
    consumer = await broker.consume(topics.BROADCAST_RECEIVED, 10, hands)
    await until(lambda: consumer.alive, 10)
    rabbit.pause()
    try:
        await until(lambda: broker.problem is not None, 40)
    finally:
        rabbit.resume()
    await until(lambda: broker.problem is None and consumer.alive, 40)
    await publish(broker, b"after")
    while (await hands.next()).message.body != b"after":
        pass


async def test_what_the_broker_itself_dead_lettered_says_where_it_came_from_also_after_a_delay(
    broker: RabbitBroker, rabbit: Node
) -> None:
    await publish(broker, b"rejected")
    async with plain_channel(rabbit) as channel:
        queue = await channel.get_queue(topics.BROADCAST_RECEIVED)
        await (await queue.get()).reject(requeue=False)
    hands = Hands()
    await broker.consume(topics.DEAD_LETTERS, 10, hands)
    delivery = await hands.next()
    story = {REASON: "broker_rejected", ORIGIN_QUEUE: topics.BROADCAST_RECEIVED, ORIGIN_KEY: "A.AVAILABLE.acme"}
    assert story.items() <= delivery.message.headers.items()
    await delivery.ack()
    await publish(broker, b"unreadable", key="UNREADABLE.NONE.acme")
    await (await hands.next()).retry(1)
    again = await hands.next()
    assert REASON not in again.message.headers
    assert again.message.routing_key == "UNREADABLE.NONE.acme"
    await again.ack()


async def test_a_header_that_makes_no_sense_stops_nobody(broker: RabbitBroker, rabbit: Node) -> None:
    hands = Hands()
    await broker.consume(topics.BROADCAST_RECEIVED, 1, hands)
    async with plain_channel(rabbit) as channel:
        exchange = await channel.get_exchange(topics.WEBHOOKS)
        for value in ("inf", "nan", "-1", "1e300", "9" * 400):
            headers: dict[str, FieldValue] = {"receiver-retry-attempts": value, "receiver-retry-due": value}
            await exchange.publish(aio_pika.Message(b"{}", headers=headers), "A.AVAILABLE.acme")
    for _ in range(5):
        delivery = await hands.next()
        assert delivery.attempts == 0
        await delivery.ack()


async def test_started_without_a_broker_and_killed_later_it_connects_publishes_and_consumes_by_itself(
    mortal_rabbit: Node,
) -> None:
    await asyncio.to_thread(mortal_rabbit.kill)
    broker = RabbitBroker([mortal_rabbit.url], topology())
    hands = Hands()
    try:
        consumer = await broker.consume(topics.BROADCAST_RECEIVED, 10, hands)
        with pytest.raises(Unavailable):
            await publish(broker, timeout=0.5)
        assert broker.problem
        await asyncio.to_thread(mortal_rabbit.start)
        await until(lambda: broker.problem is None, 30)
        await publish(broker, b"before")
        await (await hands.next()).ack()
        await publish(broker, b"in hand")
        await hands.next()
        await asyncio.to_thread(mortal_rabbit.kill)
        await until(lambda: broker.problem is not None, 5)
        with pytest.raises(Unavailable):
            await publish(broker, timeout=0.5)
        await asyncio.to_thread(mortal_rabbit.start)
        await until(lambda: broker.problem is None, 30)
        await publish(broker, b"after", timeout=10)
        assert {(await hands.next(30)).message.body for _ in range(2)} == {b"in hand", b"after"}
        assert consumer.alive
    finally:
        await broker.close()


async def test_a_link_that_is_closed_at_any_moment_leaves_nothing_running(rabbit: Node) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    for step in range(12):
        broker = RabbitBroker([rabbit.url], topology())
        await asyncio.sleep(0.01 * step)
        await broker.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints


async def test_the_next_address_is_tried_when_one_does_not_answer(rabbit: Node) -> None:
    broker = RabbitBroker(["amqp://guest:guest@127.0.0.1:1/", rabbit.url], topology())
    try:
        await until(lambda: broker.problem is None, 10)
        await publish(broker)
    finally:
        await broker.close()
