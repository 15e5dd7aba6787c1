"""Which tests of the conformance suite an adapter is held to, and what they share."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol, TypeVar

import pytest

from wakeloop.channel import Capabilities, Channel, DeliveryStatus, DeliveryUpdate, Incoming, Outgoing
from wakeloop.errors import InvalidWebhook
from wakeloop.testing.channels.provider import Provider, Took

Test = TypeVar("Test", bound=Callable[..., object])
T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine of the adapter on the test's event loop."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


def needs(*traits: str) -> Callable[[Test], Test]:
    """Hold only those adapters to a test that have all of these traits (see `Suite.traits`)."""

    def mark(test: Test) -> Test:
        test.__dict__["needs"] = frozenset(traits)
        return test

    return mark


class Suite:
    """What is said of the adapter, and the fixtures of all tests. See `ChannelConformance`, which is what to derive
    from."""

    adapter: ClassVar[type[Channel]]
    capabilities: ClassVar[Capabilities | None] = None
    webhooks: ClassVar[bool] = True
    listening: ClassVar[bool] = False
    network: ClassVar[bool] = True
    says_when: ClassVar[bool] = True
    timed_signatures: ClassVar[bool] = False
    secret_setting: ClassVar[str | None] = None
    another_secret: ClassVar[str] = "another-secret"
    verdicts_only: ClassVar[bool] = False
    reports: ClassVar[Sequence[DeliveryStatus]] = (
        DeliveryStatus.SENT,
        DeliveryStatus.DELIVERED,
        DeliveryStatus.FAILED,
    )

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Take the tests away that do not concern the adapter, so that none is skipped at run time."""
        super().__init_subclass__(**arguments)
        if not hasattr(cls, "adapter"):
            return
        traits = cls.traits()
        for name in dir(cls):
            needed: frozenset[str] = getattr(getattr(cls, name), "needs", frozenset())
            if name.startswith("test_") and not needed <= traits:
                setattr(cls, name, None)

    @classmethod
    def can(cls) -> Capabilities:
        """What the adapter says it can do."""
        return cls.capabilities or cls.adapter.capabilities

    @classmethod
    def traits(cls) -> frozenset[str]:
        """The names of the capabilities that are true; `no_reconcile`, `no_idempotent`, `no_inbound`, `no_media` for
        those that are not; `max_length` and `secret_setting` if there is one; the suite's own flags that are set; `checking`, `guiding` if the
        adapter implements these protocols."""
        can = cls.can()
        flags = {
            field.name: getattr(can, field.name) is True
            for field in dataclasses.fields(can)
            if isinstance(getattr(can, field.name), bool)
        }
        found = {name if value else f"no_{name}" for name, value in flags.items()}
        found |= {
            name
            for name in ("webhooks", "listening", "network", "says_when", "timed_signatures")
            if getattr(cls, name)
        }
        found |= {
            trait for trait, method in _PROTOCOLS.items() if callable(getattr(cls.adapter, method, None))
        }
        if can.max_length is not None:
            found.add("max_length")
        if cls.secret_setting is not None:
            found.add("secret_setting")
        if cls.webhooks or cls.listening:
            found.add("arrivals")
        return frozenset(found)

    @pytest.fixture
    def provider(self) -> Provider:
        """Override this: the stand-in, running."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture `provider`: define one that yields the stand-in for its provider"
        )

    @pytest.fixture
    def run(self, provider: Provider) -> Iterator[Run]:
        """An event loop for the test; the adapter is closed on it at the end."""
        with asyncio.Runner() as runner:
            yield runner.run
            runner.run(provider.channel.close())


_PROTOCOLS = {"checking": "check", "guiding": "guide"}


def outgoing(
    provider: Provider, text: str = "Ship it?", *, key: str = "d1", age: float = 0.0, **facts: Any
) -> Outgoing:
    """A delivery to the person, claimed `age` seconds ago, who wrote a minute before that."""
    claimed_at = datetime.now(UTC) - timedelta(seconds=age)
    facts = {"heard_at": claimed_at - timedelta(minutes=1), **facts}
    return Outgoing(
        key=key, address=facts.pop("address", provider.address), text=text, claimed_at=claimed_at, **facts
    )


def failure(run: Run, coroutine: Coroutine[Any, Any, object]) -> Exception:
    """What a coroutine raised; it is a failure of the test if it raised nothing."""
    try:
        result = run(coroutine)
    except Exception as error:
        return error
    raise AssertionError(f"it must raise, but it returned {result!r}")


def is_4xx(error: InvalidWebhook, what: str) -> None:
    """Fail unless what was refused was refused with a 4xx status."""
    assert 400 <= error.status < 500, f"{what} must be refused with a 4xx status, not {error.status}"


def only(took: Sequence[Took]) -> Took:
    """The one message that the provider has taken."""
    assert len(took) == 1, f"the provider must have taken one message, not {len(took)}"
    return took[0]


def the_message(items: Sequence[Incoming | DeliveryUpdate]) -> Incoming:
    """The one message among what came in."""
    messages = [item for item in items if isinstance(item, Incoming)]
    assert len(messages) == 1, f"one message came in, but parse made {len(messages)} of it: {items!r}"
    return messages[0]


def the_update(items: Sequence[Incoming | DeliveryUpdate]) -> DeliveryUpdate:
    """The one report of a delivery among what came in."""
    updates = [item for item in items if isinstance(item, DeliveryUpdate)]
    assert len(updates) == 1, f"one receipt came in, but parse made {len(updates)} of it: {items!r}"
    return updates[0]
