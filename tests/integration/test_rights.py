"""The rights that k8s/base/rabbitmq gives, on a real RabbitMQ: enough for the work of each user, and no more."""

import asyncio
import base64
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aio_pika
import orjson
import pytest
import yaml
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused

from shared import topics
from shared.rabbitmq import RabbitBroker
from shared.topics import topology
from tests.brokers import Hands, message, until
from tests.rabbit_node import Node

OBJECTS: Final = Path(__file__).parents[2] / "k8s/base/rabbitmq"
VHOST: Final = "vectorcare"


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    for file in sorted(OBJECTS.glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        if content["kind"] == kind:
            yield content["spec"] | {"called": content["metadata"]["name"]}


def address(node: Node, user: str) -> str:
    return node.url.replace("guest:guest", f"{user}:secret").rstrip("/") + f"/{VHOST}"


@pytest.fixture(scope="module")
def secured(rabbit: Node) -> Node:
    """A node with the vhost, exchanges, users, permissions and policies of the manifests."""
    rabbit.ctl("add_vhost", VHOST)
    rabbit.ctl("set_permissions", "-p", VHOST, "guest", ".*", ".*", ".*")
    for exchange in of_kind("Exchange"):
        url = f"{rabbit.management_url}/api/exchanges/{VHOST}/{exchange['name']}"
        body = orjson.dumps({"type": exchange["type"], "durable": exchange["durable"]})
        asked(url, "guest:guest", body, method="PUT")
    for user in of_kind("User"):
        rabbit.ctl("add_user", user["called"], "secret")
        rabbit.ctl("set_user_tags", user["called"], *user.get("tags", ()))
    for right in of_kind("Permission"):
        rights = [right["permissions"][each] for each in ("configure", "write", "read")]
        rabbit.ctl("set_permissions", "-p", VHOST, right["userReference"]["name"], *rights)
    for right in of_kind("TopicPermission"):
        rights = [right["permissions"][each] for each in ("exchange", "write", "read")]
        rabbit.ctl("set_topic_permissions", "-p", VHOST, right["userReference"]["name"], *rights)
    unknown = {"consumer-timeout"} if rabbit.ctl("version").startswith("3.10.") else set()
    for policy in of_kind("Policy"):
        definition = {name: value for name, value in policy["definition"].items() if name not in unknown}
        options = ["--priority", str(policy["priority"]), "--apply-to", policy["applyTo"]]
        content = orjson.dumps(definition).decode()
        rabbit.ctl("set_policy", "-p", VHOST, *options, policy["name"], policy["pattern"], content)
    return rabbit


@pytest.fixture
async def worker(secured: Node) -> AsyncIterator[RabbitBroker]:
    """A connected broker port as the workers' user, which has declared everything."""
    subscriptions = (("dispatch.acme", "assignment.*.acme"),)
    broker = RabbitBroker([address(secured, "receiver-worker")], topology(subscriptions))
    await until(lambda: broker.problem is None, 10)
    yield broker
    await broker.close()


@pytest.fixture
async def ingress(secured: Node, worker: RabbitBroker) -> AsyncIterator[RabbitBroker]:
    """A connected broker port as the ingress' user, which makes sure of the topology too."""
    broker = RabbitBroker([address(secured, "receiver-ingress")], topology())
    await until(lambda: broker.problem is None, 10)
    yield broker
    await broker.close()


async def test_each_user_can_do_its_work(ingress: RabbitBroker, worker: RabbitBroker) -> None:
    hands = Hands()
    consumer = await worker.consume(topics.LIFECYCLE, 10, hands)
    webhook = message("BROADCAST_CANCELED.UNAVAILABLE.acme")
    await ingress.publish(topics.WEBHOOKS, webhook, mandatory=True, timeout=5)
    await ingress.publish(topics.WEBHOOKS, message("UNREADABLE.NONE.acme"), mandatory=True, timeout=5)
    await (await hands.next()).retry(0.5)
    await (await hands.next()).park("tried")
    parked = Hands()
    inbox = await worker.consume(topics.DEAD_LETTERS, 10, parked)
    for _ in range(2):
        await (await parked.next()).ack()
    outcome = message("assignment.assigned.acme")
    await worker.publish(topics.OUTCOMES, outcome, mandatory=True, timeout=5)
    await consumer.cancel()
    await inbox.cancel()


async def refused(channel: AbstractChannel, exchange: str, key: str) -> bool:
    """Whether the broker refuses such a publish."""
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    try:
        async with asyncio.timeout(5):
            await target.publish(aio_pika.Message(b"{}"), key)
    except ChannelAccessRefused:
        return True
    return False


@pytest.mark.parametrize(
    ("user", "exchange", "key"),
    [
        pytest.param("receiver-ingress", "", topics.LIFECYCLE, id="the ingress past the exchange"),
        pytest.param("receiver-ingress", topics.OUTCOMES, "assignment.assigned.acme", id="the ingress an outcome"),
        pytest.param("receiver-ingress", topics.WEBHOOKS, "A.SOMETHING.acme", id="the ingress another status"),
        pytest.param("receiver-worker", topics.WEBHOOKS, "A.AVAILABLE.acme", id="a worker a webhook"),
        pytest.param("receiver-worker", topics.OUTCOMES, "A.AVAILABLE.acme", id="a worker a foreign key"),
        pytest.param("receiver-keda", topics.OUTCOMES, "assignment.assigned.acme", id="keda anything"),
    ],
)
async def test_nobody_may_write_what_is_not_theirs(
    secured: Node, worker: RabbitBroker, user: str, exchange: str, key: str
) -> None:
    async with await aio_pika.connect(address(secured, user)) as connection:
        assert await refused(await connection.channel(), exchange, key)


@pytest.mark.parametrize("user", ["receiver-ingress", "receiver-keda"])
async def test_nobody_but_workers_may_read_a_webhook(secured: Node, worker: RabbitBroker, user: str) -> None:
    async with await aio_pika.connect(address(secured, user)) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topics.BROADCAST_RECEIVED, ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await queue.get(fail=False)


def asked(url: str, user: str, body: bytes | None = None, method: str | None = None) -> Any:
    """What the management API answers a user with its password."""
    headers = {
        "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
        "Content-Type": "application/json",
    }
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=5) as answer:
        return orjson.loads(answer.read() or b"null")


async def test_keda_sees_how_deep_a_queue_is_and_no_message(secured: Node, worker: RabbitBroker) -> None:
    url = f"{secured.management_url}/api/queues/{VHOST}/{topics.BROADCAST_RECEIVED}"
    queue = await asyncio.to_thread(asked, url, "receiver-keda:secret")
    assert queue["name"] == topics.BROADCAST_RECEIVED
    policies = secured.ctl("list_queues", "-p", VHOST, "-q", "name", "policy")
    assert f"{topics.BROADCAST_RECEIVED}\tworker-queues" in policies
    body = orjson.dumps({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"})
    with pytest.raises(urllib.error.HTTPError):
        await asyncio.to_thread(asked, f"{url}/get", "receiver-keda:secret", body)
