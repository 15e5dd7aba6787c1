"""The Apprise channel: one-way notices through any of the services that the library Apprise knows.

The URL of a service holds its secrets, so it comes from the environment, under a name, and that name is the address.
Apprise says only whether a notice went; why not is read from what it logs meanwhile. Set-up: docs/channels/apprise.md.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from apprise import Apprise, AppriseAsset, AppriseResult, AppriseResultStatus, NotifyFormat
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
)
from wakeloop.errors import (
    ChannelError,
    ConfigurationError,
    InvalidWebhook,
    PermanentChannelError,
    TemporaryChannelError,
)
from wakeloop_channels.explaining import read_settings
from wakeloop_channels.http import UNTAKEN_STATUSES

PREFIX = "service_"
VARIABLE = "WAKELOOP_APPRISE_SERVICE_"

ADVICE: Mapping[int, str] = {
    401: "Check the credentials in the service's URL.",
    403: "Check the credentials in the service's URL.",
    404: "Check the service's URL.",
}

_NAME = re.compile(r"[a-z0-9_]{1,64}")
# How Apprise's plugins log an answer that is no 2xx: "…: Not Found, error=404."
_ANSWERED = re.compile(r"(?:: (?P<phrase>[A-Za-z .-]{1,80}), )?error=(?P<status>[1-5][0-9]{2})\b")

# What Apprise logs holds hosts and people's numbers, and of a URL that it cannot read more than that. Its captures see
# it, of each call its own; nobody else does.
logging.getLogger("apprise").propagate = False


class AppriseSettings(BaseModel):
    """The table `[channels.apprise]`, with the secrets of the environment merged in.

    services: the URL of each by its name, gathered from `service_<name>`. timeout: seconds allowed for one notice."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    services: dict[str, SecretStr] = Field(min_length=1)
    timeout: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="before")
    @classmethod
    def _gather_services(cls, section: Any) -> Any:
        """Move each `service_<name>` into `services`."""
        if not isinstance(section, Mapping):
            return section
        named = {key.removeprefix(PREFIX): value for key, value in section.items() if key.startswith(PREFIX)}
        rest = {key: value for key, value in section.items() if not key.startswith(PREFIX)}
        return {**rest, "services": named} if named else rest

    @field_validator("services")
    @classmethod
    def _check_services(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, url in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{VARIABLE}… ends in a name of letters, digits and _")
            if Apprise.instantiate(url.get_secret_value(), asset=_asset()) is None:
                raise ValueError(f"{VARIABLE}{name.upper()} is no URL of a service that Apprise knows")
        return value


class AppriseChannel:
    """Notices to services, by name. Each has a plugin of its own, and a thread for as long as it takes."""

    name: ClassVar[str] = "apprise"
    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self, settings: AppriseSettings) -> None:
        self.settings = settings

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.apprise]` and the environment; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; a URL is never in
        it."""
        if "services" in section or not any(key.startswith(PREFIX) for key in section):
            raise ConfigurationError(
                f"The Apprise channel cannot start: set at least one environment variable {VARIABLE}<NAME> to the URL of "
                f'a service, such as {VARIABLE}OPS=slack://…; its address is then the name, as in apprise = "ops".'
            )
        return cls(read_settings(AppriseSettings, section, channel="apprise", title="Apprise"))

    def normalize(self, address: str) -> str:
        """The name of a service, in lower case and with _ for -. Raises ValueError with the reason."""
        if "://" in address:
            raise ValueError(
                f"a service's URL holds secrets: put it into the environment as {VARIABLE}<NAME>, and write the name here"
            )
        name = address.strip().lower().replace("-", "_")
        if name not in self.settings.services:
            known = ", ".join(sorted(self.settings.services))
            wanted = f"{VARIABLE}{name.upper()}" if _NAME.fullmatch(name) else f"{VARIABLE}<NAME>"
            raise ValueError(
                f"it is none of the services that are set ({known}); set {wanted}, or write one of them"
            )
        return name

    async def send(self, message: Outgoing) -> Receipt:
        """Have Apprise send a notice, once; of a question or approval the link to the person's page goes with it, since
        nobody can write back here.

        Raises TemporaryChannelError if the service answered 408, 425, 429 or 503, PermanentChannelError for another
        4xx or a redirect. Any other failure is a ChannelError, an unknown outcome: Apprise does not tell whether a
        connection was refused or lost."""
        url = self.settings.services.get(message.address)
        if url is None:
            raise PermanentChannelError(
                f"Apprise's service is not set any more: set {VARIABLE}{message.address.upper()}."
            )
        result = await asyncio.to_thread(self._notify, url.get_secret_value(), message)
        if result.status == AppriseResultStatus.SUCCESS:
            return Receipt(provider_id=f"apprise-{message.key}")
        raise _failure(result)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Apprise keeps nothing of what it sent."""
        return None

    def verify(self, request: RawRequest) -> None:
        """Refuse: notices go one way."""
        raise InvalidWebhook("The Apprise channel takes no webhooks: its notices go one way.", status=404)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """Refuse, as `verify` does."""
        self.verify(request)
        return []

    def respond(self, request: RawRequest) -> RawResponse:
        """Not found."""
        return RawResponse(status=404)

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _notify(self, url: str, message: Outgoing) -> AppriseResult:
        """One notice by a plugin of its own: one that is used again would wait between its notices."""
        plugin = Apprise.instantiate(url, asset=_asset())
        if plugin is None:
            raise PermanentChannelError("Apprise does not know the service's URL any more.")
        text = message.text
        if message.kind and message.link and message.link not in text:
            text = f"{text}\n\nAnswer here: {message.link}"
        sender = Apprise(asset=_asset())
        sender.add(plugin)
        return sender.notify(
            body=text,
            title=message.subject or "",
            body_format=NotifyFormat.TEXT,
            timeout=self.settings.timeout,
            log_level=logging.WARNING,
        )


def _asset() -> AppriseAsset:
    return AppriseAsset(
        app_id="wakeloop",
        app_desc="wakeloop",
        app_url="",
        interpret_escapes=False,
        interpret_emojis=False,
        default_service_retry=0,
    )


def _failure(result: AppriseResult) -> ChannelError:
    """What Apprise's lines mean. Of them only the status and its phrase are told: they may name hosts and people."""
    if result.status == AppriseResultStatus.TIMEOUT:
        return ChannelError("The service did not answer Apprise in time; whether the notice went is unknown.")
    answers = [found for entry in result.logs() if (found := _ANSWERED.search(entry.message))]
    if not answers:
        return ChannelError(
            "Apprise could not reach the service, or lost it; whether the notice went is unknown."
        )
    status = int(answers[-1]["status"])
    phrase = (answers[-1]["phrase"] or "").strip(" .")
    advice = f" {ADVICE[status]}" if status in ADVICE else ""
    words = f"The service answered {status}{f' ({phrase})' if phrase else ''}.{advice}"
    if status in UNTAKEN_STATUSES:
        return TemporaryChannelError(words, code=str(status), retry_after=None)
    if status >= 500:
        return ChannelError(f"{words} Whether the notice was taken is unknown.", code=str(status))
    return PermanentChannelError(words, code=str(status))
