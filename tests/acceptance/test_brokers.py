"""Brokers and databases as people run them: TLS, a password, a shared Redis, sentinels, PgBouncer, queues of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import kombu.exceptions
import pytest
from tests.acceptance.plant import Plant, make_plant
from tests.brokers import PgBouncer, TlsFront, make_certificate, replicated
from tests.servers import Postgres, Redis, poll

from wakeloop.celery_app import make_app
from wakeloop.errors import ConfigurationError
from wakeloop.store.database import Database

pytestmark = pytest.mark.timeout(300)

AGENTS = {
    "napper.py": '''
import os
from pathlib import Path

from wakeloop import Context, agent, step


@step
def effect(name: str) -> str:
    with Path(os.environ["EFFECTS"]).open("a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    return name


@agent()
async def napper(ctx: Context[None]) -> str:
    """Works, sleeps, works."""
    await effect("before")
    await ctx.sleep(0.5)
    return await effect("after")


@agent(queue="gpu")
async def renderer(ctx: Context[None]) -> str:
    """Works where there is a GPU."""
    return await effect("rendered")
'''
}


@pytest.fixture
def plant(
    tmp_path: Path, postgres_server: Postgres, redis_server: Redis, request: pytest.FixtureRequest
) -> Iterator[Plant]:
    environment: Mapping[str, str] = getattr(request, "param", {})
    with make_plant(tmp_path, postgres_server, redis_server, agents=AGENTS, **environment) as plant:
        yield plant


def work(plant: Plant, count: int, *, already: int = 0) -> None:
    """Have so many runs of the napper done, each of whose two turns travels through the broker."""
    for number in range(already, already + count):
        plant.start("napper", "", key=str(number))
    runs = plant.wait_until_over("napper", already + count, seconds=90)
    assert [run.status for run in runs] == ["completed"] * (already + count)


def test_redis_with_tls_a_password_and_a_prefix_carries_the_work(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    """The certificate is checked, and every key that is left begins with the prefix."""
    certificate = make_certificate(tmp_path)
    with Redis(password="secret") as redis, TlsFront(certificate, to_port=redis.port) as front:
        url = f"rediss://:secret@127.0.0.1:{front.port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        variables = {"WAKELOOP_BROKER_URL": url, "WAKELOOP_BROKER_KEY_PREFIX": "{agents}:"}
        with (
            make_plant(tmp_path, postgres_server, redis, agents=AGENTS, **variables) as plant,
            plant.worker("one") as worker,
        ):
            worker.wait_for("ready.")
            taken = front.taken
            work(plant, 3)
            with redis.client() as client:
                keys = set(client.keys("*"))
            said = worker.output

    assert taken > 0
    assert keys
    assert not [name for name in keys if not name.startswith("{agents}:")]
    assert "secret" not in said


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, redis_server: Redis) -> None:
    """`ssl_cert_reqs=required` means what it says."""
    (tmp_path / "other").mkdir()
    certificate, other = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    with TlsFront(certificate, to_port=redis_server.port) as front:
        url = f"rediss://127.0.0.1:{front.port}/0?ssl_cert_reqs=required&ssl_ca_certs={other}"
        app = make_app(url, queue="q", concurrency=1, host=lambda: pytest.fail("not called"))

        with app.connection_for_read() as connection, pytest.raises(kombu.exceptions.OperationalError):
            connection.ensure_connection(max_retries=1, interval_start=0)

    assert front.taken == 0


def test_work_goes_on_when_sentinels_replace_the_master(tmp_path: Path, postgres_server: Postgres) -> None:
    """The master is killed; what was in it is handed over again, through the one that was its replica."""
    with replicated() as (master, replica, sentinel):
        variables = {"WAKELOOP_BROKER_URL": sentinel.url, "WAKELOOP_BROKER_SENTINEL_MASTER": sentinel.master}
        with (
            make_plant(tmp_path, postgres_server, master, agents=AGENTS, **variables) as plant,
            plant.worker("one") as worker,
        ):
            worker.wait_for("ready.")
            work(plant, 2)
            master.kill()
            for _ in poll(60):
                if sentinel.master_port() == replica.port:
                    break
            work(plant, 2, already=2)

            assert sentinel.master_port() == replica.port


def test_all_of_it_works_behind_pgbouncer_in_transaction_mode(
    tmp_path: Path, postgres_server: Postgres, redis_server: Redis
) -> None:
    """Migrations, two workers and the test itself share four connections to the server, changing with each transaction."""
    with PgBouncer(postgres_server, connections=4) as bouncer:
        url = f"{bouncer.behind(postgres_server.new_database())}?prepare_threshold=none"
        with (
            make_plant(
                tmp_path, postgres_server, redis_server, agents=AGENTS, WAKELOOP_DATABASE_URL=url
            ) as plant,
            plant.worker("one") as one,
            plant.worker("two") as two,
        ):
            one.wait_for("ready.")
            two.wait_for("ready.")
            work(plant, 20)
            said = one.output + two.output
            effects = Counter(line.split()[0] for line in plant.effects.read_text().splitlines())

    assert effects == {"before": 20, "after": 20}
    assert "prepared statement" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "threshold"), [("", 5), ("?prepare_threshold=none", None), ("?prepare_threshold=2", 2)]
)
def test_the_url_says_whether_statements_are_prepared(
    postgres_server: Postgres, given: str, threshold: int | None
) -> None:
    """psycopg prepares what is asked for again; a pooler may hand the next transaction to another server process."""
    database = Database(postgres_server.url + given)
    with database.read() as connection:
        found = connection.connection.dbapi_connection.prepare_threshold  # type: ignore[union-attr]
    database.close()

    assert found == threshold


def test_a_threshold_that_is_no_number_is_refused() -> None:
    """It names the variable to correct."""
    with pytest.raises(ConfigurationError, match="prepare_threshold in WAKELOOP_DATABASE_URL"):
        Database("postgresql://localhost/x?prepare_threshold=never")


def test_an_agent_with_a_queue_of_its_own_runs_only_on_workers_of_that_queue(plant: Plant) -> None:
    """Two real workers, each with its queue; neither takes what is the other's."""
    with plant.worker("gpu", queues="gpu") as gpu, plant.worker("other", queues="wakeloop") as other:
        gpu.wait_for("ready.")
        other.wait_for("ready.")
        for number in range(5):
            plant.start("renderer", "", key=str(number))
        work(plant, 5)
        plant.wait_until_over("renderer", 5, seconds=60)
        where = {tuple(line.split()) for line in plant.effects.read_text().splitlines()}
        expected = {("rendered", str(gpu.pid)), ("before", str(other.pid)), ("after", str(other.pid))}

    assert where == expected
