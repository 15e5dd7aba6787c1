"""A homeserver for the tests of the Matrix channel, from the Client-Server API: what it takes, refuses and tells.

The same tests run against a real one (`make matrix`), which is what this one is held against.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Any
from urllib.parse import unquote

from tests.http_kit import Peer, Reply, json_reply

from wakeloop.testing.stand_in import Asked

MAX_EVENT_BYTES = 65_536


class Refused(Exception):
    def __init__(self, status: int, code: str, **more: Any) -> None:
        super().__init__(code)
        self.reply = json_reply({"errcode": code, "error": "refused", **more}, status)


class HomeServer(Peer):
    """One server, `localhost`. Everything that happens has the next place in its history: `s7` is a token for one."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.users: dict[str, str] = {}
        self.rooms: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.place = 0
        self.receipts: list[tuple[int, str, str, str]] = []
        self.data: dict[tuple[str, str], Any] = {}
        self.done: dict[tuple[str, str], str] = {}
        self.media: dict[str, tuple[str, bytes]] = {}
        self._changed = threading.Condition()
        self._ids = itertools.count(1)

    def _answer(self, request: Asked) -> Reply:
        path = [unquote(part) for part in request.path.split("/")[2:]]
        query = request.query
        try:
            if path == ["client", "versions"]:
                return json_reply({"versions": ["v1.1", "v1.11"]})
            body = self._body(request, path)
            if path == ["client", "v3", "register"]:
                user, token = f"@{body['username']}:localhost", f"token-{next(self._ids)}"
                self.users[token] = user
                return json_reply({"user_id": user, "access_token": token})
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not token:
                raise Refused(401, "M_MISSING_TOKEN")
            if token not in self.users:
                raise Refused(401, "M_UNKNOWN_TOKEN")
            if path[:3] == ["client", "v3", "sync"]:
                return json_reply(self._sync(self.users[token], query))
            with self._changed:
                found = self._route(request, path, query, body, self.users[token], token)
                self._changed.notify_all()
            return found if isinstance(found, Reply) else json_reply(found)
        except Refused as refused:
            return refused.reply

    def _body(self, request: Asked, path: list[str]) -> Any:
        if request.method == "GET" or path[0] == "media":
            return {}
        try:
            return request.json
        except ValueError:
            raise Refused(400, "M_NOT_JSON") from None

    def _route(
        self, request: Asked, path: list[str], query: dict[str, str], body: Any, me: str, token: str
    ) -> Any:
        match request.method, path:
            case "GET", ["client", "v3", "account", "whoami"]:
                return {"user_id": me}
            case method, ["client", "v3", "user", user, "account_data", kind] if user == me:
                if method == "PUT":
                    self.data[me, kind] = body
                elif (me, kind) not in self.data:
                    raise Refused(404, "M_NOT_FOUND")
                return self.data[me, kind] if method == "GET" else {}
            case "POST", ["client", "v3", "createRoom"]:
                return self._create(me, body)
            case "POST", ["client", "v3", "join", room] | ["client", "v3", "rooms", room, "join"]:
                if self._membership(room, me) not in ("invite", "join"):
                    raise Refused(403, "M_FORBIDDEN")
                self._member(room, me, me, "join")
                return {"room_id": room}
            case "POST", ["client", "v3", "rooms", room, "leave"]:
                self._member(room, me, me, "leave")
                return {}
            case "POST", ["client", "v3", "rooms", room, "invite"]:
                self._need(room, me)
                self._member(room, me, body["user_id"], "invite")
                return {}
            case "PUT", ["client", "v3", "rooms", room, "send", kind, _]:
                return {"event_id": self._once(token, request.target, room, me, kind, body)}
            case "PUT", ["client", "v3", "rooms", room, "redact", id, _]:
                self._need(room, me)
                self._event(room, id)["content"] = {}
                return {"event_id": self._add(room, me, "m.room.redaction", {}, redacts=id)}
            case "GET", ["client", "v3", "rooms", room, "event", id]:
                self._need(room, me)
                return self._event(room, id)
            case "GET", ["client", "v3", "rooms", room, "state", kind, key]:
                self._need(room, me, "join", "leave")
                return self._state(room, kind, key)
            case "GET", ["client", "v3", "rooms", room, "messages"]:
                self._need(room, me)
                return self._messages(room, query)
            case "POST", ["client", "v3", "rooms", room, "receipt", "m.read", id]:
                self._add_receipt(room, id, me)
                return {}
            case "POST", ["media", "v3", "upload"]:
                uri = f"mxc://localhost/media{next(self._ids)}"
                self.media[uri] = (request.headers["content-type"], request.body)
                return {"content_uri": uri}
            case "GET", ["client", "v1", "media", "download", server, media]:
                if (uri := f"mxc://{server}/{media}") not in self.media:
                    raise Refused(404, "M_NOT_FOUND")
                return Reply(body=self.media[uri][1], content_type=self.media[uri][0])
        raise Refused(404, "M_UNRECOGNIZED")

    # ------------------------------------------------------------------ rooms

    def _create(self, me: str, body: Any) -> dict[str, str]:
        room = f"!room{next(self._ids)}:localhost"
        self._add(room, me, "m.room.create", {}, state_key="")
        self._member(room, me, me, "join")
        for one in body.get("initial_state", ()):
            self._add(room, me, one["type"], one["content"], state_key=one.get("state_key", ""))
        for user in body.get("invite", ()):
            self._member(room, me, user, "invite", is_direct=bool(body.get("is_direct")))
        return {"room_id": room}

    def _member(self, room: str, sender: str, user: str, membership: str, *, is_direct: bool = False) -> None:
        content: dict[str, Any] = {"membership": membership}
        if is_direct:
            content["is_direct"] = True
        self._add(room, sender, "m.room.member", content, state_key=user)

    def _membership(self, room: str, user: str) -> str | None:
        try:
            return str(self._state(room, "m.room.member", user)["membership"])
        except Refused:
            return None

    def _need(self, room: str, user: str, *memberships: str) -> None:
        if self._membership(room, user) not in (memberships or ("join",)):
            raise Refused(403, "M_FORBIDDEN")

    def _state(self, room: str, kind: str, key: str) -> dict[str, Any]:
        for _, event in reversed(self.rooms.get(room, ())):
            if (event["type"], event.get("state_key")) == (kind, key):
                content: dict[str, Any] = event["content"]
                return content
        raise Refused(404, "M_NOT_FOUND")

    def _event(self, room: str, id: str) -> dict[str, Any]:
        for _, event in self.rooms.get(room, ()):
            if event["event_id"] == id:
                return event
        raise Refused(404, "M_NOT_FOUND")

    def _once(self, token: str, target: str, room: str, me: str, kind: str, content: Any) -> str:
        if (token, target) in self.done:
            return self.done[token, target]
        self._need(room, me)
        if len(json.dumps(content, ensure_ascii=False).encode()) > MAX_EVENT_BYTES:
            raise Refused(413, "M_TOO_LARGE")
        self._check_relation(room, me, kind, content.get("m.relates_to", {}))
        self.done[token, target] = self._add(room, me, kind, content)
        return self.done[token, target]

    def _check_relation(self, room: str, me: str, kind: str, relation: dict[str, Any]) -> None:
        if relation.get("rel_type") == "m.thread":
            root = self._event(room, relation["event_id"])
            if "rel_type" in root["content"].get("m.relates_to", {}):
                raise Refused(400, "M_UNKNOWN")
        if kind == "m.reaction":
            for _, event in self.rooms[room]:
                same = event["content"].get("m.relates_to") == relation and event["sender"] == me
                if event["type"] == kind and same:
                    raise Refused(400, "M_DUPLICATE_ANNOTATION")

    def _add(self, room: str, sender: str, kind: str, content: Any, **more: Any) -> str:
        event = {
            "event_id": f"$event{next(self._ids)}",
            "type": kind,
            "sender": sender,
            "content": content,
            "origin_server_ts": int(time.time() * 1000),
            **more,
        }
        self.place += 1
        self.rooms.setdefault(room, []).append((self.place, event))
        return str(event["event_id"])

    def _add_receipt(self, room: str, id: str, user: str) -> None:
        self.place += 1
        self.receipts.append((self.place, room, id, user))

    # ------------------------------------------------------------------ what happened

    def _messages(self, room: str, query: dict[str, str]) -> dict[str, Any]:
        start, end = int(query["from"][1:]), int(query["to"][1:])
        types = json.loads(query["filter"])["types"]
        found = [
            (place, event)
            for place, event in self.rooms[room]
            if end < place <= start and event["type"] in types
        ]
        page = found[::-1][: min(int(query["limit"]), 10)]  # a server may give fewer than it is asked for
        more = len(page) < len(found)
        return {
            "start": query["from"],
            "chunk": [event for _, event in page],
            **({"end": f"s{page[-1][0] - 1}"} if more else {}),
        }

    def _sync(self, me: str, query: dict[str, str]) -> dict[str, Any]:
        since = query.get("since")
        if since is not None and not (since[:1] == "s" and since[1:].isdigit()):
            raise Refused(400, "M_UNKNOWN")
        place = int(since[1:]) if since is not None else 0
        end = time.monotonic() + int(query.get("timeout", "0")) / 1000
        room_filter = json.loads(query.get("filter", "{}")).get("room", {})
        with self._changed:
            while True:
                found = self._happened(me, place, since is not None, room_filter)
                if found["rooms"]["join"] or found["rooms"]["invite"]:
                    return found
                seen = self.place
                while self.place == seen:
                    if time.monotonic() > end or self._stopping.is_set():
                        return found
                    self._changed.wait(0.05)

    def _happened(
        self, me: str, place: int, is_incremental: bool, room_filter: dict[str, Any]
    ) -> dict[str, Any]:
        timeline_filter = room_filter.get("timeline", {})
        limit, types = timeline_filter.get("limit", 10), timeline_filter.get("types")
        rooms: dict[str, dict[str, Any]] = {"join": {}, "invite": {}}
        for room, history in self.rooms.items():
            membership, at = self._membership(room, me), self._since(room, me)
            if membership == "invite" and at > place:
                state = [event for _, event in history if event["type"] == "m.room.member"]
                rooms["invite"][room] = {"invite_state": {"events": state}}
            if membership != "join":
                continue
            start = place if is_incremental and at <= place else 0
            happened = [
                (number, event)
                for number, event in history
                if number > start and (types is None or event["type"] in types)
            ]
            read: dict[str, Any] = {}
            for number, where, id, user in self.receipts:
                if where == room and number > place:
                    read.setdefault(id, {}).setdefault("m.read", {})[user] = {"ts": 1}
            if not happened and not read:
                continue
            shown = happened[-limit:]
            rooms["join"][room] = {
                "timeline": {
                    "events": [event for _, event in shown],
                    "limited": len(shown) < len(happened),
                    "prev_batch": f"s{(shown[0][0] if shown else self.place + 1) - 1}",
                },
                "ephemeral": {"events": [{"type": "m.receipt", "content": read}] if read else []},
            }
        return {"next_batch": f"s{self.place}", "rooms": rooms}

    def _since(self, room: str, user: str) -> int:
        """Where the user's present membership of a room began."""
        places = [
            number
            for number, event in self.rooms[room]
            if event["type"] == "m.room.member" and event.get("state_key") == user
        ]
        return places[-1] if places else 0
