"""The docs tell the truth: each setting, metric, command, state and field is in them, and their examples work."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import prometheus_client
import pytest
import schemathesis
import typer.main
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from cli.main import app
from shared import metrics, topics
from shared.configuration import load
from shared.settings import CustomerSettings, Limits, Settings, SpoolSettings, Subscription
from tests.schemas import document
from worker import policy
from worker.assignment import State
from worker.command import ARGUMENTS
from worker.policy import PolicyError

ROOT = Path(__file__).parents[2]
DOCS = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"]
SCHEMA = orjson.loads((ROOT / "shared/schemas/assignment-1.json").read_bytes())


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def examples(language: str) -> Iterator[tuple[str, str]]:
    for file in DOCS:
        for number, found in enumerate(re.findall(rf"```{language}\n(.*?)```", file.read_text(), re.DOTALL)):
            yield f"{file.relative_to(ROOT)} {number}", found


def settings_of(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_every_setting_is_documented_and_nothing_else() -> None:
    documented: dict[str, set[str]] = {}
    for part in text("settings.md").split("\n## ")[1:]:
        title = part.splitlines()[0]
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        documented[title] = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    limits = {f"limits.{name}" for name in settings_of(Limits)}
    parts = {
        f"[{name}]": settings_of(type(getattr(Settings(), name)))
        for name in ("ingress", "worker", "broker", "store", "client", "notify", "traces")
    }
    parts["[ingress]"] = parts["[ingress]"] - {"spool"} | {f"spool.{name}" for name in settings_of(SpoolSettings)}
    parts["[[subscriptions]]"] = settings_of(Subscription)
    parts["[customers.ID]"] = settings_of(CustomerSettings) - {"limits"} | limits
    assert documented == parts


def test_every_metric_is_documented_and_nothing_else() -> None:
    suffix = {"counter": "_total"}
    ours = {
        f"{family.name}{suffix.get(family.type, '')}"
        for family in prometheus_client.REGISTRY.collect()
        if family.name.startswith("receiver_")
    }
    assert ours
    assert set(re.findall(r"^\| `(receiver_\w+)`", text("observability.md"), re.MULTILINE)) == ours
    assert len(ours) == sum(name.isupper() and not name.startswith("_") for name in vars(metrics))


def commands(group: Any, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands") and name != "sandbox":
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_every_command_is_documented_and_nothing_else() -> None:
    group = typer.main.get_command(app)
    documented = re.findall(r"^\| `([a-z -]+?)(?: [\[A-Z].*?)?` \|", text("commands.md"), re.MULTILINE)
    assert set(documented) == set(commands(group))


def test_every_state_and_field_of_an_outcome_is_documented() -> None:
    events = text("events.md")
    rows = {name for row in re.findall(r"^\| (`.*?) \|", events, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert {state.value for state in State} <= rows
    assert set(SCHEMA["properties"]) <= rows
    assert set(SCHEMA["properties"]["state"]["enum"]) == {state.value for state in State}
    for code in SCHEMA["properties"]["reason_code"]["enum"]:
        assert re.search(rf"\b{code}\b", events)


@pytest.mark.parametrize(("place", "example"), [pytest.param(*each, id=each[0]) for each in examples("toml")])
def test_every_toml_example_is_a_good_configuration_policy_or_scenario(
    place: str, example: str, tmp_path: Path
) -> None:
    tree = tomllib.loads(example)
    if "rules" in tree:
        assert policy.read(example).rules
    elif set(tree) <= set(Settings.model_fields):
        for secret in re.findall(r'_file = "(.*?)"', example):
            (tmp_path / secret).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / secret).write_text("a-secret-of-24-characters-or-more")
        (tmp_path / "receiver.toml").write_text(example)
        assert load(tmp_path / "receiver.toml", {}).customer_problems == ()
    else:
        assert place.startswith("docs/sandbox.md"), "what is this an example of?"


def test_the_json_example_is_an_outcome_by_the_schema() -> None:
    outcomes = [orjson.loads(example) for place, example in examples("json") if place.startswith("docs/events.md")]
    assert outcomes
    for outcome in outcomes:
        Draft202012Validator(SCHEMA).validate(outcome)


def test_every_link_between_the_docs_leads_somewhere() -> None:
    for file in DOCS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.relative_to(ROOT)}: {target}"


def test_the_languages_functions_are_documented() -> None:
    documented = text("policy.md")
    for name in ("size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "min", "max"):
        assert f"`{name}`" in documented
    with pytest.raises(PolicyError):
        policy.read("[[rules]]\nname = 'a'\nwhen = \"timestamp('x') == 1\"\nthen = 'accept'\n")


def test_every_command_and_code_is_documented_for_dispatch_systems() -> None:
    documented = text("subscribe.md")
    for word in ARGUMENTS:
        assert f"`{word}`" in documented
    codes = document("command-result-1")["properties"]["code"]["description"].partition("Known: ")[2].split(", ")
    for code in codes:
        assert f"`{code}`" in documented


@pytest.mark.parametrize("name", ["asyncapi", "client-openapi"])
def test_every_reference_of_the_published_contracts_leads_somewhere(name: str) -> None:
    contract = document(name)
    for reference in re.findall(r'"\$ref":"(.*?)"', orjson.dumps(contract).decode()):
        if reference.startswith("#/"):
            found: Any = contract
            for step in reference[2:].split("/"):
                found = found[step]
        else:
            assert document(reference.removeprefix("./").removesuffix(".json"))


def test_the_openapi_document_is_valid_by_the_specification() -> None:
    contract = document("client-openapi")
    assert contract["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(contract).validate()
    broken = contract | {"paths": {"/v1": {"get": {"parameters": [{"name": "after", "in": "body"}]}}}}
    with pytest.raises(Exception, match='"body" is not one of'):
        schemathesis.openapi.from_dict(broken).validate()


def test_the_asyncapi_document_names_our_exchanges_and_all_that_is_asked_or_told() -> None:
    channels = document("asyncapi")["channels"]
    exchanges = {channel["bindings"]["amqp"]["exchange"]["name"] for channel in channels.values()}
    assert exchanges == {topics.OUTCOMES, topics.COMMANDS}
    assert set(channels["commands"]["parameters"]["command"]["enum"]) == set(ARGUMENTS)
    assert set(channels["assignments"]["parameters"]["state"]["enum"]) == {state.value for state in State}
