"""What both brokers promise: one suite, run on RabbitMQ and on the embedded broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from shared import topics
from shared.broker import Binding, Broker
from shared.errors import Unroutable
from shared.parking import ATTEMPTS, FIRST_FAILED_AT, ORIGIN_KEY, ORIGIN_QUEUE, PARKED_AT, REASON
from tests.brokers import Hands, OpenBroker, embedded, emptied, message, rabbitmq

OFFERS = topics.BROADCAST_RECEIVED


@pytest.fixture(params=["embedded", "rabbitmq"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBroker:
    if request.param == "embedded":
        return embedded(tmp_path / "broker.db")
    url: str = request.getfixturevalue("amqp_url")
    await emptied(url)
    return rabbitmq(url)


@pytest.fixture
async def broker(opened: OpenBroker) -> AsyncIterator[Broker]:
    async with opened() as each:
        yield each


async def publish(broker: Broker, key: str, body: bytes = b"{}", exchange: str = topics.WEBHOOKS) -> None:
    await broker.publish(exchange, message(key, body), mandatory=True, timeout=5)


@pytest.mark.parametrize(
    ("key", "queue"),
    [
        pytest.param("BROADCAST_RECEIVED.AVAILABLE.acme", topics.BROADCAST_RECEIVED, id="an offer"),
        pytest.param("SOMETHING_NEW.AVAILABLE.acme", topics.BROADCAST_RECEIVED, id="an offer by an unknown action"),
        pytest.param("BROADCAST_ACCEPTED.ASSIGNED.acme", topics.BROADCAST_ACCEPTED, id="a trip"),
        pytest.param("BROADCAST_EXPIRED.UNAVAILABLE.acme", topics.LIFECYCLE, id="an end"),
        pytest.param("DONE.COMPLETED.acme", topics.LIFECYCLE, id="a completion"),
        pytest.param("WHATEVER.OTHER.acme", topics.LIFECYCLE, id="an unknown status"),
        pytest.param("UNREADABLE.NONE.acme", topics.DEAD_LETTERS, id="an unreadable body"),
    ],
)
async def test_each_webhook_reaches_exactly_one_of_our_queues(broker: Broker, key: str, queue: str) -> None:
    hands = {name.name: Hands() for name in topics.topology().queues}
    for name, each in hands.items():
        await broker.consume(name, 10, each)
    await publish(broker, key)
    delivery = await hands[queue].next()
    assert (delivery.queue, delivery.message.routing_key) == (queue, key)
    others = [each for name, each in hands.items() if name != queue]
    assert all(await asyncio.gather(*(each.nothing(0.3) for each in others)))


async def test_the_exact_bytes_and_headers_travel(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 10, hands)
    body = b'{"a" : "\xc3\xa9" ,\n"a":2}' + bytes(range(256)) * 4000
    headers = {"ce-signature": "x" * 700, "ce-action": "a.b#c"}
    await broker.publish(topics.WEBHOOKS, message("A.AVAILABLE.acme", body, **headers), mandatory=True, timeout=5)
    delivery = await hands.next()
    assert delivery.message.body == body
    assert dict(delivery.message.headers) == {"ce-id": "1", **headers}


async def test_a_mandatory_message_that_no_queue_takes_is_refused(broker: Broker) -> None:
    with pytest.raises(Unroutable):
        await publish(broker, "no.such.status.acme")


async def test_an_outcome_that_nobody_subscribes_to_is_no_error(broker: Broker) -> None:
    await broker.publish(topics.OUTCOMES, message("nobody.listens"), mandatory=False, timeout=5)


async def test_a_declared_subscription_holds_what_matches_it_before_anybody_consumes(broker: Broker) -> None:
    await publish(broker, "assignment.assigned.acme", b"1", topics.OUTCOMES)
    await publish(broker, "assignment.assigned.birch", b"2", topics.OUTCOMES)
    every, mine = Hands(), Hands()
    await broker.consume("dispatch", 10, every)
    await broker.consume("assigned-acme", 10, mine)
    assert [(await every.next()).message.body, (await every.next()).message.body] == [b"1", b"2"]
    assert (await mine.next()).message.body == b"1"
    assert await mine.nothing(0.2)


async def test_an_acknowledged_message_never_comes_again_and_the_others_do(opened: OpenBroker) -> None:
    async with opened() as broker:
        hands = Hands()
        await broker.consume(OFFERS, 10, hands)
        await publish(broker, "A.AVAILABLE.acme", b"acknowledged")
        await (await hands.next()).ack()
        await publish(broker, "A.AVAILABLE.acme", b"in hand when the consumer died")
        await hands.next()
    async with opened() as broker:
        hands = Hands()
        await broker.consume(OFFERS, 10, hands)
        assert (await hands.next()).message.body == b"in hand when the consumer died"
        assert await hands.nothing(0.3)


async def test_a_retried_message_comes_again_not_earlier_with_its_attempts_counted(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 10, hands)
    await publish(broker, "A.AVAILABLE.acme", b"body")
    delivery = await hands.next()
    assert delivery.attempts == 0
    for attempts, counted in ((1, True), (1, False), (2, True)):
        began = time.monotonic()
        await delivery.retry(1.2, counted=counted)
        delivery = await hands.next()
        assert time.monotonic() - began >= 1.2
        assert delivery.attempts == attempts
        assert delivery.message == message("A.AVAILABLE.acme", b"body")
    await delivery.ack()
    assert await hands.nothing(0.3)


async def test_a_delivery_handed_straight_back_comes_again_uncounted(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 10, hands)
    await publish(broker, "A.AVAILABLE.acme")
    await (await hands.next()).retry(0, counted=False)
    assert (await hands.next()).attempts == 0


async def test_a_parked_message_lies_in_the_dead_letters_with_its_story(broker: Broker) -> None:
    hands, parked = Hands(), Hands()
    await broker.consume(OFFERS, 10, hands)
    await publish(broker, "A.AVAILABLE.acme", b"body")
    await (await hands.next()).retry(0.01)
    await (await hands.next()).park("bad_signature")
    await broker.consume(topics.DEAD_LETTERS, 10, parked)
    delivery = await parked.next()
    assert delivery.message.body == b"body"
    assert delivery.message.routing_key == "A.AVAILABLE.acme"
    assert delivery.attempts == 0
    story = {name: delivery.message.headers[name] for name in (REASON, ORIGIN_QUEUE, ORIGIN_KEY, ATTEMPTS, "ce-id")}
    assert story == {
        REASON: "bad_signature",
        ORIGIN_QUEUE: OFFERS,
        ORIGIN_KEY: "A.AVAILABLE.acme",
        ATTEMPTS: "1",
        "ce-id": "1",
    }


async def test_a_parked_message_says_when_it_failed_first_however_often_it_was_tried_since(broker: Broker) -> None:
    hands, parked = Hands(), Hands()
    await broker.consume(OFFERS, 10, hands)
    await publish(broker, "A.AVAILABLE.acme")
    await (await hands.next()).retry(1.1, counted=False)  # which is no failure
    delivery = await hands.next()
    began = time.time()
    for counted in (True, True, False):
        await delivery.retry(0.01, counted=counted)
        delivery = await hands.next()
    await delivery.park("why")
    await broker.consume(topics.DEAD_LETTERS, 10, parked)
    headers = (await parked.next()).message.headers
    first, last = (datetime.fromisoformat(headers[name]).timestamp() for name in (FIRST_FAILED_AT, PARKED_AT))
    assert abs(first - began) < 1
    assert last > first


async def test_what_is_put_into_a_queue_comes_from_there_alone_as_if_it_were_new(broker: Broker) -> None:
    offers, tail = Hands(), Hands()
    await broker.consume(OFFERS, 10, offers)
    await broker.consume(topics.LIFECYCLE, 10, tail)
    again = message("A.AVAILABLE.acme", b"again", more="1")
    await broker.put(topics.LIFECYCLE, again, timeout=5)
    delivery = await tail.next()
    assert (delivery.message, delivery.queue, delivery.attempts) == (again, topics.LIFECYCLE, 0)
    assert await offers.nothing(0.2)
    await delivery.retry(0.01)
    assert (await tail.next()).message == again


async def test_what_is_put_into_a_queue_that_is_not_there_is_refused(broker: Broker) -> None:
    with pytest.raises(Unroutable):
        await broker.put("no.such.queue", message(), timeout=5)


async def test_what_a_closed_consumer_held_comes_again_to_the_next_one(broker: Broker) -> None:
    first, second = Hands(), Hands()
    consumer = await broker.consume(OFFERS, 10, first)
    await publish(broker, "A.AVAILABLE.acme", b"held")
    await first.next()
    await consumer.close()
    assert not consumer.alive
    await broker.consume(OFFERS, 10, second)
    assert (await second.next()).message.body == b"held"
    assert await first.nothing(0.1)


async def test_no_more_than_the_prefetch_is_in_hand(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 3, hands)
    for number in range(5):
        await publish(broker, "A.AVAILABLE.acme", str(number).encode())
    held = [await hands.next() for _ in range(3)]
    assert await hands.nothing(0.3)
    await held[0].ack()
    await hands.next()
    assert await hands.nothing(0.2)


async def test_after_cancel_nothing_comes_and_what_is_in_hand_can_be_settled(opened: OpenBroker) -> None:
    async with opened() as broker:
        hands = Hands()
        consumer = await broker.consume(OFFERS, 10, hands)
        await publish(broker, "A.AVAILABLE.acme", b"in hand")
        delivery = await hands.next()
        await consumer.cancel()
        assert not consumer.alive
        await publish(broker, "A.AVAILABLE.acme", b"later")
        assert await hands.nothing(0.3)
        await delivery.ack()
    async with opened() as broker:
        hands = Hands()
        await broker.consume(OFFERS, 10, hands)
        assert (await hands.next()).message.body == b"later"
        assert await hands.nothing(0.3)


async def test_a_tail_sees_what_is_published_from_now_on_and_takes_it_from_nobody(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 10, hands)
    await publish(broker, "A.AVAILABLE.acme", b"before")
    await (await hands.next()).ack()
    tail = broker.tail((Binding(topics.WEBHOOKS, "*.AVAILABLE.acme"),))
    seen = asyncio.ensure_future(anext(tail))
    async with asyncio.timeout(10):
        while not seen.done():  # until the tail is bound, it misses what is published
            await publish(broker, "A.AVAILABLE.acme", b"after")
            await (await hands.next()).ack()
            await asyncio.wait([seen], timeout=0.05)
    assert (await seen).body == b"after"
    await tail.aclose()


async def test_a_hundred_publishers_at_once_all_get_their_confirm(broker: Broker) -> None:
    hands = Hands()
    await broker.consume(OFFERS, 200, hands)
    bodies = [str(number).encode() for number in range(100)]
    await asyncio.gather(*(publish(broker, "A.AVAILABLE.acme", body) for body in bodies))
    assert sorted([(await hands.next()).message.body for _ in bodies]) == sorted(bodies)
