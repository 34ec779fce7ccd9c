"""`make chaos`: each fault alone, or mixed at random; a table at the end, and a JSON file for the docs."""

import asyncio
import random
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from shared import logs
from tests.chaos.faults import FAULTS, PLAIN
from tests.chaos.house import House, standing
from tests.chaos.trial import Result, alone, mixed

_console = Console()
COLUMNS = (
    *("fault", "seconds", "rate", "webhooks", "2xx", "503", "no answer", "undelivered", "slowest", "spooled"),
    *("accepts", "unconfirmed", "lost", "doubled", "parked", "settled", ""),
)


def main(
    fault: Annotated[list[str] | None, typer.Option(help="This one alone; may be repeated. None: all.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each lasts; 0: as long as the issue asks for.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Broadcasts a second; each is two webhooks.")] = 100.0,
    minutes: Annotated[float, typer.Option("--mixed", help="So many minutes of faults at random instead.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    output: Annotated[Path, typer.Option("--json", help="Where the result goes.")] = Path("chaos.json"),
    keep: Annotated[Path | None, typer.Option(help="Where the logs of what failed go.")] = None,
) -> None:
    """Break it, and see what is lost."""
    if unknown := sorted(set(fault or ()) - set(FAULTS)):
        raise typer.BadParameter(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    logs.configure(Path("/dev/null").open("w"))  # noqa: SIM115 - until the end
    random.seed(seed)
    run = Run(seconds, rate, minutes, seed)
    asyncio.run(run.play(["mixed"] if minutes else fault or list(FAULTS), output, keep))
    _show(run.results)
    raise typer.Exit(0 if not run.fell and all(result.holds for result in run.results) else 1)


class Run:
    """All trials of one call of the command."""

    def __init__(self, seconds: float, rate: float, minutes: float, seed: int) -> None:
        self._seconds, self._rate, self._minutes, self._seed = seconds, rate, minutes, seed
        self.results: list[Result] = []
        self.fell: list[str] = []

    async def play(self, names: list[str], output: Path, keep: Path | None) -> None:
        """Fault by fault, in as few houses as will do; one that brings its house down costs no other its turn."""
        while names:
            plan = PLAIN if self._minutes else FAULTS[names[0]].plan
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                try:
                    async with standing(plan, Path(folder), seed=self._seed) as house:
                        while names and (self._minutes or FAULTS[names[0]].plan == plan):
                            await self._one(house, names.pop(0))
                            _written(self.results, output)
                except Exception:  # noqa: BLE001 - the next house may stand
                    self.fell.append(traceback.format_exc())
                    _console.print(self.fell[-1], markup=False)
                if keep is not None:
                    shutil.copytree(folder, keep / f"{len(self.results):02d}", ignore=shutil.ignore_patterns("*.db*"))

    async def _one(self, house: House, name: str) -> None:
        with _console.status(name) as status:

            def say(text: str) -> None:
                status.update(f"{name}: {text}")

            if self._minutes:
                result = await mixed(house, self._minutes * 60, self._rate, random.Random(self._seed), say)
            else:
                lasts = self._seconds or FAULTS[name].seconds or 10.0
                result = await alone(house, name, lasts, self._rate, say)
        self.results.append(result)
        _console.print(" ".join(_row(result)))


def _written(results: list[Result], output: Path) -> None:
    output.write_bytes(orjson.dumps([result.to_json() for result in results], option=orjson.OPT_INDENT_2))


def _show(results: list[Result]) -> None:
    table = Table(*COLUMNS)
    for result in results:
        table.add_row(*_row(result))
    Console(width=200).print(table)
    for result in results:
        for problem in (*result.verdict.lost[:3], *result.verdict.doubled[:3], *result.reasons[:3]):
            _console.print(f"{result.fault}: {problem}", markup=False)


def _row(result: Result) -> list[str]:
    v = result.verdict
    cells = (
        *(result.fault, result.seconds, result.rate, v.webhooks, v.taken, v.refused, v.unanswered, v.undelivered),
        *(v.slowest, result.spooled, v.accepts, v.unconfirmed, len(v.lost), len(v.doubled), v.parked),
        result.settled,
    )
    return [*map(str, cells), "ok" if result.holds else "FAILED"]


if __name__ == "__main__":
    typer.run(main)
