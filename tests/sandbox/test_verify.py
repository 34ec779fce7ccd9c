"""`verify`: each wrong Receiver is caught, and a right one is never accused, whatever trouble there is."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import wrongs
from sandbox.evidence import Rules
from sandbox.options import Options
from sandbox.record import from_json, to_json
from sandbox.server import Sandbox
from sandbox.trouble import Trouble
from sandbox.verify import counted, verify
from tests.sandbox.conftest import QUICK
from tests.sandbox.receivers import WRONG, RightReceiver

STRICT = Rules(answer_within=0.03, grace=0.0, react_within=0.0)


@pytest.mark.parametrize(("kind", "wrong"), WRONG.items(), ids=[k.__name__ for k in WRONG])
async def test_a_receiver_that_is_deliberately_wrong_is_caught(kind: type[RightReceiver], wrong: str) -> None:
    async with Sandbox(Options(attempt_delays=QUICK)) as sandbox, kind(sandbox) as receiver:
        sandbox.set_trouble(Trouble(forge=1.0, duplicate=1.0, copies=1, delay_seconds=0.01))
        taken, gone = sandbox.create_request(), sandbox.create_request()
        await sandbox.broadcast(taken, ["acme"])
        await sandbox.broadcast(gone, ["acme"])
        sandbox.cancel(gone)
        await receiver.idle()
        found = verify(sandbox.record, STRICT)
        assert wrong in {finding.wrong for finding in found}
        assert counted(found)


async def test_a_receiver_that_acts_on_a_forged_webhook_is_caught() -> None:
    from tests.sandbox.receivers import TrustsAll  # noqa: PLC0415

    async with Sandbox(Options(attempt_delays=QUICK)) as sandbox, TrustsAll(sandbox) as receiver:
        sandbox.plan("lose", "AVAILABLE")
        request_id = sandbox.create_request()
        await sandbox.broadcast(request_id, ["acme"])
        (lost,) = sandbox.record.webhooks()
        await sandbox.send("acme", lost.body, signature="AAAA")
        await receiver.idle()
        assert {f.wrong for f in verify(sandbox.record)} == {"took_forged", "acted_unoffered"}


def test_every_wrong_that_verify_knows_has_a_receiver_that_does_it() -> None:
    assert len({*WRONG.values()}) == 18
    assert len(wrongs.EVERYWHERE) + len(wrongs.PER_CASE) == 12


async def test_a_right_receiver_is_not_accused_by_the_strictest_rules() -> None:
    async with Sandbox(Options(attempt_delays=QUICK)) as sandbox, RightReceiver(sandbox) as receiver:
        ids = [sandbox.create_request() for _ in range(5)]
        for request_id in ids:
            await sandbox.broadcast(request_id, ["acme"])
        await receiver.idle()
        assert verify(sandbox.record, Rules(grace=0.1, react_within=5.0)) == []
        assert {sandbox.requests[i].stage for i in ids} == {"completed"}


likely = st.sampled_from((0.0, 0.0, 0.2, 0.5))
rarely = st.sampled_from((0.0, 0.0, 0.1))
any_trouble = st.builds(
    Trouble,
    duplicate=likely,
    delay=likely,
    delay_seconds=st.just(0.03),
    reorder=likely,
    lose=likely,
    cut=likely,
    old=likely,
    malformed=likely,
    forge=likely,
    competitor=likely,
    competitor_seconds=st.just(0.02),
    slow=likely,
    slow_seconds=st.just(0.01),
    throttle=rarely,
    retry_after=st.sampled_from((None, 0.01)),
    fail=rarely,
    fail_after=rarely,
    drop_before=rarely,
    drop_after=rarely,
    refuse_token=rarely,
)


any_options = st.builds(
    Options,
    seed=st.integers(0, 10_000),
    attempt_delays=st.just(QUICK),
    restamp=st.booleans(),
    whole_seconds=st.booleans(),
    idempotent_accept=st.booleans(),
    tell_states=st.booleans(),
    shared_event_id=st.booleans(),
)


async def driven(options: Options, trouble: Trouble) -> Sandbox:
    async with Sandbox(options) as sandbox, RightReceiver(sandbox) as receiver:
        sandbox.set_trouble(trouble)
        ids = [sandbox.create_request() for _ in range(6)]
        for request_id in ids:
            await sandbox.broadcast(request_id, ["acme"])
        sandbox.cancel(ids[0])
        if sandbox.requests[ids[1]].stage in ("open", "assigned"):
            sandbox.change_data(ids[1], {"escalated": True})
        await receiver.idle()
        return sandbox


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(options=any_options, trouble=any_trouble)
def test_a_right_receiver_is_never_accused_under_any_trouble(options: Options, trouble: Trouble) -> None:
    sandbox = asyncio.run(driven(options, trouble))
    assert verify(sandbox.record, Rules(grace=0.25)) == []
    kept = [from_json(to_json(entry)) for entry in sandbox.record]
    assert verify(kept, Rules(grace=0.25)) == []
    for request in sandbox.requests.values():
        assert max(request.accepts_taken.values(), default=0) <= 1
