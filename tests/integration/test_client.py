"""The clients against a real server over HTTP: people decide, servers restart, networks break."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel
from tests.client_kit import Site, served
from tests.servers import until

from wakeloop import Approval, AsyncClient, Client, Denied, RequestCancelled
from wakeloop.errors import NotAllowed, NotFound, NotPossible
from wakeloop.tokens import Scope

Aside = Callable[..., Future[Any]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server that runs."""
    with served(tmp_path) as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    """A client with a token for requests."""
    with Client(site.url, site.token()) as client:
        yield client


@pytest.fixture
def aside() -> Aside:
    """Calls a function in a thread, which does not keep a test that fails from ending."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future

    return call


class Line(BaseModel):
    item: str
    count: int


# ---------------------------------------------------------------------- approvals


def test_a_gated_function_runs_when_a_person_says_yes(site: Site, client: Client, aside: Aside) -> None:
    """They see every argument, and nothing runs before; the comment of a no reaches the caller."""
    ran: list[tuple[int, int]] = []

    @client.require_approval("cfo", reject_options=["too large"])
    def multiply(a: int, b: int = 2) -> int:
        """Multiply two numbers."""
        ran.append((a, b))
        return a * b

    product = aside(multiply, 21)
    asked = site.asked()
    assert (asked.action, asked.args, asked.to, asked.maker) == ("multiply", {"a": 21, "b": 2}, "cfo", "test")
    assert ran == [] and not product.done()
    site.approve(asked, comment="sure")
    assert product.result(10) == 42 and ran == [(21, 2)]

    product = aside(multiply, 21, 10**6)
    site.deny(site.asked(), comment="use a calculator", option="too large")
    with pytest.raises(Denied) as denied:
        product.result(10)
    assert (denied.value.comment, denied.value.option, denied.value.by) == (
        "use a calculator",
        "too large",
        "cfo",
    )
    assert ran == [(21, 2)]


def test_each_tool_has_its_own_approvers(site: Site, client: Client, aside: Aside) -> None:
    """Whoever was not asked cannot decide."""

    @client.require_approval("finance")
    def pay() -> str:
        return "paid"

    @client.require_approval(["cto", "cfo"], quorum=2)
    def deploy() -> str:
        return "deployed"

    paid, deployed = aside(pay), aside(deploy)
    payment = site.asked(lambda one: one.action == "pay")
    deployment = site.asked(lambda one: one.action == "deploy")
    with pytest.raises(AssertionError):
        site.approve(payment, by="cto")
    site.approve(payment, by="cfo")
    site.approve(deployment, by="cto")
    time.sleep(0.5)
    assert paid.result(10) == "paid" and not deployed.done()
    site.approve(deployment, by="cfo")
    assert deployed.result(10) == "deployed"


def test_people_may_edit_what_is_done_if_they_are_let(site: Site, client: Client, aside: Aside) -> None:
    """The function gets their arguments, in its own types."""

    @client.require_approval("cfo", edit=True)
    def order(lines: list[Line], note: str = "") -> str:
        return f"{lines[0].count} {lines[0].item}"

    ordered = aside(order, [Line(item="chairs", count=9)])
    site.approve(site.asked(), args={"lines": [{"item": "chairs", "count": 4}], "note": "enough"})
    assert ordered.result(10) == "4 chairs"


def test_an_approval_of_any_action_tells_who_gave_it(site: Site, client: Client, aside: Aside) -> None:
    """Whatever the numbers are: the digest of what comes back is that of what was asked."""
    args = {
        "amount": 1.0,
        "big": 10**30,
        "small": 1e-9,
        "text": "é\u2028",
        "nested": {"b": [1, None, True], "a": 0.1},
    }

    approved = aside(client.approve, "cfo", "do it", args)
    site.approve(site.asked(), comment="fine")

    approval: Approval = approved.result(10)
    assert (approval.args, approval.by, approval.comment, approval.approvers) == (
        args,
        "cfo",
        "fine",
        ("cfo",),
    )


# ---------------------------------------------------------------------- questions


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Order(BaseModel):
    size: Size
    count: int


@pytest.mark.parametrize(
    ("type_", "words", "value"),
    [
        (str, " Blue. ", "Blue."),
        (int, "1,200", 1200),
        (bool, "yep", True),
        (Size, "LARGE", Size.LARGE),
        (list[int], "1, 2, 3", [1, 2, 3]),
        (Order, "size: small\ncount: 3", Order(size=Size.SMALL, count=3)),
    ],
    ids=str,
)
def test_a_persons_words_become_a_value_of_the_type(
    site: Site, client: Client, aside: Aside, type_: Any, words: str, value: Any
) -> None:
    """The server reads them by the type's schema, the client validates with the type."""
    answer = aside(client.ask, "alice", "Well?", answer=type_)
    site.reply(site.asked(), words)
    assert answer.result(10).value == value


