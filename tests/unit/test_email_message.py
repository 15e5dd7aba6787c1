"""What mail looks like that the email channel composes, read again by the standard library."""

from __future__ import annotations

from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.email_kit import AGENTS, ALICE, CLAIMED_AT, KEY, REPLY_SECRET, outgoing, settings

from wakeloop.channel import Button, Field, Outgoing
from wakeloop.errors import ConfigurationError, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.email_address import key_of, token_id
from wakeloop_channels.email_message import MAX_REFERENCES, Composed, Composer
from wakeloop_channels.email_settings import EmailSettings

LINK = "https://agents.example.com/people/abc.def-ghi#request-1"
TOKEN = "WyJhbGljZSIsIjAxOThmMGFhMTExMTcyMjI4MzMzMTIzNDU2Nzg5YWJjIl0.aSlrbg.Zx_kQ2-vJ0hYp7Lw3NfTgA5mRcE"
OURS = f"<{KEY}@example.com>"
CHOICES = (Button(label="Approve", value="1", style="yes"), Button(label="Deny", value="2", style="no"))


def composer(**changes: Any) -> Composer:
    return Composer(EmailSettings.model_validate(settings(**changes)))


def compose(message: Outgoing, **changes: Any) -> Composed:
    return composer(**changes).compose(message)


def read(composed: Composed) -> EmailMessage:
    mail = message_from_bytes(composed.octets, policy=default)
    assert isinstance(mail, EmailMessage)
    assert not mail.defects
    return mail


def mail_of(message: Outgoing, **changes: Any) -> EmailMessage:
    return read(compose(message, **changes))


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    text = body.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


