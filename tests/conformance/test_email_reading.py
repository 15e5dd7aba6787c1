"""Mail as people and machines send it, and what is made of it."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.email_inbound_kit import OURS, PAYLOADS, incoming, mail, read, settings

from wakeloop.channel import DeliveryStatus, DeliveryUpdate, File, Incoming
from wakeloop_channels.email_authentication import believed, read_results
from wakeloop_channels.email_parts import Unreadable
from wakeloop_channels.email_reading import Envelope, read_message
from wakeloop_channels.email_text import text_of, written


class TestText:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("gmail_en", "Yes, go ahead ✓"),
            ("gmail_de", "Nein, noch nicht."),
            ("gmail_fr", "Oui, allez-y."),
            ("gmail_es", "Sí, adelante."),
            ("outlook_en", "Yes, but only the first half."),
            ("outlook_de", "Ja, bitte."),
            ("outlook_fr", "Non."),
            ("outlook_es", "No, todavía no."),
            ("outlook_html_only", "No – wait for legal."),
            ("apple_mail", "Yes"),
            ("iphone", "Go ahead"),
            ("iphone_de", "Ja"),
            ("android_fr", "D'accord"),
            ("bottom_posted", "No, thank you."),
            ("interleaved", "The second one.\n\nFriday."),
            ("postscript", "Yes.\n\nPS: but not before Friday."),
            ("only_quoted", ""),
            ("list_in_text", "Please change:\n- the title\n- the date\n\nThen it is fine."),
            ("latin1_undeclared", "Schöne Grüße, ja!"),
            ("charset_unknown", "Ja, natürlich"),
            ("shift_jis", "はい、お願いします。"),
            ("multi_charset", "Première partie.\n\nCoût : 5€"),
            ("attachments", "Here it is."),
            ("smime_signed", "Approved"),
            ("calendar_invite", "Let us talk about it."),
        ],
    )
    def test_it_is_what_the_person_wrote(self, name: str, text: str) -> None:
        """Without what they quoted, the signature, and the telephone's advertisement."""
        assert incoming(name).text == text

    def test_what_was_forwarded_stays(self) -> None:
        """It was sent for the sake of it."""
        assert incoming("forwarded").text.endswith("We would like to begin in March.")

    def test_what_was_quoted_is_kept_aside(self) -> None:
        """The whole text is in the raw payload."""
        assert "Reply yes or no." in incoming("gmail_en").raw["text"]

    @pytest.mark.parametrize(
        "text",
        [
            "On Monday, 2 November, Agents wrote:\n\nreply yes to approve",
            "-----Original Message-----\nFrom: agents@example.com\nSent: Monday\nTo: Alice\n\nyes",
            "-------- Original-Nachricht --------\nBetreff: x\nVon: a@example.com\n\nja",
            "________________________________\nVan: Agents <agents@example.com>\nVerzonden: maandag\nAan: x\n\nja",
        ],
    )
    def test_a_quotation_alone_says_nothing(self, text: str) -> None:
        """Else our own "reply yes" would answer our own question."""
        assert written(text) == ""

    @pytest.mark.parametrize(
        "text",
        [
            "On " * 40_000,
            "\n\na" * 30_000,
            "-" * 90_000 + "x",
            "From: a\n" * 10_000,
            "> " * 40_000,
            "On a\n\n" * 700,
        ],
        ids=["on", "lines", "dashes", "headers", "quotes", "short"],
    )
    def test_no_text_takes_long(self, text: str) -> None:
        """The library's expressions take minutes for some of these."""
        began = time.monotonic()
        written(text)

        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("piece", ["<!--", "<", "<a ", "&#x", "<div>", "<!", "</"])
    def test_no_markup_takes_long(self, piece: str) -> None:
        """Nor does Python's own parser of HTML come through all of these."""
        began = time.monotonic()
        text_of(piece * 100_000)

        assert time.monotonic() - began < 5

    def test_html_becomes_lines(self) -> None:
        """Blocks are lines, hidden things are gone, quotations are marked."""
        markup = (
            "<head><title>t</title><style>s</style></head><!-- c --><p>One&nbsp;&amp; two<br>three</p>"
            "<ul><li>a</li><li>b</li></ul><blockquote>quoted</blockquote><script>x</script>"
        )

        assert text_of(markup) == "One & two\nthree\n\n- a\n- b\n\n> quoted"


