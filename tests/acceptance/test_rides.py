"""The promises, shown with real processes, a real broker and real HTTP; VectorCare's own record is the judge."""

import asyncio
import contextlib
import functools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest

from sandbox.server import Options, Sandbox
from shared import topics
from shared.broker import Binding, Broker, Delivery, Message
from shared.signature import parse_public_key, verify
from tests import witness
from tests.brokers import embedded, emptied, rabbitmq, until
from tests.processes import Home, Process

REQUESTS = 200
SOON = (0.0, 1.0, 3.0)  # VectorCare's attempts, sooner than its 8 and 64 s


class Subscriber:
    """An independent subscriber: every outcome and every raw webhook, in the order in which they came. Whatever it
    hears must be as it is published."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.webhooks: list[Message] = []

    def hear(self, exchange: str, message: Message) -> None:
        """One more message of one of our exchanges."""
        witness.message(exchange, message)
        if exchange == topics.WEBHOOKS:
            self.webhooks.append(message)
        elif message.routing_key.startswith("assignment."):
            self.outcomes.append(orjson.loads(message.body))

    def states(self) -> dict[tuple[str, str], list[str]]:
        """What was told of each (customer, request); repeats of one revision count once."""
        told: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        for outcome in self.outcomes:
            told[outcome["customer_id"], outcome["service_request_id"]][outcome["revision"]] = outcome["state"]
        return {each: list(states.values()) for each, states in told.items()}

    def assigned(self) -> int:
        """How many were told as assigned in the end."""
        return sum(states[-1] == "assigned" for states in self.states().values())


@contextlib.asynccontextmanager
async def subscribed(broker: Broker) -> AsyncIterator[Subscriber]:
    """Follow both exchanges of an embedded broker from outside the receiver's process."""
    subscriber = Subscriber()

    async def follow() -> None:
        async for message in broker.tail(tuple(Binding(exchange, "#") for exchange in topics.topology().exchanges)):
            if message.routing_key == "probe":
                bound.set()
            else:
                subscriber.hear(exchange_of(message.routing_key), message)

    bound = asyncio.Event()
    task = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(10):
            while not bound.is_set():  # until the tail is bound, it misses what is published
                await broker.publish(topics.OUTCOMES, Message("probe", {}, b""), mandatory=False, timeout=5)
                await asyncio.sleep(0.02)
        yield subscriber
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def subscribed_by_amqp(url: str) -> AsyncIterator[Subscriber]:
    """The same with plain aio-pika: nothing of the product is between RabbitMQ and the subscriber."""
    subscriber = Subscriber()

    async def hear(incoming: aio_pika.abc.AbstractIncomingMessage) -> None:
        headers = {name: str(value) for name, value in incoming.headers.items()}
        subscriber.hear(incoming.exchange or "", Message(incoming.routing_key or "", headers, incoming.body))

    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for exchange in topics.topology().exchanges:
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "#")
            await queue.consume(hear, no_ack=True)
        yield subscriber


def exchange_of(key: str) -> str:
    """Where a message of this key was published: a tail does not say."""
    if key.startswith(("assignment.", "command.")):
        return topics.OUTCOMES
    return topics.WEBHOOKS if key.count(".") == 2 else topics.COMMANDS


async def broadcast(sandbox: Sandbox, count: int, *receivers: str, pause: float = 0.005) -> list[str]:
    """So many service requests, one after the other."""
    requests = []
    for _ in range(count):
        requests.append(sandbox.create_request("bls"))
        await sandbox.broadcast(requests[-1], receivers)
        await asyncio.sleep(pause)
    return requests


def taken(sandbox: Sandbox) -> Counter[tuple[str, str]]:
    """How often each (customer, request) was accepted, by VectorCare's record."""
    return Counter(
        (call.receiver, call.request_id) for call in sandbox.record.calls("accept") if call.answer_status == 201
    )


