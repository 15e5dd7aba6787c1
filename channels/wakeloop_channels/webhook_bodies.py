"""What the webhook channel and a chat system of one's own tell each other, as JSON: the models, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from wakeloop.channel import DeliveryStatus, DeliveryUpdate, File, Incoming, Outgoing
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels.data_urls import is_data_url, read_data_url
from wakeloop_channels.json_bodies import read_json

MAX_TEXT = 100_000
MAX_ATTACHMENTS = 20
MAX_VALUES = 200
MAX_URL = 2_000
MAX_ID = 200
PROBLEMS_TOLD = 3
PROBLEM_LENGTH = 200

Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_ID)]


class _Sends(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class ButtonBody(_Sends):
    """A choice to show; `value` is sent back as `pressed`. style: "yes", "no" or "" for any other."""

    label: str
    value: str
    style: str


class FieldBody(_Sends):
    """One part of a typed answer, as an input of HTML; what is filled in is sent back in `values` under `name`."""

    name: str
    label: str
    kind: Literal[
        "text", "multiline", "integer", "number", "checkbox", "date", "datetime-local", "time", "select", "json"
    ]  # fmt: skip
    description: str
    choices: list[tuple[str, str]] = Field(description="(value, label) of each, of a select")
    required: bool
    default: str | None


class SentAttachment(_Sends):
    """A file to show: an address that can be fetched, or a `data:` URL that holds it."""

    url: str
    content_type: str
    name: str | None


class MessageCreated(_Sends):
    """wakeloop says something to a person. `id` is also the request's `webhook-id`, and the same when it is sent again."""

    type: Literal["message.created"] = "message.created"
    id: str
    to: str = Field(description="the person's address: the URL that is called")
    text: str = Field(description="all of it, for whoever shows nothing else")
    subject: str | None
    kind: str = Field(
        json_schema_extra={"enum": ["", "question", "approval"]},
        description='"" for what wants no answer, or one that is free',
    )
    buttons: list[ButtonBody]
    fields: list[FieldBody]
    submit: str | None = Field(description="with what `pressed` the fields' values are sent back")
    link: str | None = Field(description="the person's own page: to be shown to nobody else")
    token: str | None = Field(description="to be sent back with an answer, where that is possible")
    thread: list[str] = Field(description="ids of the conversation so far, oldest first")
    attachments: list[SentAttachment]


class MessageAmended(_Sends):
    """What was said as `id` is to be shown as `text` from now on, without buttons and fields. A message that is gone is
    no error."""

    type: Literal["message.amended"] = "message.amended"
    id: str = Field(description="the id with which the message was answered, else its own")
    to: str
    text: str


class _Comes(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True
    )


class ReceivedAttachment(_Comes):
    """A file that came with a message: an address (http, https), or a `data:` URL that holds it."""

    url: str = Field(pattern=r"^(?:https?://|data:)", json_schema_extra={"format": "uri"})
    content_type: str | None = Field(default=None, min_length=1, max_length=200)
    name: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if is_data_url(self.url):
            read_data_url(self.url)
        elif len(self.url) > MAX_URL:
            raise ValueError(f"an address has at most {MAX_URL} characters")
        return self


class MessageReceived(_Comes):
    """A person says something. Something must be said: `text`, `pressed`, `values` or `attachments`."""

    type: Literal["message.received"]
    id: Id = Field(description="unique among all messages: one that comes again changes nothing")
    from_: str = Field(
        alias="from",
        min_length=1,
        max_length=MAX_URL,
        description="the person's address, as in wakeloop.toml",
    )
    text: str = Field(default="", max_length=MAX_TEXT)
    reply_to: Id | None = Field(default=None, description="the id of our message that this one answers")
    pressed: Id | None = Field(default=None, description="the `value` of the button that was pressed")
    values: dict[str, str] | None = Field(
        default=None, max_length=MAX_VALUES, description="what was filled in, by the field's name"
    )
    token: str | None = Field(
        default=None, max_length=2_000, description="the token of the message that is answered"
    )
    thread: Id | None = Field(default=None, description="your own name of the conversation")
    subject: str | None = Field(default=None, max_length=1_000)
    attachments: list[ReceivedAttachment] = Field(default=[], max_length=MAX_ATTACHMENTS)
    automatic: bool = Field(default=False, description="a machine answered: it answers nothing")

    @model_validator(mode="after")
    def _check_said(self) -> Self:
        if not (self.text.strip() or self.pressed or self.values or self.attachments):
            raise ValueError("nothing is said: there is no text, pressed, values or attachments")
        return self


