"""Many requests, webhooks repeated and out of order, an API that fails in every way, workers killed, the database cut:
what VectorCare says in the end is what the subscribers were told, and nothing was accepted twice."""

import asyncio
import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import aio_pika
import orjson
import pytest

from sandbox.life import NotAvailable
from sandbox.options import Status
from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from sandbox.verify import Rules, verify
from shared import topics
from tests.acceptance.test_rides import Subscriber, subscribed_by_amqp
from tests.brokers import emptied, until
from tests.crowd.numbers import FULL, api_rows, say, show, times_to_accept
from tests.postgres_server import Server
from tests.processes import Home, Process

REQUESTS: Final = 1000 if FULL else 150
RATE: Final = 20  # requests a second, each of them some six webhooks
KILL_EVERY: Final = 2.0
CUT_EVERY: Final = 3.0
CALL_SECONDS: Final = 1.5
# No webhook is lost here, so nothing waits so long; shorter than a kill's backlog, and offers end with a person.
CONFIRM_WITHIN: Final = 60
# What `verify` lets lie in a queue: killed workers leave a backlog. What a worker had read is judged by its own log.
GRACE: Final = 30.0
CUT_WHILE_STARTING: Final = {"the connection to PostgreSQL was lost"}
ROLES: Final = ((), ("broadcast-received",), ("broadcast-accepted", "lifecycle"), ())
UPSETS: Final = ("cancel", "change", "withdraw", "assign", "expire", "complete")
OURS: Final = frozenset({"assigned", "updated"})
GONE: Final = frozenset({"closed", "lost", "released"})
MAY_BE_TOLD: Final = {Status.ASSIGNED: OURS, Status.UNAVAILABLE: GONE, Status.COMPLETED: frozenset({"completed"})}


def trouble(retry_after: float | None) -> Trouble:
    """Each webhook one to three times, at any time within two seconds; each fifth call fails, in one of eight ways:
    a `slow` one is answered long after the caller has gone, `fail_after` and `drop_after` have taken effect."""
    return Trouble(
        duplicate=2 / 3,
        copies=2,
        delay=1.0,
        delay_seconds=2.0,
        slow=0.03,
        slow_seconds=3 * CALL_SECONDS,
        throttle=0.04,
        retry_after=retry_after,
        fail=0.03,
        fail_after=0.03,
        drop_before=0.03,
        drop_after=0.03,
        refuse_token=0.02,
    )


