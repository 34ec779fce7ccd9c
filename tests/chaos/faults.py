"""The faults, each with a beginning and an end; what is broken in between mends itself or is mended by the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sandbox.trouble import Trouble
from tests.chaos.house import House, Plan
from tests.postgres_server import Server
from tests.proxy import Mode
from tests.rabbit_node import Node


class Fault(Protocol):
    """Something that goes wrong."""

    async def begin(self, house: House) -> None:
        """It goes wrong now."""

    async def end(self, house: House) -> None:
        """It is right again, or will be by itself."""


Do = Callable[[House], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Between:
    """A fault of two moments."""

    begins: Do
    ends: Do

    async def begin(self, house: House) -> None:
        """See the protocol."""
        await self.begins(house)

    async def end(self, house: House) -> None:
        """See the protocol."""
        await self.ends(house)


class Repeated:
    """A deed that is done again and again, at random moments, from the beginning to the end."""

    def __init__(self, deed: Do, pauses: tuple[float, float], *, first: Do | None = None) -> None:
        self._deed = deed
        self._pauses = pauses
        self._task: asyncio.Task[None] | None = None

    async def begin(self, house: House) -> None:
        """See the protocol."""
        await self._deed(house)
        self._task = asyncio.create_task(self._go_on(house))

    async def end(self, house: House) -> None:
        """See the protocol. A deed that is under way is done to its end."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()):
            raise error

    async def _go_on(self, house: House) -> None:
        while True:
            await asyncio.sleep(random.uniform(*self._pauses))
            doing = asyncio.ensure_future(self._deed(house))
            try:
                await asyncio.shield(doing)
            except asyncio.CancelledError:
                await doing
                raise


def _on_node(deed: Callable[[Node], Any]) -> Do:
    async def do(house: House) -> None:
        await asyncio.to_thread(deed, house.node)

    return do


def _on_postgres(deed: Callable[[Server], Any]) -> Do:
    async def do(house: House) -> None:
        assert house.postgres is not None
        await asyncio.to_thread(deed, house.postgres)

    return do


def _ctl(*arguments: str) -> Do:
    return _on_node(lambda node: node.ctl(*arguments))


def _troubled(**trouble: Any) -> Between:
    async def begin(house: House) -> None:
        house.sandbox.set_trouble(Trouble(**trouble))

    async def end(house: House) -> None:
        house.sandbox.set_trouble(Trouble())

    return Between(begin, end)


def _proxies(mode: Mode, every: int = 1) -> Between:
    async def begin(house: House) -> None:
        for proxy in house.proxies:
            proxy.set(mode, every)

    async def end(house: House) -> None:
        for proxy in house.proxies:
            proxy.set(Mode.PASS)

    return Between(begin, end)


async def _kill_ingress(house: House) -> None:
    await house.ingress.kill()
    await house.revive(house.ingress)


async def _kill_a_worker(house: House) -> None:
    worker = random.choice(house.workers)
    await worker.kill()
    await house.revive(worker)


class SpoolKilledWhileFull:
    """The broker hangs, the spool fills, the ingress is killed with all that in it, then the broker is back."""

    async def begin(self, house: House) -> None:
        """See the protocol."""
        await asyncio.to_thread(house.node.pause)

    async def end(self, house: House) -> None:
        """See the protocol."""
        await _kill_ingress(house)
        await asyncio.to_thread(house.node.resume)


class SpoolDiskFull:
    """The broker hangs and the disk of the spool is full: nothing is safe, and nothing may be answered 2xx."""

    async def begin(self, house: House) -> None:
        """See the protocol."""
        await asyncio.to_thread(house.node.pause)
        house.limit_files([house.ingress], 1)

    async def end(self, house: House) -> None:
        """See the protocol."""
        house.limit_files([house.ingress], -1)
        await asyncio.to_thread(house.node.resume)


class StoreDiskFull:
    """No worker can write its SQLite file."""

    async def begin(self, house: House) -> None:
        """See the protocol."""
        house.limit_files(house.workers, 1)

    async def end(self, house: House) -> None:
        """See the protocol."""
        house.limit_files(house.workers, -1)


class TokenEndpointDown:
    """The tokens are dead, and there are no new ones."""

    async def begin(self, house: House) -> None:
        """See the protocol."""
        house.sandbox.set_trouble(Trouble(fail=1.0, calls=("token",)))
        for name in house.sandbox.receivers:
            house.sandbox.expire_tokens(name)

    async def end(self, house: House) -> None:
        """See the protocol."""
        house.sandbox.set_trouble(Trouble())


def leader(house: House) -> int:
    """Which node leads the queue of the offers."""
    for node in house.nodes:
        table = node.ctl("list_queues", "-q", "name", "leader", "--online")
        for line in table.splitlines():
            name, _, where = line.partition("\t")
            if name == "receiver.broadcast-received":
                return [each.name for each in house.nodes].index(where.strip())
    raise AssertionError("nobody leads the queue of the offers")


class OnLeader:
    """A deed on the node that leads when the fault begins, undone on the same one; `others`: on that many more."""

    def __init__(self, deed: Callable[[Node], Any], undo: Callable[[Node], Any], others: int = 0) -> None:
        self._deed, self._undo, self._others = deed, undo, others
        self._nodes: list[Node] = []

    async def begin(self, house: House) -> None:
        """See the protocol."""
        at = await asyncio.to_thread(leader, house)
        self._nodes = [house.nodes[(at + step) % len(house.nodes)] for step in range(1 + self._others)]
        await asyncio.gather(*(asyncio.to_thread(self._deed, node) for node in self._nodes))

    async def end(self, house: House) -> None:
        """See the protocol."""
        await asyncio.gather(*(asyncio.to_thread(self._undo, node) for node in self._nodes))