class TestHeaders:
    def test_every_header_that_a_first_message_has(self) -> None:
        """From, to, when, what, the id made from the key, and that a machine wrote it (RFC 3834)."""
        mail = mail_of(outgoing(subject="Ship it?"))

        assert {name: str(value) for name, value in mail.items() if name != "Content-Type"} == {
            "Date": "Sat, 28 Nov 2026 09:30:00 +0000",
            "From": AGENTS,
            "To": ALICE,
            "Subject": "Ship it?",
            "Message-ID": OURS,
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "DR, RN, NRN, OOF, AutoReply",
            "MIME-Version": "1.0",
        }
        assert mail["Date"].datetime == CLAIMED_AT

    def test_a_second_attempt_has_the_same_message_id(self) -> None:
        """So that whoever gets both can tell that they are one."""
        later = datetime.fromisoformat("2026-11-28T10:00:00+00:00")

        assert compose(outgoing()).message_id == compose(outgoing(claimed_at=later)).message_id == OURS

    def test_a_reply_names_the_last_message_and_the_thread(self) -> None:
        """In-Reply-To and References, theirs and ours, and a subject with Re:."""
        thread = ("<root@example.org>", "<second@example.com>", "<third@example.org>")

        mail = mail_of(outgoing(subject="Ship it?", thread=thread))

        assert mail["In-Reply-To"] == "<third@example.org>"
        assert str(mail["References"]).split() == list(thread)
        assert mail["Subject"] == "Re: Ship it?"

    def test_a_long_thread_keeps_its_first_and_its_latest(self) -> None:
        """References do not grow without end."""
        thread = tuple(f"<{number}@example.org>" for number in range(50))

        kept = str(mail_of(outgoing(thread=thread))["References"]).split()

        assert kept == [thread[0], *thread[-MAX_REFERENCES + 1 :]]

    def test_what_is_no_message_id_is_left_out(self) -> None:
        """Such as the digest of a mail that had none, or something that would break the header."""
        thread = (
            "sha256:0123",
            "<a b@example.org>",
            "<ok@example.org>",
            "<x@y>\r\nBcc: <bob@example.org>",
            "<ü@y>",
        )

        mail = mail_of(outgoing(thread=thread))

        assert (mail["In-Reply-To"], mail["References"], mail["Bcc"]) == (
            "<ok@example.org>",
            "<ok@example.org>",
            None,
        )

    def test_an_attempt_that_stands_in_its_own_thread_answers_what_was_before_it(self) -> None:
        """No message is an answer to itself."""
        mail = mail_of(outgoing(thread=("<root@example.org>", OURS)))

        assert mail["In-Reply-To"] == "<root@example.org>"

    def test_long_ids_are_not_broken(self) -> None:
        """Some programs make ids that are longer than a line; they are not encoded."""
        long = f"<{'x' * 200}@example.org>"

        composed = compose(outgoing(thread=("<root@example.org>", long)))

        assert f"In-Reply-To: {long}\r\n".encode() in composed.octets
        assert f"References: <root@example.org>\r\n {long}\r\n".encode() in composed.octets

    def test_the_token_rides_in_references(self) -> None:
        """Before the message that is answered, which must be last."""
        carried = token_id(TOKEN, "example.com")

        assert mail_of(outgoing(token=TOKEN))["References"] == carried
        thread = ("<root@example.org>", "<last@example.org>")
        mail = mail_of(outgoing(token=TOKEN, thread=thread))
        assert str(mail["References"]).split() == ["<root@example.org>", carried, "<last@example.org>"]
        assert mail["In-Reply-To"] == "<last@example.org>"

    def test_the_reply_address_is_tagged_with_the_delivery(self) -> None:
        """If there is a secret to sign with."""
        reply_to = mail_of(outgoing(), reply_secret=REPLY_SECRET)["Reply-To"].addresses[0]

        assert reply_to.display_name == "Example agents"
        assert key_of(reply_to.addr_spec, "agents@example.com", [REPLY_SECRET]) == KEY

    def test_replies_can_go_elsewhere(self) -> None:
        """With a tag or without."""
        plain = mail_of(outgoing(), reply_to="in@mail.example.com")
        tagged = mail_of(outgoing(), reply_to="in@mail.example.com", reply_secret=REPLY_SECRET)

        assert plain["Reply-To"].addresses[0].addr_spec == "in@mail.example.com"
        assert tagged["Reply-To"].addresses[0].addr_spec.startswith("in+")

    def test_bounces_can_go_elsewhere(self) -> None:
        """The envelope's sender is not always From."""
        composed = compose(outgoing(), return_path="bounces@example.com")

        assert composed.sender == "bounces@example.com"
        assert read(composed)["From"] == AGENTS

    @pytest.mark.parametrize(
        ("subject", "text", "thread", "expected"),
        [
            ("Ship it?", "…", (), "Ship it?"),
            ("Re: Ship it?", "…", ("<a@b>",), "Re: Ship it?"),
            ("AW: Versand", "…", ("<a@b>",), "AW: Versand"),
            ("Reading list", "…", ("<a@b>",), "Re: Reading list"),
            (None, "\n  What comes first? \nThe egg\n", (), "What comes first?"),
            (None, "What comes first?", ("<a@b>",), "What comes first?"),
            (None, " \n\t", (), "A message for you"),
            ("", "Hello", (), "Hello"),
            (None, "word " * 40, (), "word " * 14 + "word…"),
            (None, "x" * 200, (), "x" * 77 + "…"),
            ("Ship 🚀\r\nBcc: bob@example.org", "…", (), "Ship 🚀 Bcc: bob@example.org"),
            ("tab\tnul\x00 bell\x07 line\u2028separator\x85", "…", (), "tab nul bell line separator"),
        ],
    )
    def test_subjects(self, subject: str | None, text: str, thread: tuple[str, ...], expected: str) -> None:
        """As given, in one line; else from the text."""
        assert mail_of(outgoing(text, subject=subject, thread=thread))["Subject"] == expected

    @pytest.mark.parametrize(
        ("topic", "opening", "expected"),
        [
            ("Tea", "Write about tea.", "Re: Tea"), ("Re: Tea", None, "Re: Tea"), ("AW: Tea", None, "AW: Tea"),
            ("Tea " * 40, None, f"Re: {' '.join(['Tea'] * 40)}"), (None, "Who is it for?\nAll?", "Re: Who is it for?"),
            ("", "", "Done."), (None, "Tea " * 40, f"Re: {' '.join(['Tea'] * 19)}…"),
        ],
    )  # fmt: skip
    def test_a_thread_keeps_its_subject(self, topic: str | None, opening: str | None, expected: str) -> None:
        """Else Gmail and others would show what is said next as another thread."""
        mail = mail_of(outgoing("Done.", thread=("<1@example.org>",), topic=topic, opening=opening))

        assert mail["Subject"] == expected
        assert mail_of(outgoing("Done.", topic=topic, opening=opening))["Subject"] == "Done."

    @given(st.text(), st.text(), st.lists(st.text()), st.text())
    def test_nothing_gets_into_a_header_that_does_not_belong_there(
        self, text: str, subject: str, thread: list[str], token: str
    ) -> None:
        """Whatever is said: the same headers, each once, and the subject reads as one line of it."""
        token = token.encode("utf-8", "replace").decode()

        composed = _COMPOSER.compose(outgoing(text, subject=subject, thread=tuple(thread), token=token))

        mail = read(composed)
        names = [name for name in mail if name not in ("In-Reply-To", "References")]
        assert names == [
            "Date", "From", "To", "Reply-To", "Subject", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
            "MIME-Version", "Content-Type",
        ]  # fmt: skip
        assert len(str(mail["Subject"]).splitlines()) == 1
        assert composed.octets.isascii()
        assert max(len(line) for line in composed.octets.split(b"\r\n")) <= 998
        assert b"\n" not in composed.octets.replace(b"\r\n", b"")

    def test_an_address_that_is_none_is_refused(self) -> None:
        """And never gets into a header."""
        with pytest.raises(PermanentChannelError, match="no address"):
            compose(outgoing(to="alice@example.org\r\nBcc: bob@example.org"))

    def test_an_international_address_is_written_as_it_is(self) -> None:
        """RFC 6532: in UTF-8; its domain in ASCII. The server must take it."""
        composed = compose(outgoing(to="jörg@Bücher.example"))

        assert composed.needs_utf8
        assert composed.recipient == "jörg@xn--bcher-kva.example"
        assert "To: jörg@xn--bcher-kva.example\r\n".encode() in composed.octets

    def test_an_international_domain_needs_nothing_special(self) -> None:
        """Its ASCII form is an address like any other."""
        composed = compose(outgoing(to="alice@bücher.example"))

        assert not composed.needs_utf8 and composed.octets.isascii()

    def test_an_international_name_of_the_sender_is_encoded(self) -> None:
        """RFC 2047, and it reads as it was set."""
        composed = compose(outgoing(), from_address="Ägents 🤖, Inc. <agents@example.com>")

        assert composed.octets.isascii()
        assert read(composed)["From"].addresses[0].display_name == "Ägents 🤖, Inc."