class MessageStatus(_Comes):
    """How far a message of ours has come. Reports may come twice, and in any order."""

    type: Literal["message.status"]
    id: Id = Field(description="the id with which the message was answered, else its own")
    status: Literal["sent", "delivered", "failed"]
    error: str | None = Field(default=None, max_length=1_000, description="what went wrong, if it failed")


Comes: TypeAlias = Annotated[MessageReceived | MessageStatus, Field(discriminator="type")]
_COMES: TypeAdapter[MessageReceived | MessageStatus] = TypeAdapter(Comes)


def created(message: Outgoing) -> dict[str, Any]:
    """What is posted of a message."""
    body = MessageCreated(
        id=message.key,
        to=message.address,
        text=message.text,
        subject=message.subject,
        kind=message.kind,
        buttons=[ButtonBody.model_validate(button) for button in message.buttons],
        fields=[FieldBody.model_validate(one) for one in message.fields],
        submit=message.submit,
        link=message.link,
        token=message.token,
        thread=list(message.thread),
        attachments=[SentAttachment.model_validate(file) for file in message.attachments],
    )
    return body.model_dump(mode="json")


def read_body(body: bytes) -> MessageReceived | MessageStatus:
    """What a body says; what databases refuse, U+0000 and half surrogates, is replaced. Raises InvalidWebhook (400) with what is wrong
    with it, of which nothing is repeated but the names of its parts."""
    said = read_json(body)
    try:
        return _COMES.validate_python(said)
    except ValidationError as error:
        raise InvalidWebhook(f"The body is none of ours: {_problems(error)}.", status=400) from None


def event(said: MessageReceived | MessageStatus, address: str) -> Incoming | DeliveryUpdate:
    """It in the terms of the port; `address` is that of a message's sender in its canonical form."""
    raw = said.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(said, MessageStatus):
        return DeliveryUpdate(
            provider_id=said.id, status=DeliveryStatus(said.status), error=said.error, raw=raw
        )
    for attachment in raw.get("attachments", ()):
        if is_data_url(attachment["url"]):
            attachment["url"] = "data:…"  # its bytes are kept once, as a file
    attached = [file for file in said.attachments if not is_data_url(file.url)]
    held = [file for file in said.attachments if is_data_url(file.url)]
    return Incoming(
        provider_id=said.id,
        address=address,
        text=said.text,
        subject=said.subject,
        thread=said.thread,
        reply_to=said.reply_to,
        pressed=said.pressed,
        values=said.values,
        token=said.token,
        attachments=tuple(_attachment(file) for file in attached),
        files=tuple(_file(file, number) for number, file in enumerate(held, start=1)),
        automatic=said.automatic,
        raw=raw,
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of all four bodies."""
    _, found = TypeAdapter.json_schemas(
        [
            (name, "validation", TypeAdapter(model))
            for name, model in (
                ("created", MessageCreated),
                ("amended", MessageAmended),
                ("received", MessageReceived),
                ("status", MessageStatus),
            )
        ],
        title="What wakeloop's webhook channel and a chat system of one's own tell each other",
    )
    kinds = [MessageCreated, MessageAmended, MessageReceived, MessageStatus]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds],
        **found,
    }


def _attachment(file: ReceivedAttachment) -> Attachment:
    if file.content_type is None:
        return Attachment(url=file.url, name=file.name)
    return Attachment(url=file.url, content_type=file.content_type, name=file.name)


def _file(file: ReceivedAttachment, number: int) -> File:
    content_type, data = read_data_url(file.url)
    return File(name=file.name or f"file-{number}", content_type=file.content_type or content_type, data=data)


def _problems(error: ValidationError) -> str:
    told = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False)[
        :PROBLEMS_TOLD
    ]:
        where = ".".join(str(part) for part in problem["loc"][1:])
        words = str(problem["msg"]).removeprefix("Value error, ")
        told.append((f"{where}: {words}" if where else words)[:PROBLEM_LENGTH])
    return "; ".join(told)