class LeaderCut:
    """The network to the leader is cut as a publish comes, once it has not reached it, then again and again."""

    async def begin(self, house: House) -> None:
        """See the protocol."""
        at = await asyncio.to_thread(leader, house)
        house.proxies[at].set(Mode.CUT_PUBLISHES, 20)
        for number, proxy in enumerate(house.proxies):
            if number != at:
                proxy.set(Mode.CUT_CONFIRMS, 20)

    async def end(self, house: House) -> None:
        """See the protocol."""
        for proxy in house.proxies:
            proxy.set(Mode.PASS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table. `refuses`: webhooks may be answered 503 meanwhile, because nothing could keep them."""

    make: Callable[[], Fault]
    plan: Plan
    mixes: bool = False
    refuses: bool = False
    seconds: float | None = None  # where the issue asks for a time of its own


SINGLE: Final = Plan(proxied=True)
PLAIN: Final = Plan()
SMALL: Final = Plan(spool_bytes=1 << 20)
FILE: Final = Plan(postgres=False)
CLUSTER: Final = Plan(nodes=3)
CUT_CLUSTER: Final = Plan(nodes=3, proxied=True)

_BROKER_DOWN: Final = Between(_on_node(Node.kill), _on_node(Node.start))
_PAUSED: Final = Between(_on_node(Node.pause), _on_node(Node.resume))
_API: Final[Mapping[str, Between]] = {
    "api_slow": _troubled(slow=1.0, slow_seconds=2.0),
    "api_silent": _troubled(slow=1.0, slow_seconds=30.0, calls=("accept",)),
    "api_resetting": _troubled(drop_before=0.7),
    "api_429": _troubled(throttle=0.7, retry_after=1.0),
    "api_500": _troubled(fail=0.9),
    "api_500_after_taken": _troubled(fail_after=0.5),
    "token_refused": _troubled(refuse_token=0.3),
    "api_answer_lost": _troubled(drop_after=0.5),
}

FAULTS: Final[Mapping[str, Entry]] = {
    "nothing": Entry(_troubled, PLAIN),
    "broker_killed": Entry(lambda: _BROKER_DOWN, PLAIN, mixes=True),
    "broker_restarted": Entry(lambda: Between(_ctl("stop_app"), _ctl("start_app")), PLAIN, mixes=True),
    "broker_paused": Entry(lambda: _PAUSED, PLAIN, mixes=True, seconds=30),
    "memory_alarm": Entry(
        lambda: Between(_ctl("set_vm_memory_high_watermark", "0.0001"), _ctl("set_vm_memory_high_watermark", "0.6")),
        PLAIN,
        mixes=True,
    ),
    "disk_alarm": Entry(
        lambda: Between(_ctl("set_disk_free_limit", "100000GB"), _ctl("set_disk_free_limit", "50MB")),
        PLAIN,
        mixes=True,
    ),
    "broker_down_long": Entry(lambda: _BROKER_DOWN, PLAIN, seconds=300),
    "ingress_killed": Entry(lambda: Repeated(_kill_ingress, (2, 5)), PLAIN, mixes=True, refuses=True),
    "ingress_killed_with_full_spool": Entry(SpoolKilledWhileFull, PLAIN, refuses=True),
    "spool_full": Entry(lambda: _PAUSED, SMALL, refuses=True),
    "worker_killed": Entry(lambda: Repeated(_kill_a_worker, (0.5, 3)), PLAIN, mixes=True),
    "database_killed": Entry(lambda: Between(_on_postgres(Server.kill), _on_postgres(Server.start)), PLAIN, mixes=True),
    "database_paused": Entry(
        lambda: Between(_on_postgres(Server.pause), _on_postgres(Server.resume)), PLAIN, mixes=True
    ),
    **{name: Entry(lambda fault=fault: fault, PLAIN, mixes=True) for name, fault in _API.items()},  # type: ignore[misc]
    "token_endpoint_down": Entry(TokenEndpointDown, PLAIN, mixes=True),
    "disk_full_on_the_spool": Entry(SpoolDiskFull, PLAIN, refuses=True),
    "publishes_cut_before": Entry(lambda: _proxies(Mode.CUT_PUBLISHES, 20), SINGLE),
    "confirms_cut_after": Entry(lambda: _proxies(Mode.CUT_CONFIRMS, 20), SINGLE),
    "network_cut": Entry(lambda: _proxies(Mode.CUT), SINGLE),
    "network_silent": Entry(lambda: _proxies(Mode.SWALLOW), SINGLE),
    "disk_full_on_the_store": Entry(StoreDiskFull, FILE),
    "worker_killed_on_sqlite": Entry(lambda: Repeated(_kill_a_worker, (0.5, 3)), FILE),
    "leader_killed": Entry(lambda: OnLeader(Node.kill, Node.start), CLUSTER),
    "two_of_three_killed": Entry(lambda: OnLeader(Node.kill, Node.start, others=1), CLUSTER),
    "leader_paused": Entry(lambda: OnLeader(Node.pause, Node.resume), CLUSTER),
    "cluster_network_cut": Entry(LeaderCut, CUT_CLUSTER),
}
