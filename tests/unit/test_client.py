"""The clients without a server: what they send, what they make of answers, and what they wait out."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4, uuid5

import httpx2
import pytest
from pydantic import BaseModel, Field

import wakeloop
from wakeloop import (
    ApprovalExpired,
    AsyncClient,
    Client,
    ConfigurationError,
    Denied,
    InvalidArguments,
    NoAnswer,
    RequestCancelled,
    Undeliverable,
)
from wakeloop.calls import digest
from wakeloop.client import calling
from wakeloop.client.calling import Caller
from wakeloop.client.plans import IDS, Plans, request_id
from wakeloop.client.wire import Lost, Pause, Reply, Send, api_url
from wakeloop.errors import ApiError, NotAllowed, NotFound, NotPossible, NotSerializable, Unreachable

URL = "http://wakeloop.test"
AT = "2026-11-02T14:00:00Z"

Decide = Callable[[dict[str, Any]], dict[str, Any] | None]


def answers(value: Any, text: str = "yes indeed") -> Decide:
    """A person who answers."""
    return lambda asked: {"status": "answered", "text": text, "value": value, "by": "alice", "channel": "sms"}


def approves(**changed: Any) -> Decide:
    """A person who approves, with these arguments changed."""

    def decide(asked: dict[str, Any]) -> dict[str, Any]:
        args = {**asked["args"], **changed}
        return {
            "status": "approved", "by": "cfo", "channel": "sms", "args": args, "edited": bool(changed),
            "approvers": ["cfo"], "digest": digest(asked["action"], args), "comment": "go ahead",
        }  # fmt: skip

    return decide


def ends(status: str, **facts: Any) -> Decide:
    """Any other end."""
    return lambda asked: {"status": status, **facts}


class Office:
    """A server with people behind it, who do one after the other what they are told, and then nothing."""

    def __init__(self, *decisions: Decide) -> None:
        self.decisions = list(decisions)
        self.requests: dict[str, dict[str, Any]] = {}
        self.made: list[dict[str, Any]] = []
        self.calls: list[httpx2.Request] = []
        self.cancelled: list[str] = []
        self.troubles: list[httpx2.Response | Exception] = []
        self.polls = 0

    def __call__(self, call: httpx2.Request) -> httpx2.Response:
        self.calls.append(call)
        if self.troubles:
            trouble = self.troubles.pop(0)
            if isinstance(trouble, httpx2.Response):
                return trouble
            raise trouble
        path = call.url.path.removeprefix("/api/v1")
        match call.method, path.strip("/").split("/"):
            case "POST", ["requests"]:
                return self._make(json.loads(call.content))
            case "GET", ["requests", id] if id in self.requests:
                return self._look(id)
            case "POST", ["requests", id, "cancel"]:
                self.cancelled.append(id)
                return httpx2.Response(200, json={})
            case "GET", ["contacts"]:
                card = {
                    "id": "marketing",
                    "name": "Mara",
                    "description": "Head of growth",
                    "languages": [],
                    "tz": "UTC",
                }
                return httpx2.Response(200, json={"contacts": [card]})
        return problem(404, f"there is no {path}")

    def _make(self, body: dict[str, Any]) -> httpx2.Response:
        id = body["id"]
        known = next((one for one in self.made if one["id"] == id), None)
        if known is not None:
            return (
                httpx2.Response(200, json=self.requests[id])
                if known == body
                else problem(409, "asks something else")
            )
        self.made.append(body)
        to = body["to"] if isinstance(body["to"], list) else [body["to"]]
        self.requests[id] = {
            **body,
            "to": to,
            "status": "open",
            "code": "A1",
            "outcome": None,
            "expires_at": None,
        }
        if "timeout" in body:
            expires = datetime.fromisoformat(AT) + timedelta(seconds=body["timeout"])
            self.requests[id]["expires_at"] = expires.isoformat()
        return httpx2.Response(201, json=self.requests[id])

    def _look(self, id: str) -> httpx2.Response:
        self.polls += 1
        request = self.requests[id]
        decision = self.decisions.pop(0)(request) if request["status"] == "open" and self.decisions else None
        if decision is not None:
            request["outcome"] = {"at": AT, **decision}
            request["status"] = decision["status"]
        return httpx2.Response(200, json=request)


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **facts: Any) -> httpx2.Response:
    body = {"type": "about:blank", "title": "No", "status": status, "detail": detail, **facts}
    return httpx2.Response(status, json=body, headers=headers)


@contextmanager
def client_of(office: Office, **options: Any) -> Iterator[Client]:
    with Client(URL, "wl_secret", transport=httpx2.MockTransport(office), **options) as client:
        yield client


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short."""
    monkeypatch.setattr(calling, "FIRST_PAUSE_SECONDS", 0.001)


