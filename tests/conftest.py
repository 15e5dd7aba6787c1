"""The servers that tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterator

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rabbitmq", action="store_true", help="run what needs RabbitMQ, and nothing else")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """RabbitMQ's tests are another run (`make rabbitmq`); pytest counts what is left out as deselected."""
    wanted = config.getoption("--rabbitmq")
    left = [item for item in items if (item.get_closest_marker("rabbitmq") is not None) is not wanted]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write half surrogate pairs in what a test logged as escapes: processes that share the tests tell each other of it in
    UTF-8."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if isinstance(report.longrepr, str):
        report.longrepr = _encodable(report.longrepr)
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
