"""What the tests of the Matrix channel share: a homeserver, people with accounts at it, and an ear for what comes.

With WAKELOOP_SYNAPSE, the path of a Python in which Synapse is installed, the homeserver is a real one (`make matrix`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.conformance.channel_kit import using
from tests.conformance.matrix_homeserver import HomeServer
from tests.servers import until

from wakeloop.channel import ChannelServices, DeliveryUpdate, Incoming, Outgoing
from wakeloop_channels.matrix import MatrixChannel

SYNAPSE = os.environ.get("WAKELOOP_SYNAPSE")
_numbers = itertools.count(1)
_CONFIG = """
server_name: localhost
listeners: [{{port: {port}, type: http, tls: false, bind_addresses: [127.0.0.1], resources: [{{names: [client]}}]}}]
database: {{name: sqlite3, args: {{database: "{folder}/homeserver.db"}}}}
media_store_path: "{folder}/media"
signing_key_path: "{folder}/signing.key"
pid_file: "{folder}/synapse.pid"
log_config: "{folder}/log.yaml"
report_stats: false
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
macaroon_secret_key: tests
form_secret: tests
caches: {{sync_response_cache_duration: 0s}}
rc_message: &fast {{per_second: 1000, burst_count: 1000}}
rc_registration: *fast
rc_room_creation: *fast
rc_joins: {{local: *fast, remote: *fast}}
rc_invites: {{per_room: *fast, per_user: *fast, per_issuer: *fast}}
rc_login: {{address: *fast, account: *fast, failed_attempts: *fast}}
"""
_LOGS = """
version: 1
handlers: {{file: {{class: logging.FileHandler, filename: "{folder}/log.txt"}}}}
root: {{level: WARNING, handlers: [file]}}
"""


class Person:
    """An account, used as a person's client would."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.token = url, ""
        body = {"username": name, "password": "a password", "auth": {"type": "m.login.dummy"}}
        answer = self.call("POST", "register", body)
        self.id, self.token = answer["user_id"], answer["access_token"]

    def call(self, method: str, *path: str, **_: Any) -> Any:
        """A request; the last part of `path` is the body if it is no text."""
        parts: list[Any] = list(path)
        body = parts.pop() if parts and not isinstance(parts[-1], str) else None
        target = "/".join(quote(part, safe="") for part in parts)
        data = json.dumps(body if body is not None else {}).encode() if method != "GET" else None
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        if not self.token:
            del headers["Authorization"]
        request = Request(f"{self.url}/_matrix/client/v3/{target}", data, headers, method=method)
        with urlopen(request, timeout=30) as response:
            return json.load(response)

    def status_of(self, method: str, *path: Any) -> int:
        """The status with which a request is refused; 200 if it is not."""
        try:
            self.call(method, *path)
        except HTTPError as error:
            with error:
                return error.code
        return 200

    def create(self, *invite: str, is_direct: bool = False, encrypted: bool = False) -> str:
        state = [{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        body = {
            "preset": "private_chat",
            "invite": list(invite),
            "is_direct": is_direct,
            "initial_state": state if encrypted else [],
        }
        return str(self.call("POST", "createRoom", body)["room_id"])

    def join(self, room: str) -> None:
        self.call("POST", "join", room, {})

    def leave(self, room: str) -> None:
        self.call("POST", "rooms", room, "leave", {})

    def say(self, room: str, text: str, **content: Any) -> str:
        named = {name.replace("__", "."): value for name, value in content.items()}
        return self.put(room, "m.room.message", {"msgtype": "m.text", "body": text, **named})

    def answer(self, room: str, to: str, text: str) -> str:
        return self.say(room, text, m__relates_to={"m.in_reply_to": {"event_id": to}})

    def react(self, room: str, id: str, key: str) -> str:
        return self.put(
            room, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": id, "key": key}}
        )

    def put(self, room: str, kind: str, content: Any) -> str:
        answer = self.call("PUT", "rooms", room, "send", kind, f"t{next(_numbers)}", content)
        return str(answer["event_id"])

    def redact(self, room: str, id: str) -> None:
        self.call("PUT", "rooms", room, "redact", id, f"t{next(_numbers)}", {})

    def read(self, room: str, id: str) -> None:
        self.call("POST", "rooms", room, "receipt", "m.read", id, {})

    def event(self, room: str, id: str) -> Any:
        return self.call("GET", "rooms", room, "event", id)

    def rooms(self, kind: str = "join") -> dict[str, Any]:
        """The rooms of a fresh /sync: those joined, or invited to."""
        found = self.call("GET", "sync").get("rooms", {}).get(kind, {})
        assert isinstance(found, dict)
        return found

    def seen(self, room: str, kind: str = "m.room.message") -> list[dict[str, Any]]:
        """The events of a kind in a room's timeline."""
        events = self.rooms()[room]["timeline"]["events"]
        return [event for event in events if event["type"] == kind]

    def accept(self) -> str:
        """Join the only room to which this person is invited."""
        until(lambda: self.rooms("invite"))
        (room,) = self.rooms("invite")
        self.join(room)
        return str(room)


class Ear:
    """What a channel hands in, as the runtime would take it."""

    def __init__(self, cursor: str | None = None) -> None:
        self.cursor = cursor
        self.items: list[Incoming | DeliveryUpdate] = []
        self.takes = 0

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        self.items += items
        self.cursor = cursor if cursor is not None else self.cursor
        self.takes += 1

    @property
    def messages(self) -> list[Incoming]:
        return [item for item in self.items if isinstance(item, Incoming)]

    @property
    def updates(self) -> list[DeliveryUpdate]:
        return [item for item in self.items if isinstance(item, DeliveryUpdate)]


@contextlib.contextmanager
def homeserver(folder: Path) -> Iterator[str]:
    """The address of a homeserver: Synapse if there is one, else the stand-in."""
    if SYNAPSE is None:
        with HomeServer() as server:
            yield server.url
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "homeserver.yaml").write_text(_CONFIG.format(port=port, folder=folder))
    (folder / "log.yaml").write_text(_LOGS.format(folder=folder))
    run = [SYNAPSE, "-m", "synapse.app.homeserver", "--config-path", str(folder / "homeserver.yaml")]
    subprocess.run([*run, "--generate-keys"], check=True, capture_output=True)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(run) as process:
        try:
            until(lambda: _answers(url), seconds=60)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/_matrix/client/versions", timeout=5):
            return True
    except (URLError, OSError):
        time.sleep(0.1)
        return False


def person(url: str, name: str) -> Person:
    """Somebody new."""
    return Person(url, f"{name}{next(_numbers)}")


def channel(bot: Person, **section: Any) -> MatrixChannel:
    return MatrixChannel.from_settings(
        {"homeserver": bot.url, "access_token": bot.token, **section}, ChannelServices()
    )


def outgoing(to: str, text: str = "What comes first?", **more: Any) -> Outgoing:
    facts = {
        "key": f"d{next(_numbers)}",
        "address": to,
        "text": text,
        "claimed_at": datetime.now(UTC),
        **more,
    }
    return Outgoing(**facts)


def hear(
    matrix: MatrixChannel,
    happens: Callable[[], object],
    until: Callable[[Ear], object],
    *,
    cursor: str | None = None,
    seconds: float = 20.0,
) -> Ear:
    """Listen while something happens, until it was heard."""
    ear = Ear(cursor)

    async def soon(condition: Callable[[], object]) -> None:
        for _ in range(int(seconds * 100)):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it was not heard")

    async def run(it: MatrixChannel) -> None:
        listening = asyncio.ensure_future(it.listen(ear))
        try:
            await soon(lambda: cursor is not None or ear.takes or listening.done())
            happening = asyncio.ensure_future(asyncio.to_thread(happens))
            await soon(lambda: (happening.done() and until(ear)) or listening.done())
            if listening.done():
                listening.result()
            await happening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    using(matrix, run)
    return ear
