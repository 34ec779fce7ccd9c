"""The API's answers: the documented example of each call, and each documented refusal."""

from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest

from sandbox.options import Options
from sandbox.server import Sandbox
from sandbox.trips import iso
from tests.sandbox.client import Client, Reply


async def offered(sandbox: Sandbox) -> str:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    return request_id


async def assigned(sandbox: Sandbox, acme: Client) -> str:
    request_id = await offered(sandbox)
    assert (await acme.accept(request_id)).status == 201
    return request_id


def ago(**spans: float) -> str:
    return iso(datetime.now(UTC) - timedelta(**spans))


async def test_a_token_is_a_bearer_for_an_hour(acme: Client) -> None:
    reply = await acme.get_token()
    assert reply.status == 200
    assert set(reply.value) == {"access_token", "token_type", "expires_in"}
    assert (reply.value["token_type"], reply.value["expires_in"]) == ("bearer", 3600)


@pytest.mark.parametrize("wrong", [{"client_secret": "x"}, {"client_id": "x"}, {"client_id": ""}])
async def test_wrong_credentials_are_an_invalid_client(acme: Client, wrong: dict[str, str]) -> None:
    reply = await acme.get_token(**wrong)
    assert (reply.status, reply.value["error"]) == (401, "invalid_client")
    assert "error_description" in reply.value


async def test_what_is_no_form_is_an_invalid_client(sandbox: Sandbox, acme: Client) -> None:
    url = f"{sandbox.url}/v2.0/oauth2/token"
    for kind in ("application/json", "multipart/form-data; boundary=x", "multipart/form-data"):
        async with acme.session.post(url, data=b'{"client_id": "x"}', headers={"Content-Type": kind}) as answer:
            assert answer.status == 401


async def test_a_body_that_is_too_large_is_a_bad_request(sandbox: Sandbox, acme: Client) -> None:
    url = f"{sandbox.url}/openapi/v2.0/requests/{await offered(sandbox)}/accept/"
    headers = {"Authorization": f"Bearer {acme.token}"}
    async with acme.session.put(url, data=BytesIO(b" " * 5_000_000), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "api:bad_request")


async def test_another_grant_type_is_refused(acme: Client) -> None:
    assert (await acme.get_token(grant_type="password")).status == 400


@pytest.mark.parametrize(
    ("token", "code"),
    [("", "members:not_authenticated"), ("wrong", "members:authentication_failed")],
)
async def test_a_call_without_a_good_token_is_401(sandbox: Sandbox, acme: Client, token: str, code: str) -> None:
    reply = await acme.call("PUT", f"requests/{await offered(sandbox)}/accept/", token=token)
    assert (reply.status, reply.value["code"]) == (401, code)


async def test_an_expired_token_is_401_and_recorded_as_expired() -> None:
    async with Sandbox(Options(token_seconds=0.0)) as sandbox:
        sandbox.add_receiver("acme")
        async with Client(sandbox) as acme:
            assert (await acme.accept(sandbox.create_request())).status == 401
        assert [c.token for c in sandbox.record.calls("accept")] == ["expired"]


async def test_a_token_of_deleted_credentials_is_401_and_of_the_new_ones_good(sandbox: Sandbox, acme: Client) -> None:
    old = acme.receiver.client_id
    acme.receiver.add_credential()
    new = (await acme.get_token()).value["access_token"]
    request_id = await offered(sandbox)
    acme.receiver.delete_credential(old)
    assert (await acme.accept(request_id)).status == 401
    acme.token = new
    assert (await acme.accept(request_id)).status == 201


async def test_an_unknown_request_is_404_and_one_that_was_not_broadcast_to_us_403(
    sandbox: Sandbox, acme: Client, birch: Client
) -> None:
    unknown = await acme.accept("VC-NOWHERE1")
    assert unknown == (404, {"message": "Not found.", "code": "api:not_found"})
    foreign = await birch.accept(await offered(sandbox))
    assert (foreign.status, foreign.value["code"]) == (403, "members:permission_denied")


async def test_without_the_permission_the_api_refuses(sandbox: Sandbox, acme: Client) -> None:
    request_id = await offered(sandbox)
    acme.receiver.permissions.discard("Can access Open API")
    assert (await acme.accept(request_id)).status == 403


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "requests/VC-1/accept/", 405, "api:method_not_allowed"),
        ("PUT", "requests/VC-1/accept", 404, "api:not_found"),
        ("GET", "nowhere/", 404, "api:not_found"),
    ],
)
async def test_what_is_no_documented_call_is_refused_and_recorded(
    sandbox: Sandbox, acme: Client, *, method: str, path: str, status: int, code: str
) -> None:
    reply = await acme.call(method, path)
    assert (reply.status, reply.value["code"]) == (status, code)
    assert sandbox.record.calls("unknown")[-1].answer_status == status


def field_code(reply: Reply, name: str) -> Any:
    assert reply.status == 400
    return reply.value[name][0]["code"]


