"""How the sides whose work begins with an HTTP request are given it, and how Restate is left out where npm is not."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from bench import restate
from bench.benchmarks import replies, runs, sleepers
from bench.lab import Lab, Options
from bench.posting import post_all, post_json, poster
from tests.servers import ServerError

AT_ONCE = 4


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what was posted; not to /empty, nor to more than AT_ONCE at a time, and not to 13."""

    protocol_version = "HTTP/1.1"
    clients: ClassVar[set[object]] = set()
    free = threading.Semaphore(AT_ONCE)

    def do_POST(self) -> None:
        self.clients.add(self.client_address)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 503
        if self.free.acquire(blocking=False):
            time.sleep(0.005)
            self.free.release()
            status = 400 if body == b"13" else 200
        if self.path == "/empty":
            body = b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that echoes."""
    _Echo.clients.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_all_are_posted_once_over_so_many_connections_and_no_more_at_once(port: int) -> None:
    """The server answers 503 to a fifth at the same time; every answer comes back."""
    answers = post_all(port, "/echo", range(100, 200), AT_ONCE)

    assert sorted(answers) == list(range(100, 200))
    assert len(_Echo.clients) <= AT_ONCE
    with pytest.raises(RuntimeError, match="503"):
        post_all(port, "/echo", range(100, 200), 2 * AT_ONCE)


def test_an_answer_that_is_no_success_ends_it(port: int) -> None:
    """With what was answered, alone and among many."""
    with pytest.raises(RuntimeError, match="/echo answered 400: b'13'"):
        post_all(port, "/echo", range(20), 2)
    with poster(port) as post, pytest.raises(RuntimeError, match="400"):
        post("/echo", b"13")


def test_an_empty_answer_is_none(port: int) -> None:
    """Where there is something, it is read as JSON."""
    assert post_json(port, "/echo", {"one": 1}) == {"one": 1}
    assert post_json(port, "/empty", {"one": 1}) is None
    assert post_all(port, "/empty", [1, 2], 1) == [None, None]


def test_restate_is_left_out_where_its_server_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No side, no version; who wants it anyway is told how it comes."""
    monkeypatch.setattr(restate, "NPM", tmp_path)
    side = {"Restate": lambda: {"rate": 1.0}}
    assert (restate.server(), restate.version(), restate.if_there(side)) == (None, None, {})
    with pytest.raises(ServerError, match="`make bench` brings it"):
        restate.Restate(tmp_path, processes=1)

    program = tmp_path / "restate-server-linux-x64" / "bin" / "restate-server"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "restate-server").mkdir()
    (tmp_path / "restate-server" / "package.json").write_text('{"version": "1.7.12"}')
    assert (restate.server(), restate.version(), restate.if_there(side)) == (program, "1.7.12", side)


@pytest.mark.parametrize("is_there", [True, False])
def test_restate_is_a_peer_of_runs_sleepers_and_replies_if_its_server_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """On PostgreSQL, in every trial that is a race; and whoever a bar names is among the peers."""
    monkeypatch.setattr(restate, "NPM", tmp_path)
    if is_there:
        program = tmp_path / "restate-server-linux-x64" / "bin" / "restate-server"
        program.parent.mkdir(parents=True)
        program.touch()
    lab = Lab(Options(quick=True))
    trials = [trial for module in (runs, sleepers, replies) for trial in module.trials(lab)]

    with_it = {trial.name for trial in trials if any(name.startswith("Restate") for name in trial.peers)}

    races = {f"runs.postgresql-{workers}.{steps}" for workers in (1, 2) for steps in (0, 1, 3)}
    races |= {"runs.postgresql-1-http.3", "sleepers.due.500", "replies.asker", "replies.listener"}
    assert with_it == (races if is_there else set())
    for trial in trials if is_there else []:
        named = {begin for line in trial.lines if line.bar is not None for begin in line.bar.times_of or {}}
        assert all(any(name.startswith(begin) for name in trial.peers) for begin in named), trial.name
