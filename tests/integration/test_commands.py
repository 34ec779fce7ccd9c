"""Each command has exactly one result and no second effect, whatever is sent, how often and in what order."""

import asyncio
import contextlib
import dataclasses
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from shared import topics
from shared.broker import Message
from shared.database import Database
from shared.engine import Engine
from shared.postgresql import PostgreSQL
from shared.sealing import Sealer
from shared.settings import Settings
from shared.topics import rfc3339
from tests import witness
from tests.brokers import Hands, embedded, until
from tests.integration.test_vectorcare import Api, answer, api, customer, hang
from tests.schemas import VALIDATORS
from worker import app as workers
from worker import pausing
from worker.assignment import State, Step
from worker.ledger import Ledger
from worker.notify import Notifier
from worker.tables import acknowledgements, audit, capacities, commands

__all__ = ["api"]
OURS = ("VC-1", "VC-2")
HELD = "VC-3"


@dataclasses.dataclass
class Stage:
    """A worker with the role commands, a played VectorCare, and a dispatch system's ear."""

    api: Api
    store: Database
    send_message: Any
    heard: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    async def send(self, key: str, body: object) -> None:
        """Publish a command as a dispatch system does: no headers of ours."""
        await self.send_message(Message(key, {}, body if isinstance(body, bytes) else orjson.dumps(body)))

    async def results(self, count: int, within: float = 15.0) -> list[dict[str, Any]]:
        """So many results."""
        await until(lambda: len(self.heard) >= count, within)
        return self.heard

    async def result(self, key: str, body: dict[str, Any], within: float = 15.0) -> dict[str, Any]:
        """The one result of a command."""
        before = len(self.heard)
        await self.send(key, body)
        return (await self.results(before + 1, within))[before]

    def calls(self, suffix: str) -> list[bytes]:
        """The bodies of the calls of one kind."""
        return [body for line, _, body in self.api.calls if line.endswith(f"/{suffix}/")]


@contextlib.asynccontextmanager
async def stage(
    api: Api, folder: Path, call_seconds: float = 5.0, store: Database | None = None, in_flight: int = 8
) -> AsyncIterator[Stage]:
    """Everything but the process: real store, real broker, real HTTP."""
    mine = customer(api)
    customers = {"acme": mine, "birch": dataclasses.replace(mine, customer_id="birch")}
    store = store or Engine(folder / "store.db")
    await workers.migrate(store)
    ledger = Ledger(store, Sealer(), {"acme": "uat"})
    for request in (*OURS, HELD):
        await ledger.step(
            "acme",
            request,
            lambda known, *_: Step(
                dataclasses.replace(
                    known,
                    revision=3,
                    ours=known.service_request_id in OURS,
                    state=State.ASSIGNED if known.service_request_id in OURS else State.HELD,
                ),
                "seeded",
            ),
        )
    configuration = Settings().model_copy(
        update={
            "declared": frozenset({"acme", "birch", "broken"}),
            "worker": Settings().worker.model_copy(
                update={"call_seconds": call_seconds, "in_flight_per_customer": in_flight}
            ),
        }
    )
    async with embedded(folder / "broker.db")() as broker:
        hands = Hands()
        await broker.consume("everything", 100, hands)
        running = await workers.start(
            configuration, broker, store, Sealer(), customers, ["commands"], Notifier(configuration.notify)
        )

        async def send(message: Message) -> None:
            await broker.publish(topics.COMMANDS, message, mandatory=True, timeout=5)

        each = Stage(api, store, send)

        async def listen() -> None:
            while True:
                delivery = await hands.next(1000)
                await delivery.ack()
                body = orjson.loads(delivery.message.body)
                witness.message(topics.OUTCOMES, delivery.message)
                each.heard.append(body)

        listening = asyncio.create_task(listen())
        try:
            yield each
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            await running.stop()
        if not listening.cancelled() and (error := listening.exception()):
            raise error
    await store.close()


