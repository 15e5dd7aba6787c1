"""What the acceptance tests of the channels share: a mailbox with a mail program, a chat system, and a plant with them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from tests.acceptance.plant import Plant, make_plant
from tests.conformance.email_kit import MailServer
from tests.conformance.imap_server import PASSWORD, USER, ImapServer
from tests.servers import Postgres, Redis, until

from wakeloop.testing.slack import BOT_TOKEN, SIGNING_SECRET, SlackStandIn
from wakeloop.threads import plain_subject

AGENTS = "agents@example.com"
REPLY_SECRET = "a secret of the acceptance tests"


# ---------------------------------------------------------------------- mail


class Mailbox:
    """The agents' mailbox: an IMAP server on a thread of its own, at `port`."""

    def __init__(self) -> None:
        self.server = ImapServer()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mailbox")

    def __enter__(self) -> Mailbox:
        self._thread.start()
        self._run(self.server.__aenter__())
        return self

    def __exit__(self, *details: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        return self.server.port

    def deliver(self, raw: bytes) -> None:
        """A mail arrives."""

        async def put() -> None:
            self.server.deliver(raw)

        self._run(put())

    async def _close(self) -> None:
        await self.server.stop()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@dataclass
class MailProgram:
    """A person's mail program: it shows what came from the agents, and writes and replies as programs do. What it sends
    goes through a provider whose DMARC result the agents' server writes into the mail."""

    address: str
    mails: MailServer
    mailbox: Mailbox
    sent: list[EmailMessage] = field(default_factory=list)
    _read: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def received(self) -> list[EmailMessage]:
        """What came, oldest first."""
        return [taken.mail for taken in self.mails.taken if taken.recipient == self.address]

    def next_mail(self, containing: str, *, seconds: float = 30) -> EmailMessage:
        """The next mail with these words that has not been read yet; those before it are read by then."""

        def look() -> EmailMessage | None:
            for place in range(self._read, len(self.received)):
                if containing in plain_text(self.received[place]):
                    self._read = place + 1
                    return self.received[place]
            return None

        return until(look, f"{self.address} was not told {containing!r}", seconds=seconds)

    def write(self, subject: str, text: str, *, dmarc: str = "pass") -> EmailMessage:
        """Write to the agents."""
        return self._send(AGENTS, subject, text, dmarc)

    def reply(self, to: EmailMessage, text: str, *, dmarc: str = "pass") -> EmailMessage:
        """Reply: to Reply-To, with what was written quoted below."""
        subject = str(to["Subject"])
        quoted = "".join(f"> {line}\n" for line in plain_text(to).splitlines())
        return self._send(
            parseaddr(str(to["Reply-To"] or to["From"]))[1],
            subject if subject.lower().startswith("re:") else f"Re: {subject}",
            f"{text}\n\nOn Mon, 2 Nov 2026 at 10:00, Agents <{AGENTS}> wrote:\n{quoted}",
            dmarc,
            {
                "In-Reply-To": str(to["Message-ID"]),
                "References": " ".join([*str(to["References"] or "").split(), str(to["Message-ID"])]),
            },
        )

    def threads(self) -> list[list[EmailMessage]]:
        """All mail of this person as a program groups it: what refers to one another, as far as the subject is the same
        but for a “Re:”."""
        threads: list[tuple[str, set[str], list[EmailMessage]]] = []
        for mail in [*self.sent, *self.received]:
            subject = plain_subject(str(mail["Subject"]))
            names = {str(mail["Message-ID"]), *str(mail["References"] or "").split()}
            fitting = [one for one in threads if one[0] == subject and one[1] & names]
            threads = [one for one in threads if one not in fitting]
            ids = names.union(*(one[1] for one in fitting))
            threads.append((subject, ids, [*(one for old in fitting for one in old[2]), mail]))
        return [mails for _, _, mails in threads]

    def _send(
        self, to: str, subject: str, text: str, dmarc: str, headers: dict[str, str] | None = None
    ) -> EmailMessage:
        domain = self.address.partition("@")[2]
        mail = EmailMessage(policy=SMTP)
        mail["Received"] = (
            f"from mail.{domain} (mail.{domain} [192.0.2.10]) by mx.example.com with ESMTPS id 4X"
        )
        mail["Authentication-Results"] = f"mx.example.com; dmarc={dmarc} header.from={domain}"
        mail["From"] = self.address
        mail["To"] = to
        mail["Subject"] = subject
        mail["Date"] = datetime.now(UTC)
        mail["Message-ID"] = f"<{next(self._numbers)}.{self.address}>"
        for name, value in (headers or {}).items():
            mail[name] = value
        mail.set_content(text)
        self.sent.append(message_from_bytes(mail.as_bytes(), policy=SMTP))  # type: ignore[arg-type]
        self.mailbox.deliver(mail.as_bytes())
        return mail


def plain_text(mail: EmailMessage) -> str:
    """What a mail says, as plain text."""
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def ids_of(mail: EmailMessage, header: str) -> list[str]:
    """The ids in a header."""
    return str(mail[header] or "").split()


# ---------------------------------------------------------------------- the plant

SETTINGS = """
lease_seconds = 3

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"
"""


@dataclass(kw_only=True)
class Office:
    """A plant whose agents have mail, by SMTP and IMAP, and a workspace at Slack."""

    plant: Plant
    mails: MailServer
    mailbox: Mailbox
    slack: SlackStandIn

    def program(self, address: str) -> MailProgram:
        """A person's mail program."""
        return MailProgram(address, self.mails, self.mailbox)


@contextlib.contextmanager
def open_office(
    folder: Path, postgres: Postgres, redis: Redis, *, agents: Sequence[Path], settings: str, channels: dict[str, set[str]]
) -> Iterator[Office]:  # fmt: skip
    """An office, without workers yet. agents: files. settings: beside the channels. channels: of Slack, with members."""
    with MailServer() as mails, Mailbox() as mailbox:
        people = {member for members in channels.values() for member in members}
        with SlackStandIn(channels=channels, users=people) as slack:
            own = (
                f'\n[channels.email]\nfrom_address = "Agents <{AGENTS}>"\nauthserv_id = "mx.example.com"\n'
                f'smtp_host = "127.0.0.1"\nsmtp_port = {mails.port}\nsmtp_security = "none"\n'
                f'inbound = "imap"\nimap_host = "127.0.0.1"\nimap_port = {mailbox.port}\nimap_security = "none"\n'
                f'imap_username = "{USER}"\n\n[channels.slack]\napi_url = "{slack.api_url}"\n'
            )
            environment = {
                "WAKELOOP_EMAIL_IMAP_PASSWORD": PASSWORD,
                "WAKELOOP_EMAIL_REPLY_SECRET": REPLY_SECRET,
                "WAKELOOP_SLACK_BOT_TOKEN": BOT_TOKEN,
                "WAKELOOP_SLACK_SIGNING_SECRET": SIGNING_SECRET,
            }
            sources = {file.name: file.read_text() for file in agents}
            with make_plant(
                folder, postgres, redis, agents=sources, settings=SETTINGS + own + settings, **environment
            ) as plant:
                slack.webhook = f"http://127.0.0.1:{plant.port}/webhooks/slack"
                yield Office(plant=plant, mails=mails, mailbox=mailbox, slack=slack)