# ---------------------------------------------------------------------- the names


def test_the_clients_are_exported_without_an_http_library_at_import() -> None:
    """Agents run where no HTTP library is needed; the names are in `__all__` and resolve on first use."""
    code = "import sys, wakeloop; assert 'httpx2' not in sys.modules; wakeloop.Client; assert 'httpx2' in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"Client", "AsyncClient"} <= set(wakeloop.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Clients'"):
        wakeloop.Clients  # noqa: B018


def test_the_twins_have_the_same_methods_and_parameters() -> None:
    """What is learned of one holds for the other."""
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_"):
            continue
        twin = getattr(AsyncClient, name)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters, name
        assert inspect.iscoroutinefunction(twin) == (name not in ("require_approval", "human_as_tool")), name


# ---------------------------------------------------------------------- asking


def test_a_question_is_sent_whole_and_its_answer_comes_back() -> None:
    """Every option is in the body, durations in seconds, and the token in its header."""
    office = Office(answers("Monday"))
    with client_of(office) as client:
        answer = client.ask(
            ["alice", "bob"], "Which day?", options=["Monday", "Friday"], timeout=timedelta(hours=1), remind=600,
            escalate=[(timedelta(minutes=30), "carol", "email")], via="sms", subject="Day", urgent=True,
            state={"n": 1},
        )  # fmt: skip

    [body] = office.made
    UUID(body.pop("id"))
    assert body == {
        "kind": "question", "to": ["alice", "bob"], "text": "Which day?", "subject": "Day", "via": "sms",
        "urgent": True, "options": ["Monday", "Friday"], "timeout": 3600.0, "remind": 600.0,
        "escalate": [{"after": 1800.0, "to": "carol", "via": "email"}], "state": {"n": 1},
    }  # fmt: skip
    assert (answer.text, answer.value, answer.by, answer.channel) == ("yes indeed", "Monday", "alice", "sms")
    assert answer.at == datetime(2026, 11, 2, 14, tzinfo=UTC)
    assert {call.headers["authorization"] for call in office.calls} == {"Bearer wl_secret"}


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Order(BaseModel):
    size: Size
    count: int = Field(ge=1)


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (int, 7, 7),
        (bool, True, True),
        (Size, "large", Size.LARGE),
        (Literal["a", "b"], "b", "b"),
        (Order, {"size": "small", "count": 2}, Order(size=Size.SMALL, count=2)),
        (datetime, AT, datetime(2026, 11, 2, 14, tzinfo=UTC)),
    ],
)
def test_an_answer_has_the_type_that_was_asked_for(type_: Any, value: Any, expected: Any) -> None:
    """Its schema goes to the server, and what comes back is validated by the type itself."""
    office = Office(answers(value))
    with client_of(office) as client:
        answer = client.ask("alice", "How many?", answer=type_)

    assert answer.value == expected and type(answer.value) is type(expected)
    assert isinstance(office.made[0]["answer_schema"], dict)


