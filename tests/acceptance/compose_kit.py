"""Runs a compose file without a container engine: each service's own command, environment and health check, as local
processes on loopback.

What an image brings is brought here: its programs by the PATH, a volume by a folder, the network's names and ports by
loopback ones, and the making of an empty database as the entry point of PostgreSQL's image does it. Everything else is
read from the file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from dotenv import dotenv_values
from tests.servers import Postgres, Program, ServerError, free_port, redis_binary

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 90.0
PORTS = ("5432", "6379", "8080", "5555")

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<what>:?[-?])(?P<text>[^}]*))?\})")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}

REDIS_CLI = """#!{python}
import os, sys, redis
assert sys.argv[1] == "-p" and sys.argv[3] == "ping", sys.argv
print("PONG" if redis.Redis(port=int(sys.argv[2]), password=os.environ["REDISCLI_AUTH"]).ping() else "?")
"""


class ComposeError(Exception):
    """The file asks for something that is not there."""


def load(file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """A compose file with its variables filled in. Raises ComposeError for a required one that is not set."""
    loaded: dict[str, Any] = interpolated(yaml.safe_load(file.read_text()), variables)
    return loaded


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as the compose specification has them."""
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        given = variables.get(found["name"], "")
        if not given and (found["what"] or "").endswith("?"):
            raise ComposeError(f"required variable {found['name']} is missing a value: {found['text']}")
        return given or found["text"] or ""

    return _VARIABLE.sub(fill, value)


def seconds(duration: str) -> float:
    """A duration such as `1m30s`."""
    parts = re.findall(r"(\d+)(ms|s|m)", duration)
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


class Container(Program):
    """A process that has what the container would have, and nothing of the test's own environment."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        super().__init__(argv, cwd=cwd)
        self.name = name
        self._env = dict(env)


class Database(Postgres):
    """The database's container: its entry point makes the database that its environment describes, with a password."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], port: int) -> None:
        super().__init__()
        self.name = "postgres"
        self.port = port
        self._describes = env
        self.programs = self._bin
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", *arguments]
        self.argv = [str(self._bin / "postgres"), "-D", str(self._data), *options]

    def start(self) -> None:
        """Make the database if it is not there, and start the server; whether it answers is the health check's to say."""
        env = self._describes
        if not self._data.exists():
            secret = self.folder / "password"
            secret.write_text(env["POSTGRES_PASSWORD"])
            if self._user is not None:
                shutil.chown(secret, self._user)
            argv = [self._bin / "initdb", "-D", self._data, "-U", env["POSTGRES_USER"], f"--pwfile={secret}"]
            with Program(
                [*argv, "--auth=scram-sha-256", "--no-sync"], cwd=self.folder, user=self._user
            ) as made:
                if made.wait(PATIENCE_SECONDS) != 0:
                    raise ServerError(f"initdb failed:\n{made.output}")
            single = [self._bin / "postgres", "--single", "-D", self._data, "postgres"]
            subprocess.run(
                single, input=f'CREATE DATABASE "{env["POSTGRES_DB"]}"\n', text=True, check=True, capture_output=True,
                user=self._user, cwd=self.folder, extra_groups=[] if self._user else None,
            )  # fmt: skip
        Program.start(self)