def asks(word: str, number: int | str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A command of acme's."""
    request = {} if word in {"pause", "resume", "capacity"} else {"service_request_id": "VC-1"}
    body = {"schema": "command/1", "id": f"id-{number}", "customer_id": "acme", "command": word, "args": args}
    return {**body, **request, **more}


def state(number: int | str, name: str, minutes_ago: float, **more: Any) -> dict[str, Any]:
    at = rfc3339(time.time() - minutes_ago * 60)
    return asks("state", number, {"name": name, "timestamp": at}, **more)


async def test_each_refusal_has_its_code_and_none_a_value_of_the_command(api: Api, tmp_path: Path) -> None:
    past = rfc3339(time.time() - 60)
    refused = {
        "malformed": ("state.acme", asks("state", 1, {"name": "canary", "timestamp": past})),
        "unknown_command": ("dance.acme", asks("dance", 2)),
        "other_customer": ("state.acme", state(3, "en_route", 1, customer_id="birch")),
        "expired": ("state.acme", state(4, "en_route", 1, not_after=past)),
        "stale_revision": ("state.acme", state(5, "en_route", 1, expected_revision=2)),
        "unknown_request": ("state.acme", state(6, "en_route", 1, service_request_id="VC-canary")),
        "not_ours": ("state.acme", state(7, "en_route", 1, service_request_id=HELD)),
        "in_the_future": ("state.acme", state(8, "en_route", -30)),
        "too_old": ("state.acme", state(9, "en_route", 8 * 24 * 60)),
    }
    async with stage(api, tmp_path) as on:
        for code, (key, body) in refused.items():
            result = await on.result(key, body)
            assert (result["result"], result["code"], result["id"]) == ("refused", code, body["id"])
            assert "canary" not in result["sentence"]
        assert on.api.calls == []


async def test_what_names_no_customer_or_has_no_id_is_parked(api: Api, tmp_path: Path) -> None:
    async with stage(api, tmp_path) as on:
        for key, body in (("state.nobody", state(1, "en_route", 1)), ("state.acme", {"id": 5}), ("state.acme", b"{")):
            await on.send(key, body)
        await on.result("pause.acme", asks("pause", 2))
        assert [result["id"] for result in on.heard] == ["id-2"]
    async with embedded(tmp_path / "broker.db")() as broker:
        hands = Hands()
        await broker.consume(topics.DEAD_LETTERS, 10, hands)
        reasons = [(await hands.next()).message.headers["receiver-reason"] for _ in range(3)]
    assert reasons == ["unknown_customer", "unreadable_command", "unreadable_command"]


async def test_states_reach_vectorcare_in_the_order_of_their_own_times_through_an_outage(
    api: Api, tmp_path: Path
) -> None:
    api.answers = [answer(503), answer(503), answer(201, {})]
    async with stage(api, tmp_path) as on:
        for number, (name, ago) in enumerate((("arrived", 4), ("en_route", 5), ("on_board", 3))):
            await on.send("state.acme", state(number, name, ago))
        results = await on.results(3, 30)
    names = [orjson.loads(body)["name"] for body in on.calls("state")]
    assert names == ["en_route", "en_route", "en_route", "arrived", "on_board"]
    assert {(result["id"], result["result"]) for result in results} == {(f"id-{number}", "done") for number in range(3)}


async def test_a_state_that_waits_behind_a_slow_call_is_not_overtaken_by_a_later_one(api: Api, tmp_path: Path) -> None:
    answering = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await answering.wait()
        return await answer(201, {})(request)

    api.answers = [slow, answer(201, {})]
    async with stage(api, tmp_path, call_seconds=30, in_flight=1) as on:
        await on.send("state.acme", state(1, "en_route", 9, service_request_id="VC-2"))
        await until(lambda: api.calls, 10)
        await on.send("state.acme", state(2, "en_route", 5))
        written = select(commands.c.id).where(commands.c.id == "id-2")
        async with asyncio.timeout(10):
            while not await on.store.read(lambda connection: connection.scalar(written)):
                await asyncio.sleep(0.01)
        answering.set()
        await on.send("state.acme", state(3, "arrived", 4))
        results = await on.results(3, 30)
    sent = [orjson.loads(body)["name"] for line, _, body in api.calls if "/VC-1/" in line]
    assert sent == ["en_route", "arrived"]
    assert {result["code"] for result in results} == {"done"}


async def test_what_vectorcare_refuses_is_told_back_with_its_code_and_the_next_state_goes_on(
    api: Api, tmp_path: Path
) -> None:
    api.answers = [answer(400, {"name": [{"message": "x", "code": "common:choice_invalid"}]}), answer(201, {})]
    async with stage(api, tmp_path) as on:
        await on.send("state.acme", state(1, "arrived", 5))
        await on.send("state.acme", state(2, "on_board", 4))
        results = {result["id"]: result for result in await on.results(2)}
    assert results["id-1"]["vectorcare_code"] == "common:choice_invalid"
    assert (results["id-1"]["code"], results["id-2"]["code"]) == ("refused_by_vectorcare", "done")


async def test_locations_are_gathered_to_200_a_call_and_the_newest_are_kept(api: Api, tmp_path: Path) -> None:
    api.answers = [answer(200, {})]
    began = time.time() - 3000
    async with stage(api, tmp_path) as on:
        for number in range(24):
            points = [{"lat": 37.9, "lng": -122.5, "timestamp": began + number * 50 + second} for second in range(50)]
            await on.send("locations.acme", asks("locations", number, {"points": points}))
        results = await on.results(24, 30)
    sent = [orjson.loads(body) for body in on.calls("locations")]
    stamps = [point["timestamp"] for batch in sent for point in batch]
    assert max(map(len, sent)) <= 200
    assert len(sent) <= 12  # of 24 commands; how many are gathered depends on how fast they come
    assert len(set(stamps)) >= 1000
    assert max(stamps) == began + 23 * 50 + 49
    assert {result["code"] for result in results} == {"done"}
    assert all(point["alt"] == 0 for batch in sent for point in batch)


async def test_a_change_is_asked_for_once_although_its_answer_was_lost(api: Api, tmp_path: Path) -> None:
    api.answers = [hang]
    wanted = asks("request_change", 1, {"at": "2026-11-23T19:00:00Z", "reason": "Traffic"})
    async with stage(api, tmp_path, call_seconds=0.5) as on:
        assert (await on.result("request_change.acme", wanted))["code"] == "unknown"
        assert (await on.result("request_change.acme", wanted))["code"] == "unknown"
    assert len(on.calls("change-request")) == 1


async def test_pause_resume_capacity_and_acknowledge_change_the_store_and_say_who(api: Api, tmp_path: Path) -> None:
    async with stage(api, tmp_path) as on:
        for word, args in (
            ("pause", None),
            ("capacity", {"level": "wheelchair", "units": 3}),
            ("acknowledge", {"trip_id": "T-1"}),
        ):
            assert (await on.result(f"{word}.acme", asks(word, word, args, actor="dana")))["result"] == "done"
        assert await on.store.read(pausing.paused) == ["acme"]
        await on.result("resume.acme", asks("resume", 9))
        assert await on.store.read(pausing.paused) == []
        capacity, trip, deeds = await on.store.read(
            lambda connection: (
                connection.execute(select(capacities.c.level, capacities.c.units)).one(),
                connection.execute(select(acknowledgements.c.trip_id)).scalar_one(),
                connection.execute(select(audit.c.actor, audit.c.deed, audit.c.customer_id)).all(),
            )
        )
    assert (tuple(capacity), trip) == (("wheelchair", 3), "T-1")
    assert ("dana", "pause", "acme") in [tuple(deed) for deed in deeds]


async def test_commands_are_carried_out_on_postgresql_too(api: Api, tmp_path: Path, postgres_url: str) -> None:
    api.answers = [answer(503), answer(201, {})]
    async with stage(api, tmp_path, store=PostgreSQL(postgres_url, 4)) as on:
        sent = [
            state(1, "arrived", 4),
            state(2, "en_route", 5),
            state(2, "en_route", 5),
            asks("acknowledge", 3, {"trip_id": "T-1"}),
            asks("capacity", 4, {"level": "bls", "units": 2}),
            asks("pause", 5),
            asks("locations", 6, {"points": [{"lat": 1, "lng": 2, "timestamp": time.time()}] * 200}),
            asks("request_change", 7, {"at": "2026-11-23T19:00:00Z", "reason": "Traffic"}),
            state(8, "en_route", 1, expected_revision=1),
        ]
        await asyncio.gather(*(on.send(f"{body['command']}.acme", body) for body in sent))
        await until(lambda: len({each["id"] for each in on.heard}) == 8, 30)
        results = {each["id"]: each["code"] for each in on.heard}
        assert await on.store.read(pausing.paused) == ["acme"]
    assert results.pop("id-8") == "stale_revision"
    assert set(results.values()) <= {"done", "unknown"}
    names = [orjson.loads(body)["name"] for body in on.calls("state")]
    assert list(dict.fromkeys(names)) == ["en_route", "arrived"]


def words() -> st.SearchStrategy[dict[str, Any]]:
    """A command of any kind, good or bad in one way."""
    spoilt = st.sampled_from(
        [
            {},
            {},
            {"not_after": "2020-01-01T00:00:00Z"},
            {"not_after": "2999-01-01T00:00:00Z"},
            {"expected_revision": 3},
            {"expected_revision": 2},
            {"customer_id": "birch"},
            {"service_request_id": "VC-unknown"},
            {"service_request_id": "../VC-1"},
            {"schema": "command/2"},
            {"command": "resume"},
            {"args": [1]},
            {"args": {"surplus": 1}},
            {"actor": ""},
            {"issued_at": "yesterday"},
        ]
    )
    good = st.sampled_from(
        [
            state(0, "en_route", 10),
            state(0, "arrived", 9),
            state(0, "on_board", 8, service_request_id="VC-2"),
            asks("acknowledge", 0, {"trip_id": "T"}),
            asks("capacity", 0, {"level": "bls", "units": 1}),
            asks("pause", 0),
            asks("request_change", 0, {"at": "2026-11-23T19:00:00Z", "reason": "Traffic"}),
            asks("locations", 0, {"points": [{"lat": 1, "lng": 2, "timestamp": 1795455000}] * 200}),
        ]
    )
    return st.builds(lambda one, other: one | {"word": one["command"]} | other, good, spoilt)


@settings(
    max_examples=8, phases=[Phase.generate], deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sent=st.lists(words(), min_size=1, max_size=16),
    again=st.lists(st.integers(0, 15), max_size=16),
    chance=st.randoms(use_true_random=False),
)
async def test_every_command_has_one_result_and_no_second_effect(
    api: Api, sent: list[dict[str, Any]], again: list[int], chance: Any
) -> None:
    api.calls.clear()
    api.answers = [answer(201, {})]
    commands = [{**body, "id": f"id-{number}"} for number, body in enumerate(sent)]
    deliveries = commands + [commands[number] for number in again if number < len(commands)]
    chance.shuffle(deliveries)
    with tempfile.TemporaryDirectory() as folder:
        async with stage(api, Path(folder)) as on:
            for body in deliveries:
                bare = {name: value for name, value in body.items() if name != "word"}
                await on.send(f"{body['word']}.acme", bare)
            await until(lambda: {each["id"] for each in on.heard} == {each["id"] for each in commands}, 30)
            # Each delivery that finds a result tells it again; those are the same to the last byte.
            results: dict[str, set[str]] = defaultdict(set)
            for result in on.heard:
                results[result["id"]].add(repr(result))
            assert all(len(different) == 1 for different in results.values())
            assert all(count <= Counter(b["id"] for b in deliveries)[key] for key, count in _counts(on.heard).items())
            done = [each["id"] for each in on.heard if each["result"] == "done"]
            by_word = Counter(body["word"] for body in commands if body["id"] in done)
            assert len(on.calls("state")) == by_word["state"]
            assert len(on.calls("change-request")) == by_word["request_change"]
            refused = [body for body in commands if body["id"] not in done]
            assert all(_is_bad(body) for body in refused)


def _counts(heard: list[dict[str, Any]]) -> Counter[str]:
    return Counter(each["id"] for each in heard)


def _is_bad(body: dict[str, Any]) -> bool:
    bare = {name: value for name, value in body.items() if name != "word"}
    return (
        not VALIDATORS["command-1"].is_valid(bare)
        or body["command"] != body["word"]
        or body.get("issued_at") == "yesterday"  # jsonschema alone checks no times
        or body["customer_id"] != "acme"
        or body.get("expected_revision") == 2
        or body.get("service_request_id") == "VC-unknown"
        or str(body.get("not_after")).startswith("2020")
    )


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_every_schema_is_one_and_its_examples_are_valid(name: str) -> None:
    VALIDATORS[name].check_schema(VALIDATORS[name].schema)
    for example in VALIDATORS[name].schema.get("examples", ()):  # type: ignore[union-attr]
        VALIDATORS[name].validate(example)