class TestHeaders:
    def test_a_reply_names_our_message(self) -> None:
        """By In-Reply-To, in the form that sending gives as the provider's id."""
        reply = incoming("gmail_en")

        assert (reply.reply_to, reply.provider_id) == (OURS, "<gmail_en@example.org>")
        assert (reply.address, reply.to_address) == ("alice@example.org", "agents@example.com")
        assert (reply.thread, reply.automatic) == (OURS, False)

    def test_the_tag_of_the_address_names_it_without_headers(self) -> None:
        """Programs that drop In-Reply-To still write to the address they were given."""
        assert incoming("tagged").reply_to == OURS

    def test_a_forged_tag_names_nothing(self) -> None:
        """It is signed."""
        assert incoming("tagged", reply_secret="another-secret-of-the-tests").reply_to is None

    def test_the_envelope_names_it_too(self) -> None:
        """To can be anything: a blind copy has it nowhere else."""
        (item,) = read_message(
            b"From: alice@example.org\r\nTo: x@example.net\r\n\r\nyes",
            settings(),
            Envelope(recipients=(mail("tagged").split(b"Agents <")[1].split(b">")[0].decode(),)),
        )

        assert isinstance(item, Incoming) and item.reply_to == OURS

    @pytest.mark.parametrize(
        ("name", "subject"),
        [
            ("gmail_en", "Re: May I publish the draft?"),
            ("subject_8bit", "Ré: Déjà vu"),
            ("subject_encoded", "Grüße aus Köln"),
        ],
    )
    def test_subjects_are_read(self, name: str, subject: str) -> None:
        """Encoded, in several charsets, or in plain octets."""
        assert incoming(name).subject == subject

    def test_without_a_message_id_the_mail_is_its_own_name(self) -> None:
        """The same octets are the same message."""
        expected = "sha256:" + hashlib.sha256(mail("no_message_id")).hexdigest()

        assert incoming("no_message_id").provider_id == expected

    @pytest.mark.parametrize("name", ["from_two", "from_twice", "from_missing", "from_disguised"])
    def test_one_sender_or_none_at_all(self, name: str) -> None:
        """Programs differ in which of several they show, and servers in which they check."""
        with pytest.raises(Unreadable, match="From"):
            read(name)

    @pytest.mark.parametrize("sender", ["agents@example.com", "Agents <AGENTS@Example.com>"])
    def test_our_own_mail_is_nobodys(self, sender: str) -> None:
        """A copy that comes back, or a loop."""
        assert read("own") == []
        assert read_message(f"From: {sender}\r\nTo: a@example.org\r\n\r\nyes".encode(), settings()) == []


class TestFiles:
    def test_files_come_with_their_bytes(self) -> None:
        """Pictures within the text, and a mail within the mail, too."""
        files = incoming("attachments").files

        assert files[:2] == (
            File(name="file-1.png", content_type="image/png", data=b"\x89PNG\r\n\x1a\n"),
            File(name="Übersicht.pdf", content_type="application/pdf", data=b"%PDF-1.4\n"),
        )
        assert (files[2].name, files[2].content_type) == ("The first one.eml", "message/rfc822")
        assert b"Original words" in files[2].data

    def test_files_beyond_the_limit_are_left_out_and_named(self) -> None:
        """The message itself is not lost."""
        message = incoming("attachments", max_attachment_bytes=10)

        assert [file.name for file in message.files] == ["file-1.png"]
        assert message.raw["files_left_out"] == ["Übersicht.pdf", "The first one.eml"]
        assert message.text == "Here it is."

    def test_an_invitation_is_a_file(self) -> None:
        """And the text beside it is the person's."""
        (file,) = incoming("calendar_invite").files

        assert (file.name, file.content_type) == ("invite.ics", "text/calendar")

    def test_signatures_are_no_files(self) -> None:
        """S/MIME's says nothing to people."""
        assert incoming("smime_signed").files == ()


class TestMachines:
    @pytest.mark.parametrize(
        "name",
        [
            "absence_outlook",
            "absence_gmail",
            "absence_subject_only",
            "absence_null_sender",
            "list_mail",
            "calendar_accepted",
            "read_receipt",
            "bounce_qmail",
            "bounce_exchange",
            "dsn_foreign",
        ],
    )
    def test_what_a_machine_writes_is_never_an_answer(self, name: str) -> None:
        """Though most of these hold a yes, and name our message."""
        assert incoming(name).automatic is True

    @pytest.mark.parametrize(
        ("name", "status", "error"),
        [
            ("dsn_failed", DeliveryStatus.FAILED, "5.1.1: 550 5.1.1 <…>: user unknown"),
            ("dsn_failed_after_delays", DeliveryStatus.FAILED, "4.4.1: connect to mx.example.org: timed out"),
            ("dsn_headers_only", DeliveryStatus.FAILED, "5.7.1: 550 refused"),
            ("dsn_delivered", DeliveryStatus.DELIVERED, None),
        ],
    )
    def test_a_bounce_is_the_fate_of_our_message(
        self, name: str, status: DeliveryStatus, error: str | None
    ) -> None:
        """With code and words, without addresses."""
        (update,) = read(name)

        assert isinstance(update, DeliveryUpdate)
        assert (update.provider_id, update.status, update.error) == (OURS, status, error)

    @pytest.mark.parametrize("name", ["dsn_delayed"])
    def test_a_delay_is_no_news(self, name: str) -> None:
        """The server goes on trying."""
        assert read(name) == []

    def test_relayed_is_not_delivered(self) -> None:
        """It only left for a server that reports nothing: it is kept as what a machine wrote."""
        assert incoming("dsn_relayed").automatic is True

    def test_the_null_sender_of_the_envelope_is_a_machine(self) -> None:
        """Where the provider tells it and no header does."""
        (item,) = read_message(mail("gmail_en"), settings(), Envelope(sender=""))

        assert isinstance(item, Incoming) and item.automatic


