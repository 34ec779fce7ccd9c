"""An independent tool finds no disagreement between the shipped OpenAPI file and the played API."""

import asyncio
import sys
from pathlib import Path

import aiohttp

from sandbox.options import Options
from sandbox.server import Sandbox

FILE = Path(__file__).parents[2] / "sandbox" / "openapi.json"


async def test_schemathesis_finds_no_disagreement(tmp_path: Path) -> None:
    async with Sandbox(Options(attempt_delays=(0.0,))) as sandbox:
        acme = sandbox.add_receiver("acme")
        request = sandbox.create_request("bls")
        await sandbox.broadcast(request, ["acme"])
        form = {"client_id": acme.client_id, "client_secret": acme.client_secret, "grant_type": "client_credentials"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{sandbox.url}/v2.0/oauth2/token", data=form) as response,
        ):
            token = (await response.json())["access_token"]
        config = tmp_path / "schemathesis.toml"
        config.write_text(
            f'headers = {{ Authorization = "Bearer {token}" }}\n[parameters]\n"path.request_id" = "{request}"\n'
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", str(FILE)),
            *("--url", sandbox.url, "--max-examples", "20", "--seed", "1", "--no-color"),
            # That a moment is in UTC, or within the last 7 days, is more than a schema can say.
            *("--exclude-checks", "positive_data_acceptance"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        async with asyncio.timeout(100):
            output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert len(sandbox.record.calls()) > 100
