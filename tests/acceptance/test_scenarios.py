"""Our receiver through every scenario that the sandbox ships, judged by the sandbox's own `verify`."""

from pathlib import Path

from sandbox.options import Options
from sandbox.scenario import parse, shipped
from sandbox.server import Sandbox
from sandbox.verify import verify
from tests.processes import Home, Process


async def test_our_receiver_plays_every_shipped_scenario_and_does_nothing_wrong(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=9, attempt_delays=(0.0, 2.0, 4.0))) as sandbox:
        home = Home(tmp_path, sandbox)
        for name in ("acme", "birch"):
            receiver = sandbox.add_receiver(name)
            (tmp_path / f"{name}-next.pem").write_text(receiver.announce_key())
            home.customer(name, public_keys=[f"{name}.pem", f"{name}-next.pem"])
        async with Process(home, "run") as process:
            await process.ready()
            failed = []
            for path in shipped():
                outcomes = await sandbox.play(parse(path.stem, path.read_text()))
                failed += [f"{path.stem}: {each.step.sentence}: {each.seen}" for each in outcomes if not each.ok]
            assert failed == []
            await sandbox.idle(30)
            assert await process.terminate() == 0
        assert [str(finding) for finding in verify(sandbox.record)] == []