def test_an_option_is_chosen_by_its_number(site: Site, client: Client, aside: Aside) -> None:
    """As by SMS."""
    answer = aside(client.ask, "alice", "Which day?", options=["Monday", "Friday"])
    site.reply(site.asked(), "2")
    assert answer.result(10).value == "Friday"


def test_a_value_that_only_the_type_refuses_is_asked_again(site: Site, client: Client, aside: Aside) -> None:
    """With the reason, of the same person."""

    class Even(BaseModel):
        count: int

        def model_post_init(self, context: Any) -> None:
            if self.count % 2:
                raise ValueError("an even number, please")

    answer = aside(client.ask, ["alice", "cfo"], "How many?", answer=Even, timeout=3600)
    first = site.asked()
    site.reply(first, '{"count": 3}')
    second = site.asked()
    assert "an even number, please" in second.text and second.to == "alice"
    site.reply(second, '{"count": 4}')
    assert answer.result(10).value.count == 4


def test_a_person_is_a_tool_by_name_and_description(site: Site, client: Client, aside: Aside) -> None:
    """From the settings, and no address is among it."""
    tool = client.human_as_tool("alice")
    answer = aside(tool, message="What do they want?")
    site.reply(site.asked(), "Faster horses.")

    assert answer.result(10) == "Faster horses."
    assert "Alice is: Knows the customers." in (tool.__doc__ or "") and "console" not in (tool.__doc__ or "")
    assert [card.id for card in client.contacts()] == ["alice", "cfo", "cto"]


# ---------------------------------------------------------------------- ids


def test_two_programs_with_one_id_wait_for_one_request(site: Site, client: Client, aside: Aside) -> None:
    """And a third that comes after the decision has it at once."""

    @client.require_approval("cfo", id=lambda invoice: invoice)
    def pay(invoice: str) -> str:
        return f"paid {invoice}"

    both = [aside(pay, "INV-7") for _ in range(2)]
    asked = site.asked()
    time.sleep(0.5)
    assert len(site.all()) == 1
    site.approve(asked)

    assert [one.result(10) for one in both] == ["paid INV-7"] * 2
    assert pay("INV-7") == "paid INV-7"
    assert len(site.all()) == 1


def test_an_id_is_good_for_one_content(site: Site, client: Client) -> None:
    """The same again gives the same request, something else is refused; nothing is asked of anybody."""
    id = uuid4()
    made = client.create("alice", "Ready?", id=id, state={"n": 1})
    same = client.create("alice", "Ready?", id=id, state={"n": 1})

    assert made.id == same.id == str(id) and made.state == {"n": 1}
    with pytest.raises(NotPossible, match=str(id)):
        client.create("alice", "Steady?", id=id)
    assert len(site.all()) == 1


def test_requests_are_made_listed_looked_at_and_cancelled(site: Site, client: Client) -> None:
    """Newest first, page by page; a cancelled one is cancelled once."""
    made = [client.create("alice", f"Question {n}").id for n in range(5)]
    first = client.requests(limit=2)
    assert [one.id for one in first] == [made[4], made[3]]
    assert [one.id for one in client.requests(limit=2, before=first[-1].id)] == [made[2], made[1]]

    assert client.cancel(made[0], "never mind").status == "cancelled"
    again = client.cancel(made[0], "really")
    assert again.outcome is not None and again.outcome.reason == "never mind"
    assert [one.id for one in client.requests(status="cancelled", contact="alice")] == [made[0]]
    assert client.get(made[1]).is_open and client.wait(made[1], timeout=0.1).is_open
    with pytest.raises(NotFound):
        client.get(uuid4())


def test_a_request_that_is_cancelled_elsewhere_ends_the_wait(
    site: Site, client: Client, aside: Aside
) -> None:
    """With the reason."""
    answer = aside(client.ask, "alice", "Ready?")
    client.cancel(site.asked().id, "the plan changed")
    with pytest.raises(RequestCancelled, match="the plan changed"):
        answer.result(10)