_COMPOSER = composer(reply_secret=REPLY_SECRET)


class TestBodies:
    def test_text_and_html_say_the_same(self) -> None:
        """A program that shows no HTML shows the text, which comes first (RFC 2046 section 5.1.4)."""
        mail = mail_of(outgoing("Ship it?\n\n.hidden\nFrom here\n"))

        assert mail.get_content_type() == "multipart/alternative"
        assert [one.get_content_type() for one in mail.iter_parts()] == ["text/plain", "text/html"]
        assert part(mail, "plain") == "Ship it?\n\n.hidden\nFrom here\n"
        assert "Ship it?</p>" in part(mail, "html") and ".hidden<br>\nFrom here</p>" in part(mail, "html")

    @pytest.mark.parametrize(
        "text", ["👍🏽 Café שלום “quoted” \\ & < > %", "x" * 5000, "a\r\nb\rc", "\t=20 = ="]
    )
    def test_every_text_arrives(self, text: str) -> None:
        """Eight bits, long lines, line ends, characters that encodings use themselves."""
        assert part(mail_of(outgoing(text)), "plain") == text.replace("\r\n", "\n").replace("\r", "\n") + "\n"

    def test_half_characters_and_control_characters_do_no_harm(self) -> None:
        """A model can write them; no mail can hold them."""
        assert part(mail_of(outgoing("half \ud83d of\x00 \x1b[31mit")), "plain") == "half ? of [31mit\n"

    def test_whatever_is_said_is_escaped_in_html(self) -> None:
        """Neither the text nor a label nor a name makes markup."""
        evil = '<script>alert("1")</script>'
        message = outgoing(
            evil, subject=evil, kind="question", link=LINK, buttons=(Button(label=evil, value="1"),),
            fields=(Field(name="a", label=evil, kind="select", description=evil, choices=(("1", evil),)),),
            attachments=(Attachment(url='https://example.com/"><script>', name=evil.replace("/", "_")),),
        )  # fmt: skip

        html = part(mail_of(message), "html")

        assert "<script" not in html
        assert "&lt;script&gt;" in html

    def test_links_in_the_text_can_be_followed(self) -> None:
        """As far as they are addresses of pages."""
        html = part(mail_of(outgoing("See https://example.com/?a=1&b=2 or javascript:alert(1)")), "html")

        assert 'href="https://example.com/?a=1&amp;b=2"' in html
        assert "href=" not in html.replace('href="https://example.com', "")

    @pytest.mark.parametrize("buttons", [CHOICES, ()])
    def test_choices_lead_to_the_persons_page(self, buttons: tuple[Button, ...]) -> None:
        """All to the same: a program that follows links decides nothing. An approval can be given or denied, always."""
        mail = mail_of(outgoing("Ship it?", kind="approval", link=LINK, buttons=buttons))

        html = part(mail, "html")
        assert html.count(f'href="{LINK}"') == 2
        assert ">Approve</a>" in html and ">Deny</a>" in html
        assert "Nothing is decided before you confirm it on the page." in html
        assert part(mail, "plain") == f"Ship it?\n\nApprove / Deny, on your page: {LINK}\n"

    def test_without_choices_the_page_is_linked(self) -> None:
        """Once, even if the text names it already."""
        mail = mail_of(outgoing("What colour?", kind="question", link=LINK))
        named = mail_of(outgoing(f"What colour?\n{LINK}", kind="question", link=LINK))

        assert f'href="{LINK}"' in part(mail, "html") and ">Open your page</a>" in part(mail, "html")
        assert part(mail, "plain") == f"What colour?\n\nOn your page: {LINK}\n"
        assert part(named, "plain") == f"What colour?\n{LINK}\n"

    def test_without_a_page_there_is_no_link(self) -> None:
        """The text says everything by itself."""
        mail = mail_of(outgoing("Ship it? Reply yes or no.", kind="approval", buttons=CHOICES))

        assert "href=" not in part(mail, "html")
        assert part(mail, "plain") == "Ship it? Reply yes or no.\n"

    def test_typed_answers_are_described(self) -> None:
        """What is wanted, of which kind, and which choices there are."""
        fields = (
            Field(name="day", label="Day", kind="date", description="The first day", default="2026-12-01"),
            Field(
                name="size",
                label="Size",
                kind="select",
                choices=(("s", "small"), ("l", "large")),
                required=False,
            ),
        )

        mail = mail_of(outgoing("When?", kind="question", fields=fields))

        assert part(mail, "plain") == (
            "When?\n\nWhat is wanted:\n"
            "- Day (a date, as in 2026-11-28; 2026-12-01 if nothing else is said): The first day\n"
            "- Size (one of: small, large; optional)\n"
        )
        assert "<b>Day</b> (a date" in part(mail, "html")


