"""Whatever happens in whatever order, a request is accepted once, and somebody is told what became of it.

hypothesis drives the real handlers (offers, ASSIGNED, the rest, a person's commands) on the real store, SQLite and
PostgreSQL, against a played VectorCare (`tests.lives.vectorcare`): webhooks in any order, again, late or never; every
answer of the API, its effect before, after or without it; handlers that run while others hang in a call; processes
that die before a call, after its effect, before and after a commit, before the delivery is settled; a store that
refuses or loses its answer; two customers with the same request, one with a limit; round trips; persons who decide;
pauses, restarts, and time that passes. Then everything still on its way arrives and VectorCare answers honestly, until
nothing waits.

Judged whenever a call is begun: no other call for this request is in flight (within the lease), it is not told as ours,
its customer is not paused, the limit is not reached by trips told as ours. Judged in the end (`tests.lives.judging`):
the state is what VectorCare's last webhook says, where that was not lost; every accept that was taken was told as ours
or as unconfirmed within `confirm_within` and the lease, and no more often than taken; the outcomes of a request have
the revisions 1, 2, 3, each names the state before it, and each fits its schema; no intent is left; no webhook is called
missing where none was lost; a lost leg of a round trip was told; every command has its result; nothing was parked.

Not judged here: the publishing of the outbox, the API's client, the broker and its consumers, signatures, the sizes of
waits, and the second in which a pause takes hold (others hold those); `worker.order_by = "event_timestamp"`; modes
other than automatic; what two transactions do at the same instant (tests/contract, tests/acceptance).

RECEIVER_TEST_FUZZ=6 makes six times as many examples, and other ones each time (`make fuzz`).
"""

import asyncio
import itertools
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.broker import Message
from shared.engine import Engine
from shared.postgresql import PostgreSQL
from tests.lives.judging import keep, wrongs
from tests.lives.stage import FAULTS, KINDS, LIMITED, Call, Stage, Store
from tests.lives.vectorcare import Party, Request, VectorCare
from worker import app as workers
from worker.assignment import Answer, Answered
from worker.assignment.values import PERMISSION_DENIED

_FUZZ: Final = int(os.environ.get("RECEIVER_TEST_FUZZ", "0"))
_EXAMPLES: Final = {"sqlite": 120, "postgresql": 60}  # of up to 60 steps; a quarter of a minute each
_STEPS: Final = 60
_MOST_REQUESTS: Final = 4
_WITHOUT_EFFECT: Final = {
    "throttled": Answer(Answered.THROTTLED, 429),
    "throttled for 40 s": Answer(Answered.THROTTLED, 429, retry_after=40.0),
    "not sent": Answer(Answered.NOT_SENT),
    "no token": Answer(Answered.NO_TOKEN, 401),
    "500": Answer(Answered.UNKNOWN, 500),
    "not permitted": Answer(Answered.NOT_PERMITTED, 403, "public_api:not_permitted"),
    "invalid": Answer(Answered.INVALID, 400),
    "permission denied": Answer(Answered.GONE, 403, PERMISSION_DENIED),
}
_REFUSALS: Final = frozenset({"not permitted", "invalid", "permission denied"})
_ENDS: Final = {
    "cancel": "BROADCAST_CANCELED",
    "expire": "BROADCAST_EXPIRED",
    "a competitor accepts": "REQUEST_ASSIGNED",
}
_REQUESTER: Final = ("broadcast again", "change", "complete", "assign directly", "accepted by hand", *_ENDS)
_WHICH: Final = st.integers(0, 7)
_BY: Final = st.sampled_from(("acme", LIMITED))


