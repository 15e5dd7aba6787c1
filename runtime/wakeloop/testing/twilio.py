"""A stand-in for Twilio: a real HTTP server on loopback that checks, answers and calls back as Twilio does.

::

    with TwilioStandIn(webhook="http://127.0.0.1:8080/hooks/sms") as twilio:
        ...                                   # settings: api_url=twilio.url, account_sid=…, auth_token=…
        sent = twilio.wait_for(1)[0]
        twilio.reply("yes", from_=sent.to)    # a signed webhook; gives the answer's status and body

or as a process of its own, which prints one JSON line for each message it takes and posts each line
`NUMBER TEXT` of its standard input as an SMS from that number::

    python -m wakeloop.testing.twilio --port 8900 --account-sid AC… --auth-token … --webhook http://…

Modelled on the public reference: the Messages resource (https://www.twilio.com/docs/messaging/api/message-resource),
"Twilio's request to your webhook" (/docs/messaging/guides/webhook-request), "Secure webhooks"
(/docs/usage/webhooks/webhooks-security), the error dictionary (/docs/api/errors) and the magic numbers of the test
credentials (/docs/iam/test-credentials).
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from wakeloop.clock import Clock, SystemClock
from wakeloop.interrupts import interrupts
from wakeloop.testing.stand_in import Answer, Asked, Failure, Given, StandIn, gateway_page, post_bytes
from wakeloop.testing.twilio_http import ERRORS, JSON, Refusal, StatusCallback, error_reply, reply, sign
from wakeloop.testing.twilio_messages import (
    API_VERSION,
    WHATSAPP,
    Rules,
    StandInMessage,
    page_of,
    resource,
    taken,
    webhook_parameters,
)

__all__ = ["Answer", "StandInMessage", "StatusCallback", "TwilioStandIn", "sign"]

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "stand-in-auth-token"
NUMBER = "+15555550199"

WINDOW = timedelta(hours=24)
OUTSIDE_WINDOW = 63016
STORAGE = "/stored/"

_PATH = re.compile(rf"/{API_VERSION}/Accounts/(?P<account>\w+)/Messages(?:/(?P<sid>\w+))?\.json")
_ACCOUNT = re.compile(rf"/{API_VERSION}/Accounts/(?P<account>\w+)\.json")
_MEDIA = re.compile(rf"/{API_VERSION}/Accounts/(?P<account>\w+)/Messages/\w+/Media/\w+")
_STOP = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
_START = frozenset({"START", "UNSTOP", "YES"})


class TwilioStandIn(StandIn):
    """Twilio's Messages resource and webhooks for one account.

    webhook: where `reply` and `forge` post. signed_url: the address that Twilio would know it by, if that is another
    one (a public URL in front of a proxy). number: the account's own number, `To` of inbound messages. numbers: if
    given, every number that the account may send from (`whatsapp:+…` for WhatsApp senders). templates: bodies of the
    account's content templates by their sid, `{{1}}` in them for a variable. api_keys: further credentials, secret by
    sid. auto_status: take each message to delivered, calling its StatusCallback back for every change. clock: Twilio's
    own.

    A person who replied STOP is not written to (21610) until they reply START, as at Twilio. People on WhatsApp have
    numbers that begin with `whatsapp:`; whoever has not written for 24 hours gets templates only (63016). What fails
    without one of Twilio's error codes (`fail_next`) is answered with the HTML page of a gateway.
    """

    def __init__(
        self,
        *,
        account_sid: str = ACCOUNT_SID,
        auth_token: str = AUTH_TOKEN,
        webhook: str | None = None,
        signed_url: str | None = None,
        number: str = NUMBER,
        numbers: Sequence[str] | None = None,
        templates: Mapping[str, str] | None = None,
        api_keys: Mapping[str, str] | None = None,
        auto_status: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        on_message: Callable[[StandInMessage], None] | None = None,
    ) -> None:
        super().__init__(host=host, port=port)
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.webhook = webhook
        self.signed_url = signed_url
        self.number = number
        self.auto_status = auto_status
        self.messages: list[StandInMessage] = []
        self.inbound: list[StandInMessage] = []
        self.callbacks: list[StatusCallback] = []
        self.account_status = "active"
        self._rules = Rules(numbers=numbers, templates=templates or {})
        self._heard: dict[str, datetime] = {}
        self._files: dict[str, tuple[str, bytes]] = {}
        self._credentials = {account_sid: auth_token, **(api_keys or {})}
        self._clock = clock or SystemClock()
        self._on_message = on_message
        self._opted_out: set[str] = set()
        self._threads: list[threading.Thread] = []

    def stop(self) -> None:
        """Close every connection and wait for what is under way. Messages stay readable."""
        super().stop()
        with self._changed:
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    # What people do

    def wait_for(self, count: int, *, to: str | None = None, timeout: float = 10.0) -> list[StandInMessage]:
        """The messages taken so far (to that number), once there are `count` of them.

        Raises TimeoutError after `timeout` seconds."""
        return self._wait(lambda: [one for one in self.messages if to in (None, one.to)], count, timeout)

    def wait_for_callbacks(self, count: int, *, timeout: float = 10.0) -> list[StatusCallback]:
        """The status callbacks made so far, once there are `count` of them.

        Raises TimeoutError after `timeout` seconds."""
        return self._wait(lambda: list(self.callbacks), count, timeout)

    def reply(
        self,
        text: str,
        *,
        from_: str,
        to: str | None = None,
        sid: str | None = None,
        media: Sequence[tuple[str, str]] = (),
        answering: str | None = None,
        button: tuple[str, str] | None = None,
        opt_out_type: str | None = None,
        auth_token: str | None = None,
        extra: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Somebody sends an SMS, or from a number that begins with `whatsapp:` a WhatsApp message: post the webhook,
        signed, and give what it answered.

        sid: the same one again is a retry. media: (URL, content type) of each attachment. answering: the sid of the
        message of ours that they reply to (WhatsApp). button: (text, payload) of the quick reply that they press.
        auth_token: sign with this one. extra: further parameters; a name may come more than once."""
        message = self._inbound(text, from_, to, sid)
        answered = self._taken(answering) if answering is not None else None
        parameters = webhook_parameters(message, self.account_sid, media, answering=answered, button=button)
        parameters += extra
        if opt_out_type is not None:
            parameters.append(("OptOutType", opt_out_type))
        with self._changed:
            if all(message.sid != earlier.sid for earlier in self.inbound):
                self.inbound.append(message)
            self._heard[from_] = message.date_created
            self._note_opt_out(text, from_)
        return self.post(parameters, auth_token=auth_token)

    def forge(self, text: str, *, from_: str, to: str | None = None, signature: str | None = None) -> Answer:
        """The same webhook as `reply`, from somebody who does not have the auth token. `signature=""` sends none."""
        parameters = webhook_parameters(self._inbound(text, from_, to, None), self.account_sid)
        return self.post(parameters, auth_token="not the auth token", signature=signature)

    def post(
        self,
        parameters: Sequence[tuple[str, str]],
        *,
        url: str | None = None,
        auth_token: str | None = None,
        signature: str | None = None,
        algorithm: Literal["SHA1", "SHA256"] = "SHA1",
    ) -> Answer:
        """Post a signed form to the webhook (or to `url`). `signature` replaces the right one, "" leaves it out.

        Raises OSError if nobody answers."""
        target = url or self.webhook
        if target is None:
            raise RuntimeError("The stand-in has no webhook: pass webhook=, or set the attribute.")
        signed = target
        if (
            self.webhook is not None
            and self.signed_url is not None
            and target in (self.webhook, self.signed_url)
        ):
            target, signed = self.webhook, self.signed_url
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "I-Twilio-Idempotency-Token": str(self._clock.new_id()),
        }
        if signature != "":
            secret = self.auth_token if auth_token is None else auth_token
            headers["X-Twilio-Signature"] = signature or sign(signed, parameters, secret, algorithm)
        if algorithm == "SHA256":
            headers["X-Twilio-Webhooks-Signature-Settings"] = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
        return post_bytes(target, urlencode(parameters).encode(), headers)

    def post_status(self, sid: str, status: str, error_code: int | None = None) -> Answer:
        """Report a message's status to its StatusCallback, or to the webhook if it has none.

        Raises OSError if nobody answers."""
        message = self._taken(sid)
        if message is not None:
            self._advance(message, status, error_code)
        parameters = self.status_parameters(sid, status, error_code)
        callback = message.status_callback if message is not None else None
        try:
            answer = self.post(parameters, url=callback)
        except OSError:
            self._note_callback(StatusCallback(sid=sid, status=status, answer=None))
            raise
        self._note_callback(StatusCallback(sid=sid, status=status, answer=answer))
        return answer

    def status_parameters(
        self, sid: str, status: str, error_code: int | None = None
    ) -> list[tuple[str, str]]:
        """The form of a status callback about that message, which stays as it is."""
        message = self._taken(sid)
        parameters = [
            ("AccountSid", self.account_sid),
            ("ApiVersion", API_VERSION),
            ("MessageSid", sid),
            ("MessageStatus", status),
            ("SmsSid", sid),
            ("SmsStatus", status),
        ]
        if message is not None:
            parameters += [("From", message.from_ or self.number), ("To", message.to)]
            if message.messaging_service_sid is not None:
                parameters.append(("MessagingServiceSid", message.messaging_service_sid))
        if error_code is not None:
            parameters.append(("ErrorCode", str(error_code)))
        return sorted(parameters)

    def message_parameters(
        self,
        text: str,
        *,
        from_: str,
        answering: str | None = None,
        media: Sequence[tuple[str, str]] = (),
        button: tuple[str, str] | None = None,
    ) -> list[tuple[str, str]]:
        """The form of the webhook for a message that somebody sends; see `reply`."""
        message = self._inbound(text, from_, None, None)
        answered = self._taken(answering) if answering is not None else None
        self._heard[from_] = message.date_created
        return webhook_parameters(message, self.account_sid, media, answering=answered, button=button)

    def hear(self, person: str, at: datetime | None = None) -> None:
        """Let somebody have written to a WhatsApp sender, now or at that time, which opens the window of 24 hours."""
        self._heard[person] = at or self._clock.now()

    def store(self, data: bytes, content_type: str) -> str:
        """Keep a file that comes with a message; its address at Twilio."""
        sid = "ME" + self._clock.new_id().hex
        self._files[sid] = (content_type, data)
        path = f"/{API_VERSION}/Accounts/{self.account_sid}/Messages/{self._new_sid('MM')}/Media/{sid}"
        return f"https://api.twilio.com{path}"

    def lose(self, url: str) -> None:
        """Delete a kept file."""
        del self._files[url.rpartition("/")[2]]

    # The API

    def answer(self, asked: Asked) -> Given:
        try:
            return self._route(asked)
        except Refusal as refusal:
            status, words = ERRORS[refusal.code]
            facts = {"path": asked.path, "to": "", "from_": "", "callback": "", **refusal.facts}
            return error_reply(status, refusal.code, words.format_map(facts))

    def fail(self, fault: Failure) -> Given:
        """Its own error, or without a code the page of a gateway."""
        if fault.code is None:
            return gateway_page(fault)
        words = ERRORS.get(fault.code, (0, HTTPStatus(fault.status).phrase))[1]
        return error_reply(fault.status, fault.code, words, fault.headers)

    def _route(self, asked: Asked) -> Given:
        method, path, authorization = asked.method, asked.path, asked.headers.get("authorization", "")
        if path.startswith(STORAGE) and method == "GET":
            if authorization:
                return Given(status=400, body=b"Only one auth mechanism allowed", content_type="text/plain")
            return self._file(path)
        match = _PATH.fullmatch(path)
        if not self._authenticated(authorization):
            raise Refusal(20003)
        if method == "GET" and (named := _ACCOUNT.fullmatch(path)) and named["account"] == self.account_sid:
            return reply(200, self._account(authorization))
        if method == "GET" and (named := _MEDIA.fullmatch(path)) and named["account"] == self.account_sid:
            return self._file(path)
        if match is None or match["account"] != self.account_sid or method not in {"GET", "POST"}:
            raise Refusal(20404)
        if match["sid"] is not None:
            known = [*self.messages, *self.inbound]
            message = next((message for message in known if message.sid == match["sid"]), None)
            if message is None or method != "GET":
                raise Refusal(20404)
            return reply(200, resource(message, self.account_sid))
        if method == "GET":
            with self._changed:
                every = [*self.messages, *self.inbound]
            return reply(200, page_of(every, path, asked.query, self.account_sid))
        message = self._create(parse_qsl(asked.body.decode(), keep_blank_values=True))
        then = (lambda: self._run(self._deliver, message)) if self.auto_status else None
        return reply(201, resource(message, self.account_sid), then=then)

    def _authenticated(self, authorization: str) -> bool:
        username, password = _basic(authorization)
        return bool(password) and self._credentials.get(username) == password

    def _create(self, parameters: list[tuple[str, str]]) -> StandInMessage:
        message = taken(
            parameters, self._rules, opted_out=self._opted_out, sid=self._new_sid(), now=self._clock.now()
        )
        with self._changed:
            heard_at = self._heard.get(message.to)
            open_ = heard_at is not None and message.date_created - heard_at < WINDOW
            if message.to.startswith(WHATSAPP) and message.content_sid is None and not open_:
                # Twilio takes it, and says so afterwards.
                message.status, message.error_code = "failed", OUTSIDE_WINDOW
            self.messages.append(message)
            self._changed.notify_all()
        if self._on_message is not None:
            self._on_message(message)
        return message

    def _account(self, authorization: str) -> dict[str, Any]:
        """The Accounts resource, which only the auth token may read."""
        username, _ = _basic(authorization)
        if username != self.account_sid:
            raise Refusal(20003)
        return {
            "sid": self.account_sid,
            "friendly_name": "Stand-in",
            "status": self.account_status,
            "type": "Full",
        }

    def _file(self, path: str) -> Given:
        """A file: the API redirects to where it lies, and there nobody may send credentials."""
        found = self._files.get(path.rpartition("/")[2])
        if found is None:
            raise Refusal(20404)
        if path.startswith(STORAGE):
            content_type, data = found
            return Given(body=data, content_type=content_type)
        headers = {"Location": STORAGE + path.rpartition("/")[2]}
        return Given(status=307, content_type=JSON, headers=headers)

    def _deliver(self, message: StandInMessage) -> None:
        """Twilio calls back for changes only, not for the status a message is created with."""
        statuses = ["sent", "delivered"]
        if message.error_code is not None:
            statuses = ["failed"]
        elif message.status == "accepted":
            statuses.insert(0, "queued")
        for status in statuses:
            if self._stopping.is_set():
                return
            if message.status_callback is None:
                self._advance(message, status)
                continue
            try:
                self.post_status(message.sid, status, message.error_code)
            except OSError:
                continue  # noted in `callbacks`; Twilio does not repeat a status callback either

    def _advance(self, message: StandInMessage, status: str, error_code: int | None = None) -> None:
        with self._changed:
            message.status, message.error_code = status, error_code
            if status == "sent":
                message.date_sent = self._clock.now()
            self._changed.notify_all()

    def _inbound(self, text: str, from_: str, to: str | None, sid: str | None) -> StandInMessage:
        return StandInMessage(
            sid=sid or self._new_sid(),
            to=to or (WHATSAPP if from_.startswith(WHATSAPP) else "") + self.number,
            from_=from_,
            body=text,
            status="received",
            direction="inbound",
            date_created=self._clock.now(),
            date_sent=self._clock.now(),
        )

    def _taken(self, sid: str) -> StandInMessage | None:
        return next((message for message in self.messages if message.sid == sid), None)

    def _note_opt_out(self, text: str, person: str) -> None:
        word = text.strip().upper()
        if word in _STOP:
            self._opted_out.add(person)
        elif word in _START:
            self._opted_out.discard(person)

    def _note_callback(self, callback: StatusCallback) -> None:
        with self._changed:
            self.callbacks.append(callback)
            self._changed.notify_all()

    def _new_sid(self, kind: str = "SM") -> str:
        return kind + self._clock.new_id().hex

    def _run(self, function: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, name="twilio-stand-in", daemon=True)
        with self._changed:
            self._threads = [other for other in self._threads if other.is_alive()]
            thread.start()
            self._threads.append(thread)


