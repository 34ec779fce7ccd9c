"""The workers' parts on a real store and broker: lanes, limits' figures, and outcomes that can't be opened."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, insert, update

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from shared import topics
from shared.broker import Binding
from shared.database import Database
from shared.engine import Engine
from shared.errors import Unavailable
from shared.postgresql import PostgreSQL
from shared.sealing import Sealer
from tests.acceptance.test_rides import broadcast
from tests.assignments import ACCEPT, HOLD, RULES, counsel
from tests.brokers import Hands, embedded, message, until
from tests.processes import Home, Process
from tests.webhooks import event
from worker import app as workers
from worker import assignment
from worker.assignment import Answer, Answered, Assignment, Call, Gap, Step
from worker.inquiry import Inquiry
from worker.ledger import Ledger
from worker.outbox import Outbox
from worker.policy import Decision
from worker.tables import gaps
from worker.watch import Watch


async def offer(ledger: Ledger, request: str, decision: Decision) -> tuple[int, int]:
    """Offer a request to the ledger; how many trips are open, and accepts of the last hour there are, beside it."""
    found = event(service_request_id=request)
    seen: list[tuple[int, int]] = []

    def transition(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        seen.append(inquiry.open_and_last_hour(known))
        return assignment.offered(known, found, counsel(decision), rules=RULES, intent_id=request, attempts=0, now=now)

    await ledger.step("acme", request, transition)
    return seen[0]


async def answer(ledger: Ledger, request: str, kind: Answered) -> None:
    """The API's answer to the accept of a request."""
    found = event(service_request_id=request)

    def transition(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        return assignment.answered(
            known,
            found,
            Call.ACCEPT,
            Answer(kind),
            refusals=inquiry.count_refusal,
            rules=RULES,
            intent_id=request,
            attempts=0,
            now=now,
        )

    await ledger.step("acme", request, transition)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        database: Database = Engine(tmp_path / "store.db")
    else:
        database = PostgreSQL(request.getfixturevalue("postgres_url"), 4)
    await workers.migrate(database)
    return database


async def test_the_load_counts_what_is_taken_or_under_way_and_never_the_request_itself(store: Database) -> None:
    ledger = Ledger(store, Sealer(), {"acme": "uat"})
    assert await offer(ledger, "VC-1", ACCEPT) == (0, 0)
    assert await offer(ledger, "VC-2", ACCEPT) == (1, 1)
    await answer(ledger, "VC-1", Answered.TAKEN)
    await answer(ledger, "VC-2", Answered.GONE)
    assert await offer(ledger, "VC-3", ACCEPT) == (1, 1)
    await answer(ledger, "VC-3", Answered.THROTTLED)
    assert await offer(ledger, "VC-3", ACCEPT) == (1, 1)
    assert await offer(ledger, "VC-4", HOLD) == (1, 1)
    await offer(ledger, "VC-5", ACCEPT)
    await answer(ledger, "VC-5", Answered.UNKNOWN)
    assert await offer(ledger, "VC-6", HOLD) == (2, 2)
    assert await offer(ledger, "VC-5", ACCEPT) == (1, 1)
    await store.close()


async def test_offers_that_many_decide_at_once_never_take_more_than_there_is_room_for(store: Database) -> None:
    ledger = Ledger(store, Sealer(), {"acme": "uat"})
    accepting: list[str] = []

    async def decide(request: str, copy: int) -> None:
        found = event(service_request_id=request)

        def transition(known: Assignment, inquiry: Inquiry, now: float) -> Step:
            room = inquiry.open_and_last_hour(known)[0] < 5
            mine = counsel(ACCEPT if room else HOLD)
            intent = f"{request} {copy}"
            return assignment.offered(known, found, mine, rules=RULES, intent_id=intent, attempts=0, now=now)

        step = await ledger.step("acme", request, transition)
        if step.call is not None:
            accepting.append(request)

    await asyncio.gather(*(decide(f"VC-{number}", copy) for copy in range(3) for number in range(20)))
    assert len(accepting) == len(set(accepting)) == 5
    await store.close()


def value(metric: str, **labels: str) -> float | None:
    """A gauge of ours, as Prometheus would see it; None where it has said nothing yet."""
    return REGISTRY.get_sample_value(metric, labels)


async def test_trips_that_no_webhook_has_confirmed_are_counted_until_one_does(store: Database) -> None:
    def open_gaps(connection: Connection, now: float) -> None:
        rows: list[tuple[str, Gap, float | None]] = [
            ("VC-1", Gap.CONFIRMATION, None),
            ("VC-2", Gap.ANSWER, None),
            ("VC-3", Gap.OFFER, None),
        ]
        rows.append(("VC-4", Gap.CONFIRMATION, now))
        for request, kind, closed_at in rows:
            row = {"service_request_id": request, "kind": kind, "since": now, "closed_at": closed_at}
            connection.execute(insert(gaps).values(customer_id="acme", **row))

    await store.transact(open_gaps)
    watch = Watch(store, 30, lambda _: None)
    await until(lambda: value("receiver_unconfirmed_trips", customer="acme") == 2, 5)
    await store.transact(lambda connection, now: connection.execute(update(gaps).values(closed_at=now)))
    await until(lambda: value("receiver_unconfirmed_trips", customer="acme") == 0, 5)
    await watch.stop()
    await store.close()


async def test_an_outcome_that_cannot_be_opened_waits_and_stops_no_other(
    store: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, kept = Sealer([os.urandom(32)]), Sealer([os.urandom(32)])
    await offer(Ledger(store, lost, {"acme": "uat"}), "VC-1", HOLD)
    await offer(Ledger(store, kept, {"acme": "uat"}), "VC-2", HOLD)
    async with embedded(tmp_path / "broker.db")() as broker:
        hands = Hands()
        await broker.consume("dispatch", 10, hands)
        outbox = Outbox(store, broker, kept)
        outbox.publish_soon()
        await until(lambda: value("receiver_outbox_events") == 2, 5)
        assert 0 <= (value("receiver_outbox_oldest_seconds") or 0) < 60
        assert (await hands.next()).message.headers["ce-subject"] == "VC-2"
        assert await hands.nothing(0.3)
        assert outbox.problem is None
        await outbox.stop(1)
    logged = capsys.readouterr().err
    assert (logged.count("outcome_not_opened"), logged.count("outcomes_not_published")) == (1, 0)
    await store.close()


async def test_outcomes_left_behind_are_published_by_the_next_process(store: Database, tmp_path: Path) -> None:
    ledger = Ledger(store, Sealer(), {"acme": "uat"})
    for number in range(3):
        await offer(ledger, f"VC-{number}", HOLD)
    async with embedded(tmp_path / "broker.db")() as broker:
        hands = Hands()
        await broker.consume("dispatch", 10, hands)
        outbox = Outbox(store, broker, Sealer())
        subjects = {(await hands.next()).message.headers["ce-subject"] for _ in range(3)}
        assert subjects == {"VC-0", "VC-1", "VC-2"}
        await outbox.stop(1)
    await store.close()


async def test_a_customer_whose_api_hangs_does_not_hold_up_another(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        home.customer("birch")
        async with Process(home, "run") as process:
            await process.ready()
            sandbox.set_trouble(Trouble(slow=1.0, slow_seconds=30.0, calls=("accept",)), "acme")
            await broadcast(sandbox, 300, "acme", pause=0)
            await until(lambda: process.log.read_text().count('"event":"webhook"') >= 300, 20)
            requests = await broadcast(sandbox, 5, "birch")
            await until(lambda: all(sandbox.requests[each].assigned_to == "birch" for each in requests), 4)


async def test_a_file_that_another_process_holds_stops_its_consumers_no_longer_than_it_holds_it(tmp_path: Path) -> None:
    async with embedded(tmp_path / "broker.db")() as broker:
        hands = Hands()
        consumers = [await broker.consume(name, 10, hands) for name in (topics.BROADCAST_RECEIVED, topics.LIFECYCLE)]
        other = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        publishing = message("A.AVAILABLE.acme")
        with pytest.raises(Unavailable):
            await broker.publish(topics.WEBHOOKS, publishing, mandatory=True, timeout=10)
        other.execute("ROLLBACK")
        other.close()
        await broker.publish(topics.WEBHOOKS, publishing, mandatory=True, timeout=10)
        await (await hands.next()).ack()
        assert all(consumer.alive for consumer in consumers)


async def test_a_quiet_tail_goes_on_hearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.queue_rows.TAIL_SECONDS", 0.3)
    async with embedded(tmp_path / "broker.db")() as broker:
        tail = broker.tail((Binding(topics.OUTCOMES, "#"),))
        heard = asyncio.ensure_future(anext(tail))
        await asyncio.wait([heard], timeout=1.0)
        await broker.publish(topics.OUTCOMES, message("assignment.held.acme"), mandatory=True, timeout=5)
        assert (await asyncio.wait_for(heard, 5)).routing_key == "assignment.held.acme"
        await tail.aclose()