@pytest.mark.parametrize("call", ["accept", "decline"])
async def test_notes_of_451_characters_are_too_long_and_450_are_not(sandbox: Sandbox, acme: Client, call: str) -> None:
    path = f"requests/{await offered(sandbox)}/{call}/"
    long = await acme.call("PUT", path, {"response_notes": "x" * 451})
    assert field_code(long, "response_notes") == "common:max_length"
    assert (await acme.call("PUT", path, raw=b"{")).value["code"] == "api:bad_request"
    assert (await acme.call("PUT", path, {"response_notes": "x" * 450})).status == 201


async def test_best_time_is_201_and_answered_by_the_requester(sandbox: Sandbox, acme: Client) -> None:
    request_id = await offered(sandbox)
    path = f"requests/{request_id}/best-time/"
    bad = await acme.call("PUT", path, {"proposed_agreed_dt": "tomorrow"})
    assert field_code(bad, "proposed_agreed_dt") == "common:datetime_invalid_format"
    time = "2027-01-15T15:30:00Z"
    assert await acme.call("PUT", path, {"proposed_agreed_dt": time}) == (201, {})
    sandbox.answer_proposal(request_id, "acme", "accepted")
    state = sandbox.requests[request_id]
    assert (state.assigned_to, state.data["agreed_for_time"]) == ("acme", time)


async def test_a_change_request_is_200_after_acceptance_only(sandbox: Sandbox, acme: Client) -> None:
    request_id = await offered(sandbox)
    path = f"requests/{request_id}/change-request/"
    wish = {"agreed_dt": "2027-01-15T15:30:00Z", "change_reason": "Traffic"}
    assert (await acme.call("POST", path, wish)).status == 403
    await acme.accept(request_id)
    missing = await acme.call("POST", path, {"agreed_dt": wish["agreed_dt"]})
    assert field_code(missing, "change_reason") == "common:required"
    assert await acme.call("POST", path, wish) == (200, {})
    sandbox.answer_change(request_id, "acme", accepted=True)
    assert sandbox.requests[request_id].data["agreed_for_time"] == wish["agreed_dt"]
    sandbox.change_data(request_id, {"change_request_enabled": False})
    assert (await acme.call("POST", path, wish)).status == 403


async def test_states_are_echoed_in_their_order_and_the_last_completes(sandbox: Sandbox, acme: Client) -> None:
    request_id = await assigned(sandbox, acme)
    path = f"requests/{request_id}/state/"
    for name in ("en_route", "arrived", "on_board", "arrived_at_destination", "completed", "completed"):
        state = {"name": name, "timestamp": ago(seconds=1)}
        assert await acme.call("POST", path, state) == (201, state)
    back = await acme.call("POST", path, {"name": "arrived", "timestamp": ago(seconds=1)})
    assert back.status == 400
    assert sandbox.requests[request_id].stage == "completed"


@pytest.mark.parametrize(
    ("name", "timestamp", "field", "code"),
    [
        ("flying", ago(seconds=1), "name", "common:choice_invalid"),
        ("en_route", ago(hours=-1), "timestamp", "api:bad_request"),
        ("en_route", ago(days=7.1), "timestamp", "api:bad_request"),
        ("en_route", "2026-01-15", "timestamp", "common:datetime_invalid_format"),
        (None, ago(seconds=1), "name", "common:null"),
    ],
    ids=["unknown", "future", "old", "no time", "null"],
)
async def test_a_bad_state_names_the_field(
    sandbox: Sandbox, acme: Client, *, name: str, timestamp: str, field: str, code: str
) -> None:
    path = f"requests/{await assigned(sandbox, acme)}/state/"
    assert field_code(await acme.call("POST", path, {"name": name, "timestamp": timestamp}), field) == code


async def test_locations_take_200_and_no_more_and_name_what_is_missing(sandbox: Sandbox, acme: Client) -> None:
    path = f"requests/{await assigned(sandbox, acme)}/locations/"
    one = {"lat": 37.85, "lng": -122.49, "alt": 20.2, "speed": 10.3, "timestamp": 1575497090.131}
    assert await acme.call("POST", path, [one] * 200) == (200, {})
    many = await acme.call("POST", path, [one] * 201)
    assert (many.status, many.value["code"]) == (400, "responder:too_many_locations")
    missing = await acme.call("POST", path, [one, {"lat": "north"}])
    assert missing.status == 400
    first, second = missing.value
    assert first == {}
    assert {name: errors[0]["code"] for name, errors in second.items()} == {
        "timestamp": "common:required",
        "lat": "common:number_invalid",
        "lng": "common:required",
        "alt": "common:required",
    }
    assert (await acme.call("POST", path, one)).value["code"] == "common:list_invalid"


async def test_create_is_the_requesters_side_only(sandbox: Sandbox, acme: Client) -> None:
    assert (await acme.call("POST", "requests/service/2JV3RG9K/", {})).status == 403
    mercy = sandbox.market.requesters["mercy"].credentials[0]
    token = await acme.get_token(client_id=mercy.client_id, client_secret=mercy.client_secret)
    acme.token = token.value["access_token"]
    made = await acme.call("POST", "requests/service/2JV3RG9K/", {"data": {"patient_last_name": "Roe"}})
    assert made.status == 201
    assert sandbox.requests[made.value["service_request_id"]].data["patient_last_name"] == "Roe"