@pytest.mark.timeout(300)  # on a busy machine
async def test_a_crowd_of_requests_ends_as_vectorcare_says_although_everything_fails(
    tmp_path: Path, amqp_url: str, postgres: Server, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await emptied(amqp_url)
    async with (
        Sandbox(Options(seed=23, attempt_delays=(0.0, 1.0, 3.0))) as sandbox,
        contextlib.AsyncExitStack() as stack,
    ):
        home = Home(tmp_path, sandbox, broker=amqp_url, store=postgres_url)
        home._parts[1] += f"\ncall_seconds = {CALL_SECONDS}\nconfirm_within = {CONFIRM_WITHIN}"
        for name, retry_after in (("acme", 1.0), ("birch", None)):
            home.customer(name)
            sandbox.set_trouble(trouble(retry_after), name)
        sandbox.set_trouble(Trouble(competitor=0.1, competitor_seconds=2.0))
        ingress = await stack.enter_async_context(Process(home, "ingress"))
        await ingress.ready()
        crew = Crew(home, stack)
        await crew.start()
        subscriber = await stack.enter_async_context(subscribed_by_amqp(amqp_url))
        harm = [asyncio.create_task(crew.decimate()), asyncio.create_task(cut(postgres, postgres_url))]
        requests = await offered(sandbox)
        await sandbox.idle(60)
        for each in harm:
            each.cancel()
        ended = await asyncio.gather(*harm, return_exceptions=True)
        assert [type(each) for each in ended] == [asyncio.CancelledError] * 2, ended
        await crew.complete()
        await settled(sandbox, subscriber)
        codes = [await process.terminate() for process in (*crew.workers, ingress)]
        assert codes == [0] * (len(ROLES) + 1)
        assert wrongs(sandbox, crew) == []
        assert_revisions_rise(subscriber)
        assert_taken_once(sandbox)
        assert_every_kind_of_harm_was_done(sandbox, crew)
        assert await parked(postgres, postgres_url, amqp_url) == (0, 0)
        assert "unexpected_error" not in crew.logs()
        rows = {
            f"time to accept, {name}": times_to_accept(sandbox.record, name, requests) for name in ("acme", "birch")
        }
        show(
            capsys,
            f"{REQUESTS} requests, {crew.killed} kills, {len(crew.gave_up)} starts failed",
            rows | api_rows(sandbox.record),
        )
        ends = Counter(states[-1] for states in subscriber.states().values())
        say(capsys, f"told in the end: {dict(sorted(ends.items()))}")


class Crew:
    """The workers; one after another is killed and started anew, each start with a log of its own."""

    def __init__(self, home: Home, stack: contextlib.AsyncExitStack) -> None:
        self._home = home
        self._stack = stack
        self._logs: list[Path] = []
        self.workers: list[Process] = []
        self.killed = 0
        self.gave_up: list[str] = []

    async def start(self) -> None:
        """All of them, until each takes deliveries."""
        self.workers = [await self._started(turn) for turn in range(len(ROLES))]
        await self.complete()

    async def decimate(self) -> None:
        """kill -9 of one every two seconds, until cancelled."""
        for turn in itertools.cycle(range(len(ROLES))):
            await asyncio.sleep(KILL_EVERY)
            if not await self._gave_up(turn):
                await self.workers[turn].kill()
                self.killed += 1
                self.workers[turn] = await self._started(turn)

    async def complete(self) -> None:
        """Until each takes deliveries."""
        async with asyncio.timeout(60):
            while any('"event":"started"' not in worker.log.read_text() for worker in self.workers):
                await asyncio.sleep(0.05)
                for turn in range(len(ROLES)):
                    await self._gave_up(turn)

    async def _gave_up(self, turn: int) -> bool:
        """One that was cut from the database while it started has ended; it is started again, as a supervisor does."""
        if self.workers[turn].process.returncode is None:
            return False
        self.gave_up.append(self.workers[turn].log.read_text().splitlines()[-1])
        self.workers[turn] = await self._started(turn)
        return True

    async def _started(self, turn: int) -> Process:
        process = Process(self._home, "worker", *ROLES[turn])
        process.log = process.log.with_name(f"worker-{turn}-{len(self._logs)}.log")
        self._logs.append(process.log)
        return await self._stack.enter_async_context(process)

    def logs(self) -> str:
        """What all of them wrote."""
        return "".join(path.read_text() for path in self._logs)


async def cut(postgres: Server, url: str) -> None:
    """End every connection to the database every few seconds, until cancelled."""
    statement = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.rsplit('/', 1)[1]}'"
    while True:
        await asyncio.sleep(CUT_EVERY)
        await asyncio.to_thread(postgres.sql, statement)


async def offered(sandbox: Sandbox) -> list[str]:
    """Broadcast the requests at their rate, to one customer or to both; a third of them is upset soon afterwards."""
    chance = Random(23)
    loop = asyncio.get_running_loop()
    requests = []
    began = loop.time()
    for number in range(REQUESTS):
        await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
        requests.append(request := sandbox.create_request("bls"))
        await sandbox.broadcast(request, chance.choice([["acme"], ["birch"], ["acme", "birch"]]))
        if chance.random() < 1 / 3:
            loop.call_later(chance.uniform(0.0, 4.0), upset, sandbox, request, chance.choice(UPSETS))
    await asyncio.sleep(4.1)  # until the last upset
    return requests


def upset(sandbox: Sandbox, request: str, how: str) -> None:
    """The Requester changes its mind, if it still can."""
    somebody = next(iter(sandbox.requests[request].offers))
    with contextlib.suppress(NotAvailable):
        match how:
            case "change":
                sandbox.change_data(request, {"patient_weight_lbs": 333})
            case "withdraw":
                sandbox.withdraw(request, [somebody])
            case "assign":
                sandbox.assign(request, somebody)
            case "complete":
                sandbox.complete(request)
            case "expire":
                sandbox.expire(request)
            case _:
                sandbox.cancel(request)


