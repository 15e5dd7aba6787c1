"""The conformance suite: what every channel adapter has to do, as tests to derive from.

::

    class TestPager(ChannelConformance):
        adapter = PagerChannel

        @pytest.fixture
        def provider(self) -> Iterator[Provider]:
            with PagerProvider() as provider:
                yield provider

`Provider` (wakeloop.testing.channels.provider) says what to supply; channels/ADDING_A_CHANNEL.md goes through a whole
example. It needs pytest and hypothesis: pip install "wakeloop[testing]".
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop.channel import Amending, Channel, Checking, Guiding
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError
from wakeloop.testing.channels.listening import ListeningTests
from wakeloop.testing.channels.provider import Fault, Provider
from wakeloop.testing.channels.receiving import FUZZING, ReceivingTests
from wakeloop.testing.channels.sending import SendingTests
from wakeloop.testing.channels.traits import Run, failure, needs, outgoing

__all__ = ["ChannelConformance"]


class ChannelConformance(SendingTests, ReceivingTests, ListeningTests):
    """Derive from it, set `adapter`, and define the fixture `provider`. What the adapter is held to follows from its
    `capabilities` and from these:

    capabilities: those of this test's settings, if they differ from the class's. webhooks: the provider calls; False if
    the adapter only fetches, or takes nothing in. listening: the adapter fetches, with this test's settings. network:
    messages go to a provider that can be down. says_when: a busy provider can say when to ask again. timed_signatures: a
    signature holds a time, and an old one is refused. secret_setting: where the secrets are set that verify webhooks,
    several with commas between; another_secret: one that could be among them. reports: what the provider's receipts tell.
    verdicts_only: of buttons, only those of an approval are shown, one for a yes and one for a no.
    """

    # The adapter itself

    def test_it_fulfils_the_port(self, provider: Provider) -> None:
        """Every method of wakeloop.channel.Channel is there."""
        channel = provider.channel

        assert isinstance(channel, Channel), "it lacks a member of wakeloop.channel.Channel"
        assert isinstance(channel, self.adapter), f"the provider's channel is no {self.adapter.__name__}"
        assert channel.name, "it needs a name: that of its entry point"

    def test_capabilities_agree_with_what_is_there(self, provider: Provider) -> None:
        """What is promised is implemented, and what is implemented is promised."""
        can, channel = provider.channel.capabilities, provider.channel

        assert can == self.can(), "the adapter's capabilities differ from the suite's: set `capabilities`"
        assert can.amends == isinstance(channel, Amending), "`amends` must say whether there is `amend`"
        for name in ("buttons", "forms", "threads", "tokens"):
            assert can.inbound or not getattr(can, name), f"`{name}` needs `inbound`: it comes back"
        assert not self.listening or can.inbound or can.receipts, "a channel listens for messages or receipts"
        assert can.max_length is None or can.max_length > 0, "`max_length` must be positive, or None"
        assert can.body_limit > 0, "`body_limit` must be positive"
        assert all(seconds >= 0 for seconds in can.retry_seconds or ()), (
            "`retry_seconds` must not be negative"
        )

    def test_an_unknown_setting_is_named(self, provider: Provider) -> None:
        """A misspelt key stops the start, and the error says which."""
        section = {**provider.settings, "misspelt_key": "x"}

        error = configured(self.adapter, section, provider)

        assert error is not None, "a setting that does not exist must raise ConfigurationError"
        assert f"channels.{provider.channel.name}.misspelt_key" in str(error), (
            f"the error must name channels.{provider.channel.name}.misspelt_key; it says: {error}"
        )

    def test_every_missing_setting_is_named(self, provider: Provider) -> None:
        """Without any settings the adapter works, or says what to set, and where."""
        name = provider.channel.name

        error = configured(self.adapter, {}, provider)

        if error is not None:
            environment = f"WAKELOOP_{name}_".upper().replace("-", "_")
            assert f"channels.{name}." in str(error) or environment in str(error), (
                f"the error must name the key channels.{name}.… or the variable {environment}…; it says: {error}"
            )

    def test_secrets_are_never_shown(self, provider: Provider) -> None:
        """Neither by the adapter's repr, nor by its settings', nor in the words of an error about them."""
        channel = provider.channel
        shown = [repr(channel), str(channel), repr(getattr(channel, "settings", ""))]
        for key in provider.settings:
            for wrong in (
                {**provider.settings, key: {"no": "such"}},
                {**provider.settings, "misspelt_key": "x"},
            ):
                shown.append(str(configured(self.adapter, wrong, provider)))

        for secret in provider.secrets:
            assert all(secret not in text for text in shown), f"the secret {secret[:2]}… is shown"

    def test_nothing_personal_is_logged(
        self, provider: Provider, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Addresses, words and secrets stay out of the log above DEBUG."""
        with caplog.at_level(logging.INFO):
            run(provider.channel.send(outgoing(provider, "my own words")))

        for hidden in (provider.address, "my own words", *provider.secrets):
            assert hidden not in caplog.text, f"{hidden!r} is logged"

    # Addresses

    def test_the_canonical_form_is_final(self, provider: Provider) -> None:
        """`normalize` leaves it as it is."""
        assert provider.channel.normalize(provider.address) == provider.address, (
            "Provider.address must be in the canonical form, and normalize must keep that"
        )

    @FUZZING
    @given(text=st.text(max_size=60))
    def test_normalize_is_idempotent(self, provider: Provider, text: str) -> None:
        """Of whatever it takes, the canonical form of the canonical form is the same; the rest is ValueError."""
        try:
            once = provider.channel.normalize(text)
        except ValueError:
            return
        assert provider.channel.normalize(once) == once, f"{once!r} is not the canonical form of itself"

    @pytest.mark.parametrize("text", ["", " ", "\n", "\0", "\ud800"])
    def test_what_is_no_address_is_refused(self, provider: Provider, text: str) -> None:
        """A wrong contact is found at start, not when somebody must be reached."""
        with pytest.raises(ValueError) as raised:
            provider.channel.normalize(text)

        assert str(raised.value), "the ValueError must say what is wrong with the address"

    # Whether it works

    @needs("checking")
    def test_a_check_says_as_whom(self, provider: Provider, run: Run) -> None:
        """In a few words, without a secret, and without writing to anybody."""
        channel = provider.channel
        assert isinstance(channel, Checking)

        said = run(channel.check())

        assert said.strip(), "`check` must say as whom the channel works"
        assert all(secret not in said for secret in provider.secrets), "`check` shows a secret"
        assert list(provider.sent()) == [], "`check` must not write to anybody"

    @needs("checking", "network")
    def test_a_check_finds_a_provider_that_is_down(self, provider: Provider, run: Run) -> None:
        """ChannelError, not permanent: it may be back soon."""
        channel = provider.channel
        assert isinstance(channel, Checking)
        provider.fail_next(Fault.DOWN)

        error = failure(run, channel.check())

        assert isinstance(error, ChannelError), f"it must be ChannelError, not {error!r}"
        assert not isinstance(error, PermanentChannelError)

    @needs("guiding")
    def test_the_guide_names_the_address(self, provider: Provider) -> None:
        """What to enter where in the provider's console, the webhook's address among it."""
        channel = provider.channel
        assert isinstance(channel, Guiding)
        url = "https://agents.example.com/hooks/it"

        steps = list(channel.guide(url))

        assert all(where and what for where, what in steps), "each step says where, and what"
        assert any(url in what for _, what in steps), f"no step says to enter {url}"


def configured(
    adapter: type[Channel], section: dict[str, Any], provider: Provider
) -> ConfigurationError | None:
    """What is wrong with these settings; None if nothing is. Any other error is the adapter's fault."""
    try:
        adapter.from_settings(section, provider.services)
    except ConfigurationError as error:
        return error
    return None
