"""The doors on a real store, broker and HTTP: pushes, the cursor, who may see what, notices."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from sqlalchemy import insert, select, update

from shared.broker import Message
from shared.database import Database
from shared.engine import Engine
from shared.postgresql import PostgreSQL
from shared.sealing import Sealer
from shared.settings import Subscription
from tests import witness
from tests.brokers import embedded, until
from tests.hooks import hook, takes
from tests.mail import office, told_to
from tests.schemas import document
from worker import app as workers
from worker import client_api, told
from worker.acknowledging import Missing
from worker.client_api import Door
from worker.notify import Notifier
from worker.outbox import Outbox
from worker.parked import Wanted, found
from worker.push import GIVE_UP, Pusher, delay, push_again, signature
from worker.tables import outbox, parked, pushes
from worker.told import Log

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
TOKENS = {"acme": "the-token-of-acme-s-cad", "birch": "the-token-of-birch-s-cad"}


def outcome(customer: str, request: str, revision: int) -> Message:
    """An outcome as the core writes it."""
    body = document("assignment-1")["examples"][0] | {
        "id": f"{customer}/{request}/{revision}",
        "customer_id": customer,
        "service_request_id": request,
        "revision": revision,
    }
    headers = {
        "ce-specversion": "1.0",
        "ce-id": body["id"],
        "ce-type": "com.vectorcare.receiver.assignment.assigned",
        "ce-source": f"/customers/{customer}",
        "ce-subject": request,
        "ce-time": body["occurred_at"],
        "ce-customerid": customer,
    }
    return Message(f"assignment.assigned.{customer}", headers, orjson.dumps(body))


@dataclass
class House:
    """A store, a broker, an outbox that publishes into it."""

    store: Database
    outbox: Outbox
    log: Log
    broker: Any

    async def tell(self, *messages: Message) -> None:
        """Commit outcomes and have them told."""
        rows = [
            {
                "customer_id": message.headers["ce-customerid"],
                "service_request_id": message.headers["ce-subject"],
                "routing_key": message.routing_key,
                "headers": dict(message.headers),
                "body": Sealer().seal(message.body),
                "claimed_until": 0.0,
            }
            for message in messages
        ]
        await self.store.transact(lambda connection, _: connection.execute(insert(outbox), rows))
        self.outbox.publish_soon()


@contextlib.asynccontextmanager
async def house(
    folder: Path, subscriptions: Sequence[Subscription], store: Database | None = None
) -> AsyncIterator[House]:
    store = store or Engine(folder / "store.db")
    await workers.migrate(store)
    async with embedded(folder / "broker.db")() as broker:
        publisher = Outbox(store, broker, Sealer(), subscriptions)
        try:
            yield House(store, publisher, Log(store, Sealer()), broker)
        finally:
            await publisher.stop(5)
    await store.close()


def pushed(url: str, name: str = "cad", **more: Any) -> Subscription:
    return Subscription.model_validate({"name": name, "url": url, "secret": SECRET, **more})


async def test_a_push_is_the_message_itself_signed_after_standard_webhooks(tmp_path: Path) -> None:
    async with hook(takes) as cad:
        mine = pushed(cad.url, customers=["acme"])
        async with house(tmp_path, [mine]) as at:
            pusher = Pusher(mine, at.store, at.log, at.outbox.told)
            message = outcome("acme", "VC-1", 1)
            await at.tell(message, outcome("birch", "VC-1", 1))
            await until(lambda: len(cad.taken) == 1, 10)
            await at.tell(outcome("acme", "VC-2", 1))
            await until(lambda: len(cad.taken) == 2, 10)
            await pusher.stop()
        headers, body = cad.asked[0]
        assert body == message.body
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert cad.taken == ["acme/VC-1/1", "acme/VC-2/1"]


async def test_any_id_of_a_command_travels_in_a_push_s_headers_as_cloudevents_says(tmp_path: Path) -> None:
    told = document("command-result-1")["examples"][0] | {"id": '100%20 "sure" '}
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"acme/command/{told['id']}",
        "ce-type": "com.vectorcare.receiver.command.refused",
        "ce-source": "/customers/acme",
        "ce-subject": told["service_request_id"],
        "ce-time": told["occurred_at"],
        "ce-customerid": "acme",
    }
    async with hook(takes) as cad:
        mine = pushed(cad.url)
        async with house(tmp_path, [mine]) as at:
            pusher = Pusher(mine, at.store, at.log, at.outbox.told)
            await at.tell(Message("command.refused.acme", headers, orjson.dumps(told)))
            await until(lambda: len(cad.asked) == 1, 10)
            await pusher.stop()
    sent, body = cad.asked[0]
    assert sent["ce-id"] == "acme/command/100%2520%20%22sure%22%20"
    assert sent["webhook-signature"] == signature(
        mine.key or b"", sent["webhook-id"], int(sent["webhook-timestamp"]), body
    )


async def test_a_refused_event_holds_back_its_request_and_no_other(tmp_path: Path) -> None:
    answers = iter([307, 500])

    async def stumbles(request: web.Request, _: bytes) -> int:
        return next(answers, 200) if request.headers["webhook-id"] == "acme/VC-1/1" else 200

    async with hook(stumbles) as cad:
        mine = pushed(cad.url)
        async with house(tmp_path, [mine]) as at:
            pusher = Pusher(mine, at.store, at.log, at.outbox.told)
            await at.tell(outcome("acme", "VC-1", 1), outcome("acme", "VC-1", 2), outcome("acme", "VC-2", 1))
            await until(lambda: len(cad.taken) == 3, 20)
            await pusher.stop()
        assert cad.taken == ["acme/VC-2/1", "acme/VC-1/1", "acme/VC-1/2"]


async def test_a_subscriber_that_hangs_delays_no_other(tmp_path: Path) -> None:
    async def hangs(_: web.Request, __: bytes) -> int:
        await asyncio.Event().wait()
        return 200

    async with hook(hangs) as slow, hook(takes) as quick:
        subscriptions = [pushed(slow.url, "slow"), pushed(quick.url, "quick")]
        async with house(tmp_path, subscriptions) as at:
            pushers = [Pusher(each, at.store, at.log, at.outbox.told) for each in subscriptions]
            await at.tell(*(outcome("acme", f"VC-{number}", 1) for number in range(20)))
            await until(lambda: len(quick.taken) == 20, 5)
            for pusher in pushers:
                pusher._task.cancel()
                await pusher.stop()


async def test_what_is_not_taken_in_72_hours_is_parked_and_pushed_again_when_a_person_says_so(
    tmp_path: Path,
) -> None:
    broken = True

    async def never(request: web.Request, _: bytes) -> int:
        return 500 if broken and request.headers["webhook-id"] == "acme/VC-1/1" else 200

    async with hook(never) as cad:
        mine = pushed(cad.url)
        async with house(tmp_path, [mine]) as at:
            await at.tell(outcome("acme", "VC-1", 1), outcome("acme", "VC-1", 2))
            await until(lambda: at.outbox.problem is None, 1)
            deadline = asyncio.get_running_loop().time() + 5
            count = select(pushes.c.id)
            while len(await at.store.read(lambda connection: connection.execute(count).all())) < 2:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            long_ago = update(pushes).values(since=pushes.c.since - GIVE_UP - 1)
            await at.store.transact(lambda connection, _: connection.execute(long_ago))
            pusher = Pusher(mine, at.store, at.log, at.outbox.told)
            await until(lambda: cad.taken == ["acme/VC-1/2"], 10)
            row = await at.store.read(lambda connection: connection.execute(select(parked)).one())
            broken = False
            (event,) = await at.store.read(lambda connection: found(connection, Wanted()))
            assert await at.store.transact(lambda connection, now: push_again(connection, now, event))
            await until(lambda: cad.taken == ["acme/VC-1/2", "acme/VC-1/1"], 10)
            await pusher.stop()
        assert (row.reason, row.origin_queue, row.headers["ce-id"]) == ("push_not_taken", "push:cad", "acme/VC-1/1")
    assert sum(delay(attempts) for attempts in range(200)) > GIVE_UP


@contextlib.asynccontextmanager
async def door(at: House, subscriptions: Sequence[Subscription]) -> AsyncIterator[str]:
    each = Door(subscriptions, frozenset(TOKENS), at.broker, at.store, at.log, at.outbox.told)
    runner = await client_api.listen(each, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def pulling() -> list[Subscription]:
    return [
        Subscription.model_validate({"name": name, "customers": [name], "token": token})
        for name, token in TOKENS.items()
    ]


async def call(
    url: str, token: str | None = TOKENS["acme"], body: object = None, method: str = "GET"
) -> tuple[int, dict[str, Any]]:
    """A call, its answer held to the published OpenAPI document."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, data=None if body is None else orjson.dumps(body)) as response,
    ):
        answer: dict[str, Any] = await response.json()
        witness.answer(method, response.url.path, response.status, answer)
        return response.status, answer


