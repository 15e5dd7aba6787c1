"""Addresses of mail, and what in a reply names ours."""

from __future__ import annotations

from email.message import EmailMessage
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop_channels.email_address import (
    MAX_BASE_OCTETS,
    MAX_LOCAL_OCTETS,
    Named,
    key_of,
    message_id,
    named,
    normalize_address,
    split_mailbox,
    tagged,
    token_id,
)

AGENTS = "agents@example.com"
KEY = "0198f0aa-1111-7222-8333-123456789abc"
SECRET, OLDER = "a secret of the tests", "an older secret"
# As long as those that the runtime makes, with all the characters that they have.
TOKEN = "WyJhbGljZSIsIjAxOThmMGFhMTExMTcyMjI4MzMzMTIzNDU2Nzg5YWJjIl0.aSlrbg.Zx_kQ2-vJ0hYp7Lw3NfTgA5mRcE"


def read(*recipients: str, in_reply_to: str | None = None, references: str | None = None) -> Named:
    return named(
        recipients=recipients, in_reply_to=in_reply_to, references=references, address=AGENTS,
        secrets=[SECRET, OLDER], domain="example.com",
    )  # fmt: skip


class TestNormalize:
    @pytest.mark.parametrize(
        ("given", "address"),
        [
            ("alice@example.org", "alice@example.org"),
            (" Alice.Smith@Example.ORG ", "alice.smith@example.org"),
            ("alice+work@example.org", "alice+work@example.org"),
            ("o'brien/x=y@example.org", "o'brien/x=y@example.org"),
            ("alice@Bücher.example", "alice@xn--bcher-kva.example"),
            ("alice@xn--bcher-kva.example", "alice@xn--bcher-kva.example"),
            ("Jo\u0308rg@example.org", "jörg@example.org"),
            ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
            ("root@localhost", "root@localhost"),
        ],
    )
    def test_every_spelling_becomes_one(self, given: str, address: str) -> None:
        """Small letters, a domain in ASCII, Unicode's canonical form."""
        assert address == normalize_address(given)
        assert address == normalize_address(address)

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("", "the form"),
            ("alice", "the form"),
            ("@example.org", "the form"),
            ("alice@", "the form"),
            ("Alice <alice@example.org>", "alone"),
            ("alice@example.org\r\nBcc: bob@example.org", "alone"),
            ("alice\x00@example.org", "alone"),
            ("a b@example.org", "alone"),
            ("alice@bob@example.org", "before the @"),
            ("alice..smith@example.org", "before the @"),
            (".alice@example.org", "before the @"),
            ('"alice"@example.org', "before the @"),
            ("alice,bob@example.org", "before the @"),
            ("<alice@example.org>", "before the @|no domain"),
            ("a" * 65 + "@example.org", "64 octets"),
            ("ü" * 33 + "@example.org", "64 octets"),
            ("alice@[192.0.2.1]", "number in brackets"),
            ("alice@-example.org", "no domain"),
            ("alice@example..org", "no domain"),
            ("alice@exa_mple.org", "no domain"),
            ("alice@" + "a" * 64 + ".org", "no domain"),
            ("alice@" + ".".join(["abcdefg"] * 40), "no domain"),
            ("alice@ü\u200b.example", "alone|no domain"),
        ],
    )
    def test_what_is_no_address_is_refused_with_the_reason(self, given: str, reason: str) -> None:
        """A wrong contact is found at start, and nothing gets into a header that does not belong there."""
        with pytest.raises(ValueError, match=reason):
            normalize_address(given)

    @given(st.text())
    def test_any_text_is_an_address_or_a_value_error(self, text: str) -> None:
        """What comes out is canonical, and has neither white space nor control characters."""
        try:
            address = normalize_address(text)
        except ValueError:
            return
        assert address == normalize_address(address)
        assert address.isprintable() and not set(address) & set(' <>,;:"()')

    @pytest.mark.parametrize(
        ("text", "mailbox"),
        [
            ("agents@Example.com", ("", "agents@example.com")),
            ("Example agents <agents@example.com>", ("Example agents", "agents@example.com")),
            ('"Agents, Inc." <agents@example.com>', ("Agents, Inc.", "agents@example.com")),
            ("<agents@example.com>", ("", "agents@example.com")),
            ("Ägents 🤖 <agents@example.com>", ("Ägents 🤖", "agents@example.com")),
        ],
    )
    def test_a_mailbox_has_a_name_and_an_address(self, text: str, mailbox: tuple[str, str]) -> None:
        """As it is written in headers, or the address alone."""
        assert mailbox == split_mailbox(text)

    @pytest.mark.parametrize(
        "text", ["", "Agents", "Agents <agents>", "A <a@example.com> B", "A\n<a@example.com>"]
    )
    def test_what_is_no_mailbox_is_refused(self, text: str) -> None:
        """Names without an address, and line ends."""
        with pytest.raises(ValueError):
            split_mailbox(text)


