"""What the tests stand on: a real RabbitMQ, brokers of both kinds, keys and signed webhooks."""

import io
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import logs
from tests import postgres_server, rabbit_node, witness


@pytest.fixture(scope="session")
def amqp_url() -> Iterator[str]:
    """A RabbitMQ that tests share: RECEIVER_TEST_AMQP_URL, else a private node. Never a silent skip."""
    given = os.environ.get("RECEIVER_TEST_AMQP_URL")
    if given:
        yield given
    elif rabbit_node.is_installed():
        with rabbit_node.running_node() as node:
            yield node.url
    else:
        pytest.fail("no RabbitMQ: run `make services`, or name one in RECEIVER_TEST_AMQP_URL", pytrace=False)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[rabbit_node.Node]:
    """A node of this module's own, to be paused and starved."""
    yield from _node_to_break()


@pytest.fixture
def mortal_rabbit() -> Iterator[rabbit_node.Node]:
    """A node of this test's own, to be killed. RabbitMQ 3.10 may fail to recover a quorum queue whose name was
    deleted and declared again shortly before a kill -9, which tests on a shared node do all the time."""
    yield from _node_to_break()


@pytest.fixture
def rabbit_cluster() -> Iterator[list[rabbit_node.Node]]:
    """Three nodes of this test's own, in a cluster."""
    if not rabbit_node.is_installed():
        pytest.fail("no RabbitMQ server to break: run `make services`", pytrace=False)
    with rabbit_node.running_cluster() as nodes:
        yield nodes


def _node_to_break() -> Iterator[rabbit_node.Node]:
    if not rabbit_node.is_installed():
        pytest.fail("no RabbitMQ server to break: run `make services`", pytrace=False)
    with rabbit_node.running_node() as node:
        yield node


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A private PostgreSQL that tests share."""
    yield from _server()


@pytest.fixture
def postgres_url(postgres: postgres_server.Server) -> Iterator[str]:
    """An empty database of this test's own. What was told from it is held to what is published."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.sql(f"CREATE DATABASE {name}")
    url = postgres.url_of(name)
    yield url
    witness.database(postgres, url)


@pytest.fixture
def mortal_postgres() -> Iterator[postgres_server.Server]:
    """A server of this test's own, to be paused and killed. What was told from it is held to what is published."""
    for server in _server():
        yield server
        witness.database(server, server.url)


def _server() -> Iterator[postgres_server.Server]:
    if not postgres_server.is_installed():
        pytest.fail("no PostgreSQL: run `make services`", pytrace=False)
    with postgres_server.running_server() as server:
        yield server


class CurrentStderr(io.StringIO):
    """Whatever standard error is when a line is written, so that `capsys` sees the logs."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@pytest.fixture(autouse=True)
def _all_that_was_told_is_as_published(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test's consumers heard, and whatever its stores keep of what was told by any process, is held to what
    is published."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    witness.raise_wrongs()
    if folder is not None:
        witness.folder(folder)


@pytest.fixture(autouse=True)
def _json_logs() -> None:
    logs.configure(CurrentStderr())