def assert_each_became_one_trip(sandbox: Sandbox, subscriber: Subscriber, requests: list[str]) -> None:
    """Accepted exactly once, told as accepting and then assigned, and the bytes on the topic are the signed ones."""
    each = {("acme", request) for request in requests}
    assert taken(sandbox) == Counter(dict.fromkeys(each, 1))
    assert subscriber.states() == {one: ["accepting", "assigned"] for one in each}
    key = parse_public_key(sandbox.receivers["acme"].public_key_pem.encode())
    for message in subscriber.webhooks:
        assert verify("acme", [key], message.body, message.headers["ce-signature"])
    assert {message.headers["ce-subject"] for message in subscriber.webhooks} == set(requests)


async def test_200_broadcasts_become_200_trips_on_rabbitmq_with_every_role_a_process(
    tmp_path: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    async with Sandbox(Options(seed=1)) as sandbox, contextlib.AsyncExitStack() as stack:
        home = Home(tmp_path, sandbox, broker=amqp_url)
        home.customer("acme")
        ingress = await stack.enter_async_context(Process(home, "ingress"))
        workers = [
            await stack.enter_async_context(Process(home, "worker", role))
            for role in ("broadcast-received", "broadcast-accepted", "lifecycle")
        ]
        await ingress.ready()
        for worker in workers:
            await worker.logged("started")
        async with subscribed_by_amqp(amqp_url) as subscriber:
            requests = await broadcast(sandbox, REQUESTS, "acme")
            await until(lambda: subscriber.assigned() == REQUESTS, 60)
        assert_each_became_one_trip(sandbox, subscriber, requests)
        assert [await process.terminate() for process in (ingress, *workers)] == [0, 0, 0, 0]


async def test_200_broadcasts_become_200_trips_in_one_process_on_sqlite(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=2)) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                requests = await broadcast(sandbox, REQUESTS, "acme")
                await until(lambda: subscriber.assigned() == REQUESTS, 60)
            assert_each_became_one_trip(sandbox, subscriber, requests)
            assert await process.terminate() == 0


async def test_two_customers_with_the_same_request_are_strangers_to_each_other(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=3)) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", token="for-acme")
        home.customer("birch", token="for-birch")
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                requests = await broadcast(sandbox, 30, "acme", "birch")
                await sandbox.idle(30)
                await until(lambda: len(subscriber.states()) == 60, 30)
                await until(lambda: subscriber.assigned() == 30, 30)
                for request in requests:
                    winner = sandbox.requests[request].assigned_to
                    loser = "birch" if winner == "acme" else "acme"
                    assert winner
                    assert subscriber.states()[winner, request] == ["accepting", "assigned"]
                    assert subscriber.states()[loser, request] in (["lost"], ["closed"])
                before = len(subscriber.webhooks)
                body = sandbox.record.webhooks()[0].body
                foreign = await sandbox.send("acme", body, url=home.webhook("birch", "for-birch"))
                without = await sandbox.send("acme", body, url=home.webhook("acme"))
                assert (foreign.status, without.status) == (401, 401)
                assert len(subscriber.webhooks) == before


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
async def test_an_unsigned_message_put_straight_into_a_queue_is_parked_and_not_acted_on(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url = "sqlite:receiver.db"
    if kind == "rabbitmq":
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
    async with Sandbox(Options(seed=4)) as sandbox:
        home = Home(tmp_path, sandbox, broker=url)
        home.customer("acme")
        async with Process(home, "run") as process:
            await process.ready()
            body = orjson.dumps(
                {
                    "event_id": "f" * 32,
                    "event_timestamp": "2026-11-23T12:00:00.000Z",
                    "service_request_id": "VC-FORGED",
                    "request_status": "AVAILABLE",
                    "action": "BROADCAST_RECEIVED",
                    "data": {},
                }
            )
            headers = {
                "ce-specversion": "1.0",
                "ce-id": "f" * 32,
                "ce-type": "com.vectorcare.openapi.v2.BROADCAST_RECEIVED",
                "ce-source": "/customers/acme",
                "ce-subject": "VC-FORGED",
                "ce-time": "2026-11-23T12:00:00.000Z",
                "ce-customerid": "acme",
                "ce-receivedtime": "2026-11-23T12:00:00.500Z",
                "ce-action": "BROADCAST_RECEIVED",
                "ce-requeststatus": "AVAILABLE",
            }
            open_broker = rabbitmq(url) if kind == "rabbitmq" else embedded(tmp_path / "receiver.db")
            async with open_broker() as broker, subscribed(broker) as subscriber:
                for signature in ("none", sandbox.sign("acme", b"another body")):
                    forged = Message("BROADCAST_RECEIVED.AVAILABLE.acme", headers | {"ce-signature": signature}, body)
                    await broker.publish(topics.WEBHOOKS, forged, mandatory=True, timeout=5)
                await until(lambda: process.log.read_text().count('"note":"parked"') == 2, 10)
                assert not sandbox.record.calls("accept")
                assert not subscriber.outcomes
            assert '"reason":"bad_signature"' in process.log.read_text()


async def test_one_event_ten_times_at_once_and_again_after_a_restart_is_one_accept_call(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=5)) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        async with Process(home, "run") as process:
            await process.ready()
            await broadcast(sandbox, 1, "acme")
            await sandbox.idle(10)
            offer = next(attempt for attempt in sandbox.record.webhooks() if attempt.status == "AVAILABLE")
            fresh = orjson.dumps({**orjson.loads(offer.body), "service_request_id": sandbox.create_request("bls")})
            request = orjson.loads(fresh)["service_request_id"]
            answers = await asyncio.gather(*(sandbox.send("acme", fresh) for _ in range(10)))
            assert {answer.status for answer in answers} == {202}
            await until(lambda: _calls(sandbox, request) > 0, 10)
            await until(lambda: process.log.read_text().count(request) >= 20, 10)
            await process.terminate()
        async with Process(home, "run") as process:
            await process.ready()
            for _ in range(3):
                assert (await sandbox.send("acme", fresh)).status == 202
            await until(lambda: process.log.read_text().count('"event":"event_handled"') >= 13, 10)
        assert _calls(sandbox, request) == 1


