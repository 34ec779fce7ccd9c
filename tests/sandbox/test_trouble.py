"""Trouble on demand: each kind does what it says, and a seed gives the same again."""

import asyncio

import aiohttp
import orjson
import pytest

from sandbox.malformed import MALFORMED
from sandbox.options import Options
from sandbox.server import Sandbox
from sandbox.trouble import Planned, Treatment, Trouble, Troublemaker
from sandbox.verify import verify
from tests.brokers import until
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint


async def offer(sandbox: Sandbox) -> str:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    return request_id


async def test_duplicates_are_the_same_bytes_again(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    sandbox.set_trouble(Trouble(duplicate=1.0, copies=1, delay_seconds=0.0))
    await offer(sandbox)
    await sandbox.idle()
    assert len(acme_endpoint.bodies) == 2
    assert len(set(acme_endpoint.bodies)) == 1


async def test_a_lost_webhook_is_never_sent_and_recorded_as_lost(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    sandbox.set_trouble(Trouble(lose=1.0))
    await offer(sandbox)
    await sandbox.idle()
    assert acme_endpoint.bodies == []
    assert [a.error for a in sandbox.record.webhooks()] == ["lost"]


async def test_a_held_webhook_is_overtaken_by_the_next_of_its_request(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    sandbox.plan("hold", match="BROADCAST_RECEIVED", seconds=60)
    request_id = await offer(sandbox)
    sandbox.cancel(request_id)
    await sandbox.idle()
    assert [e["request_status"] for e in acme_endpoint.events] == ["UNAVAILABLE", "AVAILABLE"]


async def test_a_webhook_whose_first_attempt_is_cut_comes_with_the_second(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    sandbox.set_trouble(Trouble(cut=1.0))
    await offer(sandbox)
    await sandbox.idle()
    assert len(acme_endpoint.bodies) == 1
    assert [(a.attempt, a.error) for a in sandbox.record.webhooks()] == [(1, "cut"), (2, None)]


async def test_forged_malformed_and_old_bodies_come_beside_the_right_ones(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    await offer(sandbox)
    await sandbox.idle()
    sandbox.set_trouble(Trouble(forge=1.0, malformed=1.0, old=1.0))
    await offer(sandbox)
    await sandbox.idle()
    first = acme_endpoint.bodies[0]
    later = sandbox.record.webhooks()[1:]
    assert sorted(a.cause for a in later) == ["event", "redeliver", "sent", "sent"]
    assert [a.body for a in later if a.cause == "redeliver"] == [first]
    assert [a.signed for a in later if not a.event_id] == [True]
    (forged,) = [a for a in later if not a.signed]
    assert forged.signature != sandbox.sign("acme", forged.body)


async def test_a_competitor_at_once_takes_every_request(sandbox: Sandbox, acme: Client) -> None:
    sandbox.set_trouble(Trouble(competitor=1.0))
    request_id = await offer(sandbox)
    await sandbox.idle()
    assert (await acme.accept(request_id)).status == 403


@pytest.mark.parametrize(
    ("trouble", "status", "taken"),
    [
        (Trouble(throttle=1.0), 429, 0),
        (Trouble(refuse_token=1.0), 401, 0),
        (Trouble(fail=1.0), 500, 0),
        (Trouble(fail_after=1.0), 500, 1),
        (Trouble(slow=1.0, slow_seconds=0.001), 201, 1),
    ],
    ids=["throttle", "refuse_token", "fail", "fail_after", "slow"],
)
async def test_each_trouble_of_a_call_answers_as_it_says(
    sandbox: Sandbox, acme: Client, *, trouble: Trouble, status: int, taken: int
) -> None:
    request_id = await offer(sandbox)
    sandbox.set_trouble(trouble)
    reply = await acme.accept(request_id)
    assert reply.status == status or (status == 500 and reply.status > 500)
    assert sandbox.requests[request_id].accepts_taken["acme"] == taken
    (call,) = sandbox.record.calls("accept")
    assert call.took_effect == bool(taken)
    assert call.trouble is not None
    await sandbox.idle()


@pytest.mark.parametrize(("what", "taken"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_dropped_call_takes_effect_or_not_and_has_no_answer(
    sandbox: Sandbox, acme: Client, what: str, taken: int
) -> None:
    request_id = await offer(sandbox)
    sandbox.plan(what, "accept", "acme")
    with pytest.raises(aiohttp.ClientError):
        await acme.accept(request_id)
    assert sandbox.requests[request_id].accepts_taken["acme"] == taken
    (call,) = sandbox.record.calls("accept")
    assert (call.answered, call.took_effect) == (False, bool(taken))
    assert (await acme.accept(request_id)).status == (403 if taken else 201)
    await sandbox.idle()


async def test_a_slow_call_whose_caller_has_given_up_takes_effect_unheard_and_may_be_repeated(
    sandbox: Sandbox, acme: Client
) -> None:
    request_id = await offer(sandbox)
    await sandbox.idle()
    sandbox.plan("slow", match="accept", seconds=0.3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await acme.accept(request_id)
    await until(lambda: sandbox.record.calls("accept"), 5)
    (call,) = sandbox.record.calls("accept")
    assert (call.answer_status, call.took_effect, call.answered) == (201, True, False)
    assert (await acme.accept(request_id)).status == 403
    assert verify(sandbox.record) == []


async def test_a_throttled_call_says_when_to_come_back_unless_told_not_to(sandbox: Sandbox, acme: Client) -> None:
    async def retry_after() -> str | None:
        url = f"{sandbox.url}/openapi/v2.0/requests/VC-1/accept/"
        async with acme.session.put(url, headers={"Authorization": f"Bearer {acme.token}"}) as answer:
            assert answer.status == 429
            return answer.headers.get("Retry-After")

    sandbox.set_trouble(Trouble(throttle=1.0, retry_after=2.0))
    assert await retry_after() == "2"
    sandbox.set_trouble(Trouble(throttle=1.0, retry_after=None))
    assert await retry_after() is None


async def test_after_a_key_rotation_webhooks_verify_with_the_announced_key(
    sandbox: Sandbox, acme: Client, acme_endpoint: Endpoint
) -> None:
    old, announced = acme.receiver.public_key_pem, acme.receiver.announce_key()
    assert old != announced
    assert sandbox.rotate_key("acme") == announced == acme.receiver.public_key_pem
    await offer(sandbox)
    await sandbox.idle()
    signature = acme_endpoint.headers[0]["X-VectorCare-Signature"]
    assert signature == sandbox.sign("acme", acme_endpoint.bodies[0])


async def test_redeliver_sends_the_same_bytes_and_adds_a_row() -> None:
    async with Endpoint(500, 202) as endpoint, Sandbox(Options(attempt_delays=(0.0,))) as sandbox:
        sandbox.add_receiver("acme", endpoint.url)
        await offer(sandbox)
        await sandbox.idle()
        (failed,) = sandbox.history("acme")
        assert (await sandbox.redeliver(failed.id)).status == 202
        assert [row.response_code for row in sandbox.history("acme")] == [500, 202]
        assert len(set(endpoint.bodies)) == 1


def everything(seed: int, order: int) -> list[Treatment]:
    maker = Troublemaker(seed)
    maker.set(Trouble(duplicate=0.5, delay=0.5, lose=0.1, old=0.3, malformed=0.3, forge=0.3, reorder=0.5))
    ids = [f"VC-{n}" for n in range(40)][::order]
    found = {i: maker.for_webhook("acme", i, "BROADCAST_RECEIVED", "AVAILABLE") for i in ids}
    return [found[i] for i in sorted(found)]


def test_a_seed_gives_the_same_trouble_in_whatever_order_things_happen() -> None:
    assert everything(1, 1) == everything(1, -1) != everything(2, 1)


def test_planned_trouble_hits_the_next_that_fits_and_only_so_often() -> None:
    maker = Troublemaker(0)
    maker.plan(Planned("fail", "accept", "acme", times=2))
    calls = [
        ("birch", "accept"),
        ("acme", "decline"),
        ("acme", "accept"),
        ("acme", "accept"),
        ("acme", "accept"),
    ]
    assert [maker.for_call(name, "VC-1", call).what for name, call in calls] == [
        None,
        None,
        "fail",
        "fail",
        None,
    ]


@pytest.mark.parametrize("wrong", [{"loose": 1.0}, {"lose": "often"}])
def test_unknown_trouble_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no such trouble|not a number"):
        Trouble.of(wrong)


def test_malformed_bodies_are_all_different() -> None:
    made = [make() for make in MALFORMED.values()]
    assert len(set(made)) == len(made)
    assert orjson.loads(MALFORMED["unknown action"]())["action"] == "MOON_LANDED"