class TestTag:
    def test_a_tagged_address_names_the_delivery(self) -> None:
        """The key comes back from it, by the secret that signed it, also while that is being replaced."""
        address = tagged(AGENTS, KEY, OLDER)

        assert address.startswith("agents+") and address.endswith("@example.com")
        assert key_of(address, AGENTS, [SECRET, OLDER]) == KEY
        assert key_of(address, AGENTS, [SECRET]) is None

    @given(st.uuids(), st.text("abcdefghijklmnopqrstuvwxyz0123456789.", min_size=1, max_size=MAX_BASE_OCTETS))
    def test_a_tag_fits_into_what_rfc_5321_allows(self, key: UUID, local: str) -> None:
        """64 octets before the @, whatever the key, for every address that the settings let be tagged."""
        address = f"{local}@example.com"

        made = tagged(address, str(key), SECRET)

        assert len(made.partition("@")[0]) <= MAX_LOCAL_OCTETS
        assert key_of(made, address, [SECRET]) == str(key)

    def test_a_tag_survives_the_loss_of_case(self) -> None:
        """Some programs write addresses in capitals, or without them."""
        assert key_of(tagged(AGENTS, KEY, SECRET).upper(), AGENTS, [SECRET]) == KEY

    def test_the_tag_has_nothing_but_small_letters_and_digits(self) -> None:
        """So that no server or program changes it."""
        tag = tagged(AGENTS, KEY, SECRET).partition("+")[2].partition("@")[0]

        assert tag.isalnum() and tag == tag.lower() and tag.isascii()

    def test_a_key_that_is_no_uuid_is_tagged_as_well(self) -> None:
        """As long as it is short."""
        assert key_of(tagged(AGENTS, "d1", SECRET), AGENTS, [SECRET]) == "d1"

    def test_an_address_that_would_be_too_long_stays_as_it_is(self) -> None:
        """A token of the runtime would never fit."""
        assert tagged(AGENTS, TOKEN, SECRET) == AGENTS

    @given(st.integers(0, 400), st.characters(categories=["Ll", "Nd"], max_codepoint=127))
    def test_a_changed_tag_names_nothing(self, place: int, other: str) -> None:
        """Whichever of its characters is another one. The last holds fewer bits than it could: only those count."""
        address = tagged(AGENTS, KEY, SECRET)
        start, end = address.index("+") + 1, address.index("@") - 1
        at = start + place % (end - start)
        changed = address[:at] + other + address[at + 1 :]

        assert key_of(changed, AGENTS, [SECRET]) == (KEY if changed == address else None)

    def test_a_tag_is_good_for_one_address_only(self) -> None:
        """It is signed together with the address."""
        tag = tagged(AGENTS, KEY, SECRET).partition("+")[2].partition("@")[0]

        assert key_of(f"others+{tag}@example.com", "others@example.com", [SECRET]) is None
        assert key_of(f"agents+{tag}@example.org", AGENTS, [SECRET]) is None

    @given(st.text())
    def test_any_text_is_a_tagged_address_or_none(self, text: str) -> None:
        """Whatever somebody writes behind the plus sign."""
        assert key_of(f"agents+{text}@example.com", AGENTS, [SECRET]) is None
        assert key_of(text, AGENTS, [SECRET]) is None


class TestNamed:
    def test_the_message_id_is_made_from_the_key(self) -> None:
        """A second attempt has the same; a key with characters that have no place there is written otherwise."""
        assert message_id(KEY, "example.com") == f"<{KEY}@example.com>"
        assert message_id("a key", "example.com") == "<k.YSBrZXk@example.com>"

    def test_a_reply_names_ours_by_its_headers(self) -> None:
        """As every mail program writes them."""
        ours = message_id(KEY, "example.com")

        assert read(in_reply_to=ours, references=f"<root@example.org> {ours}") == Named(reply_to=ours)

    def test_the_tag_is_believed_before_the_headers(self) -> None:
        """A server on the way may have given our message another id."""
        address = tagged(AGENTS, KEY, SECRET)

        found = read("bob@example.org", address, in_reply_to="<0102@amazonses.example>")

        assert found == Named(reply_to=message_id(KEY, "example.com"))

    def test_a_forged_tag_names_nothing(self) -> None:
        """It leaves the message to its headers."""
        forged = tagged(AGENTS, KEY, "a secret of somebody else")

        assert read(forged) == Named()
        assert read(forged, in_reply_to="<a@b>") == Named(reply_to="<a@b>")

    def test_a_token_comes_back_in_references(self) -> None:
        """With all its characters, and it is not taken for a message."""
        references = f"<root@example.org> {token_id(TOKEN, 'example.com')} <other@example.org>"

        found = read(in_reply_to="<other@example.org>", references=references)

        assert found == Named(reply_to="<other@example.org>", token=TOKEN)

    def test_a_token_in_encoded_words_is_read(self) -> None:
        """Python's own library writes long ids like this when it answers."""
        reply = EmailMessage()
        reply["References"] = token_id(TOKEN, "example.com")
        written = reply.as_string().partition(":")[2]

        assert "=?utf-8?" in written
        assert read(references=written).token == TOKEN

    def test_the_latest_token_counts(self) -> None:
        """A thread may be about one request after the other."""
        references = f"{token_id('older', 'example.com')}\r\n {token_id('newer', 'example.com')}"

        assert read(references=references).token == "newer"

    def test_the_token_of_another_domain_is_none(self) -> None:
        """Only what we wrote is read."""
        assert read(references=token_id("theirs", "example.org")).token is None

    def test_without_in_reply_to_the_last_of_ours_in_references_is_meant(self) -> None:
        """Some programs leave one of the two headers out."""
        ours = message_id(KEY, "example.com")

        assert read(references=f"<a@example.org> {ours} <b@example.org>") == Named(reply_to=ours)
        assert read(references="<a@example.org> <b@example.org>") == Named(reply_to="<b@example.org>")

    def test_a_message_that_answers_nothing_names_nothing(self) -> None:
        """Neither headers nor a tag."""
        assert read(AGENTS) == Named()

    @given(st.text(), st.text(), st.text())
    def test_no_header_is_too_strange(self, recipient: str, in_reply_to: str, references: str) -> None:
        """Headers are whatever somebody wrote."""
        read(recipient, in_reply_to=in_reply_to, references=references)
        read(references=f"<t.{references}@example.com>")
        read(
            references=f"=?{recipient}?{in_reply_to}?{references}?=", in_reply_to=f"=?utf-8?b?{references}?="
        )
