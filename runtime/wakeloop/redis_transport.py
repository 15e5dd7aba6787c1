"""kombu's transports for Redis, with one client for each channel.

kombu makes a client for every command that it sends, and redis-py takes longer to make one than a command takes.
"""

# kombu is typed in part.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

from kombu.transport import redis
from redis.exceptions import ConnectionError, TimeoutError


class Channel(redis.Channel):
    """A channel of a Redis server.

    A client has no connection of its own: it takes one of its pool for each command, whatever thread it is of. So what
    kombu does about a lost connection or a master that moved happens in the pool, and a new pool has a new client."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # of which there is one anyhow, to wait for messages with
            return super()._create_client(asynchronous=True)
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()
        return kept

    def queue_delete(self, *args: Any, **options: Any) -> Any:
        """A channel that is closed because the server went away can delete no queue there: an error would keep it half open,
        and Celery would put it on the log as a mistake of its own, at length."""
        try:
            return super().queue_delete(*args, **options)
        except (ConnectionError, TimeoutError):
            if not self._closing:
                raise


class SentinelChannel(Channel, redis.SentinelChannel):
    """A channel of the server that Redis Sentinel says is the master."""


class Transport(redis.Transport):
    """The transport for `redis://` and `rediss://`."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """The transport for `sentinel://`."""

    Channel = SentinelChannel
