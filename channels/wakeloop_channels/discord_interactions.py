"""Discord's interactions as they come over the wire (https://discord.com/developers/docs/interactions): who signed them,
what they say, and what Discord wants to hear."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wakeloop.channel import Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.discord_messages import ANSWER, CHOICE, COMMENT, TEXT_INPUT, dialog
from wakeloop_channels.json_bodies import obj, objects, text, whole

TOLERANCE_SECONDS = 300.0
"""How old a signed request may be, or how far ahead: Discord names no limit."""

CHANNEL = "channel:"
"""Before the number of a channel, in an address; a person's is their user ID alone."""

PING, COMMAND, COMPONENT, MODAL_SUBMIT = 1, 2, 3, 5
PONG, REPLY, DEFERRED_UPDATE, MODAL = 1, 4, 6, 9
EPHEMERAL = 1 << 6
COMMANDS = {"stop": True, "start": False}
"""The slash commands about being written to, and what each means for `Incoming.opt_out`."""

_SNOWFLAKE = re.compile(r"[1-9]\d{0,19}", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-fA-F]{128}")
_TIMESTAMP = re.compile(r"\d{1,12}", re.ASCII)

Responders = Mapping[str, frozenset[str]]


def is_snowflake(value: str) -> bool:
    """Whether it is an id of Discord's."""
    return _SNOWFLAKE.fullmatch(value) is not None


def check_signature(request: RawRequest, keys: Iterable[Ed25519PublicKey]) -> None:
    """Check that the timestamp and the raw body were signed (Ed25519) with one of these keys, and lately.

    Raises InvalidWebhook with 401, which Discord asks for and tries."""
    signature = request.headers.get("x-signature-ed25519", "")
    timestamp = request.headers.get("x-signature-timestamp", "")
    if not _SIGNATURE.fullmatch(signature) or not _TIMESTAMP.fullmatch(timestamp):
        raise InvalidWebhook(
            "X-Signature-Ed25519 or X-Signature-Timestamp is missing or malformed.", status=401
        )
    if not any(_signed(key, bytes.fromhex(signature), timestamp.encode() + request.body) for key in keys):
        raise InvalidWebhook(
            "X-Signature-Ed25519 fits none of channels.discord.public_keys: the request is forged, or they are those of "
            "another application.",
            status=401,
        )
    if abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        raise InvalidWebhook(
            "The request was signed more than five minutes ago, or ahead of this machine's clock.", status=401
        )


def read_interaction(
    interaction: dict[str, Any], application_id: str, responders: Responders
) -> list[Incoming]:
    """What a person pressed, wrote or wishes; nothing for a press that only opens a dialog, or that counts for nothing.

    Raises InvalidWebhook (400) if it is not as Discord documents it, or for another application."""
    kind = whole(interaction, "type")
    if kind == PING:
        return []
    if text(interaction, "application_id") != application_id:
        raise InvalidWebhook("The interaction is for another application than this one.", status=400)
    if kind == COMMAND:
        return list(_command(interaction))
    if kind in (COMPONENT, MODAL_SUBMIT):
        return list(_answer(interaction, kind, responders))
    return []


def response(interaction: dict[str, Any], responders: Responders) -> dict[str, Any]:
    """What to answer within Discord's three seconds: a dialog, a word only they see, or nothing that is seen."""
    kind = whole(interaction, "type")
    if kind == PING:
        return {"type": PONG}
    custom_id = text(obj(interaction, "data"), "custom_id")
    if kind in (COMPONENT, MODAL_SUBMIT) and not _may_answer(interaction, responders):
        return _said("Only the people who are named for this channel can answer here.")
    if kind == COMPONENT and custom_id.startswith((COMMENT, ANSWER)):
        return {"type": MODAL, "data": dialog(custom_id)}
    if kind in (COMPONENT, MODAL_SUBMIT):
        return {"type": DEFERRED_UPDATE}
    return _said("Noted." if kind == COMMAND else "This is not known here.")


def _answer(interaction: dict[str, Any], kind: int, responders: Responders) -> Iterator[Incoming]:
    data, message = obj(interaction, "data"), obj(interaction, "message")
    custom_id = text(data, "custom_id")
    wants = CHOICE if kind == COMPONENT else (COMMENT, ANSWER)
    if not custom_id.startswith(wants) or not message or not _may_answer(interaction, responders):
        return
    channel, number = _id(interaction, "channel_id"), _id(message, "id")
    user, in_channel = _user(interaction), _in_channel(interaction)
    yield Incoming(
        provider_id=f"interaction:{_id(interaction, 'id')}",
        address=CHANNEL + channel if in_channel else user,
        text=_words(data) if kind == MODAL_SUBMIT else "",
        reply_to=f"{channel}:{number}",
        pressed=None if custom_id.startswith(ANSWER) else custom_id[len(CHOICE) :],
        auth=f"Discord user {user} in the channel" if in_channel else None,
        raw=_kept(interaction),
    )


def _command(interaction: dict[str, Any]) -> Iterator[Incoming]:
    """A slash command: its first option that is a text, from the person, wherever they are."""
    data = obj(interaction, "data")
    name = text(data, "name")
    options = (option.get("value") for option in objects(data, "options"))
    said = next((value for value in options if isinstance(value, str)), "")
    if not said and name not in COMMANDS:
        return
    yield Incoming(
        provider_id=f"interaction:{_id(interaction, 'id')}",
        address=_user(interaction),
        text=said or f"/{name}",
        opt_out=COMMANDS.get(name),
        raw=_kept(interaction),
    )


def _words(data: dict[str, Any]) -> str:
    """The text of a dialog's one field, which stands in a label, or by an older form in a row."""
    for row in objects(data, "components"):
        for field in [obj(row, "component"), *objects(row, "components")]:
            if field.get("type") == TEXT_INPUT:
                return text(field, "value")
    raise InvalidWebhook("The dialog has no field.", status=400)


def _may_answer(interaction: dict[str, Any], responders: Responders) -> bool:
    """In private anybody; in a channel whoever is named for it."""
    if not _in_channel(interaction):
        return True
    return _user(interaction) in responders.get(_id(interaction, "channel_id"), frozenset())


def _in_channel(interaction: dict[str, Any]) -> bool:
    return bool(interaction.get("guild_id") or interaction.get("member"))


def _user(interaction: dict[str, Any]) -> str:
    return _id(obj(interaction, "user") or obj(obj(interaction, "member"), "user"), "id")


def _id(parent: dict[str, Any], name: str) -> str:
    value = text(parent, name)
    if not is_snowflake(value):
        raise InvalidWebhook(f"{name} is missing or no id.", status=400)
    return value


def _kept(interaction: dict[str, Any]) -> dict[str, Any]:
    """All of it but the token, with which whoever reads it could write as the bot for 15 minutes."""
    return {name: value for name, value in interaction.items() if name != "token"}


def _said(words: str) -> dict[str, Any]:
    return {"type": REPLY, "data": {"content": words, "flags": EPHEMERAL, "allowed_mentions": {"parse": []}}}


def _signed(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
