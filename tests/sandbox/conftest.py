"""A sandbox and its two Receivers, with attempts that follow each other at once."""

from collections.abc import AsyncIterator
from functools import cache

import pytest

from sandbox.options import Options
from sandbox.server import Sandbox
from sandbox.signing import SigningKey
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint

QUICK = (0.0, 0.0, 0.0)


@cache
def kept_key() -> SigningKey:
    """One key for all tests that don't care which."""
    return SigningKey()


@pytest.fixture
async def acme_endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def birch_endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def sandbox(acme_endpoint: Endpoint, birch_endpoint: Endpoint) -> AsyncIterator[Sandbox]:
    async with Sandbox(Options(attempt_delays=QUICK)) as running:
        running.add_receiver("acme", acme_endpoint.url)
        running.add_receiver("birch", birch_endpoint.url)
        yield running


@pytest.fixture
async def acme(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client(sandbox, "acme") as client:
        yield client


@pytest.fixture
async def birch(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client(sandbox, "birch") as client:
        yield client
