"""How what `requests` fetched is kept in the journal, so that `step(requests.get)` is a step as any other."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator

if TYPE_CHECKING:
    from requests import Response


_RESPONSE = ("requests.models", "Response")


def journaled(annotation: Any) -> Any:
    """An annotation as pydantic takes it: with how a `requests.Response` is written and read, if it is that class.

    Kept are its status, reason, URL, headers, encoding and body; cookies, history and the request that was made are not.
    """
    # By its name: it may not be imported yet, or be in the middle of that in another thread.
    if (getattr(annotation, "__module__", ""), getattr(annotation, "__qualname__", "")) != _RESPONSE:
        return annotation
    return Annotated[annotation, PlainValidator(_load), PlainSerializer(_dump)]


def _dump(response: Response) -> dict[str, Any]:
    if response._content is False:
        raise ValueError("its body has not been read: leave stream=True out, or read it in the step")
    return {
        "status": response.status_code,
        "reason": response.reason,
        "url": response.url,
        "headers": dict(response.headers),
        "encoding": response.encoding,
        "body": base64.b64encode(response.content or b"").decode(),
    }


def _load(kept: dict[str, Any]) -> Response:
    from requests import Response

    response = Response()
    response.status_code = kept["status"]
    response.reason = kept["reason"]
    response.url = kept["url"]
    response.headers.update(kept["headers"])
    response.encoding = kept["encoding"]
    response._content = base64.b64decode(kept["body"])
    response._content_consumed = True
    return response