async def test_a_cursor_gives_each_event_of_ones_own_customers_once_and_in_order(tmp_path: Path) -> None:
    subscriptions = pulling()
    async with house(tmp_path, subscriptions) as at, door(at, subscriptions) as url:
        for number in range(300):
            await at.tell(outcome("acme" if number % 2 else "birch", f"VC-{number}", 1))
        seen: list[str] = []
        cursor = "0"
        while len(seen) < 150:
            status, page = await call(f"{url}/v1/events?after={cursor}&wait=5")
            assert status == 200
            cursor = page["cursor"]
            seen += [event["id"] for event in page["events"]]
        assert sorted(seen) == sorted(f"acme/VC-{number}/1" for number in range(1, 300, 2))
        assert (await call(f"{url}/v1/events?after={cursor}"))[1] == {"events": [], "cursor": cursor}


async def test_a_cursor_skips_nothing_on_postgresql_where_many_processes_publish_at_once(
    tmp_path: Path, postgres_url: str
) -> None:
    subscriptions = pulling()
    async with hook(takes) as cad:
        mine = pushed(cad.url)
        everybody = [*subscriptions, mine]
        async with (
            house(tmp_path, everybody, PostgreSQL(postgres_url, 8)) as at,
            door(at, subscriptions) as url,
        ):
            others = [Outbox(at.store, at.broker, Sealer(), everybody) for _ in range(3)]
            pusher = Pusher(mine, at.store, at.log, at.outbox.told)

            async def tell(part: int) -> None:
                for number in range(40):
                    await at.tell(outcome("acme", f"VC-{part}-{number}", 1))
                    others[part % 3].publish_soon()

            telling = asyncio.gather(*(tell(part) for part in range(5)))
            seen: list[str] = []
            cursor = "0"
            async with asyncio.timeout(60):
                while len(seen) < 200:
                    _, page = await call(f"{url}/v1/events?after={cursor}&wait=2")
                    cursor = page["cursor"]
                    seen += [event["id"] for event in page["events"]]
            await telling
            await until(lambda: len(cad.taken) == 200, 30)
            await pusher.stop()
            for each in others:
                await each.stop(5)
            await at.store.transact(lambda connection, now: told.forget(connection, now + 31 * 86400, 30))
            assert await at.log.forgotten() > 0
    assert len(set(seen)) == len(seen) == 200
    assert set(cad.taken) == set(seen)


