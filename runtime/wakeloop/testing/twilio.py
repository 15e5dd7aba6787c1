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
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from wakeloop.clock import Clock, SystemClock
from wakeloop.testing.twilio_http import (
    ERRORS,
    MAGIC_RECIPIENTS,
    Answer,
    Fault,
    Refusal,
    Reply,
    Server,
    StatusCallback,
    dump,
    error_reply,
    fault_reply,
    is_callback,
    post_form,
    segments,
    sign,
)

__all__ = ["Answer", "StandInMessage", "StatusCallback", "TwilioStandIn", "sign"]

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "stand-in-auth-token"
NUMBER = "+15555550199"

API_VERSION = "2010-04-01"
MAX_BODY_CHARACTERS = 1600

_E164 = re.compile(r"\+[1-9]\d{1,14}")
_SENDER = re.compile(r"\+[1-9]\d{1,14}|\d{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
_PATH = re.compile(rf"/{API_VERSION}/Accounts/(?P<account>\w+)/Messages(?:/(?P<sid>\w+))?\.json")
_STOP = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
_START = frozenset({"START", "UNSTOP", "YES"})


@dataclass(kw_only=True)
class StandInMessage:
    """A message that the stand-in took (`outbound-api`) or delivered (`inbound`); its status goes on changing."""

    sid: str
    to: str
    from_: str | None
    body: str
    status: str
    direction: Literal["outbound-api", "inbound"] = "outbound-api"
    date_created: datetime
    date_sent: datetime | None = None
    status_callback: str | None = None
    messaging_service_sid: str | None = None
    error_code: int | None = None
    media: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


class TwilioStandIn:
    """Twilio's Messages resource and webhooks for one account.

    webhook: where `reply` and `forge` post. signed_url: the address that Twilio would know it by, if that is another
    one (a public URL in front of a proxy). number: the account's own number, `To` of inbound messages. numbers: if
    given, every number that the account may send from. api_keys: further credentials, secret by sid. auto_status:
    take each message to delivered, calling its StatusCallback back for every change. clock: Twilio's own.

    A person who replied STOP is not written to (21610) until they reply START, as at Twilio.
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
        api_keys: Mapping[str, str] | None = None,
        auto_status: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        on_message: Callable[[StandInMessage], None] | None = None,
    ) -> None:
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.webhook = webhook
        self.signed_url = signed_url
        self.number = number
        self.auto_status = auto_status
        self.messages: list[StandInMessage] = []
        self.inbound: list[StandInMessage] = []
        self.callbacks: list[StatusCallback] = []
        self.requests = 0
        self._numbers = frozenset(numbers) if numbers is not None else None
        self._credentials = {account_sid: auth_token, **(api_keys or {})}
        self._address = (host, port)
        self._clock = clock or SystemClock()
        self._on_message = on_message
        self._opted_out: set[str] = set()
        self._faults: deque[Fault] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: Server | None = None

    # Life

    def start(self) -> Self:
        """Listen; the port is known from here on."""
        self._stopping.clear()
        self._server = Server(self._address, self._answer)
        self._run(self._server.serve_forever, 0.05)
        return self

    def stop(self) -> None:
        """Close every connection and wait for what is under way. Messages stay readable."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.close_connections()
            self._server.server_close()
            self._server = None
        with self._changed:
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The API's base URL: the setting `api_url`."""
        if self._server is None:
            raise RuntimeError(
                "The stand-in is not running: use it in a `with` block, or call start() first."
            )
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    # What people do

    def wait_for(self, count: int, *, to: str | None = None, timeout: float = 10.0) -> list[StandInMessage]:
        """The messages taken so far (to that number), once there are `count` of them.

        Raises TimeoutError after `timeout` seconds."""

        def taken() -> list[StandInMessage]:
            return [message for message in self.messages if to in (None, message.to)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(taken()) >= count, timeout):
                raise TimeoutError(f"{len(taken())} messages were sent in {timeout} s; {count} were awaited.")
            return taken()

    def wait_for_callbacks(self, count: int, *, timeout: float = 10.0) -> list[StatusCallback]:
        """The status callbacks made so far, once there are `count` of them.

        Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.callbacks) >= count, timeout):
                made = len(self.callbacks)
                raise TimeoutError(f"{made} status callbacks were made in {timeout} s; {count} were awaited.")
            return list(self.callbacks)

    def reply(
        self,
        text: str,
        *,
        from_: str,
        to: str | None = None,
        sid: str | None = None,
        media: Sequence[tuple[str, str]] = (),
        opt_out_type: str | None = None,
        auth_token: str | None = None,
        extra: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Somebody sends an SMS: post the webhook, signed, and give what it answered.

        sid: the same one again is a retry. media: (URL, content type) of each attachment. auth_token: sign with this
        one. extra: further parameters; a name may come more than once."""
        message = self._inbound(text, from_, to, sid)
        parameters = [*_webhook_parameters(message, self.account_sid, media), *extra]
        if opt_out_type is not None:
            parameters.append(("OptOutType", opt_out_type))
        with self._changed:
            if all(message.sid != earlier.sid for earlier in self.inbound):
                self.inbound.append(message)
            self._note_opt_out(text, from_)
        return self.post(parameters, auth_token=auth_token)

    def forge(self, text: str, *, from_: str, to: str | None = None, signature: str | None = None) -> Answer:
        """The same webhook as `reply`, from somebody who does not have the auth token. `signature=""` sends none."""
        parameters = _webhook_parameters(self._inbound(text, from_, to, None), self.account_sid, ())
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
        return post_form(target, urlencode(parameters).encode(), headers)

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

    def message_parameters(self, text: str, *, from_: str) -> list[tuple[str, str]]:
        """The form of the webhook for a message that somebody sends."""
        return _webhook_parameters(self._inbound(text, from_, None, None), self.account_sid, ())

    # What goes wrong: each applies to one request to the API, in the order in which they were asked for

    def fail_next(
        self, status: int, code: int | None = None, *, retry_after: str | int | None = None
    ) -> None:
        """Refuse the next request with this HTTP status and Twilio's error `code`; without a code, with the HTML page
        of a gateway. `retry_after`: seconds or an HTTP date."""
        after = None if retry_after is None else str(retry_after)
        self._faults.append(Fault(kind="fail", status=status, code=code, retry_after=after))

    def drop_next_after_taking(self) -> None:
        """Do what the next request asks for, then close the connection without an answer."""
        self._faults.append(Fault(kind="drop"))

    def slow_next(self, seconds: float) -> None:
        """Do what the next request asks for, and answer `seconds` later."""
        self._faults.append(Fault(kind="slow", seconds=seconds))

    # The API

    def _answer(self, method: str, target: str, authorization: str, body: bytes) -> Reply | None:
        """Answer one API request; None closes the connection instead."""
        with self._changed:
            self.requests += 1
            fault = self._faults.popleft() if self._faults else None
        if fault is not None and fault.kind == "fail":
            return fault_reply(fault)
        parts = urlsplit(target)
        try:
            reply = self._route(method, parts.path, parts.query, authorization, body)
        except Refusal as refusal:
            status, words = ERRORS[refusal.code]
            facts = {"path": parts.path, "to": "", "from_": "", "callback": "", **refusal.facts}
            reply = error_reply(status, refusal.code, words.format_map(facts))
        if fault is not None and fault.kind == "slow":
            self._stopping.wait(fault.seconds)
        return None if fault is not None and fault.kind == "drop" else reply

    def _route(self, method: str, path: str, query: str, authorization: str, body: bytes) -> Reply:
        match = _PATH.fullmatch(path)
        if not self._authenticated(authorization):
            raise Refusal(20003)
        if match is None or match["account"] != self.account_sid:
            raise Refusal(20404)
        if match["sid"] is not None:
            known = [*self.messages, *self.inbound]
            message = next((message for message in known if message.sid == match["sid"]), None)
            if message is None or method != "GET":
                raise Refusal(20404)
            return Reply(200, dump(self._resource(message)))
        if method == "GET":
            return Reply(200, dump(self._list(path, dict(parse_qsl(query)))))
        message = self._create(parse_qsl(body.decode(), keep_blank_values=True))
        then = (lambda: self._run(self._deliver, message)) if self.auto_status else None
        return Reply(201, dump(self._resource(message)), then=then)

    def _authenticated(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        try:
            username, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            return False
        return scheme.lower() == "basic" and bool(password) and self._credentials.get(username) == password

    def _create(self, parameters: list[tuple[str, str]]) -> StandInMessage:
        form = dict(parameters)
        to, from_, service = form.get("To", ""), form.get("From"), form.get("MessagingServiceSid")
        body, callback = form.get("Body", ""), form.get("StatusCallback")
        facts = {"to": to, "from_": from_ or "", "callback": callback or ""}
        problems = [
            (not to, 21604),
            (not _E164.fullmatch(to), 21211),
            (not from_ and not service, 21603),
            (bool(from_) and not _SENDER.fullmatch(from_ or ""), 21212),
            (self._numbers is not None and bool(from_) and from_ not in self._numbers, 21606),
            (not body.strip() and "MediaUrl" not in form, 21602),
            (len(body) > MAX_BODY_CHARACTERS, 21617),
            (callback is not None and not is_callback(callback), 21609),
            (to in self._opted_out, 21610),
        ]
        codes = [code for wrong, code in problems if wrong]
        if codes or to in MAGIC_RECIPIENTS:
            raise Refusal(codes[0] if codes else MAGIC_RECIPIENTS[to], **facts)
        message = StandInMessage(
            sid=self._new_sid(),
            to=to,
            from_=from_,
            body=body,
            status="accepted" if service and not from_ else "queued",
            date_created=self._clock.now(),
            status_callback=callback,
            messaging_service_sid=service,
            media=[value for name, value in parameters if name == "MediaUrl"],
            fields=form,
        )
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()
        if self._on_message is not None:
            self._on_message(message)
        return message

    def _list(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """A page of messages, newest first. A date filter leaves out what has not been sent yet."""
        size = min(max(int(query.get("PageSize", 50)), 1), 1000)
        page = int(query.get("Page", 0))
        with self._changed:
            every = sorted(
                [*self.messages, *self.inbound], key=lambda message: message.date_created, reverse=True
            )
        chosen = [message for message in every if _fits(message, query)]
        shown = chosen[page * size : (page + 1) * size]

        def uri(number: int) -> str:
            return f"{path}?{urlencode({**query, 'PageSize': size, 'Page': number})}"

        return {
            "first_page_uri": uri(0),
            "next_page_uri": uri(page + 1) if len(chosen) > (page + 1) * size else None,
            "previous_page_uri": uri(page - 1) if page else None,
            "uri": uri(page),
            "page": page,
            "page_size": size,
            "start": page * size,
            "end": page * size + max(len(shown) - 1, 0),
            "messages": [self._resource(message) for message in shown],
        }

    def _resource(self, message: StandInMessage) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Messages/{message.sid}"
        sent = message.date_sent
        return {
            "account_sid": self.account_sid,
            "api_version": API_VERSION,
            "body": message.body,
            "date_created": format_datetime(message.date_created),
            "date_sent": format_datetime(sent) if sent is not None else None,
            "date_updated": format_datetime(sent or message.date_created),
            "direction": message.direction,
            "error_code": message.error_code,
            "error_message": None,
            "from": message.from_,
            "messaging_service_sid": message.messaging_service_sid,
            "num_media": "0",
            "num_segments": "0" if message.status == "accepted" else str(segments(message.body)),
            "price": None,
            "price_unit": "USD",
            "sid": message.sid,
            "status": message.status,
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "tags": None,
            "to": message.to,
            "uri": f"{uri}.json",
        }

    def _deliver(self, message: StandInMessage) -> None:
        """Twilio calls back for changes only, not for the status a message is created with."""
        for status in (
            ("queued", "sent", "delivered") if message.status == "accepted" else ("sent", "delivered")
        ):
            if self._stopping.is_set():
                return
            if message.status_callback is None:
                self._advance(message, status)
                continue
            try:
                self.post_status(message.sid, status)
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
            to=to or self.number,
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

    def _new_sid(self) -> str:
        return "SM" + self._clock.new_id().hex

    def _run(self, function: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, name="twilio-stand-in", daemon=True)
        with self._changed:
            self._threads = [other for other in self._threads if other.is_alive()]
            thread.start()
            self._threads.append(thread)


def _webhook_parameters(
    message: StandInMessage, account_sid: str, media: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    parameters = [
        ("AccountSid", account_sid),
        ("ApiVersion", API_VERSION),
        ("Body", message.body),
        ("From", message.from_ or ""),
        ("FromCountry", "US"),
        ("MessageSid", message.sid),
        ("NumMedia", str(len(media))),
        ("NumSegments", str(segments(message.body))),
        ("SmsMessageSid", message.sid),
        ("SmsSid", message.sid),
        ("SmsStatus", "received"),
        ("To", message.to),
        ("ToCountry", "US"),
    ]
    for index, (url, content_type) in enumerate(media):
        parameters += [(f"MediaContentType{index}", content_type), (f"MediaUrl{index}", url)]
    return parameters


def _fits(message: StandInMessage, query: Mapping[str, str]) -> bool:
    if query.get("To", message.to) != message.to or query.get("From", message.from_) != message.from_:
        return False
    day = message.date_sent.date().isoformat() if message.date_sent is not None else None
    for name, compare in (("DateSent", str.__eq__), ("DateSent>", str.__ge__), ("DateSent<", str.__le__)):
        if name in query and (day is None or not compare(day, query[name][:10])):
            return False
    return True


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
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())

    def show(message: StandInMessage) -> None:
        line = {"sid": message.sid, "from": message.from_, "to": message.to, "body": message.body}
        print(json.dumps(line), flush=True)

    with TwilioStandIn(
        account_sid=options.account_sid,
        auth_token=options.auth_token,
        webhook=options.webhook,
        signed_url=options.signed_url,
        number=options.number,
        auto_status=options.auto_status,
        host=options.host,
        port=options.port,
        on_message=show,
    ) as stand_in:
        print(f"Twilio's stand-in listens on {stand_in.url}", file=sys.stderr, flush=True)
        # A daemon: reading standard input cannot be interrupted.
        threading.Thread(target=_read_replies, args=(stand_in,), daemon=True).start()
        done.wait()


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
