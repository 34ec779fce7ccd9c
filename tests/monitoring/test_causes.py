"""Each alert's cause is made in real processes; what their /metrics say then, going on so, makes Prometheus fire it.

One minute of promtool's time is one such cause again: counters go on growing by what the cause added, ages by
a minute, other gauges stay. Before the cause the same alert is silent on what such processes said.
"""

import asyncio
import contextlib
import re
import sqlite3
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Final

import yaml

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from tests.acceptance.test_rides import broadcast
from tests.monitoring.test_alerts import ALERTS, needs_promtool
from tests.monitoring.test_real_metrics import Samples, scraped, until_scraped, value
from tests.processes import Home, Process, free_port
from tests.rabbit_node import Node

QUIET: Final = 20  # minutes before the cause
GOES_ON: Final = 120  # minutes for which it does
WEEK: Final = 7 * 24 * 60

BY_CUSTOMERS: Final = (
    "ReceiverSignatureFailures",
    "ReceiverEventsParked",
    "ReceiverCustomersDisabled",
    "ReceiverTokenRefused",
    "ReceiverUnconfirmedTrips",
    "ReceiverUnacknowledgedTrips",
    "ReceiverApiFailing",
    "ReceiverLostRaces",
)
BY_A_BAD_STORE: Final = ("ReceiverBrakeOn",)
BY_SILENCE: Final = ("ReceiverNoWebhooks",)
BY_NO_WORKER: Final = ("ReceiverConsumerMissing",)
BY_A_LATE_WORKER: Final = ("ReceiverWorkersBehind", "ReceiverTimeToAcceptSlow")
BY_A_STUCK_BROKER: Final = (
    "ReceiverWebhooksRefused",
    "ReceiverWebhooksSlow",
    "ReceiverSpoolNotEmpty",
    "ReceiverOutcomesNotPublished",
)
BY_NO_INGRESS: Final = ("ReceiverIngressMissing",)

pytestmark = needs_promtool


def told_by(**processes: Samples) -> Samples:
    """What several processes say, each as an instance of its own, as Prometheus keeps it."""
    return {
        (name, labels | {("instance", instance)}): number
        for instance, samples in processes.items()
        for (name, labels), number in samples.items()
    }


def series(before: Samples, after: Samples, read: Collection[str], *, ends: bool) -> list[dict[str, str]]:
    """promtool's notation of the metrics that are `read`. `ends`: after those minutes it grows no more."""
    lines = []
    for name, labels in before.keys() | after.keys():
        if name not in read:
            continue
        was, now = before.get((name, labels)), after.get((name, labels))
        grows = 60.0 if name.endswith("_oldest_seconds") and now else 0.0
        if name.endswith(("_total", "_bucket", "_count")) and now is not None:
            grows = max(0.0, now - (was or 0.0))
        text = f"_x{QUIET}" if was is None else f"{was:.6f}+0x{QUIET - 1}"
        text += f" _x{GOES_ON}" if now is None else f" {now:.6f}+{grows:.6f}x{GOES_ON - 1}"
        if ends and now is not None:
            text += f" {now + grows * (GOES_ON - 1):.6f}+0x{WEEK}"
        has = ",".join(f'{label}="{of}"' for label, of in sorted(labels))
        lines.append({"series": f"{name}{{{has}}}", "values": text})
    return lines


def judged(before: Samples, after: Samples, alerts: Collection[str], folder: Path, *, ends: bool = False) -> None:
    """These alerts are silent on the samples before, and fire on those after; by Prometheus' own tool."""
    asked = f'group by (alertname) (ALERTS{{alertstate="firing",alertname=~"{"|".join(alerts)}"}})'
    read = {name for alert in alerts for name in re.findall(r"receiver_\w+", ALERTS[alert]["expr"])}
    fire = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    late = QUIET + WEEK + 80 if ends else QUIET + GOES_ON - 10
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series(before, after, read, ends=ends),
                "promql_expr_test": [
                    {"expr": asked, "eval_time": f"{QUIET - 1}m", "exp_samples": []},
                    {"expr": asked, "eval_time": f"{late}m", "exp_samples": fire},
                ],
            }
        ],
    }
    asked_for = [{"name": "asked", "rules": [ALERTS[alert] for alert in alerts]}]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": asked_for}))
    (folder / "causes.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "causes.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cause_made_here() -> None:
    made = (
        *BY_CUSTOMERS,
        *BY_A_BAD_STORE,
        *BY_SILENCE,
        *BY_NO_WORKER,
        *BY_A_LATE_WORKER,
        *BY_A_STUCK_BROKER,
        *BY_NO_INGRESS,
    )
    assert sorted(made) == sorted(ALERTS)


async def test_what_goes_wrong_with_customers_fires_its_alerts(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=21)) as sandbox:
        home = Home(tmp_path, sandbox, worker_more="confirm_within = 1")
        home._parts.append(
            f'[client]\nport = {free_port()}\n[[subscriptions]]\nname = "cad"\ncustomers = ["acme"]\n'
            'token = "0123456789abcdef"\nacknowledges = true\nacknowledge_within = 1'
        )
        for name in ("acme", "birch", "elm", "fir"):
            home.customer(name)
        async with Process(home, "run") as process:
            await process.ready()
            before, _ = await scraped(home)
            assert await process.terminate() == 0
        home.customer("cedar", public_keys=["nowhere.pem"])
        home.customer("dogwood", client_secret="replaced at VectorCare")
        sandbox.set_trouble(Trouble(fail=1.0, calls=("accept",)), "elm")
        sandbox.plan("slow", "accept", "birch", times=8, seconds=0.5)
        sandbox.plan("lose", "BROADCAST_ACCEPTED", "fir")
        async with Process(home, "run") as process:
            await process.ready()
            for _ in range(3):
                await sandbox.send("acme", b"{}", "wrong")
            await sandbox.send("acme", b"{}")
            for request in await broadcast(sandbox, 8, "birch"):
                sandbox.competitor_accepts(request)
            await broadcast(sandbox, 8, "elm")
            for customer in ("acme", "fir", "dogwood", "dogwood"):
                await broadcast(sandbox, 1, customer)

            def all_seen(samples: Samples) -> bool:
                return (
                    value(samples, "receiver_outcomes_total", customer="birch", state="lost") >= 6
                    and value(samples, "receiver_api_calls_total", customer="elm", answer="unknown") >= 6
                    and value(samples, "receiver_unconfirmed_trips", customer="fir") == 1
                    and value(samples, "receiver_unacknowledged", customer="acme") >= 1
                    and value(samples, "receiver_token_requests_total", customer="dogwood", answer="refused") > 1
                    and value(samples, "receiver_events_parked_total", customer="acme") >= 1
                )

            after, _ = await until_scraped(home, all_seen, 40)
            judged(told_by(a=before), told_by(a=after), BY_CUSTOMERS, tmp_path)
            with contextlib.closing(sqlite3.connect(tmp_path / "receiver.db")) as store:
                store.execute("UPDATE assignments SET state = 'known_to_another_version_only'")
                store.commit()
            for attempt in [*sandbox.history("acme"), *sandbox.history("birch")]:
                if attempt.status == "AVAILABLE":
                    await sandbox.redeliver(attempt.id)
            braked, _ = await until_scraped(home, lambda seen: value(seen, "receiver_brake") > 0, 40)
            judged(told_by(a=after), told_by(a=braked), BY_A_BAD_STORE, tmp_path)


