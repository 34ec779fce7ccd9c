"""The policies in examples/ do what the cases beside them say."""

import copy
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from worker import policy
from worker.facts import read_facts
from worker.policy import Sample
from worker.policy.remarks import remarks

POLICIES = Path(__file__).parents[2] / "examples" / "policies"
FILES = sorted(file for file in POLICIES.glob("*.toml") if not file.name.endswith(".cases.toml"))
KEYS = {
    "name", "now", "request", "unknown", "facts", "unknown_facts",
    "decision", "rule", "reason_code", "tags", "propose_at", "answer_within_minutes", "then_after",
}  # fmt: skip


def tree(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.with_name(f"{file.stem}.cases.toml").read_text())


def cases() -> Iterator[Any]:
    for file in FILES:
        base = tree(file)
        for case in base["cases"]:
            yield pytest.param(file, base, case, id=f"{file.stem}: {case['name']}")


def over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for name, value in changes.items():
        below = merged.get(name)
        merged[name] = over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def without(given: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    for path in paths:
        *steps, last = path.split(".")
        node = given
        for step in steps:
            node = node[step]
        assert last in node, f"{path} is not there to be taken away"
        node[last] = None
    return given


def test_there_are_eight_and_each_has_cases_of_the_unknown_and_names_every_rule() -> None:
    assert len(FILES) == 8
    for file in FILES:
        found = tree(file)["cases"]
        assert len(found) >= 5
        assert any(case.get("unknown") for case in found)
        assert all(set(case) <= KEYS for case in found)
        assert {rule.name for rule in policy.load(file).rules} <= {case.get("rule") for case in found}, file.name


def test_no_example_reads_what_it_has_no_table_for() -> None:
    for file in FILES:
        assert list(remarks(policy.load(file))) == []


def test_the_readme_lists_them() -> None:
    readme = (POLICIES / "README.md").read_text()
    for file in FILES:
        assert f"({file.name})" in readme


@pytest.mark.parametrize(("file", "base", "case"), list(cases()))
def test_an_example_decides_as_its_cases_say(file: Path, base: dict[str, Any], case: dict[str, Any]) -> None:
    rules = policy.load(file)
    data = without(over(base["request"], case.get("request", {})), case.get("unknown", []))
    facts = without(over(base["facts"], case.get("facts", {})), case.get("unknown_facts", []))
    now = datetime.fromisoformat(case.get("now", base["now"])).replace(tzinfo=rules.timezone).timestamp()
    decision = rules.decide(Sample(data), now, read_facts(facts))
    assert (decision.verdict, decision.rule) == (case["decision"], case.get("rule")), decision.reason
    expected = case.get("reason_code", "rule" if "rule" in case else "default")
    assert decision.reason_code == expected, decision.reason
    assert list(decision.tags) == case.get("tags", [])
    if "propose_at" in case or decision.propose_at is not None:
        assert decision.propose_at == datetime.fromisoformat(case["propose_at"].replace("Z", "+00:00")).astimezone(UTC)
    if "then_after" in case:
        assert decision.answer_within == case["answer_within_minutes"] * 60
        assert decision.then_after == case["then_after"]