def test_an_answer_that_the_type_refuses_is_asked_again_with_the_reason() -> None:
    """Of whom it came from, for the rest of the time, under an id that a restart finds again."""

    class Even(BaseModel):
        count: int

        def model_post_init(self, context: Any) -> None:
            if self.count % 2:
                raise ValueError("an even number, please")

    office = Office(answers({"count": 3}), answers({"count": 4}))
    first = uuid4()
    with client_of(office) as client:
        answer = client.ask(["alice", "bob"], "How many?", answer=Even, timeout=60, id=first)

    assert answer.value.count == 4
    again = office.made[1]
    assert again["to"] == "alice" and again["timeout"] == 60.0
    assert again["text"] == "That could not be taken (an even number, please). How many?"
    assert again["id"] == str(uuid5(first, "again 1"))


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        (ends("expired"), NoAnswer, "alice did not answer request .* in time"),
        (ends("cancelled", reason="the owner left"), RequestCancelled, "was cancelled: the owner left"),
        (ends("superseded"), RequestCancelled, "no reason given"),
        (ends("cancelled", undeliverable=True, reason="no such number"), Undeliverable, "no such number"),
    ],
)
def test_a_question_without_an_answer_says_why(end: Decide, error: type[Exception], words: str) -> None:
    """Each end is an error of its own, with the request's id."""
    office = Office(end)
    with client_of(office) as client, pytest.raises(error, match=words) as caught:
        client.ask("alice", "Ready?")

    assert vars(caught.value)["request"] == office.made[0]["id"]


# ---------------------------------------------------------------------- approving


def test_an_approval_has_everything_that_was_said_with_it() -> None:
    """A comment beside a yes is not lost."""
    office = Office(approves())
    with client_of(office) as client:
        approval = client.approve(
            ["cfo", "cto"],
            "pay",
            {"amount": 40},
            quorum=2,
            reject_options=["no"],
            text="Really?",
            id="invoice 7",
        )

    [body] = office.made
    assert body == {
        "id": str(uuid5(IDS, "\ninvoice 7")), "kind": "approval", "to": ["cfo", "cto"], "text": "Really?",
        "options": ["no"], "action": "pay", "args": {"amount": 40}, "quorum": 2,
    }  # fmt: skip
    assert (approval.args, approval.by, approval.comment, approval.edited) == (
        {"amount": 40},
        "cfo",
        "go ahead",
        False,
    )


def test_a_denial_and_an_expiry_are_never_mixed_up() -> None:
    """One is a person's word, with comment and reason; the other is nobody's."""
    no = ends("denied", by="cfo", comment="we have enough", option="too expensive")
    office = Office(no, ends("expired"))
    with client_of(office) as client:
        with pytest.raises(Denied, match=r"cfo denied pay \(too expensive: we have enough\)") as denied:
            client.approve("cfo", "pay", {})
        with pytest.raises(ApprovalExpired, match="nobody decided about pay"):
            client.approve("cfo", "pay", {})

    assert (denied.value.comment, denied.value.option, denied.value.by) == (
        "we have enough",
        "too expensive",
        "cfo",
    )
    assert not issubclass(ApprovalExpired, Denied)


def test_edited_arguments_count_only_where_editing_was_allowed() -> None:
    """Whatever a server says, what is called is what was asked about, or what people were allowed to make of it."""
    office = Office(approves(amount=10), approves(amount=10))
    with client_of(office) as client:
        approval = client.approve("cfo", "pay", {"amount": 40}, edit=True)
        assert (approval.args, approval.edited) == ({"amount": 10}, True)
        with pytest.raises(NotPossible, match="with other arguments than those asked about"):
            client.approve("cfo", "pay", {"amount": 40})

    assert office.made[0]["args_schema"]["required"] == ["amount"]


def test_options_that_are_one_text_are_refused_before_anybody_is_asked() -> None:
    """They are no list of its letters."""
    office = Office()
    with client_of(office) as client, pytest.raises(ConfigurationError, match="give a list of texts"):
        client.ask("alice", "Well?", options="yes")
    assert office.calls == []


def test_an_approval_that_does_not_name_its_arguments_is_refused() -> None:
    """They were changed on the way."""
    office = Office(lambda asked: {**(approves()(asked) or {}), "args": {"amount": 99}})
    with client_of(office) as client, pytest.raises(NotPossible, match="is no approval of pay"):
        client.approve("cfo", "pay", {"amount": 40})