# ---------------------------------------------------------------------- waiting


def test_a_wait_survives_a_restart_of_the_server(site: Site, client: Client, aside: Aside) -> None:
    """The answer that was given after the restart arrives; nobody is asked twice."""
    answer = aside(client.ask, "alice", "Ready?")
    asked = site.asked()
    site.stop()
    time.sleep(1)
    assert not answer.done()
    site.start()
    site.reply(asked, "Steady.")

    assert answer.result(20).value == "Steady." and len(site.all()) == 1


def test_a_question_can_be_asked_while_the_server_is_away(site: Site, client: Client, aside: Aside) -> None:
    """It is made when the server is back, once."""
    site.stop()
    answer = aside(client.ask, "alice", "Ready?")
    time.sleep(1)
    site.start()
    site.reply(site.asked(), "Steady.")

    assert answer.result(20).value == "Steady." and len(site.all()) == 1


def test_an_async_wait_survives_a_restart_too(site: Site) -> None:
    """The loop is free meanwhile."""
    token = site.token()

    async def main() -> str:
        async with AsyncClient(site.url, token) as client:
            waiting = asyncio.create_task(client.ask("alice", "Ready?"))
            asked = await asyncio.to_thread(site.asked)
            await asyncio.to_thread(site.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(site.start)
            await asyncio.to_thread(site.reply, asked, "Steady.")
            return (await waiting).value

    assert asyncio.run(main()) == "Steady."


def test_many_wait_at_once_for_different_people(site: Site) -> None:
    """Each gets its own answer, in whatever order they come."""
    token = site.token()

    async def main() -> list[int]:
        async with AsyncClient(site.url, token) as client:

            async def ask(number: int) -> int:
                return (await client.ask(["alice", "cfo", "cto"][number % 3], f"{number}?", answer=int)).value

            def reply() -> None:
                until(lambda: len(site.all("open")) == 10)
                for request in reversed(site.all("open")):
                    site.reply(request, request.text.removesuffix("?"), by=str(request.to))

            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(ask(number)) for number in range(10)]
                group.create_task(asyncio.to_thread(reply))
            return [wait.result() for wait in waits]

    assert asyncio.run(main()) == list(range(10))


def test_a_timeout_around_a_wait_withdraws_the_question(site: Site) -> None:
    """At the server, so that nobody answers in vain."""
    token = site.token()

    async def main() -> None:
        async with AsyncClient(site.url, token) as client, asyncio.timeout(0.5):
            await client.ask("alice", "Ready?")

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    [request] = until(lambda: site.all("cancelled"))
    assert request.outcome is not None and "given up" in (request.outcome.reason or "")


# ---------------------------------------------------------------------- refusals


def test_a_contact_who_is_not_there_is_not_found(site: Site, client: Client) -> None:
    """With the name that was meant, if one is near."""
    with pytest.raises(NotFound, match="alcie"):
        client.ask("alcie", "Ready?")


def test_a_token_is_good_for_what_its_scopes_say(site: Site) -> None:
    """A wrong one is refused at once, one that lacks a scope by naming it."""
    with Client(site.url, "wl_wrong") as wrong, pytest.raises(NotAllowed) as refused:
        wrong.ask("alice", "Ready?")
    assert vars(refused.value)["status"] == 401

    reader = site.token(Scope.REQUESTS_READ, name="reader")
    with Client(site.url, reader) as reads, pytest.raises(NotAllowed, match="requests:write"):
        reads.ask("alice", "Ready?")


# ---------------------------------------------------------------------- agents


def test_agents_are_started_and_signalled_once_by_id(site: Site) -> None:
    """What a worker makes of it is not this test's; the run is there once, and so is the signal."""
    token = site.token(Scope.AGENTS_START, Scope.RUNS_READ, Scope.SIGNALS_SEND)
    with Client(site.url, token) as client:
        run = client.start("echo", {"n": 1}, key="k", id="today")
        assert client.start("echo", {"n": 1}, key="k", id="today") == run
        found = client.run(run, wait=0.1)
        assert (found.agent, found.key, found.status, found.is_open) == ("echo", "k", "queued", True)
        assert client.session("echo", "k").state is None
        assert client.signal("invoice.paid", {"n": 7}, id="e1") == client.signal(
            "invoice.paid", {"n": 7}, id="e1"
        )
        with pytest.raises(NotFound):
            client.start("nobody")