async def test_a_puller_that_waits_is_answered_as_soon_as_there_is_something(tmp_path: Path) -> None:
    subscriptions = pulling()
    async with house(tmp_path, subscriptions) as at, door(at, subscriptions) as url:
        waiting = asyncio.create_task(call(f"{url}/v1/events?after=latest&wait=30"))
        await asyncio.sleep(0.2)
        await at.tell(outcome("acme", "VC-1", 1))
        async with asyncio.timeout(5):
            _, page = await waiting
    assert [event["id"] for event in page["events"]] == ["acme/VC-1/1"]


async def test_a_token_opens_its_own_customers_and_nothing_else(tmp_path: Path) -> None:
    subscriptions = pulling()
    command = {"schema": "command/1", "id": "1", "customer_id": "birch", "command": "pause"}
    async with house(tmp_path, subscriptions) as at, door(at, subscriptions) as url:
        for token in (None, "wrong", "the-token-of-acme-s-ca", "the-token-of-acme-s-cäd"):
            assert (await call(f"{url}/v1/events", token))[0] == 401
        assert (await call(f"{url}/v1/commands", body=command, method="POST"))[1]["code"] == "other_customer"
        assert (await call(f"{url}/v1/commands/birch/1"))[0] == 404
        bad = command | {"customer_id": "acme", "args": {"x": 1}}
        assert (await call(f"{url}/v1/commands", body=bad, method="POST"))[1]["code"] == "malformed"
        good = command | {"customer_id": "acme"}
        assert (await call(f"{url}/v1/commands", body=good, method="POST"))[0] == 202
        assert (await call(f"{url}/v1/events?after=-1"))[0] == 400