class Lives(RuleBasedStateMachine):
    """One world: VectorCare, a receiver, and all that can go wrong between them."""

    loop: asyncio.AbstractEventLoop
    store: Store
    patch: pytest.MonkeyPatch

    @initialize(accepts_again=st.booleans())
    def begin(self, accepts_again: bool) -> None:
        self.vectorcare = VectorCare(accepts_again)
        # The intents' ids spread the waits, so they must be the same each time.
        self.patch.setattr(uuid, "uuid4", (uuid.UUID(int=number) for number in itertools.count(1)).__next__)
        self.loop.run_until_complete(self.store.empty())
        self.stage = Stage(self.loop, self.store, self.vectorcare)
        self.commands: list[Message] = []

    # VectorCare

    @precondition(lambda self: len(self.vectorcare.requests) < _MOST_REQUESTS)
    @rule(
        kind=st.sampled_from(("accept", *KINDS)),
        to=st.sampled_from((("acme", LIMITED), ("acme",), (LIMITED,))),
        soon=st.booleans(),
        round_trip=st.booleans(),
        at_once=st.integers(0, 3),
    )
    def broadcast(self, kind: str, to: tuple[str, ...], soon: bool, round_trip: bool, at_once: int) -> None:
        number = len(self.vectorcare.requests) + 1
        other = f"VC-{number + 1}" if round_trip and number % 2 else None
        before = self.vectorcare.requests.get(f"VC-{number - 1}")
        if before is not None and before.other_leg == f"VC-{number}":
            other = before.name
        pickup = self.stage.now + (90 if soon else 7200)
        self.vectorcare.broadcast(Request(f"VC-{number}", kind, pickup, other), list(to), self.stage.now)
        if at_once:
            self.deliver_in_order(len(self.vectorcare.mail))

    @precondition(lambda self: self.vectorcare.parties)
    @rule(which=_WHICH, what=st.sampled_from(_REQUESTER), kind=st.sampled_from(("accept", *KINDS)))
    def requester(self, which: int, what: str, kind: str) -> None:
        party, now = self._party(which), self.stage.now
        request = self.vectorcare.requests[party.request]
        if what == "broadcast again":
            self.vectorcare.broadcast(request, [party.customer], now)
        elif what == "change":
            self.vectorcare.change(request, kind, now)
        elif what == "complete":
            self.vectorcare.complete(party, now)
        elif what == "assign directly" and party.status in {"AVAILABLE", "UNAVAILABLE"}:
            self.vectorcare.give(party, "REQUEST_ASSIGNED", now)
        elif what == "accepted by hand" and party.status == "AVAILABLE":
            self.vectorcare.give(party, "BROADCAST_ACCEPTED", now)
        elif what in _ENDS:
            self.vectorcare.end(request, _ENDS[what], now)

    @precondition(lambda self: any(party.proposed for party in self.vectorcare.parties))
    @rule(how=st.sampled_from(("accept", "decline", "counter")))
    def answer_proposal(self, how: str) -> None:
        party = next(party for party in self.vectorcare.parties if party.proposed)
        self.vectorcare.answer_proposal(party, how, self.stage.now)

    # Webhooks

    @precondition(lambda self: self.vectorcare.mail)
    @rule(most=st.integers(1, 4))
    def deliver_in_order(self, most: int) -> None:
        for _ in range(min(most, len(self.vectorcare.mail))):
            self.stage.deliver(self.vectorcare.mail.pop(0))

    @precondition(lambda self: self.vectorcare.mail)
    @rule(which=_WHICH)
    def deliver(self, which: int) -> None:
        self.stage.deliver(self.vectorcare.mail.pop(which % len(self.vectorcare.mail)))

    @precondition(lambda self: self.vectorcare.parties)
    @rule(which=_WHICH, event=_WHICH)
    def deliver_again(self, which: int, event: int) -> None:
        party = self._party(which)
        came = [each for each in party.events if each.number not in party.lost]
        if came:
            self.stage.deliver(came[event % len(came)])

    @precondition(lambda self: self.vectorcare.mail)
    @rule(which=_WHICH)
    def lose(self, which: int) -> None:
        self.vectorcare.lose(self.vectorcare.mail[which % len(self.vectorcare.mail)])

    # Calls

    @precondition(lambda self: self.stage.calls)
    @rule(which=_WHICH)
    def answer(self, which: int) -> None:
        self.stage.honest(self._call(which))

    @precondition(lambda self: self.stage.calls)
    @rule(which=_WHICH)
    def reach(self, which: int) -> None:
        self.stage.reach(self._call(which))

    @precondition(lambda self: self.stage.calls)
    @rule(which=_WHICH, how=st.sampled_from(sorted(_WITHOUT_EFFECT)))
    def fail(self, which: int, how: str) -> None:
        call = self._call(which)
        if call.effect is not None:
            return
        if how in _REFUSALS:
            self._party_of(call).wronged = True
        self.stage.answer(call, _WITHOUT_EFFECT[how])

    @precondition(lambda self: self.stage.calls)
    @rule(which=_WHICH, reached=st.booleans())
    def lose_answer(self, which: int, reached: bool) -> None:
        call = self._call(which)
        if reached:
            self.stage.reach(call)
        elif call.effect is None:
            self.stage.ghosts.append(call)
        self.stage.answer(call, Answer(Answered.UNKNOWN))

    @precondition(lambda self: self.stage.ghosts)
    @rule()
    def arrive_late(self) -> None:
        self.stage.reach(self.stage.ghosts.pop(0))

    @precondition(lambda self: self.stage.calls)
    @rule(which=_WHICH, ghost=st.booleans())
    def crash_in_call(self, which: int, ghost: bool) -> None:
        self.stage.crash(self._call(which), ghost=ghost)

    # The receiver

    @precondition(lambda self: self.vectorcare.parties)
    @rule(what=st.sampled_from((*FAULTS, *FAULTS, "unsettled", "restart")), turn=st.integers(0, 3))
    def break_something(self, what: str, turn: int) -> None:
        if what == "restart":
            self.stage.restart()
        elif what == "unsettled":
            self.stage.unsettled = True
        else:
            self.store.fault, self.store.fault_in = what, turn

    @precondition(lambda self: self.vectorcare.parties)
    @rule(who=st.sampled_from(("acme", LIMITED, "*")), on=st.booleans())
    def pause(self, who: str, on: bool) -> None:
        self.stage.pause(who, on=on)

    @precondition(lambda self: self.vectorcare.parties)
    @rule(which=_WHICH, word=st.sampled_from(("accept", "accept", "decline")))
    def decide(self, which: int, word: str) -> None:
        party = self._party(which)
        body = {
            "schema": "command/1",
            "id": f"c{len(self.commands)}",
            "command": word,
            "customer_id": party.customer,
            "service_request_id": party.request,
            "actor": "kim",
        }
        message = Message(f"{word}.{party.customer}", {}, orjson.dumps(body))
        self.commands.append(message)
        self.stage.command(message)

    @precondition(lambda self: self.commands)
    @rule(which=_WHICH)
    def command_again(self, which: int) -> None:
        self.stage.command(self.commands[which % len(self.commands)])

    @precondition(lambda self: self.stage.waiting or self.stage.calls)
    @rule(seconds=st.sampled_from((0.0, 1.0, 3.0, 6.0, 16.0, 60.0, 130.0, 400.0)))
    def wait(self, seconds: float) -> None:
        self.stage.advance(seconds)

    @precondition(lambda self: self.stage.waiting or self.stage.calls)
    @rule(seconds=st.sampled_from((4.0, 16.0, 130.0)))
    def stand_still(self, seconds: float) -> None:
        self.stage.sleep(seconds)

    @invariant()
    def nothing_wrong_was_done(self) -> None:
        assert not self.stage.wrongs

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        try:
            if sys.exc_info()[0] is None:
                self._come_to_rest()
        finally:
            self.stage.close()

    def _come_to_rest(self) -> None:
        stage = self.stage
        while self.vectorcare.mail or stage.calls or stage.waiting:
            while self.vectorcare.mail:
                stage.deliver(self.vectorcare.mail.pop(0 if self.vectorcare.count % 3 else -1))
                while stage.calls:
                    stage.honest(next(iter(stage.calls.values())))
            stage.rest()
        kept = stage.read(lambda connection: keep(connection, stage.ledger))
        assert not [*stage.wrongs, *wrongs(stage, kept)]

    def _request(self, which: int) -> Request:
        requests = list(self.vectorcare.requests.values())
        return requests[which % len(requests)]

    def _party(self, which: int) -> Party:
        return self.vectorcare.parties[which % len(self.vectorcare.parties)]

    def _party_of(self, call: Call) -> Party:
        return self.vectorcare.requests[call.request].parties[call.customer]

    def _call(self, which: int) -> Call:
        return list(self.stage.calls.values())[which % len(self.stage.calls)]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[asyncio.AbstractEventLoop, Store]]:
    """A store, and the loop that it is used from."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:

        async def opened() -> Store:
            if request.param == "postgresql":
                found = Store(PostgreSQL(request.getfixturevalue("postgres_url"), 2))
            else:
                engine = Engine(Path(folder) / "store.db")
                # Durability is not what is tested here, and an fsync costs more than all the rest.
                await engine.read(lambda connection: connection.exec_driver_sql("PRAGMA synchronous=OFF"))
                found = Store(engine)
            await workers.migrate(found)
            return found

        each = runner.run(opened())
        yield runner.get_loop(), each
        runner.run(each.close())


@pytest.mark.timeout(900 * max(1, _FUZZ))  # it is done in half a minute, but making an example smaller takes time
def test_every_request_is_accepted_once_and_somebody_is_told_what_became_of_it(
    request: pytest.FixtureRequest, store: tuple[asyncio.AbstractEventLoop, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    class World(Lives):
        pass

    World.loop, World.store = store
    World.patch = monkeypatch
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=_EXAMPLES[request.node.callspec.params["store"]] * max(1, _FUZZ),
            stateful_step_count=_STEPS,
            derandomize=not _FUZZ,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