@pytest.mark.parametrize("args", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_arguments_that_cannot_be_shown_are_refused_before_anybody_is_asked(args: dict[str, Any]) -> None:
    """By where they are and what they are."""
    office = Office()
    with client_of(office) as client, pytest.raises(NotSerializable, match="the arguments of pay"):
        client.approve("cfo", "pay", args)
    assert office.calls == []


# ---------------------------------------------------------------------- gated functions


def test_a_gated_function_runs_with_exactly_what_was_approved() -> None:
    """Positional arguments are named for the approver, defaults filled in; name, types and docstring stay."""
    office = Office(approves())
    with client_of(office) as client:

        @client.require_approval("cfo", reject_options=["too expensive"], timeout=60)
        def pay(invoice: str, amount: float = 10.0) -> str:
            """Pay an invoice."""
            return f"paid {amount:g} for {invoice}"

        assert pay("INV-7") == "paid 10 for INV-7"

    assert (pay.__name__, pay.__doc__, str(inspect.signature(pay))) == (
        "pay", "Pay an invoice.", "(invoice: 'str', amount: 'float' = 10.0) -> 'str'"
    )  # fmt: skip
    body = office.made[0]
    assert (body["action"], body["args"], body["options"], body["text"]) == (
        "pay", {"invoice": "INV-7", "amount": 10.0}, ["too expensive"], "May I pay?",
    )  # fmt: skip


def test_wrong_arguments_reach_nobody() -> None:
    """They are refused by name before a person is asked."""
    office = Office()
    with client_of(office) as client:

        @client.require_approval("cfo")
        def pay(amount: int) -> None: ...

        with pytest.raises(InvalidArguments, match="amount"):
            pay("much")  # type: ignore[arg-type]
    assert office.calls == []


def test_the_functions_own_error_is_its_own() -> None:
    """It is neither a denial nor an error of asking, and nobody is asked again."""
    office = Office(approves())
    with client_of(office) as client:

        @client.require_approval("cfo")
        def pay() -> None:
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            pay()
    assert len(office.made) == 1


def test_a_call_that_needs_no_approval_asks_nobody() -> None:
    """By the condition, which sees the typed arguments that it names."""
    office = Office()
    with client_of(office) as client:

        @client.require_approval("cfo", when=lambda amount: amount > 100)
        def pay(to: str, amount: int) -> int:
            return amount

        assert pay("ACME", 100) == 100
    assert office.calls == []


def test_people_may_change_the_arguments_and_are_told_what_is_wrong_with_them() -> None:
    """The function gets theirs, validated by its own types."""
    office = Office(approves(amount=-1), approves(amount=5))
    with client_of(office) as client:

        @client.require_approval("cfo", edit=True, id=lambda to: f"for {to}")
        def pay(to: str, amount: Annotated[int, Field(ge=0)] = 40) -> int:
            return amount

        assert pay("ACME") == 5

    assert office.made[1]["text"].startswith("The arguments that you chose cannot be used (")
    first = request_id("for ACME", of="pay")
    assert [body["id"] for body in office.made] == [str(first), str(uuid5(first, "again 1"))]


def test_a_method_is_gated_without_its_instance() -> None:
    """Nobody is shown the instance, and each call is for its own."""
    office = Office(approves())
    with client_of(office) as client:

        class Bank:
            def __init__(self, name: str) -> None:
                self.name = name

            @client.require_approval("cfo")
            def pay(self, amount: int) -> str:
                return f"{self.name} pays {amount}"

        assert Bank("First").pay(amount=3) == "First pays 3"
    assert office.made[0]["args"] == {"amount": 3}


def test_the_same_id_asks_once_and_functions_do_not_share_ids() -> None:
    """A restarted program waits on the same request; with other content the id is refused."""
    office = Office(approves())
    with client_of(office) as client:

        @client.require_approval("cfo", id=lambda invoice: invoice)
        def pay(invoice: str, amount: int) -> int:
            return amount

        @client.require_approval("cfo", id=lambda invoice: invoice, name="refund")
        def other(invoice: str, amount: int) -> int:
            return amount

        assert [pay("INV-7", 40), pay("INV-7", 40)] == [40, 40]
        with pytest.raises(NotPossible, match="asks something else"):
            pay("INV-7", 41)
        office.decisions.append(approves())
        assert other("INV-7", 40) == 40

    assert len({body["id"] for body in office.made}) == len(office.made) == 2


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("invoice", "id must be a plain function"),
        (lambda order: order, "asks for 'order', which is no argument of pay"),
    ],
)
def test_an_id_that_could_never_be_made_is_refused_at_once(id: Any, words: str) -> None:
    """Where the function is defined, not at its first call."""
    with client_of(Office()) as client, pytest.raises(ConfigurationError, match=words):

        @client.require_approval("cfo", id=id)
        def pay(invoice: str) -> None: ...