async def test_a_cursor_older_than_what_is_kept_is_told_so_and_the_present_is_never_forgotten(tmp_path: Path) -> None:
    subscriptions = pulling()
    async with house(tmp_path, subscriptions) as at, door(at, subscriptions) as url:
        await at.tell(*(outcome("acme", f"VC-{number}", 1) for number in range(3)))
        cursor = (await call(f"{url}/v1/events?wait=5"))[1]["cursor"]
        while int(cursor) < 3:
            cursor = (await call(f"{url}/v1/events?after={cursor}&wait=5"))[1]["cursor"]
        await at.store.transact(lambda connection, now: told.forget(connection, now + 31 * 86400, 30))
        assert (await call(f"{url}/v1/events?after=1"))[0] == 410
        assert (await call(f"{url}/v1/events?after=0"))[0] == 200


async def test_notices_go_out_by_mail_and_by_webhook_without_patient_data(tmp_path: Path) -> None:
    async with hook(takes) as cad:
        with office("none") as mails:
            settings = told_to(mails.port, "none", webhook_url=cad.url, smtp_user=None, smtp_password=None)
            notifier = Notifier(settings)
            body = document("assignment-1")["examples"][0] | {
                "state": "held",
                "request": {"patient_last_name": "Canary", "pickup_date_time": "2999-01-01T00:00:00Z"},
            }
            notifier.outcome(Message("assignment.held.acme", {}, orjson.dumps(body)))
            notifier.unacknowledged(Missing("acme", "VC-1"))
            await until(lambda: len(cad.asked) == 2 and len(mails.mails) == 2, 10)
            await notifier.stop()
    texts = sorted(orjson.loads(body)["text"] for _, body in cad.asked)
    assert texts[0].startswith("acme: 1 offer held, pickup in ")
    assert texts[1] == "acme: 1 trip is in no dispatch system"
    written = "".join(text for _, text in mails.mails)
    assert "Subject: acme: 1 offer held" in written
    assert "Canary" not in written + "".join(texts)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"url": "http://cad.example/hook", "secret": SECRET}, id="http beyond loopback"),
        pytest.param({"url": "https://cad.example/hook"}, id="no secret"),
        pytest.param({"url": "https://cad.example/hook", "secret": "short"}, id="a short secret"),
        pytest.param({"token": "short"}, id="a short token"),
        pytest.param({"customers": ["acme"], "pattern": "assignment.*.birch"}, id="a pattern of another customer"),
    ],
)
def test_a_subscription_that_would_not_be_safe_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Subscription.model_validate({"name": "cad", **wrong})
