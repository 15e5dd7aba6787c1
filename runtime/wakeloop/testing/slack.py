"""A stand-in for Slack: a real HTTP server on loopback that checks, answers and calls back as Slack does.

::

    with SlackStandIn(webhook="http://127.0.0.1:8080/webhooks/slack", users=["U0ALICE"]) as slack:
        ...                                        # settings: api_url=slack.api_url, bot_token=…, signing_secret=…
        sent = slack.wait_for(1)[0]
        slack.press(sent, "Yes", user="U0ALICE")   # a signed interaction; gives the answer's status and body
        slack.say("hello", user="U0ALICE")         # a signed event: a direct message to the app

With `socket_mode=True` what people do comes over the app's WebSocket (Socket Mode) instead of the webhook.

It has one workspace with one app, whose messages, dialogs and notes can be read. It refuses what Slack refuses: tokens,
scopes, conversations that the app is not in, Block Kit beyond its limits, a dialog more than three seconds after the press.
See `slack_workspace` for what it is modelled on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlencode

from wakeloop.clock import Clock, SystemClock
from wakeloop.testing.slack_blocks import elements, filled, initial_state
from wakeloop.testing.slack_wire import Call, Reply, Server, sign
from wakeloop.testing.slack_workspace import (
    APP_ID,
    BOT_USER,
    SCOPES,
    TEAM_ID,
    Ephemeral,
    Refused,
    StandInMessage,
    View,
    Workspace,
)
from wakeloop.testing.stand_in import Answer, post_bytes

__all__ = ["Answer", "Ephemeral", "SlackStandIn", "StandInMessage", "View", "sign"]

BOT_TOKEN = "xoxb-stand-in"
APP_TOKEN = "xapp-stand-in"
SIGNING_SECRET = "stand-in-signing-secret"
WEBHOOK_SECONDS = 3.0
ALICE = "U0ALICE001"


@dataclass(frozen=True, kw_only=True)
class _Fault:
    kind: Literal["fail", "drop", "slow"]
    error: str | None = None
    status: int = 200
    retry_after: str | None = None
    seconds: float = 0.0
    method: str | None = None


class SlackStandIn:
    """Slack for one app in one workspace.

    webhook: where events and interactions are posted. channels: the members of each channel, as user ids; the app is a
    member of all of them but those in `without_app`. users: further people. scopes: what the bot's token may do.
    webhook_timeout: how long the webhook may take; Slack's own is three seconds. clock: Slack's own."""

    def __init__(
        self,
        *,
        bot_token: str = BOT_TOKEN,
        app_token: str = APP_TOKEN,
        signing_secret: str = SIGNING_SECRET,
        webhook: str | None = None,
        channels: Mapping[str, Iterable[str]] | None = None,
        without_app: Iterable[str] = (),
        users: Iterable[str] = (ALICE,),
        scopes: Iterable[str] = SCOPES,
        socket_mode: bool = False,
        webhook_timeout: float = WEBHOOK_SECONDS,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.signing_secret = signing_secret
        self.webhook = webhook
        self.socket_mode = socket_mode
        self.webhook_timeout = webhook_timeout
        self.requests = 0
        self.files: dict[str, tuple[str, bytes]] = {}
        self._clock = clock or SystemClock()
        outside = set(without_app)
        members = {
            channel: {*people, *([] if channel in outside else [BOT_USER])}
            for channel, people in (channels or {}).items()
        }
        self.workspace = Workspace(
            clock=self._clock,
            bot_token=bot_token,
            app_token=app_token,
            channels=members,
            users=users,
            scopes=scopes,
        )
        self._address = (host, port)
        self._faults: deque[_Fault] = deque()
        self._changed = self.workspace.changed
        self._unacknowledged: dict[str, dict[str, Any]] = {}
        self._acknowledged: dict[str, Any] = {}
        self._server: Server | None = None

    # Life

    def start(self) -> Self:
        """Listen; the port is known from here on."""
        self._server = Server(self._address, self._answer, self._admit, self._waiting, self._acknowledge)
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection. Messages stay readable."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._address[0]}:{self._running.port}"

    @property
    def api_url(self) -> str:
        """The Web API's base URL: the setting `api_url`."""
        return f"{self.url}/api/"

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError(
                "The stand-in is not running: use it in a `with` block, or call start() first."
            )
        return self._server

    # What people see

    @property
    def messages(self) -> list[StandInMessage]:
        """What the app has posted."""
        return [message for message in self.workspace.messages if message.user == BOT_USER]

    @property
    def ephemerals(self) -> list[Ephemeral]:
        """What it has shown to one person only."""
        return self.workspace.ephemerals

    @property
    def views(self) -> list[View]:
        """The dialogs that it has opened."""
        return self.workspace.views

    def wait_for(self, count: int, *, to: str | None = None, timeout: float = 10.0) -> list[StandInMessage]:
        """The messages posted so far (to that person or channel), once there are `count` of them.

        Raises TimeoutError after `timeout` seconds."""
        channel = self.workspace.direct(to) if to is not None and to[0] in "UW" else to

        def posted() -> list[StandInMessage]:
            return [message for message in self.messages if channel in (None, message.channel)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(posted()) >= count, timeout):
                raise TimeoutError(
                    f"{len(posted())} messages were posted in {timeout} s; {count} were awaited."
                )
            return posted()

    def wait_for_view(self, count: int = 1, *, timeout: float = 10.0) -> View:
        """The newest dialog, once there are `count` of them. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.views) >= count, timeout):
                raise TimeoutError(f"{len(self.views)} dialogs were opened in {timeout} s.")
            return self.views[-1]

    def wait_for_note(self, count: int = 1, *, timeout: float = 10.0) -> Ephemeral:
        """The newest text for one person only, once there are `count`. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.ephemerals) >= count, timeout):
                raise TimeoutError(f"{len(self.ephemerals)} notes were shown in {timeout} s.")
            return self.ephemerals[-1]

    def wait_for_connections(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Return once so many sockets are open. Raises TimeoutError after `timeout` seconds."""
        if not self._running.wait_for_connections(count, timeout):
            raise TimeoutError(f"{self._running.connections} sockets are open after {timeout} s.")

    # What people do

    def say(
        self,
        text: str,
        *,
        user: str = ALICE,
        channel: str | None = None,
        thread: StandInMessage | None = None,
        files: Sequence[tuple[str, str, bytes]] = (),
    ) -> Answer:
        """Somebody writes: to the app, or in a channel; under a message; with files (name, type, content). `text` is
        Slack's own markup, as `<@U…>` for a mention. What a mention in a channel brings twice is posted twice."""
        with self._changed:
            where = thread.channel if thread is not None else channel or self.workspace.direct(user)
            root = None if thread is None else thread.thread_ts or thread.ts
            message = StandInMessage(
                channel=where, ts=self.workspace.new_ts(), user=user, text=text, thread_ts=root
            )
            self.workspace.messages.append(message)
            event = self.workspace.resource(message, metadata=False)
        event |= {"channel": where, "event_ts": message.ts}
        if files:
            event |= {"subtype": "file_share", "files": [self.upload(*file) for file in files]}
        if f"<@{BOT_USER}>" in text and not where.startswith("D"):
            self.event({**event, "type": "app_mention"})
        kind = {"D": "im", "G": "group"}.get(where[0], "channel")
        return self.event({**event, "channel_type": kind})

    def press(self, message: StandInMessage, label: str, *, user: str = ALICE) -> Answer:
        """Somebody presses the button with this label. Raises LookupError if there is none."""
        return self._act(message, label, user, initial_state(message.blocks))

    def choose(self, message: StandInMessage, label: str, *, user: str = ALICE) -> Answer:
        """Somebody chooses this option of a select. Raises LookupError if there is none."""
        for block, element in elements(message.blocks, "static_select"):
            for option in element["options"]:
                if option["text"]["text"] == label:
                    chosen = {"type": "static_select", "selected_option": option}
                    return self._interact(
                        message, block, element, chosen, user, initial_state(message.blocks)
                    )
        raise LookupError(f"there is no option {label!r}")

    def fill(
        self,
        message: StandInMessage,
        values: Mapping[str, str | bool],
        *,
        press: str = "Send",
        user: str = ALICE,
    ) -> Answer:
        """Somebody fills in inputs, by their labels, and presses a button. Raises LookupError for what is not there."""
        state, left = initial_state(message.blocks), dict(values)
        for block in message.blocks:
            if block["type"] == "input" and block["label"]["text"] in left:
                element = block["element"]
                value = left.pop(block["label"]["text"])
                state[block["block_id"]] = {element["action_id"]: filled(element, value)}
        if left:
            raise LookupError(f"there is no input {', '.join(left)}")
        return self._act(message, press, user, state)

    def submit(self, view: View, values: Mapping[str, str]) -> Answer:
        """Somebody sends a dialog, with these values by the ids of their blocks. It stays open if the app says so."""
        state = initial_state(view.view["blocks"])
        for block in view.view["blocks"]:
            if block["block_id"] in values:
                element = block["element"]
                state[block["block_id"]] = {element["action_id"]: filled(element, values[block["block_id"]])}
        shown = {**view.view, "id": view.id, "state": {"values": state}, "app_id": APP_ID}
        answer = self.interaction(
            {"type": "view_submission", "user": {"id": view.user}, "view": shown}, user=view.user
        )
        view.closed = answer.status == 200 and "errors" not in answer.body
        return answer

    # What Slack does

    def upload(self, name: str, content_type: str, content: bytes) -> dict[str, Any]:
        """A file that the app can fetch; what an event tells of it."""
        id = self.workspace.new_id("F")
        self.files[id] = (content_type, content)
        url = f"{self.url}/files/{id}"
        return {"id": id, "name": name, "mimetype": content_type, "size": len(content), "url_private": url}

    def event(self, event: Mapping[str, Any], *, retry: int | None = None, **changes: Any) -> Answer:
        """Post an event of the Events API, signed. retry: how often it was tried before. changes: of the payload."""
        with self._changed:
            payload: dict[str, Any] = {
                "token": "an-old-verification-token", "team_id": TEAM_ID, "api_app_id": APP_ID, "event": dict(event),
                "type": "event_callback", "event_id": self.workspace.new_id("Ev"),
                "event_time": int(self._clock.now().timestamp()),
                "authorizations": [{"team_id": TEAM_ID, "user_id": BOT_USER, "is_bot": True}], **changes,
            }  # fmt: skip
        if self.socket_mode:
            return self._over_socket("events_api", payload, accepts=False)
        headers = {"Content-Type": "application/json"}
        if retry is not None:
            headers |= {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": "http_timeout"}
        return self.post(json.dumps(payload).encode(), headers)

    def interaction(self, payload: Mapping[str, Any], *, user: str) -> Answer:
        """Post an interaction, signed."""
        with self._changed:
            whole = {
                "team": {"id": TEAM_ID}, "api_app_id": APP_ID, "token": "an-old-verification-token",
                "trigger_id": self.workspace.new_trigger(user), **payload,
            }  # fmt: skip
        if self.socket_mode:
            return self._over_socket("interactive", whole, accepts=True)
        body = urlencode({"payload": json.dumps(whole)}).encode()
        return self.post(body, {"Content-Type": "application/x-www-form-urlencoded"})

    def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        secret: str | None = None,
        age: float = 0,
        signature: str | None = None,
    ) -> Answer:
        """Post to the webhook. secret: sign with this one. age: sign as of so many seconds ago. signature: replaces the
        right one, "" leaves it out. Raises OSError if nobody answers in time."""
        if self.webhook is None:
            raise RuntimeError("The stand-in has no webhook: pass webhook=, or set the attribute.")
        stamp = int(self._clock.now().timestamp() - age)
        signed = sign(body, secret or self.signing_secret, stamp) if signature is None else signature
        proof = {"X-Slack-Request-Timestamp": str(stamp), "X-Slack-Signature": signed} if signed else {}
        return post_bytes(self.webhook, body, {**headers, **proof}, self.webhook_timeout)

    def wait_for_acknowledgements(self, *, timeout: float = 10.0) -> None:
        """Return once everything that was sent over sockets is acknowledged. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._unacknowledged, timeout):
                raise TimeoutError(f"{len(self._unacknowledged)} envelopes were not acknowledged.")

    def close_sockets(self, *, reason: str | None = None) -> None:
        """Close the sockets, after a `disconnect` with this reason if there is one."""
        if reason is not None:
            self._running.send({"type": "disconnect", "reason": reason})
        else:
            self._running.close_sockets()

    # What goes wrong: each applies to one request to the API, in the order in which they were asked for

    def fail_next(
        self,
        error: str | None,
        *,
        status: int = 200,
        retry_after: str | int | None = None,
        method: str | None = None,
    ) -> None:
        """Refuse the next request (to this method) with Slack's `error`; without one, with the page of a gateway."""
        after = None if retry_after is None else str(retry_after)
        self._faults.append(_Fault(kind="fail", error=error, status=status, retry_after=after, method=method))

    def drop_next_after_taking(self, method: str | None = None) -> None:
        """Do what the next request (to this method) asks for, then close the connection without an answer."""
        self._faults.append(_Fault(kind="drop", method=method))

    def slow_next(self, seconds: float, method: str | None = None) -> None:
        """Do what the next request (to this method) asks for, and answer `seconds` later."""
        self._faults.append(_Fault(kind="slow", seconds=seconds, method=method))

    # The wire

    def _answer(self, call: Call) -> Reply:
        with self._changed:
            self.requests += 1
            method = call.path.removeprefix("/api/")
            fault = next((one for one in self._faults if one.method in (None, method)), None)
            if fault is not None:
                self._faults.remove(fault)
            if call.path.startswith("/files/"):
                return self._file_reply(call)
            if fault is not None and fault.kind == "fail":
                return _failure(fault)
            try:
                answer = self.workspace.call(method, _token(call), _arguments(call))
            except Refused as refused:
                answer = {"ok": False, "error": refused.error, **refused.facts}
        text = json.dumps(answer).replace("{host}", f"{self._address[0]}:{self._running.port}")
        headers = {"x-oauth-scopes": ",".join(self.workspace.scopes)}
        seconds = fault.seconds if fault is not None else 0.0
        return Reply(
            text.encode(), headers=headers, delay=seconds, drop=fault is not None and fault.kind == "drop"
        )

    def _file_reply(self, call: Call) -> Reply:
        found = self.files.get(call.path.removeprefix("/files/"))
        if (
            found is None
            or _token(call) != self.workspace.bot_token
            or "files:read" not in self.workspace.scopes
        ):
            return Reply(b"", status=302, headers={"Location": "https://stand-in.slack.com/"})
        return Reply(found[1], content_type=found[0])

    def _act(self, message: StandInMessage, label: str, user: str, state: dict[str, Any]) -> Answer:
        for block, element in elements(message.blocks, "button"):
            if element["text"]["text"] == label:
                return self._interact(message, block, element, element, user, state)
        raise LookupError(f"there is no button {label!r}; there are {message.labels}")

    def _interact(
        self,
        message: StandInMessage,
        block: Mapping[str, Any],
        element: Mapping[str, Any],
        acted: Mapping[str, Any],
        user: str,
        state: Mapping[str, Any],
    ) -> Answer:
        with self._changed:
            container: dict[str, Any] = {
                "type": "message", "message_ts": message.ts, "channel_id": message.channel, "is_ephemeral": False,
            }  # fmt: skip
            if message.thread_ts is not None:
                container["thread_ts"] = message.thread_ts
            action = {
                **acted, "action_id": element["action_id"], "block_id": block["block_id"],
                "action_ts": self.workspace.new_ts(),
            }  # fmt: skip
            payload = {
                "type": "block_actions", "user": {"id": user}, "container": container,
                "channel": {"id": message.channel}, "message": self.workspace.resource(message, metadata=False),
                "state": {"values": state}, "actions": [action], "response_url": f"{self.url}/actions/1",
            }  # fmt: skip
        return self.interaction(payload, user=user)

    def _admit(self, ticket: str) -> bool:
        with self._changed:
            known = ticket in self.workspace.tickets
            self.workspace.tickets.discard(ticket)
            return known

    def _over_socket(self, kind: str, payload: Mapping[str, Any], *, accepts: bool) -> Answer:
        """Send an envelope. What is not acknowledged comes again with the next socket that the app opens; if it has none
        open now, so will this, and the answer is a 503."""
        id = str(self._clock.new_id())
        envelope = {
            "envelope_id": id, "type": kind, "payload": payload, "accepts_response_payload": accepts,
        }  # fmt: skip
        with self._changed:
            self._unacknowledged[id] = envelope
        if not self._running.send(envelope):
            return Answer(503, "")
        with self._changed:
            if not self._changed.wait_for(lambda: id in self._acknowledged, self.webhook_timeout):
                raise TimeoutError(f"The envelope was not acknowledged in {self.webhook_timeout} s.")
            answer = self._acknowledged[id]
        return Answer(200, "" if answer is None else json.dumps(answer))

    def _waiting(self) -> list[dict[str, Any]]:
        with self._changed:
            return [
                {**one, "retry_attempt": 1, "retry_reason": "timeout"}
                for one in self._unacknowledged.values()
            ]

    def _acknowledge(self, id: str, payload: Any) -> None:
        with self._changed:
            self._unacknowledged.pop(id, None)
            self._acknowledged[id] = payload
            self._changed.notify_all()


def _token(call: Call) -> str:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _arguments(call: Call) -> dict[str, Any]:
    if call.method == "GET":
        return dict(call.query)
    if not call.body:
        return {}
    if not call.headers.get("content-type", "").startswith("application/json"):
        return {}
    try:
        found = json.loads(call.body)
    except ValueError as error:
        raise Refused("invalid_json") from error
    if not isinstance(found, dict):
        raise Refused("json_not_object")
    return found


def _failure(fault: _Fault) -> Reply:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.error is None:
        return Reply(b"<html><h1>Sorry</h1></html>", fault.status, "text/html", headers)
    return Reply(json.dumps({"ok": False, "error": fault.error}).encode(), fault.status, headers=headers)
