"""The steps of the guide's *Testing in UAT*, and what else can become of a broadcast."""

from datetime import datetime

from sandbox.options import Options, Status
from sandbox.server import Sandbox
from sandbox.trips import FIELDS, KINDS
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint


async def test_a_broadcast_that_is_accepted_comes_back_assigned_and_the_others_see_it_unavailable(
    sandbox: Sandbox, acme: Client, acme_endpoint: Endpoint, birch_endpoint: Endpoint
) -> None:
    request_id = sandbox.create_request("bls", {"patient_weight_lbs": 201})
    await sandbox.broadcast(request_id, ["acme", "birch"])
    (offer,) = await acme_endpoint.seen(1)
    assert (offer["request_status"], offer["action"]) == ("AVAILABLE", "BROADCAST_RECEIVED")
    assert offer["service_request_id"] == request_id
    assert offer["data"]["patient_weight_lbs"] == 201
    assert offer["data"]["organization_id"] == acme.receiver.organization_id

    reply = await acme.accept(request_id, {"response_notes": "Confirmed. Unit 42 dispatched."})
    assert reply == (201, {"response_notes": "Confirmed. Unit 42 dispatched."})

    assigned = (await acme_endpoint.seen(2))[1]
    assert (assigned["request_status"], assigned["action"]) == ("ASSIGNED", "BROADCAST_ACCEPTED")
    assert assigned["data"]["patient_weight_lbs"] == 201
    gone = (await birch_endpoint.seen(2))[1]
    assert (gone["request_status"], gone["data"]) == ("UNAVAILABLE", None)
    await sandbox.idle()
    state = sandbox.requests[request_id]
    assert (state.assigned_to, state.accepts_taken) == ("acme", {"acme": 1, "birch": 0})
    assert state.status_for("birch") is Status.UNAVAILABLE