class TestAttachments:
    def test_files_are_attached_with_name_and_type(self) -> None:
        """Their bytes are in the URL (RFC 2397), in Base64 or not."""
        files = (
            Attachment(
                url="data:application/pdf;base64,JVBERi0=", content_type="application/pdf", name="plan.pdf"
            ),
            Attachment(url="data:text/plain;charset=utf-8,caf%C3%A9", name="Grüße 🎉.txt"),
        )

        mail = mail_of(outgoing(attachments=files))

        assert mail.get_content_type() == "multipart/mixed"
        assert [
            (one.get_content_type(), one.get_filename(), one.get_payload(decode=True))
            for one in mail.iter_attachments()
        ] == [("application/pdf", "plan.pdf", b"%PDF-"), ("text/plain", "Grüße 🎉.txt", "café".encode())]

    @pytest.mark.parametrize(
        ("name", "content_type", "expected"),
        [
            ("../../etc/passwd", "text/plain", "passwd"),
            ("C:\\secrets\\a.txt", "text/plain", "a.txt"),
            ('a"b\r\nX-Evil: 1.txt', "text/plain", 'a"b X-Evil: 1.txt'),
            (".bashrc", "text/plain", "bashrc"),
            (None, "application/pdf", "file-1.pdf"),
            ("  ", "application/x-unknown-thing", "file-1"),
        ],
    )
    def test_names_of_files_are_harmless(self, name: str | None, content_type: str, expected: str) -> None:
        """No folders, no hidden files, no headers."""
        url = f"data:{content_type};base64,aGk="
        mail = mail_of(outgoing(attachments=(Attachment(url=url, content_type=content_type, name=name),)))

        (file,) = mail.iter_attachments()
        assert file.get_filename() == expected
        assert mail["X-Evil"] is None and file["X-Evil"] is None

    @pytest.mark.parametrize(
        "content_type", ["message/rfc822", "multipart/mixed", "nonsense", 'a/b"\r\nX: 1', ""]
    )
    def test_strange_types_are_attached_as_bytes(self, content_type: str) -> None:
        """A type that would make the attachment part of the mail is not taken over."""
        mail = mail_of(
            outgoing(attachments=(Attachment(url="data:;base64,aGk=", content_type=content_type, name="a"),))
        )

        (file,) = mail.iter_attachments()
        assert file.get_content_type() in ("application/octet-stream", "a/b")
        assert file.get_payload(decode=True) == b"hi"

    def test_files_elsewhere_are_linked(self) -> None:
        """With their names, in both parts."""
        url = "https://files.example.com/plan.pdf?a=1&b=2"

        mail = mail_of(outgoing(attachments=(Attachment(url=url, name="The plan"),)))

        assert list(mail.iter_attachments()) == []
        assert part(mail, "plain") == f"What comes first?\n\nFiles:\n- The plan: {url}\n"
        assert 'href="https://files.example.com/plan.pdf?a=1&amp;b=2" rel="noreferrer">The plan</a>' in part(
            mail, "html"
        )

    def test_too_much_is_refused(self) -> None:
        """The setting counts all files together, without their encoding."""
        half = Attachment(url="data:,12345")

        compose(outgoing(attachments=(half, half)), max_attachment_bytes=10)
        with pytest.raises(
            PermanentChannelError, match=r"10 bytes; channels.email.max_attachment_bytes allows 9"
        ):
            compose(outgoing(attachments=(half, half)), max_attachment_bytes=9)

    @pytest.mark.parametrize(
        "url", ["data:text/plain;base64,a", "data:nothing", "ftp://example.com/a", "file:///etc/passwd", ""]
    )
    def test_what_cannot_be_attached_is_refused(self, url: str) -> None:
        """Loudly: the next channel is used."""
        with pytest.raises(PermanentChannelError, match="Attachment 1"):
            compose(outgoing(attachments=(Attachment(url=url),)))


