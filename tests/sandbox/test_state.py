"""A sandbox with a state directory goes on where it stopped."""

from pathlib import Path

import orjson
import pytest

from sandbox.options import Options
from sandbox.server import Sandbox
from sandbox.state import RECORD, dump, load, save
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint


async def test_a_sandbox_goes_on_with_its_organizations_requests_and_history(tmp_path: Path) -> None:
    options = Options(state=str(tmp_path), attempt_delays=(0.0,))
    async with Endpoint() as endpoint:
        async with Sandbox(options) as first:
            acme = first.add_receiver("acme", endpoint.url)
            request_id = first.create_request("bls")
            await first.broadcast(request_id, ["acme"])
            await first.idle()
            kept = dump(first.market)
            (row,) = first.history("acme")
        async with Sandbox(options) as second:
            assert dump(second.market) == kept
            again = second.receivers["acme"]
            assert (again.client_secret, again.public_key_pem) == (acme.client_secret, acme.public_key_pem)
            assert second.create_request() != request_id
            assert second.history("acme") == [row]
            assert (await second.redeliver(row.id)).status == 202
            async with Client(second) as client:
                assert (await client.accept(request_id)).status == 201
            await second.idle()
        assert endpoint.bodies[0] == endpoint.bodies[1]
        assert len(endpoint.bodies) == 3


async def test_the_state_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    async with Sandbox(Options(state=str(tmp_path))) as sandbox:
        sandbox.add_receiver("acme")
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0


async def test_a_record_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    async with Sandbox(Options(state=str(tmp_path))) as sandbox:
        sandbox.create_request()
    with (tmp_path / RECORD).open("ab") as file:
        file.write(b'{"kind":"deed","at":1')
    async with Sandbox(Options(state=str(tmp_path))) as sandbox:
        assert len(sandbox.record) == 1
        sandbox.create_request()
    async with Sandbox(Options(state=str(tmp_path))) as sandbox:
        assert len(sandbox.record) == 2


async def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        save(sandbox.market, tmp_path)
        path = tmp_path / "state.json"
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "version": 99}))
        with pytest.raises(ValueError, match="version 99"):
            load(sandbox.market, tmp_path)


async def test_a_bounded_record_lets_the_oldest_go_and_counts_on() -> None:
    async with Sandbox(Options(keep=3, keep_requests=2)) as sandbox:
        ids = [sandbox.create_request() for _ in range(5)]
        assert [e.request_id for e in sandbox.record] == ids[2:]
        assert sandbox.record.total == 5
        assert [e.request_id for e in sandbox.record.since(3)] == ids[3:]
        assert list(sandbox.requests) == ids[3:]
