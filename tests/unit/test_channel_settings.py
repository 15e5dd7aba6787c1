"""How the settings of a channel are read, and how what is wrong with them is explained."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from wakeloop.errors import ConfigurationError
from wakeloop_channels.explaining import Secrets, read_settings, split_secrets, variable


class Server(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    host: str
    port: int = Field(default=25, gt=0)


class PagerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    number: str = Field(pattern=r"^[0-9]+$")
    token: SecretStr | None = None
    signing_secrets: Secrets = Field(min_length=1)
    server: Server | None = None

    @model_validator(mode="after")
    def _check(self) -> PagerSettings:
        if self.number == "13":
            raise ValueError("set channels.pager.number to another one")
        return self


GOOD: dict[str, Any] = {"number": "5", "signing_secrets": "s3cret"}


def read(**changes: Any) -> PagerSettings:
    section = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return read_settings(
        PagerSettings,
        section,
        channel="pager",
        title="pager",
        hints={"number": "it is on the back"},
        aliases={"signing_secrets": "signing_secret"},
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"number": None},
            "set channels.pager.number in wakeloop.toml, or WAKELOOP_PAGER_NUMBER: it is on the back",
        ),
        ({"number": "x"}, "channels.pager.number: String should match pattern"),
        ({"signing_secrets": None}, "set the environment variable WAKELOOP_PAGER_SIGNING_SECRET."),
        ({"signing_secrets": " , "}, "set the environment variable WAKELOOP_PAGER_SIGNING_SECRET."),
        ({"signing_secrets": 5}, "channels.pager.signing_secret: it must be text"),
        ({"token": 5}, "set the environment variable WAKELOOP_PAGER_TOKEN"),
        (
            {"tokn": "x"},
            "channels.pager.tokn is no setting of this channel; it has number, server, signing_secret",
        ),
        ({"server": {"port": 0}}, "channels.pager.server.port: Input should be greater than 0"),
        ({"number": "13"}, "cannot start: set channels.pager.number to another one."),
    ],
)
def test_what_is_wrong_is_named_with_where_to_set_it(changes: dict[str, Any], words: str) -> None:
    """The key in wakeloop.toml, or for a secret the environment variable."""
    with pytest.raises(ConfigurationError) as raised:
        read(**changes)

    assert words in str(raised.value)
    assert str(raised.value).startswith("The pager channel cannot start: ")
    assert "s3cret" not in str(raised.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Nobody mends settings one start at a time."""
    with pytest.raises(ConfigurationError) as raised:
        read(number="x", signing_secrets=None, tokn="x")

    assert all(name in str(raised.value) for name in ("pager.number", "SIGNING_SECRET", "tokn"))


@pytest.mark.parametrize(
    ("given", "secrets"),
    [
        ("a", ("a",)),
        ("a, b ,,a", ("a", "b")),
        (["a,b", "c"], ("a", "b", "c")),
        (SecretStr("a,b"), ("a", "b")),
        ([None, SecretStr("a")], ("a",)),
        (None, ()),
    ],
)
def test_several_secrets_stand_in_one_variable(given: Any, secrets: tuple[str, ...]) -> None:
    """With commas between, in order, each once."""
    assert secrets == split_secrets(given)
    assert "a" not in repr(read(signing_secrets=given).signing_secrets) if secrets else True


def test_a_variable_is_named_for_channel_and_setting() -> None:
    """As wakeloop reads it."""
    assert variable("my-pager", "api_key") == "WAKELOOP_MY_PAGER_API_KEY"
