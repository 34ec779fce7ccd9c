"""`demo`: a local VectorCare and the receiver in one process, a busy minute of two customers, and what became of it."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.house import open_house
from cli.serve import serving
from sandbox.server import Options, Sandbox
from shared import logs
from shared.broker import Broker, Delivery
from shared.configuration import load
from worker.app import ROLES

CUSTOMERS: Final = ("acme", "birch")
_GAP_SECONDS: Final = 0.03  # between two broadcasts
_PATIENCE_SECONDS: Final = 30.0
_SUBSCRIPTION: Final = "demo"
_POLICIES: Final = {
    "acme": """
        timezone = "America/Los_Angeles"
        [[rules]]
        name = "critical care needs a nurse, ask dispatch"
        when = "request.service_level_type == 'CCT'"
        then = "hold"
        [[rules]]
        name = "wheelchair and BLS, half an hour ahead"
        when = "lead_minutes >= 30 && request.service_level_type in ['WC', 'BLS']"
        then = "accept"
        """,
    "birch": """
        [[rules]]
        name = "no wheelchair vans"
        when = "request.service_level_type == 'WC'"
        then = "decline"
        notes = "We have no wheelchair vans."
        [[rules]]
        name = "everything else"
        when = "known(request.service_level_type)"
        then = "accept"
        """,
}
_WANTS: Final[Mapping[tuple[str, str], str]] = {
    ("acme", "bls"): "accept",
    ("acme", "critical_care"): "hold",
    ("acme", "dialysis"): "accept",
    ("birch", "bls"): "accept",
    ("birch", "critical_care"): "accept",
    ("birch", "dialysis"): "decline",
}


@dataclass(slots=True)
class Story:
    """What each (customer, request) should end as, and the states that were told of it so far."""

    expected: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    told: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    winners: dict[str, list[str]] = field(default_factory=dict)

    def ended(self) -> int:
        """How many have been told as one of the states in which they should end."""
        return sum(self.told.get(each, [""])[-1] in states for each, states in self.expected.items())


def demo(requests: int, seed: int) -> int:
    """Run it and print it; the exit status."""
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="vectorcare-demo-") as folder,
        (Path(folder) / "log.jsonl").open("w") as stream,
    ):
        logs.configure(stream)
        return asyncio.run(_demo(console, Path(folder), requests, seed))


async def _demo(console: Console, folder: Path, requests: int, seed: int) -> int:
    console.print(
        f"A local VectorCare broadcasts {requests} service requests to {' and '.join(CUSTOMERS)}. Each\n"
        "webhook is signed with the customer's key, verified, made durable, decided by\n"
        "the customer's policy, answered through the API, and confirmed by a second\n"
        "webhook.\n"
    )
    story = Story()
    async with Sandbox(Options(seed=seed)) as sandbox:
        _configure(folder, sandbox)
        settings = load(folder / "receiver.toml", {})
        async with serving(settings, receives=True, roles=tuple(ROLES)) as running:
            for name in CUSTOMERS:
                url = f"http://127.0.0.1:{running.webhook_port}/webhook?customer_id={name}&token=demo-{name}"
                sandbox.set_webhook(name, url)
            async with open_house(settings, with_store=False) as house, _following(house.broker, story):
                await _broadcast(console, sandbox, story, requests, Random(seed))  # noqa: S311 - a demonstration
    return _report(console, sandbox, story)


def _configure(folder: Path, sandbox: Sandbox) -> None:
    """Write what a provider would write: receiver.toml, keys, policies."""
    parts = [
        f'subscriptions = [{{name = "{_SUBSCRIPTION}", pattern = "assignment.#"}}]',
        'ingress = {host = "127.0.0.1", port = 0, admin_port = 0}',
    ]
    for name in CUSTOMERS:
        receiver = sandbox.add_receiver(name)
        (folder / f"{name}.pem").write_text(receiver.public_key_pem)
        (folder / f"{name}.toml").write_text(_POLICIES[name])
        parts.append(
            f"""
            [customers.{name}]
            environment = "custom"
            api_url = "{sandbox.url}/openapi/v2.0"
            token_url = "{sandbox.url}/v2.0/oauth2/token"
            public_keys = ["{name}.pem"]
            webhook_token = "demo-{name}"
            client_id = "{receiver.client_id}"
            client_secret = "{receiver.client_secret}"
            policy = "{name}.toml"
            mode = "automatic"
            """
        )
    (folder / "receiver.toml").write_text("\n".join(parts))


@contextlib.asynccontextmanager
async def _following(broker: Broker, story: Story) -> AsyncIterator[None]:
    """Consume the declared subscription as any dispatch system would."""
    acks: set[asyncio.Task[None]] = set()

    def take(delivery: Delivery) -> None:
        outcome = orjson.loads(delivery.message.body)
        each = outcome["customer_id"], outcome["service_request_id"]
        story.told.setdefault(each, []).append(outcome["state"])
        acks.add(asyncio.create_task(delivery.ack()))

    consumer = await broker.consume(_SUBSCRIPTION, 100, take)
    yield
    await consumer.cancel()
    await asyncio.gather(*acks)


async def _broadcast(console: Console, sandbox: Sandbox, story: Story, requests: int, chance: Random) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        sent = progress.add_task("broadcast", total=requests)
        ended = progress.add_task("ended as they should")
        for number in range(requests):
            await _one(sandbox, story, number, chance)
            progress.update(sent, advance=1)
            progress.update(ended, completed=story.ended(), total=len(story.expected))
            await asyncio.sleep(_GAP_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await sandbox.idle(_PATIENCE_SECONDS)
                while story.ended() < len(story.expected):
                    progress.update(ended, completed=story.ended())
                    await asyncio.sleep(0.05)
        progress.update(ended, completed=story.ended())


async def _one(sandbox: Sandbox, story: Story, number: int, chance: Random) -> None:
    """One service request: for one customer, or for both, or snatched away by a competitor."""
    kind = chance.choice(("bls", "critical_care", "dialysis"))
    request_id = sandbox.create_request(kind, lead_minutes=chance.uniform(60, 600))
    receivers = [CUSTOMERS[number % 2]] if number % 3 else list(CUSTOMERS)
    snatched = number % 8 == 5
    wanting = [name for name in receivers if _WANTS[name, kind] == "accept"]
    for name in receivers:
        ends = {"accept": {"assigned"}, "decline": {"closed"}, "hold": {"held"}}[_WANTS[name, kind]]
        if snatched:
            ends = {"lost", "closed"}
        elif wanting and wanting != [name]:
            ends = {"assigned", "lost", "closed"} if name in wanting else {"closed"}
        story.expected[name, request_id] = frozenset(ends)
    if wanting and not snatched:
        story.winners[request_id] = wanting
    await sandbox.broadcast(request_id, receivers)
    if snatched:
        sandbox.competitor_accepts(request_id)


def _report(console: Console, sandbox: Sandbox, story: Story) -> int:
    columns = ("broadcast", "accepted", "declined", "held", "lost", "assigned")
    table = Table("customer", *columns, title="What became of the offers", title_justify="left")
    for name in CUSTOMERS:
        mine = {request: states for (customer, request), states in story.told.items() if customer == name}
        counts = Counter(state for states in mine.values() for state in set(states))
        broadcast = sum(customer == name for customer, _ in story.expected)
        taken = sum(call.answer_status == 201 and call.receiver == name for call in sandbox.record.calls("accept"))
        lost = sum(_was_lost(sandbox, request, name, states) for request, states in mine.items())
        figures = (broadcast, taken, counts["declining"], counts["held"], lost, counts["assigned"])
        table.add_row(name, *map(str, figures))
    console.print(table)
    times = _times_to_accept(sandbox)
    if len(times) > 1:
        cuts = quantiles(times, n=100, method="inclusive")
        console.print(f"time to accept: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms")
    wrong = _wrong(sandbox, story)
    for line in wrong:
        console.print(f"[red]{line}[/red]")
    if not wrong:
        console.print(f"Every one of {len(story.expected)} offers ended as it should.")
    return 1 if wrong else 0


def _was_lost(sandbox: Sandbox, request: str, name: str, states: list[str]) -> bool:
    assigned_to = sandbox.requests[request].assigned_to
    return assigned_to not in {None, name} and states[-1] in {"lost", "closed"} and "declining" not in states


def _times_to_accept(sandbox: Sandbox) -> list[float]:
    """From the start of the webhook's POST to the API's having our call, by VectorCare's side's own clock."""
    began = {
        (attempt.receiver, attempt.request_id): attempt.at
        for attempt in sandbox.record.webhooks()
        if attempt.status == "AVAILABLE"
    }
    calls = sandbox.record.calls("accept")
    return [call.at - began[call.receiver, call.request_id] for call in calls]


def _wrong(sandbox: Sandbox, story: Story) -> list[str]:
    """Whatever did not end as it should, by what was told and by VectorCare's own record."""
    lines = []
    for (name, request), states in story.expected.items():
        told = story.told.get((name, request), [])
        if not told or told[-1] not in states:
            lines.append(
                f"{name} {request}: told {' > '.join(told) or 'nothing'}, expected {' or '.join(sorted(states))}"
            )
    for request, wanting in story.winners.items():
        if sandbox.requests[request].assigned_to not in wanting:
            lines.append(f"{request}: nobody who wanted it has it")
    taken = Counter(call.request_id for call in sandbox.record.calls("accept") if call.answer_status == 201)
    lines += [f"{request}: accepted {times} times" for request, times in taken.items() if times > 1]
    lines += [
        f"{attempt.receiver} {attempt.event_id}: answered {attempt.response_code}"
        for attempt in sandbox.record.webhooks()
        if attempt.response_code != 202
    ]
    return lines
