"""A web server that treats webhooks as the runtime does: verify, parse, and only then answer."""

from __future__ import annotations

from collections.abc import Callable

from tests.http_kit import Peer, Reply

from wakeloop.channel import Channel, DeliveryUpdate, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.testing.stand_in import Asked


class Receiver(Peer):
    """What came, in `events`, and what people said of it, in `said`; the requests that were taken, in `requests`.

    public_url: where the provider believes to call, if that is not `url`. then: called with each request that was taken,
    once it is answered."""

    def __init__(
        self,
        channel: Channel,
        *,
        public_url: str | None = None,
        then: Callable[[RawRequest], object] | None = None,
    ) -> None:
        super().__init__(self._take)
        self.url += f"/hooks/{channel.name}"
        self.events: list[Incoming | DeliveryUpdate] = []
        self.requests: list[RawRequest] = []
        self._channel = channel
        self._called = public_url or self.url
        self._then = then

    @property
    def said(self) -> list[Incoming]:
        return [event for event in self.events if isinstance(event, Incoming)]

    def _take(self, asked: Asked) -> Reply:
        request = RawRequest(method=asked.method, url=self._called, headers=asked.headers, body=asked.body)
        try:
            self._channel.verify(request)
            self.events += self._channel.parse(request)
            response = self._channel.respond(request)
        except InvalidWebhook as error:
            return Reply(status=error.status, body=str(error).encode(), content_type="text/plain")
        self.requests.append(request)
        return Reply(
            status=response.status,
            body=response.body,
            content_type=response.content_type,
            then=None if self._then is None else lambda: self._then(request),
        )