def _calls(sandbox: Sandbox, request: str) -> int:
    return sum(call.request_id == request for call in sandbox.record.calls("accept"))


def _keep(subscriber: Subscriber, acks: set[asyncio.Task[None]], delivery: Delivery) -> None:
    subscriber.hear(topics.OUTCOMES, delivery.message)
    acks.add(asyncio.create_task(delivery.ack()))


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
async def test_stopped_in_the_middle_of_200_broadcasts_nothing_is_lost_or_accepted_twice(
    tmp_path: Path, request: pytest.FixtureRequest, broker: str, how: str
) -> None:
    url = "sqlite:receiver.db"
    if broker == "rabbitmq":
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
    async with Sandbox(Options(seed=6, attempt_delays=(0.0, 2.0, 6.0, 6.0))) as sandbox:
        home = Home(tmp_path, sandbox, broker=url)
        home.customer("acme")
        home.write('[[subscriptions]]\nname = "dispatch"\npattern = "assignment.#"\n')
        async with Process(home, "run") as process:
            await process.ready()
            sending = asyncio.create_task(broadcast(sandbox, REQUESTS, "acme"))
            await until(lambda: len(sandbox.record.calls("accept")) > REQUESTS // 4, 30)
            if how == "SIGTERM":
                assert await process.terminate() == 0
            else:
                await process.kill()
        async with Process(home, "run") as process:
            await process.ready()
            open_broker = rabbitmq(url) if broker == "rabbitmq" else embedded(tmp_path / "receiver.db")
            subscriber = Subscriber()
            acks: set[asyncio.Task[None]] = set()
            async with open_broker() as watched:
                await watched.consume("dispatch", 100, functools.partial(_keep, subscriber, acks))
                requests = await sending
                await until(lambda: len(taken(sandbox)) == REQUESTS, 60)
                await sandbox.idle(60)
                await until(lambda: subscriber.assigned() == REQUESTS, 60)
                await asyncio.gather(*acks)
            assert set(map(tuple, subscriber.states().values())) == {("accepting", "assigned")}
        assert taken(sandbox) == Counter({("acme", each): 1 for each in requests})
        by_event = {attempt.event_id: False for attempt in sandbox.record.webhooks()}
        for attempt in sandbox.record.webhooks():
            by_event[attempt.event_id] |= attempt.response_code == 202
        assert all(by_event.values())
        assert "unexpected_error" not in process.log.read_text()
        assert '"settled":"park"' not in process.log.read_text()