async def test_of_two_accepts_the_second_is_refused_and_both_are_recorded(
    sandbox: Sandbox, acme: Client, birch: Client
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme", "birch"])
    assert (await birch.accept(request_id)).status == 201
    refused = await acme.accept(request_id)
    assert refused.status == 403
    assert refused.value["code"] == "members:permission_denied"
    assert (await birch.accept(request_id)).status == 403
    assert [(c.receiver, c.answer_status) for c in sandbox.record.calls("accept")] == [
        ("birch", 201),
        ("acme", 403),
        ("birch", 403),
    ]
    await sandbox.idle()


async def test_with_the_option_a_second_accept_by_the_holder_is_answered_201_and_sends_nothing() -> None:
    async with Endpoint() as endpoint, Sandbox(Options(idempotent_accept=True)) as sandbox:
        sandbox.add_receiver("acme", endpoint.url)
        request_id = sandbox.create_request()
        await sandbox.broadcast(request_id, ["acme"])
        async with Client(sandbox) as acme:
            assert [(await acme.accept(request_id)).status for _ in range(2)] == [201, 201]
        await sandbox.idle()
        assert len(endpoint.bodies) == 2


async def test_a_decline_is_confirmed_with_unavailable_and_leaves_the_others_alone(
    sandbox: Sandbox, acme: Client, acme_endpoint: Endpoint, birch_endpoint: Endpoint
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme", "birch"])
    assert await acme.decline(request_id, {"response_notes": "Outside service area."}) == (201, {})
    await sandbox.idle()
    last = acme_endpoint.events[-1]
    assert (last["action"], last["request_status"]) == ("BROADCAST_DECLINED", "UNAVAILABLE")
    assert len(birch_endpoint.bodies) == 1


async def test_what_the_requester_does_reaches_those_who_see_the_request(
    sandbox: Sandbox, acme_endpoint: Endpoint, birch_endpoint: Endpoint
) -> None:
    request_id = sandbox.create_request(data={"escalated": False})
    await sandbox.broadcast(request_id, ["acme"])
    sandbox.change_data(request_id, {"escalated": True, "pickup_location": {"zip": "94999"}})
    sandbox.assign(request_id, "birch")
    sandbox.assign(request_id, "acme")
    sandbox.complete(request_id)
    await sandbox.idle()
    by_id = sorted(acme_endpoint.events, key=lambda event: str(event["event_id"]))
    assert [(e["action"], e["request_status"]) for e in by_id] == [
        ("BROADCAST_RECEIVED", "AVAILABLE"),
        ("REQUEST_UPDATED", "AVAILABLE"),
        ("BROADCAST_CANCELED", "UNAVAILABLE"),
        ("REQUEST_ASSIGNED", "ASSIGNED"),
        ("REQUEST_COMPLETED", "COMPLETED"),
    ]
    assert by_id[1]["data"]["escalated"] is True
    assert by_id[1]["data"]["pickup_location"]["zip"] == "94999"
    assert by_id[1]["data"]["pickup_location"]["city"]
    assert sorted(e["action"] for e in birch_endpoint.events) == ["BROADCAST_CANCELED", "REQUEST_ASSIGNED"]


async def test_cancel_expire_and_a_faster_competitor_each_make_it_unavailable(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    for deed in (sandbox.cancel, sandbox.expire, sandbox.competitor_accepts):
        request_id = sandbox.create_request()
        await sandbox.broadcast(request_id, ["acme"])
        deed(request_id)
        await sandbox.idle()
    last = [e["action"] for e in acme_endpoint.events if e["request_status"] == "UNAVAILABLE"]
    assert last == ["BROADCAST_CANCELED", "BROADCAST_EXPIRED", "BROADCAST_CANCELED"]


async def test_an_offer_that_nobody_answers_expires_after_its_time() -> None:
    async with Endpoint() as endpoint, Sandbox(Options(expire_after=0.01)) as sandbox:
        sandbox.add_receiver("acme", endpoint.url)
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        events = await endpoint.seen(2)
        assert sorted(e["action"] for e in events) == ["BROADCAST_EXPIRED", "BROADCAST_RECEIVED"]
        await sandbox.idle()


async def test_data_has_every_documented_field_and_repeats_with_the_seed() -> None:
    async def made(seed: int) -> list[tuple[str, dict[str, object]]]:
        async with Sandbox(Options(seed=seed)) as sandbox:
            ids = [sandbox.create_request(kind) for kind in KINDS]
            return [(i, dict(sandbox.requests[i].data)) for i in ids]

    first, again, other = await made(1), await made(1), await made(2)
    for request_id, data in first:
        assert set(FIELDS) <= set(data)
        assert request_id.startswith("VC-")
        assert datetime.fromisoformat(str(data["pickup_date_time"])).tzinfo
    names = [[(i, d["patient_last_name"], d["patient_id"]) for i, d in made] for made in (first, again, other)]
    assert names[0] == names[1] != names[2]


async def test_a_standing_order_is_a_round_trip_on_each_of_its_days_in_one_collection(sandbox: Sandbox) -> None:
    orders = [sandbox.requests[i].data for i in sandbox.create_standing_order(times=3, every_days=2)]
    assert len(orders) == 6
    assert len({data["collection_id"] for data in orders}) == 1
    assert len({data["patient_id"] for data in orders}) == 1
    days = [datetime.fromisoformat(data["pickup_date_time"]) for data in orders]
    assert [(day - days[0]).days for day in days[::2]] == [0, 2, 4]
    assert all(data["service_level_type"] == "WC" for data in orders)


async def test_the_legs_of_a_round_trip_name_each_other(sandbox: Sandbox) -> None:
    there = sandbox.create_request("dialysis")
    back = sandbox.create_return_leg(there)
    first, second = sandbox.requests[there].data, sandbox.requests[back].data
    assert first["round_trip_other_service_request_id"] == back
    assert second["round_trip_other_service_request_id"] == there
    assert first["pickup_location"] == second["destination_location"]
    assert (second["is_round_trip_first_trip"], second["is_round_trip_return_trip"]) == (False, True)
    assert first["collection_id"] == second["collection_id"]