def test_an_async_function_needs_the_async_client() -> None:
    """It is refused with what to use."""
    with client_of(Office()) as client, pytest.raises(ConfigurationError, match=r"use wakeloop\.AsyncClient"):

        @client.require_approval("cfo")
        async def pay() -> None: ...


def test_two_gates_above_one_function_are_refused() -> None:
    """Its approvers belong into one."""
    with client_of(Office()) as client, pytest.raises(ConfigurationError, match="has one already"):

        @client.require_approval("cfo")
        @client.require_approval("cto")
        def pay() -> None: ...


def test_the_async_client_gates_both_kinds_of_functions() -> None:
    """An async one stays async, a plain one becomes so and runs in a thread."""
    office = Office(approves(), approves())

    async def main() -> list[str]:
        async with AsyncClient(URL, transport=httpx2.MockTransport(office)) as client:

            @client.require_approval("cfo")
            async def sweep(what: str) -> str:
                return f"swept {what}"

            @client.require_approval("cfo")
            def scrub(what: str) -> str:
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
                return f"scrubbed {what}"

            return [await sweep("floor"), await scrub("wall")]

    assert asyncio.run(main()) == ["swept floor", "scrubbed wall"]


# ---------------------------------------------------------------------- giving up


def test_a_cancelled_wait_cancels_the_request() -> None:
    """Nobody is to answer in vain: `asyncio.timeout` around it is enough."""
    office = Office()

    async def main() -> None:
        async with AsyncClient(URL, transport=httpx2.MockTransport(office)) as client:
            async with asyncio.timeout(0.05):
                await client.ask("alice", "Ready?")

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert office.cancelled == [office.made[0]["id"]]


def test_a_request_with_the_callers_id_stays_open() -> None:
    """Because the caller can come back for it."""
    office = Office()

    async def main() -> None:
        async with AsyncClient(URL, transport=httpx2.MockTransport(office)) as client:
            async with asyncio.timeout(0.05):
                await client.ask("alice", "Ready?", id="deploy 12")

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert office.cancelled == [] and len(office.made) == 1


@pytest.mark.parametrize("id", [None, "deploy 12"])
def test_an_interrupt_does_the_same_to_a_blocking_wait(id: str | None) -> None:
    """Ctrl-C ends the wait at once, and the request too unless the caller named it."""

    def interrupt(asked: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    office = Office(interrupt)
    with client_of(office) as client, pytest.raises(KeyboardInterrupt):
        client.ask("alice", "Ready?", id=id)
    assert office.cancelled == ([office.made[0]["id"]] if id is None else [])


def test_the_last_word_need_not_get_through() -> None:
    """If the server is away too, the interruption is what the caller sees."""

    def interrupt(asked: dict[str, Any]) -> dict[str, Any]:
        office.troubles.append(httpx2.ConnectError("refused"))
        raise KeyboardInterrupt

    office = Office(interrupt)
    with client_of(office) as client, pytest.raises(KeyboardInterrupt):
        client.ask("alice", "Ready?")


# ---------------------------------------------------------------------- waiting things out


@pytest.mark.parametrize(
    "trouble",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("cut"),
        httpx2.Response(502, text="<html>"),
        httpx2.Response(503, headers={"retry-after": "0"}),
        httpx2.Response(504),
        problem(429, "too much"),
        problem(500, "broken"),
    ],
    ids=str,
)
def test_a_call_that_fails_on_the_way_is_sent_again(trouble: Any) -> None:
    """Also one that makes something: it carries the id by which it counts once."""
    office = Office(answers("fine"))
    office.troubles = [copy.copy(trouble) for _ in range(3)]
    with client_of(office) as client:
        assert client.ask("alice", "How is it?").value == "fine"

    assert [json.loads(call.content)["id"] for call in office.calls[:4]] == [office.made[0]["id"]] * 4


