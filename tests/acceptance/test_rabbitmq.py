"""RabbitMQ as the broker. Its server is large, so these run with `make rabbitmq`, which installs it, and not with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.plant import Plant, make_plant
from tests.acceptance.test_brokers import AGENTS, work
from tests.brokers import RabbitMq
from tests.servers import Postgres, Redis, poll

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMq]:
    with RabbitMq() as server:
        yield server


@pytest.fixture
def plant(
    tmp_path: Path, postgres_server: Postgres, redis_server: Redis, rabbitmq: RabbitMq
) -> Iterator[Plant]:
    with make_plant(
        tmp_path, postgres_server, redis_server, agents=AGENTS, WAKELOOP_BROKER_URL=rabbitmq.url
    ) as plant:
        yield plant


def test_rabbitmq_carries_the_work(plant: Plant) -> None:
    """Turns, and an agent's queue of its own, on two workers."""
    with plant.worker("gpu", queues="gpu") as gpu, plant.worker("other", queues="wakeloop") as other:
        gpu.wait_for("ready.")
        other.wait_for("ready.")
        for number in range(3):
            plant.start("renderer", "", key=str(number))
        work(plant, 5)
        plant.wait_until_over("renderer", 3, seconds=60)
        where = {tuple(line.split()) for line in plant.effects.read_text().splitlines()}
        expected = {("rendered", str(gpu.pid)), ("before", str(other.pid)), ("after", str(other.pid))}

    assert where == expected


def test_work_goes_on_after_rabbitmq_was_killed_with_what_was_in_it(plant: Plant, rabbitmq: RabbitMq) -> None:
    """Workers wait for it, and what it lost is handed over again."""
    with plant.worker("one") as worker:
        worker.wait_for("ready.")
        work(plant, 2)
        rabbitmq.kill()
        for number in range(2, 4):
            plant.start("napper", "", key=str(number))
        for _ in poll(3):
            pass
        rabbitmq.start()
        work(plant, 2, already=4)

        assert worker.running, worker.output
