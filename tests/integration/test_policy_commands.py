"""`policy try` and `policy compare` on a real store: what they print, and that no patient is in it."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from shared.engine import Engine
from shared.sealing import Sealer
from tests.processes import command
from tests.webhooks import envelope
from worker import app as workers
from worker.facts import Facts, Load
from worker.tables import offers

OLD = """
timezone = "America/Los_Angeles"
[[rules]]
name = "heavy"
when = "request.patient_weight_lbs > 300"
then = "decline"
unknown = "skip"
[[rules]]
name = "room"
when = "load.open < 5 && request.facility_name != 'Nowhere'"
then = "accept"
tags = ["roomy"]
"""
NEW = OLD.replace("load.open < 5", "load.open < 3")
DATA = {"facility_name": "Marked Facility", "patient_last_name": "Marked", "pickup_date_time": "2026-11-30T20:00:00Z"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "old.toml").write_text(OLD)
    (tmp_path / "new.toml").write_text(NEW)
    (tmp_path / "receiver.toml").write_text('[store]\nurl = "sqlite:store.db"\n[broker]\nurl = "sqlite:store.db"\n')
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    (tmp_path / "webhook.json").write_bytes(orjson.dumps(envelope(data=DATA)))
    return tmp_path


async def keep(home: Path, rows: list[dict[str, Any]]) -> None:
    """Offers in the store, as the workers leave them."""
    engine = Engine(home / "store.db")
    await workers.migrate(engine)
    await engine.transact(lambda connection, _: connection.execute(insert(offers), rows))
    await engine.close()


def row(number: int, load: int, *, seen_at: float, kept: bool = True, customer: str = "acme") -> dict[str, Any]:
    request = f"VC-{number}"
    body = orjson.dumps(envelope(service_request_id=request, data=DATA))
    return {
        "customer_id": customer,
        "service_request_id": request,
        "event_id": str(number),
        "seen_at": seen_at,
        "mode": "automatic",
        "verdict": "accept",
        "rule": "room",
        "reason_code": "rule",
        "facts": dataclasses.asdict(Facts(Load(open=load, overlapping=0))),
        "event": Sealer().seal(body) if kept else None,
    }


@pytest.mark.parametrize("payload", ["data.json", "webhook.json"])
async def test_try_tells_rule_by_rule_what_a_policy_would_do_and_shows_no_patient(home: Path, payload: str) -> None:
    status, printed = await command("policy", "try", "old.toml", payload, "--at", "2026-11-30T08:00", folder=home)
    assert status == 0
    assert "request.patient_weight_lbs is not known" in printed
    assert "rule: rule 'room'" in printed
    assert "tags: roomy" in printed
    assert "240" in printed  # lead_minutes, by the policy's own time zone
    assert "Marked" not in printed
    assert "\x1b[" not in printed


async def test_try_reveals_the_request_when_told_to_and_takes_facts(home: Path) -> None:
    (home / "facts.json").write_text('{"load": {"open": 4}}')
    told = ("--facts", "facts.json", "--reveal")
    _, printed = await command("policy", "try", "old.toml", "data.json", *told, folder=home)
    assert "Marked Facility" in printed
    assert "rule: rule 'room'" in printed
    _, printed = await command("policy", "try", "old.toml", "data.json", *told, "--fact", "load.open=5", folder=home)
    assert "default: no rule matched" in printed


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("old.toml",), "one of them"),
        (("old.toml", "nowhere.json"), "can't be read"),
        (("old.toml", "old.toml"), "is not JSON"),
        (("nowhere.toml", "data.json"), "can't be read"),
        (("old.toml", "data.json", "--at", "noon"), "--at is a time"),
        (("old.toml", "data.json", "--fact", "load.open=many"), "is a number"),
        (("old.toml", "data.json", "--fact", "lod=1"), "there is no fact lod"),
        (("old.toml", "--request", "VC-1"), "CUSTOMER/REQUEST"),
    ],
)
async def test_a_wrong_try_exits_with_2_and_says_why(home: Path, arguments: tuple[str, ...], why: str) -> None:
    status, printed = await command("policy", "try", *arguments, folder=home)
    assert status == 2
    assert why in printed


async def test_try_takes_the_newest_offer_of_a_request_as_it_was_seen(home: Path) -> None:
    now = time.time()
    await keep(home, [row(1, 9, seen_at=now - 60), row(1, 4, seen_at=now - 30), row(1, 9, seen_at=now, customer="b")])
    status, printed = await command("policy", "try", "old.toml", "--request", "acme/VC-1", folder=home)
    assert status == 0
    assert "rule: rule 'room'" in printed
    assert "Marked" not in printed
    status, printed = await command("policy", "try", "old.toml", "--request", "acme/VC-2", folder=home)
    assert (status, "keeps no offer of acme/VC-2" in printed) == (1, True)


async def test_compare_decides_what_was_seen_by_both_policies_and_lists_what_changes(home: Path) -> None:
    now = time.time()
    many = [row(number, 4 if number % 3 == 0 else 1, seen_at=now - 60) for number in range(1, 501)]
    old = [row(900, 4, seen_at=now - 8 * 86400), row(901, 4, seen_at=now, customer="birch")]
    gone = [row(902, 4, seen_at=now, kept=False)]
    await keep(home, [*many, *old, *gone])
    asked = ("--since", "7d", "--customer", "acme", "--most", "5")
    status, printed = await command("policy", "compare", "old.toml", "new.toml", *asked, folder=home)
    assert status == 0
    assert "500 offers: 334 decided the same, 166 otherwise" in printed
    assert "1 more were seen" in printed
    assert "acme/VC-3 " in printed
    assert "accept  room" in printed
    assert "hold  default" in printed
    assert "and 161 more" in printed
    assert "VC-900" not in printed
    assert "birch" not in printed
    assert "Marked" not in printed


async def test_compare_wants_a_span_and_names_what_was_not_asked_then(home: Path) -> None:
    status, printed = await command("policy", "compare", "old.toml", "new.toml", "--since", "soon", folder=home)
    assert (status, "12h or 7d" in printed) == (2, True)
    (home / "new.toml").write_text(NEW.replace("load.open < 3", "default(other_leg.state, '') == ''"))
    status, printed = await command("policy", "compare", "old.toml", "new.toml", folder=home)
    assert status == 0
    assert "0 offers" in printed
    assert "NEW reads other_leg, OLD does not" in printed
