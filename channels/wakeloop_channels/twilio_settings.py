"""The settings of a channel through Twilio: the account, the sender, and where they are set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

import phonenumbers
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from wakeloop_channels.explaining import Secrets, read_settings, split_secrets, variable
from wakeloop_channels.twilio_numbers import normalize_number

MEDIA_BYTES = 16 * 1024 * 1024

_SENDER = re.compile(r"[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 +\-_&]{1,11}")


class TwilioSettings(BaseModel):
    """The table `[channels.sms]`, with the secrets of the environment merged in.

    auth_tokens: the first signs requests, every one verifies webhooks, so that a token (or a webhook SharedKey's
    secret) can be rotated. api_key, api_secret: sign requests instead. timeout: seconds allowed for connecting, and as
    many again for the answer. default_region: the country (ISO 3166-1) of numbers written without one; None takes
    international numbers only. media_bytes: the largest file that is fetched. api_url: another address of the API, such
    as a regional one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    channel: ClassVar[str] = "sms"

    account_sid: str = Field(pattern=r"^AC\w+$")
    auth_tokens: Secrets = Field(min_length=1)
    api_key: str | None = Field(default=None, pattern=r"^SK\w+$")
    api_secret: SecretStr | None = None
    from_number: str | None = None
    messaging_service_sid: str | None = Field(default=None, pattern=r"^MG\w+$")
    api_url: HttpUrl | None = None
    timeout: float = Field(default=10.0, gt=0, le=300)
    default_region: str | None = None
    status_callbacks: bool = True
    media_bytes: int = Field(default=MEDIA_BYTES, gt=0)

    @property
    def credentials(self) -> tuple[str, str]:
        """Username and password for the API."""
        if self.api_key is not None and self.api_secret is not None:
            return self.api_key, self.api_secret.get_secret_value()
        return self.account_sid, self.auth_tokens[0].get_secret_value()

    @model_validator(mode="before")
    @classmethod
    def _gather_tokens(cls, section: Any) -> Any:
        """Join `auth_token` (one, or several with commas between) and `auth_tokens`, in that order."""
        if not isinstance(section, Mapping):
            return section
        values = dict(section)
        given = [values.pop("auth_token", None), values.pop("auth_tokens", None)]
        if any(value is not None for value in given):
            values["auth_tokens"] = split_secrets(given)
        return values

    @field_validator("from_number")
    @classmethod
    def _check_sender(cls, value: str | None) -> str | None:
        return value if value is None else cls.normalize_sender(value)

    @classmethod
    def normalize_sender(cls, value: str) -> str:
        """A number in E.164, a short code or a name. Raises ValueError with the reason."""
        return value if _SENDER.fullmatch(value) else normalize_number(value, channel=cls.channel)

    @field_validator("default_region")
    @classmethod
    def _check_region(cls, value: str | None) -> str | None:
        if value is not None and value not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError('it must be a country code of two capital letters, such as "US"')
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        key = f"channels.{self.channel}"
        if (self.from_number is None) == (self.messaging_service_sid is None):
            raise ValueError(f"set exactly one of {key}.from_number and {key}.messaging_service_sid")
        if (self.api_key is None) != (self.api_secret is None):
            raise ValueError(
                f"set {key}.api_key and {variable(self.channel, 'api_secret')} together, or neither"
            )
        return self


Settings = TypeVar("Settings", bound=TwilioSettings)

_HINTS = {
    "account_sid": 'it begins with AC and is under "Account info" in Twilio\'s Console',
    "auth_tokens": 'it is under "Account info" in Twilio\'s Console; during a rotation, several with commas between',
    "api_key": "it begins with SK",
    "from_number": "a number of the account, as in +15555550199",
    "messaging_service_sid": "it begins with MG",
    "content_sid": "a content template that WhatsApp approved; it begins with HX",
}


def read_twilio_settings(model: type[Settings], section: Mapping[str, Any], *, title: str) -> Settings:
    """Raises ConfigurationError with every setting that is missing or wrong and where to set it."""
    return read_settings(
        model,
        section,
        channel=model.channel,
        title=title,
        hints=_HINTS,
        aliases={"auth_tokens": "auth_token"},
    )
