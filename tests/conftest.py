"""The servers that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers import Postgres, Redis

# Test kits that we ship are not named test_*.py; without this their failed asserts would show no values.
pytest.register_assert_rewrite("wakeloop.testing")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """One Redis for the whole session. A test that stops it starts it again; one that fills it flushes it first."""
    with Redis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for the whole session; each test makes its own database with `new_database()`."""
    with Postgres() as server:
        yield server