class TestVouching:
    @pytest.mark.parametrize(
        ("name", "vouched", "auth"),
        [
            ("gmail_en", True, "dmarc=pass by mx.example.com"),
            ("dmarc_fail", False, "dmarc=fail by mx.example.com"),
            ("dkim_aligned", True, "dkim=pass for example.org by mx.example.com"),
            ("dkim_unaligned", False, "dkim=pass, spf=pass for the domain in From by mx.example.com"),
            ("dmarc_other_domain", False, "dmarc=pass by mx.example.com"),
            ("spoofed_results_below", False, "From alone: mx.example.com did not say"),
            ("spoofed_results_second", False, "dmarc=fail by mx.example.com"),
            ("spoofed_results_other_server", False, "From alone: mx.example.com did not say"),
        ],
    )
    def test_only_our_server_is_believed(self, name: str, vouched: bool, auth: str) -> None:
        """And of what bears its name, only the topmost, above what other servers wrote."""
        message = incoming(name)

        assert (message.vouched, message.auth) == (vouched, auth)

    @pytest.mark.parametrize("name", ["gmail_en", "dkim_aligned", "gmail_received"])
    def test_without_a_server_nobody_is_vouched_for(self, name: str) -> None:
        """The safe default."""
        message = incoming(name, authserv_id=None)

        assert (message.vouched, message.auth) == (False, "From alone: no authserv_id is set")

    def test_hops_within_the_provider_are_looked_past(self) -> None:
        """Gmail's first Received names a number, its own."""
        message = incoming("gmail_received", authserv_id="mx.google.com")

        assert (message.vouched, message.auth) == (True, "dmarc=pass by mx.google.com")

    def test_further_hosts_can_be_named(self) -> None:
        """Where the server that checks is not the one that keeps the mail."""
        headers = [
            ("Received", "from mx.example.com by store.example.com with LMTP"),
            ("Authentication-Results", "mx.example.com; dmarc=pass header.from=example.org"),
        ]

        assert believed(headers, "mx.example.com") is None
        assert believed(headers, "mx.example.com", ("store.example.com",)) is not None

    def test_comments_and_quotes_are_read_as_the_standard_has_them(self) -> None:
        """RFC 8601 appendix B, and what an attacker would put into a comment."""
        server, results = read_results(
            'example.com 1; dkim=pass (good; dmarc=pass header.from=example.org) header.i="@example.net"; spf/1=fail'
        )

        assert server == "example.com"
        assert [(one.method, one.result, one.properties) for one in results] == [
            ("dkim", "pass", (("header.i", "@example.net"),)),
            ("spf", "fail", ()),
        ]


class TestAnything:
    @given(st.binary(max_size=2_000))
    def test_octets_are_read_or_refused(self, octets: bytes) -> None:
        """Whatever they are, there is no other outcome."""
        for raw in (octets, b"From: alice@example.org\r\n" + octets):
            try:
                read_message(raw, settings())
            except Unreadable:
                pass

    @given(st.data())
    def test_broken_mail_is_read_or_refused(self, data: st.DataObject) -> None:
        """Real mail with octets exchanged, cut out or doubled."""
        name = data.draw(st.sampled_from(sorted(path.stem for path in PAYLOADS.glob("*.eml"))))
        raw = bytearray(mail(name))
        for _ in range(data.draw(st.integers(1, 6))):
            start = data.draw(st.integers(0, len(raw)))
            end = data.draw(st.integers(start, min(len(raw), start + 40)))
            raw[start:end] = data.draw(
                st.binary(max_size=20) | st.sampled_from([b"", b"\r\n", b"=?", b";", b'"'])
            )
        try:
            items = read_message(bytes(raw), settings())
        except Unreadable:
            return
        for item in items:
            assert "\0" not in str(item)

    @given(
        st.sampled_from(
            [
                "Content-Type",
                "Content-Disposition",
                "Content-Transfer-Encoding",
                "Subject",
                "To",
                "References",
            ]
        ),
        st.text(max_size=80),
    )
    def test_any_header_is_read(self, name: str, value: str) -> None:
        """Python's parser takes anything, and stumbles when asked."""
        raw = f"From: alice@example.org\r\n{name}: {value}\r\n\r\nyes".encode("utf-8", "surrogatepass")
        try:
            read_message(raw, settings())
        except Unreadable:
            pass

    def test_deep_nesting_is_borne(self) -> None:
        """A thousand parts within parts."""
        raw = b"From: alice@example.org\r\n" + b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
            for number in range(1_000)
        )
        try:
            read_message(raw, settings())
        except Unreadable:
            pass
