"""Settings of the Slack channel, and what an address of it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from wakeloop_channels.explaining import Secrets, read_settings

API_URL = "https://slack.com/api/"

USER = re.compile(r"[UW][A-Z0-9]{2,30}", re.ASCII)
CHANNEL = re.compile(r"[CG][A-Z0-9]{2,30}", re.ASCII)
DIRECT = re.compile(r"D[A-Z0-9]{2,30}", re.ASCII)

_HINTS = {
    "bot_token": 'it begins with xoxb- and is under "OAuth & Permissions" at api.slack.com/apps',
    "signing_secrets": 'it is under "Basic Information" at api.slack.com/apps; during a rotation, several with commas between',
    "app_token": 'it begins with xapp- and is made under "Basic Information", "App-Level Tokens", with the scope connections:write',
    "responders": 'a table of lists, as in C0123456789 = ["U0123456789"]',
}


class SlackSettings(BaseModel):
    """The table `[channels.slack]`, with the secrets of the environment merged in.

    signing_secrets: every one verifies webhooks. socket_mode: listen on a WebSocket that is opened with app_token, instead
    of being called. responders: for a channel's id, the ids of those who may speak for the contact whose address it is;
    of a channel that is not named, nobody may. api_url: another address of the Web API, such as GovSlack's. timeout:
    seconds allowed for connecting, and as many again for the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bot_token: SecretStr
    signing_secrets: Secrets = ()
    app_token: SecretStr | None = None
    socket_mode: bool = False
    responders: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    api_url: HttpUrl = HttpUrl(API_URL)
    timeout: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, section: Any) -> Any:
        """Join `signing_secret` and `signing_secrets`, in that order."""
        if not isinstance(section, Mapping) or "signing_secret" not in section:
            return section
        values = dict(section)
        values["signing_secrets"] = [values.pop("signing_secret"), values.get("signing_secrets")]
        return values

    @field_validator("bot_token")
    @classmethod
    def _check_bot_token(cls, value: SecretStr) -> SecretStr:
        if "xoxb-" not in value.get_secret_value():
            raise ValueError("it is no bot's token")
        return value

    @field_validator("app_token")
    @classmethod
    def _check_app_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith("xapp-"):
            raise ValueError("it is no app-level token")
        return value

    @field_validator("responders")
    @classmethod
    def _check_responders(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for channel, users in value.items():
            if not CHANNEL.fullmatch(channel):
                raise ValueError("each key must be a channel's id (C… or G…)")
            if not all(USER.fullmatch(user) for user in users):
                raise ValueError(f"those of {channel} must be member ids (U… or W…)")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.socket_mode and self.app_token is None:
            raise ValueError(f"set WAKELOOP_SLACK_APP_TOKEN ({_HINTS['app_token']}) for socket_mode")
        if not self.socket_mode and not self.signing_secrets:
            raise ValueError(
                f"set WAKELOOP_SLACK_SIGNING_SECRET ({_HINTS['signing_secrets']}), or socket_mode = true to need no webhook"
            )
        return self


def read_slack_settings(section: Mapping[str, Any]) -> SlackSettings:
    """The settings. Raises ConfigurationError."""
    return read_settings(
        SlackSettings, section, channel="slack", title="Slack", hints=_HINTS,
        aliases={"signing_secrets": "signing_secret"},
    )  # fmt: skip


def normalize_id(address: str) -> str:
    """The id of a person or a channel, also of a mention (`<@U…>`, `<#C…|name>`). Raises ValueError with the reason."""
    text = address.strip()
    if text.startswith(("<@", "<#")) and text.endswith(">"):
        text = text[2:-1].partition("|")[0]
    if USER.fullmatch(text) or CHANNEL.fullmatch(text):
        return text
    if DIRECT.fullmatch(text):
        raise ValueError("it is a direct conversation's id; write the person's member id (U…)")
    raise ValueError(
        "it must be a member id, as in U0123456789 (profile, ⋮, Copy member ID), or a channel's, as in C0123456789"
        " (at the bottom of its details)"
    )
