"""Settings of a channel: reading them, and saying of each that is wrong where it is set."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, SecretStr, ValidationError

from wakeloop.errors import ConfigurationError

Settings = TypeVar("Settings", bound=BaseModel)


def split_secrets(value: Any) -> tuple[str, ...]:
    """Several secrets as the environment has them, with commas between; or one, or a list of either. Without blanks and
    repetitions, in the order given."""
    return tuple(dict.fromkeys(_parts(value)))


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(split_secrets)]
"""The type of a setting that takes several secrets, so that they can be rotated: the first is for what goes out, every
one is tried on what comes in. Give it `Field(min_length=1)` if one is needed."""


def read_settings(
    model: type[Settings],
    section: Mapping[str, Any],
    *,
    channel: str,
    title: str,
    hints: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Settings:
    """The section `[channels.<channel>]` as a `model`.

    title: the channel's name in the error, as in "The SMS channel cannot start". hints: for a setting, what its value
    looks like or where it is found. aliases: for a field, the name under which people set it. A field that holds
    secrets is set by the environment only.

    Raises ConfigurationError with every setting that is missing or wrong, and where to set it; never a secret's value,
    provided that the model has `hide_input_in_errors` and no validator that repeats it."""
    try:
        return model.model_validate(dict(section))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    lines = [_line(problem, model, channel, hints or {}, aliases or {}) for problem in problems]
    raise ConfigurationError(f"The {title} channel cannot start: {'; '.join(lines)}.")


def refuse_settings(section: Mapping[str, Any], *, channel: str) -> None:
    """Raises ConfigurationError if a channel that has no settings is given some."""
    if section:
        keys = ", ".join(f"channels.{channel}.{key}" for key in sorted(section))
        raise ConfigurationError(
            f"{keys}: the {channel} channel has no settings; remove it from wakeloop.toml."
        )


def variable(channel: str, setting: str) -> str:
    """The environment variable of a setting."""
    return f"WAKELOOP_{channel}_{setting}".upper().replace("-", "_")


def _line(
    problem: Mapping[str, Any],
    model: type[BaseModel],
    channel: str,
    hints: Mapping[str, str],
    aliases: Mapping[str, str],
) -> str:
    path = [str(part) for part in problem["loc"]]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    named = aliases.get(path[0], path[0])
    key = ".".join([f"channels.{channel}.{named}", *path[1:]])
    if problem["type"] == "extra_forbidden" and len(path) == 1:
        known = ", ".join(sorted(aliases.get(name, name) for name in model.model_fields))
        return f"{key} is no setting of this channel; it has {known}"
    field = model.model_fields.get(path[0])
    if field is not None and _is_secret(field.annotation):
        where = f"the environment variable {variable(channel, named)}"
    else:
        where = f"channels.{channel}.{named} in wakeloop.toml, or {variable(channel, named)}"
    if hint := hints.get(path[0]):
        where += f": {hint}"
    return f"set {where}" if problem["type"] in {"missing", "too_short"} else f"{key}: {message}; set {where}"


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in typing.get_args(annotation))


def _parts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return [text for part in value for text in _parts(part)]
    if not isinstance(value, str):
        raise ValueError("it must be text")
    return [text.strip() for text in value.split(",") if text.strip()]