async def test_a_customer_that_falls_silent_fires_its_alert(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=22)) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        async with Process(home, "run") as process:
            await process.ready()
            before, _ = await scraped(home)
            await broadcast(sandbox, 2, "acme")
            after, _ = await until_scraped(home, lambda seen: value(seen, "receiver_webhooks_total") >= 4, 20)
    judged(told_by(a=before), told_by(a=after), BY_SILENCE, tmp_path, ends=True)


async def test_processes_that_are_missing_late_or_cut_off_fire_their_alerts(
    tmp_path: Path, mortal_rabbit: Node
) -> None:
    async with Sandbox(Options(seed=23)) as sandbox, contextlib.AsyncExitStack() as stack:
        plain, spooled, working = (Home(tmp_path / name, sandbox, broker=mortal_rabbit.url) for name in "abw")
        spooled._parts[0] += '\n[ingress.spool]\npath = "spool.db"'
        working._parts[1] = f"[worker]\nadmin_port = {working.admin_port}"
        for home in (plain, spooled, working):
            home.folder.mkdir()
            home.customer("acme")
        sandbox.set_webhook("acme", plain.webhook("acme"))
        ingresses = [await stack.enter_async_context(Process(home, "ingress")) for home in (plain, spooled)]
        worker = await stack.enter_async_context(Process(working, "worker"))
        await asyncio.gather(*(process.ready() for process in (*ingresses, worker)))

        async def seen_now() -> dict[str, Samples]:
            return {name: (await scraped(home))[0] for name, home in (("a", plain), ("b", spooled), ("w", working))}

        at_peace = await seen_now()
        assert await worker.terminate() == 0
        alone = {"a": (await scraped(plain))[0], "b": (await scraped(spooled))[0]}
        judged(told_by(**at_peace), told_by(**alone), BY_NO_WORKER, tmp_path)
        await broadcast(sandbox, 12, "acme")
        await asyncio.sleep(10.5)  # what the alert is about: webhooks wait longer than 10 seconds
        worker = await stack.enter_async_context(Process(working, "worker"))
        await worker.ready()
        await until_scraped(working, lambda seen: value(seen, "receiver_outcomes_published_total") >= 24, 20)
        worked_off = await seen_now()
        judged(told_by(**at_peace), told_by(**worked_off), BY_A_LATE_WORKER, tmp_path)

        sandbox.plan("slow", "accept", "acme", seconds=2.0)
        await broadcast(sandbox, 1, "acme")
        await until_scraped(working, lambda seen: value(seen, "receiver_time_to_accept_seconds_count") == 13, 20)
        mortal_rabbit.pause()
        body = sandbox.record.webhooks()[0].body
        answers = await asyncio.gather(
            sandbox.send("acme", body), sandbox.send("acme", body, url=spooled.webhook("acme"))
        )
        assert [answer.status for answer in answers] == [503, 202]
        await until_scraped(spooled, lambda seen: value(seen, "receiver_spool_oldest_seconds") > 0, 20)
        await until_scraped(working, lambda seen: value(seen, "receiver_outbox_oldest_seconds") > 0, 30)
        stuck = await seen_now()
        judged(told_by(**worked_off), told_by(**stuck), BY_A_STUCK_BROKER, tmp_path)
        for ingress in ingresses:
            await ingress.kill()
        judged(told_by(**at_peace), told_by(w=(await scraped(working))[0]), BY_NO_INGRESS, tmp_path)
        mortal_rabbit.resume()
