"""Mail as the conformance suite wants it: a mail server, people with mail programs, and the adapter between them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from email.message import EmailMessage
from email.policy import SMTP
from itertools import count
from typing import Any

from tests.conformance.email_kit import ALICE, REPLY_SECRET, Fault, MailServer, Taken, settings

from wakeloop.channel import ChannelServices, RawRequest
from wakeloop.testing.channels import provider as suite
from wakeloop.testing.channels.provider import Provider, Took
from wakeloop_channels.email import EmailChannel

RAW_SECRET = "a raw secret of the tests"
TIMEOUT = 2.0
PUBLIC_URL = "https://agents.example.com/hooks/email"
_NUMBERS = count(1)


def text_of(mail: EmailMessage) -> str:
    """What a program shows that shows no HTML."""
    body = mail.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def reply_to(
    sent: EmailMessage, text: str, *, sender: str = ALICE, keeps_headers: bool = True
) -> EmailMessage:
    """The answer to a mail as a mail program makes it: to its Reply-To, with its id and those before it, and with what
    it quotes below. keeps_headers: whether the program says which mail it answers."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = str(sent["Reply-To"] or sent["From"])
    mail["Subject"] = f"Re: {str(sent['Subject']).removeprefix('Re: ')}"
    mail["Message-ID"] = f"<reply-{next(_NUMBERS)}@example.org>"
    if keeps_headers:
        mail["In-Reply-To"] = str(sent["Message-ID"])
        mail["References"] = " ".join([*str(sent["References"] or "").split(), str(sent["Message-ID"])])
    quoted = "\n".join(f"> {line}" for line in text_of(sent).splitlines())
    mail.set_content(f"{text}\n\nOn Sat, 28 Nov 2026 at 10:30, {sent['From']} wrote:\n\n{quoted}\n")
    return mail


def posted(body: bytes, *, secret: str = RAW_SECRET, at: float | None = None) -> RawRequest:
    """A mail as the server that received it posts it, signed in the form of Standard Webhooks."""
    stamp = str(int(time.time() if at is None else at))
    told = f"msg_1.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret.encode(), told, hashlib.sha256)).decode()
    return RawRequest(
        method="POST",
        url=PUBLIC_URL,
        headers={
            "content-type": "message/rfc822", "webhook-id": "msg_1", "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{signature}",
        },
        body=body,
    )  # fmt: skip


class MailProvider(Provider):
    """SMTP out, posted mail in."""

    address = ALICE
    services = ChannelServices(webhook_url=PUBLIC_URL)
    secrets = (RAW_SECRET, REPLY_SECRET)

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.settings: dict[str, Any] = settings(
            smtp_port=server.port, smtp_timeout=TIMEOUT, inbound="raw", raw_secret=RAW_SECRET, reply_secret=REPLY_SECRET,
            smtp_pool_size=10, **self.more(),
        )  # fmt: skip
        self.channel = EmailChannel.from_settings(self.settings, self.services)

    def more(self) -> dict[str, Any]:
        """Further settings."""
        return {}

    def sent(self) -> Sequence[Took]:
        return [self._took(one) for one in self.server.taken]

    def fail_next(self, fault: suite.Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case suite.Fault.BUSY:
                self.server.faults.append(Fault("RCPT", "451 4.7.1 Greylisted"))
            case suite.Fault.REFUSED:
                self.server.faults.append(Fault("RCPT", "550 5.1.1 No such user"))
            case suite.Fault.DOWN:
                self.server.stop()
            case suite.Fault.SLOW:
                self.server.faults.append(Fault("dot", delay=2 * TIMEOUT, takes=True))
            case suite.Fault.LOST:
                self.server.faults.append(Fault("dot", takes=True))

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        if answering is None:
            mail = EmailMessage(policy=SMTP)
            mail["From"] = sender or self.address
            mail["To"] = "agents@example.com"
            mail["Message-ID"] = f"<note-{next(_NUMBERS)}@example.org>"
            mail.set_content(text)
        else:
            mail = reply_to(self._taken(answering).mail, text, sender=sender or self.address)
        return self.arrives(mail.as_bytes())

    def arrives(self, raw: bytes) -> RawRequest | None:
        """A mail reaches the server."""
        return posted(raw)

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return posted(body)

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        unsigned = {name: value for name, value in request.headers.items() if not name.startswith("webhook-")}
        later = request.headers | {"webhook-timestamp": str(int(time.time()) + 1)}
        return [
            replace(request, headers=unsigned),
            posted(request.body, secret="another secret of somebody"),
            replace(request, body=request.body + b"\r\nP.S. yes"),
            replace(request, headers=later),
            replace(request, headers=unsigned | {"authorization": "Bearer another secret of somebody"}),
        ]

    def replayed_old(self, request: RawRequest) -> RawRequest:
        return posted(request.body, at=time.time() - 3600)

    def _taken(self, provider_id: str) -> Taken:
        return next(one for one in self.server.taken if one.mail["Message-ID"] == provider_id)

    def _took(self, taken: Taken) -> Took:
        text = text_of(taken.mail)
        said, _, linked = text.partition("\n\nFiles:\n")
        said = re.split(r"\n\n(?:Approve / Deny, o|O)n your page: ", said)[0]
        names = [str(one.get_filename()) for one in taken.mail.iter_attachments()]
        return Took(
            provider_id=str(taken.mail["Message-ID"]),
            address=taken.recipient,
            text=said.removesuffix("\n"),
            attachments=(*names, *linked.splitlines()),
        )