class Compose:
    """A compose file that is up for the length of a `with` block.

    `project` is the folder that the image has as /app, with its `.env` and `wakeloop.toml`. `ports` are the loopback
    ports by the containers' own ones.
    """

    def __init__(self, file: Path, project: Path) -> None:
        self._project = project
        self._dotenv = {name: value or "" for name, value in dotenv_values(project / ".env").items()}
        self.services: dict[str, Any] = load(file, self._dotenv)["services"]
        self.ports = {port: free_port() for port in PORTS}
        self.containers: dict[str, list[Container | Database]] = {}
        self.order: list[str] = []
        self._healthy: list[Container | Database] = []
        self._programs = project / "image"
        self._programs.mkdir()
        self._bring_programs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Start every service, each when what it depends on is as it wants it, and wait for the health of all."""
        for name in self.services:
            self._start(name)
        for name in self.services:
            self._wait_until_healthy(name)

    def down(self) -> None:
        """Stop everything, the last one started first."""
        for name in reversed(self.order):
            for container in self.containers[name]:
                container.close()

    def scale(self, name: str, count: int) -> None:
        """Have so many healthy containers of a service."""
        while len(self.containers[name]) < count:
            self._add(name)
        self._wait_until_healthy(name)

    def tend(self) -> list[str]:
        """Start again what has ended though its policy is that it runs; their names."""
        ended = [
            container
            for name, containers in self.containers.items()
            for container in containers
            if not container.running and self.services[name]["restart"] == "unless-stopped"
        ]
        for container in ended:
            container.start()
            self._healthy.remove(container)
        return [container.name for container in ended]

    def run(self, name: str, *argv: str) -> str:
        """What a command says that is run in a service's place (`docker compose run`). Raises if it fails."""
        done = subprocess.run(
            [*argv], env=self._environment(name, f"{name}-run"), cwd=self._project, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    def is_healthy(self, container: Container | Database, name: str) -> bool:
        """Whether a service's health check succeeds in this container."""
        check = self.services[name].get("healthcheck")
        if check is None:
            return container.running
        kind, *argv = check["test"]
        if kind != "CMD":
            raise ComposeError(f"{name}: a health check of kind {kind}")
        try:
            done = subprocess.run(
                self._local(name, argv), env=self._environment(name, container.name), cwd=self._project,
                capture_output=True, timeout=max(seconds(check["timeout"]), 20.0),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    # ------------------------------------------------------------------ within

    def _start(self, name: str) -> None:
        if name in self.containers:
            return
        for other, wanted in self.services[name].get("depends_on", {}).items():
            self._start(other)
            condition = wanted["condition"]
            if condition == "service_healthy":
                self._wait_until_healthy(other)
            elif condition == "service_completed_successfully":
                (container,) = self.containers[other]
                if (status := container.wait(PATIENCE_SECONDS)) != 0:
                    raise ServerError(f"{other} ended with {status}:\n{container.output}")
            else:
                raise ComposeError(f"{name} depends on {other}: {condition}")
        self.containers[name] = []
        self.order.append(name)
        self._add(name)

    def _add(self, name: str) -> None:
        argv = self._local(name, self.services[name]["command"])
        number = len(self.containers[name]) + 1
        env = self._environment(name, f"{name}-{number}")
        container: Container | Database
        if argv[0] == "postgres":
            container = Database(argv[1:], env=env, port=self.ports["5432"])
            (self._programs / "pg_isready").symlink_to(container.programs / "pg_isready")
        else:
            found = shutil.which(argv[0], path=env["PATH"])
            if found is None:
                raise ComposeError(f"{name}: there is no {argv[0]}")
            container = Container(f"{name}-{number}", [found, *argv[1:]], env=env, cwd=self._project)
        self.containers[name].append(container)
        container.start()

    def _wait_until_healthy(self, name: str) -> None:
        if self.services[name]["restart"] == "no":
            return
        check = self.services[name]["healthcheck"]
        interval = seconds(check.get("start_interval", check["interval"]))
        for container in self.containers[name]:
            if container in self._healthy:
                continue
            for _ in range(int(PATIENCE_SECONDS / interval)):
                time.sleep(interval)  # before the first check, too, as engines do
                if self.is_healthy(container, name):
                    self._healthy.append(container)
                    break
                if not container.running:
                    raise ServerError(f"{container.name} ended:\n{container.output}")
            else:
                raise ServerError(f"{container.name} did not become healthy:\n{container.output}")

    def _environment(self, name: str, hostname: str) -> dict[str, str]:
        service = self.services[name]
        given = (
            dict(self._dotenv) if any(one["path"] == ".env" for one in service.get("env_file", [])) else {}
        )
        given |= {key: str(value) for key, value in service.get("environment", {}).items()}
        given = {key: self._local(name, [value])[0] for key, value in given.items()}
        path = os.pathsep.join([str(self._programs), str(BIN), "/usr/bin", "/bin"])
        return {"PATH": path, "HOSTNAME": hostname, "PYTHONUNBUFFERED": "1", **given}

    def _local(self, name: str, words: Sequence[str]) -> list[str]:
        """Words of the file with this machine's folders, ports and addresses."""
        folders = dict(volume.split(":")[:2][::-1] for volume in self.services[name].get("volumes", []))
        found: list[str] = []
        for word in words:
            for inside, volume in folders.items():
                folder = self._project / "volumes" / volume
                folder.mkdir(parents=True, exist_ok=True)
                word = re.sub(rf"(?<!\S){re.escape(inside)}(?!\S)", str(folder), word)
            word = re.sub(r"\b(?:postgres|redis)(?=:\d)", "127.0.0.1", word).replace("0.0.0.0", "127.0.0.1")
            found.append(re.sub(rf"\b(?:{'|'.join(PORTS)})\b", lambda port: str(self.ports[port[0]]), word))
        return found

    def _bring_programs(self) -> None:
        (self._programs / "redis-server").symlink_to(redis_binary())
        if shutil.which("redis-cli") is None:
            client = self._programs / "redis-cli"
            client.write_text(REDIS_CLI.format(python=sys.executable))
            client.chmod(0o755)