def differences(sandbox: Sandbox, subscriber: Subscriber) -> Iterator[str]:
    """Where what VectorCare says and what was told last are not the same."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for outcome in subscriber.outcomes:
        key = (outcome["customer_id"], outcome["service_request_id"])
        if key not in last or outcome["revision"] > last[key]["revision"]:
            last[key] = outcome
    for request in sandbox.requests.values():
        for receiver, offer in request.offers.items():
            told = last.get((receiver, request.id))
            state = told["state"] if told else None
            if state not in MAY_BE_TOLD.get(offer.status, ()) or (told and state in OURS and not told["confirmed"]):
                yield f"{receiver} {request.id}: {offer.status}, told {state} {told and told['reason_code']}"


async def settled(sandbox: Sandbox, subscriber: Subscriber) -> None:
    """Until there is no difference any more."""
    try:
        await until(lambda: next(differences(sandbox, subscriber), None) is None, 120)
    except TimeoutError:
        raise AssertionError("\n".join(differences(sandbox, subscriber))) from None


def wrongs(sandbox: Sandbox, crew: Crew) -> list[str]:
    """What `verify` finds, and each accept that began although a worker had handled by then that the request is ours
    or gone. A 201 that no worker lived to write down is the one thing after which an accept may be repeated: for that
    alone `verify`, which sees no kills, is not asked."""
    settled_at: dict[tuple[str, str], float] = {}
    for line in map(orjson.loads, filter(lambda line: '"event_handled"' in line, crew.logs().splitlines())):
        ended = line.get("status") in ("UNAVAILABLE", "ASSIGNED") and line["settled"] == "ack"
        if ended or line["note"] == "accepting":
            key = (line["customer"], line["request"])
            at = datetime.fromisoformat(line["timestamp"]).timestamp()
            settled_at[key] = min(at, settled_at.get(key, at))
    assert len(settled_at) > REQUESTS / 2
    late = [
        f"{call.receiver} {call.request_id} was accepted {call.at - at:.1f} s after a worker knew better"
        for call in sandbox.record.calls("accept")
        if call.at - (at := settled_at.get((call.receiver, call.request_id), call.at)) > CALL_SECONDS
    ]
    found = [each for each in verify(sandbox.record, Rules(grace=GRACE)) if each.wrong != "accepted_twice"]
    return [*map(str, found), *late]


def assert_revisions_rise(subscriber: Subscriber) -> None:
    """Without a gap, each told for the first time after the one before; a repeat says the same."""
    told: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for outcome in subscriber.outcomes:
        key = (outcome["customer_id"], outcome["service_request_id"])
        assert outcome["id"] == f"{key[0]}/{key[1]}/{outcome['revision']}"
        assert told[key].setdefault(outcome["revision"], outcome) == outcome
    for key, revisions in told.items():
        assert list(revisions) == list(range(1, len(revisions) + 1)), key


def assert_taken_once(sandbox: Sandbox) -> None:
    """One accept of a customer's for each request; none that was taken away is offered again here."""
    taken = Counter((call.receiver, call.request_id) for call in sandbox.record.calls("accept") if call.took_effect)
    assert {each: times for each, times in taken.items() if times > 1} == {}
    assert len(taken) > REQUESTS / 3


def assert_every_kind_of_harm_was_done(sandbox: Sandbox, crew: Crew) -> None:
    """Otherwise the run has shown less than it says."""
    calls = sandbox.record.calls("accept")
    troubles = {call.trouble for call in calls}
    assert troubles >= {"slow", "throttle", "fail", "fail_after", "drop_before", "drop_after", "refuse_token", None}
    assert {call.retry_after for call in calls if call.trouble == "throttle"} == {1.0, None}
    assert sum(call.trouble is not None for call in calls) > len(calls) / 8
    posts = Counter(webhook.event_id for webhook in sandbox.record.webhooks() if webhook.attempt == 1)
    assert set(posts.values()) == {1, 2, 3}
    assert crew.killed >= len(ROLES)
    assert set(crew.gave_up) <= CUT_WHILE_STARTING


async def parked(postgres: Server, url: str, amqp_url: str) -> tuple[int, int]:
    """How many events are parked in the store, and on their way there."""
    in_store = await asyncio.to_thread(postgres.sql, "SELECT count(*) FROM parked", url)
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(topics.DEAD_LETTERS, passive=True)
        return int(in_store), queue.declaration_result.message_count or 0
