"""The AsyncAPI document that ships is one by AsyncAPI's own schema."""

import copy
import json
import os
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft7Validator

from tests.schemas import document

_FILE: Final = Path(os.environ["MANIFEST_TOOLS"]) / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
PUBLISHED: Final = Draft7Validator(json.loads(_FILE.read_text()))


def problems(contract: dict[str, Any]) -> list[str]:
    return [f"{problem.json_path}: {problem.message}" for problem in PUBLISHED.iter_errors(contract)]


def test_the_asyncapi_document_is_valid_by_the_specification() -> None:
    assert not problems(document("asyncapi"))


def test_the_specification_finds_what_is_wrong_in_an_operation_a_binding_and_a_message() -> None:
    for place, wrong in (
        (("operations", "takeCommand", "action"), "listen"),
        (("channels", "commands", "bindings", "amqp", "exchange", "durable"), "yes"),
        (("components", "messages", "command", "contentType"), 7),
    ):
        contract = copy.deepcopy(document("asyncapi"))
        inner = contract
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = wrong
        assert problems(contract), place
