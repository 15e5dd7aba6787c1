"""Signed links: what stands in the address of a person's page, and in what they send back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner, URLSafeTimedSerializer

from wakeloop.errors import WakeloopError

LINK_DAYS = 30
_PAGE, _REPLY = "page", "reply"


class InvalidLink(WakeloopError):
    """A link or token is not one of ours, was changed, or is too old. Facts: `expired`."""

    expired: bool = False


class Links:
    """Makes and reads links. A page link lets whoever holds it act as one contact, for LINK_DAYS; a reply token names
    one request to one contact, and is good for nothing else.

    keys: the signing keys, newest first; links that were signed with an older one are read as well. They are asked for
    when a link is made or read, not before."""

    def __init__(
        self, *, keys: Callable[[], Sequence[str]], base_url: str | None, now: Callable[[], datetime]
    ) -> None:
        self._keys = keys
        self.base_url = base_url
        self._now = now

    def page(
        self, contact: str, request: UUID | None = None, *, signed_at: datetime | None = None
    ) -> str | None:
        """The address of a contact's page, at one request if that is given; None if nobody outside could reach it.

        signed_at: from when it is good; now by default. With the same time it is the same address."""
        if self.base_url is None:
            return None
        at = f"#request-{request}" if request is not None else ""
        return f"{self.base_url.rstrip('/')}/people/{self.page_token(contact, signed_at=signed_at)}{at}"

    def page_token(self, contact: str, *, signed_at: datetime | None = None) -> str:
        """What stands in the address of a contact's page."""
        return self._serializer(_PAGE, signed_at).dumps(contact)

    def reply_token(self, contact: str, request: UUID) -> str:
        """What a channel may hide in a message for the reply to bring back: it names the request and the contact."""
        return self._serializer(_REPLY).dumps([contact, request.hex])

    def read_page(self, token: str) -> str:
        """The contact whose page it is. Raises InvalidLink."""
        return str(self._read(_PAGE, token))

    def read_reply(self, token: str) -> tuple[str, UUID]:
        """The contact and the request that a reply is to. Raises InvalidLink."""
        try:
            contact, request = self._read(_REPLY, token)
            return str(contact), UUID(request)
        except (TypeError, ValueError) as error:
            raise InvalidLink("that is no token of ours") from error

    def seal(self, purpose: str, value: Any) -> str:
        """A JSON value as text that nobody else can make or change; anybody can read it."""
        return self._serializer(f"sealed {purpose}").dumps(value)

    def unseal(self, purpose: str, text: str, *, life: timedelta) -> Any:
        """The value that was sealed for this purpose, not longer ago than `life`. Raises InvalidLink."""
        return self._read(f"sealed {purpose}", text, life)

    def _read(self, purpose: str, token: str, life: timedelta = timedelta(days=LINK_DAYS)) -> Any:
        try:
            return self._serializer(purpose).loads(token, max_age=int(life.total_seconds()))
        except SignatureExpired as error:
            raise InvalidLink("this link is too old: ask for a new one", expired=True) from error
        except BadSignature as error:
            raise InvalidLink("this link is not one of ours, or was changed on its way") from error

    def _serializer(self, purpose: str, signed_at: datetime | None = None) -> URLSafeTimedSerializer:
        now = self._now if signed_at is None else lambda: signed_at

        class Signer(TimestampSigner):
            """Goes by the database's clock."""

            def get_timestamp(self) -> int:
                return int(now().timestamp())

        return URLSafeTimedSerializer(list(reversed(self._keys())), salt=f"wakeloop {purpose}", signer=Signer)
