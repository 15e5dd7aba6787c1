"""What stands in front of servers in tests: TLS before Redis, sentinels, and PgBouncer before PostgreSQL."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import kombu
import psycopg
import redis
from amqp.exceptions import AMQPError as AmqpError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.servers import Postgres, Program, Redis, Server, ServerError, free_port, redis_binary

ROOT = Path(__file__).parents[1]


def make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, with its key beside it (`key.pem`)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wakeloop test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    file = folder / "certificate.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return file


class TlsFront:
    """Takes TLS connections on a port of its own and hands what is in them to a server on this machine."""

    def __init__(self, certificate: Path, *, to_port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        self._to = to_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.taken = 0
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in [self._listening, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(plain,), daemon=True).start()

    def _take(self, plain: socket.socket) -> None:
        try:
            secured = self._context.wrap_socket(plain, server_side=True)
        except (OSError, ssl.SSLError):
            plain.close()
            return
        self.taken += 1
        behind = socket.create_connection(("127.0.0.1", self._to))
        self._sockets += [secured, behind]
        threading.Thread(target=_pump, args=(secured, behind), daemon=True).start()
        _pump(behind, secured)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


class PgBouncer(Server):
    """PgBouncer in transaction mode, with few connections to the server, so that clients really share them."""

    def __init__(self, postgres: Postgres, *, connections: int = 4) -> None:
        folder = Path(tempfile.mkdtemp(prefix="wakeloop-pgbouncer-"))
        port = free_port()
        users = folder / "users.txt"
        users.write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {users}\npool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 500\n"
        )
        binary, environment = _pgbouncer()
        user = postgres._user
        if user is not None:
            for file in (folder, *folder.iterdir()):
                shutil.chown(file, user)
        super().__init__([binary, folder / "pgbouncer.ini"], port=port, folder=folder, user=user)
        self._env |= environment

    @property
    def url(self) -> str:
        return self.behind("postgres")

    def behind(self, url: str) -> str:
        """The URL of a database of the server, through this."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def _ping(self) -> None:
        psycopg.connect(f"{self.url}?connect_timeout=5", prepare_threshold=None).close()


def _pgbouncer() -> tuple[Path, dict[str, str]]:
    """The program, and the environment in which it finds its libraries."""
    if found := shutil.which("pgbouncer"):
        return Path(found), {}
    unpacked = ROOT / ".venv" / "debian"
    binary = unpacked / "usr" / "sbin" / "pgbouncer"
    if binary.exists():
        return binary, {"LD_LIBRARY_PATH": ":".join(str(path) for path in unpacked.glob("usr/lib/*-linux-*"))}
    raise ServerError("there is no pgbouncer: `make pgbouncer` brings it")


class Sentinel(Server):
    """A sentinel that watches one master, alone, and is quick to replace it."""

    master = "agents"

    def __init__(self, redis: Redis) -> None:
        folder = Path(tempfile.mkdtemp(prefix="wakeloop-sentinel-"))
        port = free_port()
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {self.master} 127.0.0.1 {redis.port} 1\n"
            f"sentinel down-after-milliseconds {self.master} 1000\nsentinel failover-timeout {self.master} 5000\n"
        )
        argv = [redis_binary(), folder / "sentinel.conf", "--sentinel"]
        super().__init__(argv, port=port, folder=folder)

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/0"

    def master_port(self) -> int:
        """Where the master is now."""
        with contextlib.closing(redis.Redis(port=self.port, decode_responses=True)) as client:
            return int(client.sentinel_get_master_addr_by_name(self.master)[1])

    def _ping(self) -> None:
        with contextlib.closing(redis.Redis(port=self.port)) as client:
            client.ping()


@contextlib.contextmanager
def replicated() -> Iterator[tuple[Redis, Redis, Sentinel]]:
    """A master, its replica, and a sentinel that knows both."""
    with Redis() as master, Redis() as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
        with Sentinel(master) as sentinel:
            yield master, replica, sentinel


class RabbitMq(Server):
    """RabbitMQ with its default user, apart from any that Debian has started."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="wakeloop-rabbitmq-"))
        port, dist, names = free_port(), free_port(), free_port()
        binary = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        if not binary.exists():
            raise ServerError("there is no rabbitmq-server: `make rabbitmq` brings it")
        (folder / "advanced.config").write_text("[{rabbit, [{loopback_users, []}]}].\n")
        super().__init__([binary], port=port, folder=folder)
        self._env |= {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"wakeloop{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist),
            "ERL_EPMD_PORT": str(names),
            "RUNNING_UNDER_SYSTEMD": "yes",  # the script becomes the server then, which so has the pid that is killed
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        }

        # Erlang's register of nodes would be started beside the server, and outlive it.
        self._names = Program(["epmd", "-port", str(names), "-address", "127.0.0.1"])

    def start(self) -> None:
        """Start it, and what it needs to start."""
        if not self._names.running:
            self._names.start()
        super().start()

    def close(self) -> None:
        """Stop it, delete its files, and end what it needed."""
        super().close()
        self._names.close()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def _ping(self) -> None:
        with kombu.Connection(self.url, connect_timeout=5) as connection:
            try:
                connection.connect()
            except (OSError, AmqpError) as error:
                raise redis.ConnectionError(str(error)) from error