class TestTemplates:
    def test_a_users_templates_replace_ours(self, tmp_path: Path) -> None:
        """One or both; they have all that there is to say."""
        (tmp_path / "message.txt").write_text(
            "Dear friend,\n{{ text }}\n{{ sender }}: {{ subject }} ({{ kind }})\n"
        )

        mail = mail_of(outgoing("Ship it?", kind="question", subject="Question"), templates=str(tmp_path))

        assert part(mail, "plain") == "Dear friend,\nShip it?\nExample agents: Question (question)\n"
        assert "Ship it?</p>" in part(mail, "html")

    def test_a_users_template_can_build_on_ours(self, tmp_path: Path) -> None:
        """And change a block of it."""
        (tmp_path / "message.html").write_text(
            '{% extends "wakeloop/message.html" %}{% block body %}<h1>{{ subject }}</h1>{{ super() }}{% endblock %}'
        )

        html = part(mail_of(outgoing("Ship <it>?"), templates=str(tmp_path)), "html")

        assert "<h1>Ship &lt;it&gt;?</h1>" in html and "Ship &lt;it&gt;?</p>" in html

    def test_text_is_not_escaped(self, tmp_path: Path) -> None:
        """Only HTML is."""
        (tmp_path / "message.txt").write_text("{{ text }}")

        assert part(mail_of(outgoing("a < b & c"), templates=str(tmp_path)), "plain") == "a < b & c\n"

    @pytest.mark.parametrize(
        ("name", "template", "named"),
        [
            ("message.html", "<p>\n{% if text %}", "message.html, line 2"),
            ("message.txt", "{{ txet }}", "'txet' is undefined"),
            ("message.txt", "{% for field in fields %}{{ field.nmae }}{% endfor %}", "nmae"),
            ("message.txt", "{% if link %}{{ link.nothing() }}{% endif %}", "nothing"),
            ("message.txt", "{{ ''.__class__.__mro__ }}", "unsafe"),
            ("message.txt", '{% include "other.txt" %}', "other.txt"),
            ("message.txt", b"\xff\xfe", "message.txt"),
        ],
    )
    def test_a_broken_template_stops_wakeloop_at_start(
        self, tmp_path: Path, name: str, template: str | bytes, named: str
    ) -> None:
        """Also where only some messages would meet what is broken; the error says which, where, and what."""
        (tmp_path / name).write_bytes(template if isinstance(template, bytes) else template.encode())

        with pytest.raises(ConfigurationError) as raised:
            composer(templates=str(tmp_path))

        assert named in str(raised.value) and name in str(raised.value)
