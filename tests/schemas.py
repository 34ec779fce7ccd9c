"""The published schemas as validators, with what refers to what."""

from importlib import resources
from typing import Any

import orjson
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

NAMES = ("assignment-1", "command-1", "command-result-1", "event")


def document(name: str) -> dict[str, Any]:
    """A document of the package."""
    found: dict[str, Any] = orjson.loads(resources.files("shared").joinpath(f"schemas/{name}.json").read_bytes())
    return found


def _registry() -> Registry[Any]:
    registry: Registry[Any] = Registry()
    for name in NAMES:
        resource = Resource.from_contents(document(name), default_specification=DRAFT202012)
        registry = registry.with_resource(f"urn:vectorcare-receiver:{name}", resource)
        registry = registry.with_resource(f"./{name}.json", resource)
    return registry


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """A validator of a schema that may refer to the published ones."""
    return Draft202012Validator(schema, registry=_registry(), format_checker=FormatChecker())


VALIDATORS = {name: validator(document(name)) for name in NAMES}
_BY_SCHEMA = {"assignment/1": "assignment-1", "command-result/1": "command-result-1"}


def validate(body: dict[str, Any]) -> None:
    """A message of `dispatch.events` against its published schema."""
    VALIDATORS[_BY_SCHEMA[body["schema"]]].validate(body)
