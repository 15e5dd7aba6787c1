"""The servers that other tests stand on start, stop, crash and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests import servers
from tests.servers import Postgres, Program, Redis, ServerError, poll


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for stays as a zombie
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_redis_answers_and_forgets_at_flushall(redis_server: Redis) -> None:
    """A client reads back what it wrote, until everything is flushed."""
    with redis_server.client() as client:
        client.set("a", "1")

        assert client.get("a") == "1"

        redis_server.flushall()

        assert client.get("a") is None


def test_redis_comes_back_on_its_port_after_stop_and_kill() -> None:
    """A restart keeps the URL; in between nothing listens."""
    with Redis(password="s3cret") as server:
        url = server.url
        server.stop()

        with pytest.raises(redis.ConnectionError), server.client() as client:
            client.ping()

        server.start()
        server.kill()
        server.restart()

        assert server.url == url
        with server.client() as client:
            assert client.ping()


def test_a_paused_redis_accepts_and_says_nothing() -> None:
    """Pausing makes a black hole, not a refused connection."""
    with Redis() as server:
        server.pause()
        client = redis.Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.TimeoutError):
            client.ping()
        client.close()

        server.resume()

        with server.client() as client:
            assert client.ping()


def test_each_new_database_is_empty_and_apart(postgres_server: Postgres) -> None:
    """What one test writes another does not see."""
    one, two = postgres_server.new_database(), postgres_server.new_database()
    with _connect(one) as connection:
        connection.execute("CREATE TABLE t (n int)")

    with _connect(two) as connection:
        found = connection.execute("SELECT to_regclass('t')").fetchone()

    assert one != two
    assert found == (None,)


def test_postgres_keeps_what_was_committed_over_a_crash() -> None:
    """An immediate shutdown loses no commit, though fsync is off."""
    with Postgres() as server:
        url = server.new_database()
        with _connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS n")

        server.kill()
        server.start()

        with _connect(url) as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (1,)


def test_the_bundled_servers_work_without_any_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without Redis and PostgreSQL the test dependencies bring their own."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))

    with Redis() as redis_server, Postgres() as postgres_server:
        assert "site-packages" in redis_server.argv[0]
        with _connect(postgres_server.new_database()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_bundle_in_a_closed_folder_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as root from a closed home, the bundled server is run from a place that its user may read."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(servers, "_may_run", lambda binary, user: False)

    with Postgres() as server:
        assert server.argv[0].startswith(str(server.folder))
        with _connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_cannot_start_raises_with_what_it_said() -> None:
    """A port in use is an error that shows the server's own words, not a skip."""
    with Redis() as first:
        second = Redis()
        second.argv[second.argv.index("--port") + 1] = str(first.port)

        with pytest.raises(ServerError, match=r"(?i)address already in use"), second:
            pass


def test_nothing_is_left_behind() -> None:
    """After the block neither the process nor the folder is there."""
    with Redis() as server:
        pid, folder = server.pid, server.folder

    assert not _alive(pid)
    assert not folder.exists()


def test_a_killed_test_process_takes_its_servers_along(tmp_path: Path) -> None:
    """SIGKILL leaves no time for fixtures; the servers end all the same."""
    script = tmp_path / "holder.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from tests.servers import Postgres, Program, Redis

            with Redis() as redis, Postgres() as postgres, Program(["sleep", "600"]) as program:
                print(redis.pid, postgres.pid, program.pid, redis.folder, postgres.folder, flush=True)
                time.sleep(600)
            """
        )
    )
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert holder.stdout is not None
    *pids, redis_folder, postgres_folder = holder.stdout.readline().split()

    holder.kill()
    holder.wait()
    holder.stdout.close()

    for _ in poll(10):
        if not any(_alive(int(pid)) for pid in pids):
            break
    assert [pid for pid in pids if _alive(int(pid))] == []
    for folder in (redis_folder, postgres_folder):
        subprocess.run(["rm", "-rf", folder], check=True)


def test_a_program_reports_its_output_and_its_exit_status() -> None:
    """What it writes can be waited for; a text that never comes is an error that shows what came."""
    with Program([sys.executable, "-c", "print('ready'); input()"]) as program:
        program.wait_for("ready")

        with pytest.raises(ServerError, match="ready"):
            program.wait_for("steady", 0.1)

        assert program.wait() == 1  # EOFError: its input is empty

    with Program(["sleep", "600"]) as program:
        program.send(signal.SIGKILL)

        assert program.wait() == -signal.SIGKILL