def test_a_request_that_is_made_twice_because_an_answer_was_lost_is_made_once() -> None:
    """The first call arrived, its answer did not."""
    office = Office(answers("fine"))
    first = True

    def lossy(call: httpx2.Request) -> httpx2.Response:
        nonlocal first
        reply = office(call)
        if first:
            first = False
            raise httpx2.ReadError("reset")
        return reply

    with Client(URL, transport=httpx2.MockTransport(lossy)) as client:
        assert client.ask("alice", "How is it?").value == "fine"
    assert len(office.made) == 1


def test_a_server_that_stays_broken_is_told_of() -> None:
    """An error of the server's own does not go away by waiting for ever."""
    office = Office()
    office.troubles = [problem(500, "broken") for _ in range(20)]
    with client_of(office) as client, pytest.raises(ApiError, match=r"\(500\): broken"):
        client.ask("alice", "How is it?")
    assert len(office.calls) == calling.BROKEN_TRIES + 1


def test_patience_bounds_how_long_a_server_may_be_away() -> None:
    """Without it the wait is as long as it takes."""
    office = Office()
    office.troubles = [httpx2.ConnectError("refused") for _ in range(1000)]
    with client_of(office, patience=0.05) as client, pytest.raises(Unreachable, match="refused") as caught:
        client.contacts()
    assert isinstance(caught.value, ConnectionError)


def test_pauses_grow_to_half_a_minute_and_follow_what_the_server_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are jittered, so that a thousand clients do not come back at once."""
    monkeypatch.setattr(calling, "FIRST_PAUSE_SECONDS", 0.25)
    now = datetime(2026, 11, 2, tzinfo=UTC)
    plan = Plans(Caller(url=URL, seconds=10, monotonic=lambda: 0.0, now=lambda: now)).contacts()
    assert isinstance(next(plan), Send)
    pauses = []
    for _ in range(12):
        pause = plan.send(Lost(reason="refused"))
        assert isinstance(pause, Pause) and isinstance(plan.send(None), Send)
        pauses.append(pause.seconds)

    assert 0.125 <= pauses[0] <= 0.25 and 15 <= pauses[-1] <= 30 and len(set(pauses)) == 12
    for text, least in (("7", 7), ("Mon, 02 Nov 2026 00:00:20 GMT", 20), ("9999", 300)):
        pause = plan.send(Reply(status=503, headers={"retry-after": text}))
        assert isinstance(pause, Pause) and least <= pause.seconds <= least + 1
        plan.send(None)


def test_a_wait_of_weeks_is_long_polls() -> None:
    """Each of 30 s, and never a busy loop, even with a server that answers at once."""
    clock = 0.0
    plan = Plans(Caller(url=URL, seconds=10, monotonic=lambda: clock)).wait(uuid4())
    still = Reply(status=200, body=json.dumps({"id": "x", "kind": "question", "status": "open"}).encode())
    command = next(plan)
    for _ in range(3):
        assert isinstance(command, Send) and command.path.endswith("?wait=30") and command.seconds == 40
        clock += 30
        command = plan.send(still)
    assert isinstance(command, Send)
    command = plan.send(still)
    assert command == Pause(1.0)


def test_a_bounded_wait_gives_the_request_as_it_is() -> None:
    """An open one, without an error."""
    office = Office()
    with client_of(office) as client:
        made = client.create("alice", "Ready?")
        found = client.wait(made.id, timeout=0.05)
    assert found.is_open and found.outcome is None and office.cancelled == []


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "error", "facts"),
    [
        (401, NotAllowed, {}),
        (403, NotAllowed, {}),
        (404, NotFound, {}),
        (409, NotPossible, {}),
        (413, ApiError, {}),
        (422, ApiError, {"errors": [{"loc": ["body", "text"], "msg": "is empty"}]}),
        (422, NotFound, {"errors": [{"loc": ["body", "to"], "msg": "who?"}]}),
    ],
)
def test_what_waiting_cannot_mend_is_raised_at_once(
    status: int, error: type[Exception], facts: dict[str, Any]
) -> None:
    """In the server's words, with the status and the whole problem as facts."""
    office = Office()
    office.troubles = [problem(status, "that is wrong", **facts)]
    with client_of(office) as client, pytest.raises(error, match="that is wrong") as caught:
        client.ask("alice", "Ready?")

    assert vars(caught.value)["status"] == status and vars(caught.value)["problem"]["title"] == "No"
    assert len(office.calls) == 1 and "wl_secret" not in str(caught.value)
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)