def _basic(authorization: str) -> tuple[str, str]:
    """(username, password) of an Authorization header; empty ones if it is no Basic one."""
    scheme, _, credentials = authorization.partition(" ")
    try:
        username, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return (username, password) if scheme.lower() == "basic" else ("", "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stand-in until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m wakeloop.testing.twilio", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--account-sid", default=ACCOUNT_SID)
    parser.add_argument("--auth-token", default=AUTH_TOKEN)
    parser.add_argument("--number", default=NUMBER, help="the account's own number, which people write to")
    parser.add_argument("--webhook", help="where inbound messages are posted")
    parser.add_argument("--signed-url", help="the webhook's public URL, if it is another")
    parser.add_argument(
        "--auto-status", action="store_true", help="deliver each message, with status callbacks"
    )
    options = parser.parse_args(arguments)

    def show(message: StandInMessage) -> None:
        line = {"sid": message.sid, "from": message.from_, "to": message.to, "body": message.body}
        print(json.dumps(line), flush=True)

    stand_in = TwilioStandIn(
        account_sid=options.account_sid,
        auth_token=options.auth_token,
        webhook=options.webhook,
        signed_url=options.signed_url,
        number=options.number,
        auto_status=options.auto_status,
        host=options.host,
        port=options.port,
        on_message=show,
    )
    with interrupts() as ending, stand_in:
        print(f"Twilio's stand-in listens on {stand_in.url}", file=sys.stderr, flush=True)
        # A daemon: reading standard input cannot be interrupted.
        threading.Thread(target=_read_replies, args=(stand_in,), daemon=True).start()
        ending.wait()


def _read_replies(stand_in: TwilioStandIn) -> None:
    for line in sys.stdin:
        number, _, text = line.strip().partition(" ")
        if not number:
            continue
        try:
            answer = stand_in.reply(text, from_=number)
            print(f"the webhook answered {answer.status}", file=sys.stderr, flush=True)
        except (OSError, RuntimeError) as error:
            print(f"not delivered: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
