"""CloudEvents 1.0 over HTTP as signals: structured, batched and binary mode, read as strictly as the specification says.

The sources: "spec" is CloudEvents 1.0.2 (cloudevents/spec.md), "JSON" its JSON event format, "HTTP" its HTTP protocol
binding. The `cloudevents` package is not used: it makes up an `id` and a `time` that are missing, which would break
counting an event once, and takes malformed JSON for a text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError

from wakeloop.events import Signal
from wakeloop.web.api_body import is_json, keep, media_type, read_json
from wakeloop.web.api_problems import Refused

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
BATCH_LIMIT = 100
TEXT_LIMIT = 1000
IDENTITY_LIMIT_BYTES = 2000
"""Of source and id together: the store has them in an index."""

_REQUIRED = ("specversion", "id", "source", "type")
_KNOWN = frozenset({*_REQUIRED, "datacontenttype", "dataschema", "subject", "time", "data", "data_base64"})
_ATTRIBUTE = re.compile(r"[a-z0-9]+")
# RFC 3339, section 5.6; pydantic would take a number too.
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

Now = Callable[[], datetime]


def read_events(headers: Mapping[str, str], body: bytes, now: Now) -> list[Signal]:
    """The events of an HTTP message, as its Content-Type says (HTTP 3): one, or those of a batch. now: the time of an
    event that says none.

    Raises Refused: 415 for what is no CloudEvent, 422 with what is wrong where."""
    kind = media_type(headers.get("content-type", ""))
    if kind == BATCH:
        events = read_json(body)
        if not isinstance(events, list):
            _refuse((), "a batch is a list of events")
        if len(events) > BATCH_LIMIT:
            raise Refused(413, f"a batch is at most {BATCH_LIMIT} events, not {len(events)}")
        return [_structured(event, (number,), now) for number, event in enumerate(events)]
    if kind == STRUCTURED:
        return [_structured(read_json(body) if body else None, (), now)]
    if kind.startswith("application/cloudevents"):
        raise Refused(415, f"{kind} is not taken here: send {STRUCTURED} or {BATCH}")
    if "ce-specversion" in headers:
        return [_binary(headers, kind, body, now)]
    raise Refused(
        415,
        f"this is no CloudEvent: send {STRUCTURED}, {BATCH}, or the attributes as ce- headers (binary mode)",
    )


def _structured(event: Any, place: tuple[str | int, ...], now: Now) -> Signal:
    """An event in the JSON format (JSON 3)."""
    if not isinstance(event, dict):
        _refuse(place, "an event is an object")
    attributes: dict[str, str] = {}
    for name, value in event.items():
        if name in ("data", "data_base64") or value is None:  # null is as good as not there (JSON 2.2)
            continue
        if name in _KNOWN and not isinstance(value, str):
            _refuse((*place, name), "must be a text")
        if name not in _KNOWN:
            _check_extension(name, value, place)
            continue
        attributes[name] = value
    if "data_base64" not in event or event["data_base64"] is None:
        return _signal(attributes, event.get("data"), place, now)
    if event.get("data") is not None:
        _refuse((*place, "data_base64"), "data and data_base64 exclude each other")
    try:
        data = base64.b64decode(event["data_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        _refuse((*place, "data_base64"), "is no Base64 (RFC 4648)")
    return _signal(
        attributes, _data(data, attributes.get("datacontenttype"), (*place, "data_base64")), place, now
    )


def _binary(headers: Mapping[str, str], kind: str, body: bytes, now: Now) -> Signal:
    """An event whose attributes are headers (HTTP 3.1); its Content-Type is that of the data."""
    attributes: dict[str, str] = {}
    for header, value in headers.items():
        name = header.lower().removeprefix("ce-")
        if header.lower() == name:
            continue
        if name in ("data", "data_base64", "datacontenttype"):
            _refuse((header,), "is no attribute that a header may carry")
        text = _unescaped(header, value)
        if name in _KNOWN:
            attributes[name] = text
        else:
            _check_extension(name, text, ())
    content_type = headers.get("content-type")
    if content_type:
        attributes["datacontenttype"] = content_type
    return _signal(attributes, _data(body, content_type, ("data",)) if body else None, (), now)


def _unescaped(header: str, value: str) -> str:
    """A header's value as a text: without quotes, then percent-decoded once, as UTF-8 (HTTP 3.1.3.2)."""
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        text = unquote_to_bytes(value.encode("latin-1")).decode()
        keep(text)
    except ValueError:
        _refuse((header,), "is no percent-encoded text of UTF-8 that can be kept")
    return text


def _data(data: bytes, content_type: str | None, place: tuple[str | int, ...]) -> Any:
    """The event's data as a JSON value: of JSON (which is what no type means) the value, of text the text, and of
    anything else an object with its type and Base64."""
    kind = media_type(content_type or "application/json")
    if is_json(kind):
        try:
            return read_json(data)
        except ValueError as error:
            _refuse(place, f"is no JSON that can be taken: {error}")
    if kind.startswith("text/"):
        try:
            text = data.decode()
            keep(text)
        except ValueError:
            _refuse(place, "is no text of UTF-8 that can be kept")
        return text
    return {"datacontenttype": content_type, "data_base64": base64.b64encode(data).decode()}


def _check_extension(name: str, value: Any, place: tuple[str | int, ...]) -> None:
    """An extension attribute: it is checked (spec, "Naming Conventions" and "Type System"), and not kept."""
    if not _ATTRIBUTE.fullmatch(name):
        _refuse((*place, name), "is no name of an attribute: lower-case letters and digits only")
    if isinstance(value, bool | str):
        return
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        _refuse((*place, name), "must be a text, a whole number of 32 bits, true or false")


def _signal(attributes: Mapping[str, str], data: Any, place: tuple[str | int, ...], now: Now) -> Signal:
    for name in _REQUIRED:
        if not attributes.get(name):
            _refuse((*place, name), "is required, and not empty")
    if attributes["specversion"] != "1.0":
        _refuse((*place, "specversion"), "only 1.0 is taken here")
    for name in ("subject", "dataschema", "datacontenttype", "time"):
        if attributes.get(name) == "":
            _refuse((*place, name), "must not be empty")
    for name, value in attributes.items():
        if len(value) > TEXT_LIMIT:
            _refuse((*place, name), f"is at most {TEXT_LIMIT} characters here")
    if len((attributes["source"] + attributes["id"]).encode()) > IDENTITY_LIMIT_BYTES:
        _refuse((*place, "id"), f"with its source, is at most {IDENTITY_LIMIT_BYTES:,} bytes here")
    time = attributes.get("time")
    if time is not None and not _TIMESTAMP.fullmatch(time):
        _refuse((*place, "time"), "is no timestamp of RFC 3339, such as 2026-11-02T14:00:00Z")
    try:
        return Signal.model_validate(
            {
                "type": attributes["type"], "source": attributes["source"], "id": attributes["id"],
                "subject": attributes.get("subject"), "time": time.upper() if time is not None else now(),
                "data": data,
            }
        )  # fmt: skip
    except ValidationError as error:
        found = error.errors()[0]
        _refuse((*place, *found["loc"]), found["msg"])


def _refuse(place: tuple[str | int, ...], reason: str) -> NoReturn:
    where = ".".join(map(str, place))
    raise Refused(422, f"{where}: {reason}" if where else reason, errors=[(["body", *place], reason)])