def test_a_refused_token_says_which_scope_it_needs() -> None:
    """And is a PermissionError, as for a file."""
    office = Office()
    office.troubles = [problem(403, "this token is not good for this")]
    with client_of(office) as client, pytest.raises(PermissionError, match="requests:write") as caught:
        client.ask("alice", "Ready?")
    assert vars(caught.value)["scope"] == "requests:write"


@pytest.mark.parametrize(
    "response", [httpx2.Response(200, text="<html>"), httpx2.Response(302), httpx2.Response(404)]
)
def test_something_that_is_no_wakeloop_says_so(response: httpx2.Response) -> None:
    """As when the address is a proxy's or another program's."""
    office = Office()
    office.troubles = [response]
    with client_of(office) as client, pytest.raises(ApiError, match="check the address"):
        client.contacts()


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "", "http://", "http://a:b@c", "http://x/?a=b", None]
)
def test_an_address_that_is_none_is_refused(url: Any) -> None:
    """Where the client is made."""
    with pytest.raises(ConfigurationError):
        Client(url)


def test_an_address_may_have_a_path() -> None:
    """Of a proxy, or of the API itself."""
    assert api_url("http://x:8080") == api_url("http://x:8080/") == api_url("http://x:8080/api/v1")
    assert api_url("https://x/wakeloop/") == "https://x/wakeloop/api/v1"


@pytest.mark.parametrize("token", ["wl_x\n", "", "wl x", "wl_ü", 7])
def test_a_token_that_no_header_can_hold_is_refused_unseen(token: Any) -> None:
    """Its text is a secret."""
    with pytest.raises(ConfigurationError) as caught:
        Client(URL, token)
    assert "wl_x" not in str(caught.value)


def test_a_client_shows_its_address_and_never_its_token() -> None:
    """In logs and debuggers."""
    with Client(URL, "wl_secret") as client:
        assert repr(client) == f"<Client {URL}/api/v1>"


def test_one_async_client_serves_one_event_loop_after_another() -> None:
    """As a module's client does in scripts that call `asyncio.run` twice."""
    office = Office(answers("a"), answers("b"))
    client = AsyncClient(URL, transport=httpx2.MockTransport(office))

    async def main() -> str:
        answer = await client.ask("alice", "Well?")
        return answer.value

    assert [asyncio.run(main()), asyncio.run(main())] == ["a", "b"]


# ---------------------------------------------------------------------- agents


def test_a_start_and_a_signal_carry_ids_of_their_own() -> None:
    """So that they too count once; a signal is a CloudEvent in structured form."""
    calls: list[httpx2.Request] = []

    def take(call: httpx2.Request) -> httpx2.Response:
        calls.append(call)
        return httpx2.Response(202, json={"run": "r1", "agent": "a b", "key": "default"})

    with Client(URL, transport=httpx2.MockTransport(take)) as client:
        assert client.start("a b", {"x": 1}, key="k", id="today") == "r1"
        assert client.signal("invoice.paid", {"n": 7}, id="e1", subject="7") == "e1"

    assert calls[0].url.raw_path == b"/api/v1/agents/a%20b/runs"
    assert json.loads(calls[0].content) == {"id": str(uuid5(IDS, "\ntoday")), "input": {"x": 1}, "key": "k"}
    assert calls[1].headers["content-type"] == "application/cloudevents+json"
    assert json.loads(calls[1].content) == {
        "specversion": "1.0", "id": "e1", "source": "wakeloop/client", "type": "invoice.paid", "subject": "7",
        "datacontenttype": "application/json", "data": {"n": 7},
    }  # fmt: skip
