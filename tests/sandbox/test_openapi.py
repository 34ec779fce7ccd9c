"""The OpenAPI file and the API agree: paths, statuses, bodies, whatever is sent."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from sandbox.api import OpenApi
from sandbox.control import OPENAPI
from sandbox.options import Options
from sandbox.server import Sandbox
from tests.sandbox.client import Client, Reply

DOCUMENT: dict[str, Any] = orjson.loads(OPENAPI)
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ON_REQUESTS = sorted(name for name, (_, path, _) in OPERATIONS.items() if "{request_id}" in path)


def resolved(value: Any) -> Any:
    """The value behind a $ref."""
    if isinstance(value, dict) and "$ref" in value:
        found: Any = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found
    return value


def disagreement(name: str, reply: Reply) -> str | None:
    """What the file does not say about this answer."""
    responses = OPERATIONS[name][2]["responses"]
    if str(reply.status) not in responses:
        return f"{name}: {reply.status} is not documented"
    schema = resolved(responses[str(reply.status)])["content"]["application/json"]["schema"]
    whole = {**schema, "components": DOCUMENT["components"]}
    errors = [error.message for error in Draft202012Validator(whole).iter_errors(reply.value)]
    return f"{name} {reply.status}: {errors}" if errors else None


def test_every_schema_in_the_file_is_a_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        assert validator_for(schema, default=Draft202012Validator) is Draft202012Validator
        Draft202012Validator.check_schema(schema)


async def test_the_file_has_exactly_the_paths_of_the_api(sandbox: Sandbox) -> None:
    played = {(route.method, route.path) for route in OpenApi(sandbox.market).routes()}
    assert played == {(method, path) for method, path, _ in OPERATIONS.values()}


@pytest.mark.parametrize("name", ON_REQUESTS)
async def test_the_documented_example_is_taken_and_answered_as_the_file_says(
    sandbox: Sandbox, acme: Client, name: str
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    if name in ("change_request", "state", "locations"):
        await acme.accept(request_id)
    method, path, operation = OPERATIONS[name]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    if name == "state":
        example = {**example, "timestamp": sandbox.market.webhooks.timestamp()}
    reply = await acme.call(method, where(path, request_id), example)
    assert reply.status in (200, 201)
    assert disagreement(name, reply) is None
    await sandbox.idle()


def where(path: str, request_id: str) -> str:
    return path.replace("{request_id}", request_id).removeprefix("/openapi/v2.0/")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["x" * 451, "2027-01-15T15:30:00Z", "2027-01-15", "en_route", "arrived", ""]),
)
names = st.sampled_from(
    ["response_notes", "proposed_agreed_dt", "agreed_dt", "change_reason", "name", "timestamp", "lat", "lng", "alt"]
)
bodies = st.one_of(
    scalars,
    st.dictionaries(names, scalars, max_size=6),
    st.lists(st.one_of(scalars, st.dictionaries(names, scalars, max_size=6)), max_size=4),
    st.just([{}] * 201),
)


async def called(name: str, values: list[Any], accepted: bool) -> list[str]:
    async with Sandbox(Options()) as sandbox:
        sandbox.add_receiver("acme")
        request_id = sandbox.create_request()
        await sandbox.broadcast(request_id, ["acme"])
        async with Client(sandbox) as acme:
            if accepted:
                await acme.accept(request_id)
            method, path, _ = OPERATIONS[name]
            found = []
            for value in values:
                found.append(disagreement(name, await acme.call(method, where(path, request_id), value)))
                found.append(disagreement(name, await acme.call(method, where(path, "VC-NOWHERE"), value)))
                found.append(disagreement(name, await acme.call(method, where(path, request_id), value, token="")))
            return [problem for problem in found if problem]


@pytest.mark.parametrize("name", ON_REQUESTS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(bodies, min_size=1, max_size=6), accepted=st.booleans())
def test_whatever_is_sent_is_answered_as_the_file_says(name: str, values: list[Any], accepted: bool) -> None:
    assert asyncio.run(called(name, values, accepted)) == []
