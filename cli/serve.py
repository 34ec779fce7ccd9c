"""Runs the ingress, the workers, or both in one process, until told to stop; then drains."""

import asyncio
import contextlib
import platform
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import structlog
from aiohttp import web

from cli.house import House, open_house
from ingress import app as ingress_app
from ingress.customers import senders
from ingress.receive import Reception
from ingress.spool import Spool
from shared import admin, metrics, traces
from shared.admin import Health
from shared.errors import ConfigurationError, Problem
from shared.settings import Settings
from worker import app as workers_app
from worker.customers import customers
from worker.notify import Notifier

Checks = Callable[[], Mapping[str, str | None]]

_log = structlog.get_logger("serve")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is running: the ports of its listeners, 0 for one that there is not."""

    webhook_port: int
    admin_port: int
    client_port: int = 0


def serve_until_stopped(settings: Settings, *, receives: bool, roles: Collection[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    asyncio.run(_until_stopped(settings, receives=receives, roles=roles))


async def _until_stopped(settings: Settings, *, receives: bool, roles: Collection[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings, receives=receives, roles=roles):
        await stop.wait()
        _log.info("stopping")
    _log.info("stopped")


@contextlib.asynccontextmanager
async def serving(settings: Settings, *, receives: bool, roles: Collection[str]) -> AsyncIterator[Serving]:
    """Start, and at the end take nothing more, finish what is in hand, and close, in that order."""
    for problem in settings.warnings:
        _log.warning("configuration_warning", place=problem.place, problem=problem.message)
    if not settings.declared:
        _log.error("no_customers", problem="no customer is configured, so every webhook is refused")
    if receives:
        ingress_app.tls(settings)  # before anything is opened
    part = "run" if receives and roles else "ingress" if receives else "worker"
    async with contextlib.AsyncExitStack() as stack:
        traces.switch_on(settings, part)
        stack.push_async_callback(traces.switch_off)
        house = await stack.enter_async_context(open_house(settings, with_store=bool(roles)))
        spool = await _open_spool(stack, settings, house) if receives else None
        checks: list[Checks] = [(lambda: {"broker": house.broker.problem}) if spool is None else _spool_checks(spool)]
        problems: list[Problem] = []
        notifier = Notifier(settings.notify)
        stack.push_async_callback(notifier.stop)
        workers = None
        if roles:
            workers, mine = await _start_workers(stack, settings, house, roles, notifier)
            problems += mine
            checks.append(workers.readiness)
        webhook_port = 0
        if receives:
            taken, mine = senders(settings)
            problems += mine
            reception = Reception(
                spool or house.broker,
                taken,
                settings.ingress.max_body_bytes,
                settings.ingress.allow_from,
                settings.ingress.trusted_proxies,
            )
            runner = await _listening(ingress_app.listen(reception, settings), "ingress")
            stack.push_async_callback(runner.cleanup)
            webhook_port = ingress_app.port(runner)
        health = _health(checks, _told(problems), spool, workers)
        admin_port = await _start_admin(stack, settings, health, receives=receives)
        metrics.BUILD_INFO.labels(version("vectorcare-receiver"), platform.python_version(), part).set(1)
        client_port = workers.client_port if workers else 0
        _log.info(
            "started",
            webhook_port=webhook_port,
            admin_port=admin_port,
            client_port=client_port,
            roles=sorted(roles),
        )
        yield Serving(webhook_port, admin_port, client_port)


async def _open_spool(stack: contextlib.AsyncExitStack, settings: Settings, house: House) -> Spool | None:
    if settings.spool_file is None:
        return None
    spool = await Spool.open(house.broker, settings.spool_file, settings.ingress.spool.max_bytes, house.sealer)
    stack.push_async_callback(spool.close)
    return spool


def _spool_checks(spool: Spool) -> Checks:
    return lambda: {"spool": spool.problem}


def _health(
    checks: Sequence[Checks], disabled: Mapping[str, str], spool: Spool | None, workers: workers_app.Workers | None
) -> Callable[[], Health]:
    """Asked at each look. Where a spool takes webhooks without a broker, a consumer that has none is worth a look and
    no reason to send webhooks elsewhere."""

    def health() -> Health:
        found = {name: problem for check in checks for name, problem in check().items()}
        notes = {**disabled, **(workers.notes() if workers else {})}
        if spool is None:
            return Health(found, notes)
        notes |= spool.notes()
        if "broker" in notes:
            idle = {name: problem for name, problem in found.items() if problem and name.startswith("consumer ")}
            notes |= idle
            found |= dict.fromkeys(idle)
        return Health(found, notes)

    return health


async def _start_workers(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    house: House,
    roles: Collection[str],
    notifier: Notifier,
) -> tuple[workers_app.Workers, list[Problem]]:
    assert house.store is not None
    served, problems = customers(settings)
    workers = await workers_app.start(settings, house.broker, house.store, house.sealer, served, roles, notifier)
    stack.push_async_callback(workers.stop)
    return workers, problems


async def _start_admin(
    stack: contextlib.AsyncExitStack, settings: Settings, health: Callable[[], Health], *, receives: bool
) -> int:
    part = settings.ingress if receives else settings.worker
    if not receives and part.admin_port == 0:
        return 0
    listening = admin.listen(admin.application(health), part.admin_host, part.admin_port)
    try:
        runner = await _listening(listening, "ingress" if receives else "worker", "admin_")
    except ConfigurationError as error:
        if receives:
            raise
        # A second worker of this machine, most likely: better one that works unseen than none.
        _log.error("admin_not_served", problem=str(error))
        return 0
    stack.push_async_callback(runner.cleanup)
    return ingress_app.port(runner)


async def _listening(start: Awaitable[web.AppRunner], part: str, prefix: str = "") -> web.AppRunner:
    try:
        return await start
    except OSError as error:
        place = f"{part}.{prefix}port"
        raise ConfigurationError([Problem(place, f"can't listen there: {error.strerror}")]) from None


def _told(problems: Sequence[Problem]) -> Mapping[str, str]:
    """Each disabled customer, said loudly in the log and kept for readiness."""
    notes: dict[str, str] = {}
    for problem in dict.fromkeys(problems):
        _log.error("customer_disabled", customer=problem.customer, place=problem.place, problem=problem.message)
        notes[f"customers.{problem.customer}"] = f"disabled: {problem}"
    metrics.CUSTOMERS_DISABLED.set(len(notes))
    return notes
