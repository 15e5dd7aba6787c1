"""Approvals: a gated function runs only as people allowed it, once, with exactly what they saw."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from wakeloop import (
    ApprovalExpired,
    Context,
    Denied,
    InvalidArguments,
    NonDeterminismError,
    Undeliverable,
    agent,
    on_message,
    require_approval,
    step,
)
from wakeloop.decisions import Grant
from wakeloop.errors import NotPossible, PermanentChannelError
from wakeloop.testing import Simulation

PEOPLE = {
    "cfo": {"sms": "+14155550110", "name": "Carla"},
    "cto": {"sms": "+14155550111", "name": "Tom"},
    "eve": {"sms": "+14155550112"},
    "alice": {"sms": "+14155550113", "groups": ["finance"]},
    "bob": {"sms": "+14155550114", "groups": ["finance"]},
}

ran: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@require_approval("cfo", reject_options=["too expensive", "not now"], edit=True, timeout=timedelta(hours=1))
async def pay(invoice: str, amount: float = 10.0) -> str:
    """Pay an invoice."""
    ran.append((invoice, amount))
    return f"paid {amount:g} for {invoice}"


@agent()
async def payer(ctx: Context[None]) -> str:
    """Pays what it is told to, and says what came of it."""
    try:
        return await pay(*ctx.event.input)
    except Denied as no:
        return f"denied: {no.option}/{no.comment}"
    except ApprovalExpired:
        return "expired"


def texts(sim: Simulation, contact: str = "cfo") -> list[str]:
    return [message.text for message in sim.outbox(contact)]


def acts(sim: Simulation, request: Any) -> list[tuple[str, str, str | None]]:
    return [(line.act, line.result, line.contact) for line in sim.audit(request)]


# ---------------------------------------------------------------------- the verdict


def test_a_gated_function_runs_once_it_is_approved() -> None:
    """The approver sees every argument by name, positional ones and defaults too; nothing runs before the yes."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])
        [asked] = sim.requests()

        assert ran == []
        assert (asked.kind, asked.action, asked.args) == (
            "approval",
            "pay",
            {"invoice": "INV-7", "amount": 10.0},
        )
        assert "invoice: 'INV-7'" in texts(sim)[0] and "amount: 10" in texts(sim)[0]

        sim.reply("cfo", "yes")

        assert ran == [("INV-7", 10.0)]
        assert sim.run(run).result == "paid 10 for INV-7"
        assert [one.status for one in sim.requests(None)] == ["approved"]


def test_a_denial_reaches_the_caller_with_its_comment() -> None:
    """By text, words after the no are the comment."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])

        sim.reply("cfo", "no we have enough")

        assert sim.run(run).result == "denied: None/we have enough"
        assert ran == []


@pytest.mark.parametrize(
    ("words", "result"),
    [
        ("no 1", "denied: too expensive/"),
        ("No, not now.", "denied: not now/"),
        ("too expensive", "denied: too expensive/"),
    ],
)
def test_a_reason_for_no_may_be_chosen(words: str, result: str) -> None:
    """By its number after the no, or by its words."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])

        sim.reply("cfo", words)

        assert sim.run(run).result == result


@pytest.mark.parametrize("words", ["ok but wait", "yes if Bob agrees", "not yes", "👍?", "1", "hm", "yes 50"])
def test_a_hedged_reply_is_never_a_verdict(words: str) -> None:
    """It is kept as a comment, and the person is asked to be plain; the plain word then counts."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])

        sim.reply("cfo", words)

        [asked] = sim.requests()
        assert ("comment", "not a plain verdict", "cfo") in acts(sim, asked)
        assert "reply just yes or no" in texts(sim)[-1]
        assert ran == []

        sim.reply("cfo", "yes")

        assert sim.run(run).status == "completed" and len(ran) == 1


@pytest.mark.parametrize("word", ["STOP", "CANCEL", "END", "QUIT", "UNSUBSCRIBE"])
def test_a_carriers_keyword_is_never_a_verdict(word: str) -> None:
    """It is an opt-out, and the request stays open."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        sim.start(payer, ["INV-7"])

        assert sim.reply("cfo", word) == "opted out"

        assert [one.status for one in sim.requests()] == ["open"]


def test_expired_is_not_denied() -> None:
    """At the timeout the caller gets ApprovalExpired; a yes after that is told what happened, and goes on record."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])
        [asked] = sim.requests()
        sim.advance(timedelta(hours=1))
        assert sim.run(run).result == "expired"

        sim.reply("cfo", "yes")

        assert ran == []
        assert "too late" in texts(sim)[-1] and "expired" in texts(sim)[-1] and "denied" not in texts(sim)[-1]
        assert acts(sim, asked)[-2:] == [("expire", "expired", None), ("reply", "late: expired", "cfo")]


def test_a_decision_in_the_second_of_the_timeout_is_decided_once() -> None:
    """At the very instant of the end it is too late, a microsecond before it counts."""
    for early, result in ((timedelta(0), "expired"), (timedelta(microseconds=1), "paid 10 for INV-7")):
        with Simulation([payer], contacts=PEOPLE) as sim:
            run = sim.start(payer, ["INV-7"])
            [asked] = sim.requests()
            assert asked.expires_at is not None
            sim._clock.move(asked.expires_at - early)

            sim.reply("cfo", "yes")

            assert sim.run(run).result == result


# ---------------------------------------------------------------------- who


def test_outsiders_cannot_decide() -> None:
    """Whoever was not asked is refused, on record, whatever they know."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        sim.start(payer, ["INV-7"])
        [asked] = sim.requests()

        sim.reply("eve", f"{asked.code} yes")
        outcome = sim.approve(asked, by="eve")

        assert "refused" in outcome
        assert [one.status for one in sim.requests()] == ["open"]
        assert ("approve", "refused: not asked", "eve") in acts(sim, asked)


def test_two_must_approve_where_two_are_asked_for() -> None:
    """One yes is not enough, nor is the same one twice; a single no decides."""

    @require_approval(["cfo", "cto"], quorum=2)
    def deploy(version: str) -> str:
        ran.append((version,))
        return version

    @agent()
    async def deployer(ctx: Context[None]) -> str:
        try:
            return await deploy("1.2")
        except Denied as no:
            return f"denied by {no.by}"

    with Simulation([deployer], contacts=PEOPLE) as sim:
        run = sim.start(deployer)
        sim.reply("cfo", "yes")
        sim.reply("cfo", "yes")
        assert ran == []
        assert sim.requests()[0].votes == ("cfo",)

        sim.reply("cto", "ok")

        assert sim.run(run).result == "1.2"

        other = sim.start(deployer)
        sim.reply("cfo", "yes")
        sim.reply("cto", "no")

        assert sim.run(other).result == "denied by cto"
        assert len(ran) == 1


def test_those_who_need_not_answer_any_more_are_told_once() -> None:
    """The first of several decides; the others hear of it, by name, once."""

    @require_approval("finance")
    async def refund(amount: int) -> int:
        return amount

    @agent()
    async def refunder(ctx: Context[None]) -> int:
        return await refund(5)

    with Simulation([refunder], contacts=PEOPLE) as sim:
        sim.start(refunder)
        assert sim.requests()[0].asked == ("alice", "bob")

        sim.reply("alice", "yes")

        assert len(texts(sim, "bob")) == 2
        assert texts(sim, "bob")[1] == "Approved by alice, nothing more to do: “May I refund? (amount 5)”"


def test_the_one_on_whose_behalf_it_is_may_not_approve() -> None:
    """With four_eyes, the sender of the message that began the run is not asked."""

    @require_approval("finance", four_eyes=True)
    async def raise_salary(amount: int) -> int:
        return amount

    @agent(on_message())
    async def hr(ctx: Context[None]) -> int:
        return await raise_salary(500)

    with Simulation([hr], contacts=PEOPLE) as sim:
        sim.reply("alice", "please raise my salary")
        [asked] = sim.requests()

        assert asked.asked == ("bob",)
        assert "refused" in sim.approve(asked, by="alice")
        sim.reply("bob", "yes")
        assert [run.result for run in sim.runs(hr)] == [500]


# ---------------------------------------------------------------------- the arguments


def test_wrong_arguments_are_refused_before_anybody_is_asked() -> None:
    """The caller gets InvalidArguments, nobody a message."""

    @agent()
    async def clumsy(ctx: Context[None]) -> str:
        try:
            return await pay("INV-7", "a lot")  # type: ignore[arg-type]
        except InvalidArguments as problem:
            return ", ".join(problem.problems)

    with Simulation([clumsy], contacts=PEOPLE) as sim:
        run = sim.start(clumsy)

        assert sim.run(run).result == "amount"
        assert sim.outbox() == [] and sim.requests(None) == []


def test_a_person_may_change_the_arguments() -> None:
    """The body gets exactly what was approved, and the record says whose the change was."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7", 40])
        [asked] = sim.requests()

        sim.approve(asked, args={"invoice": "INV-7", "amount": 25})

        assert ran == [("INV-7", 25.0)]
        assert sim.run(run).result == "paid 25 for INV-7"
        [done] = sim.requests(None)
        assert (
            done.outcome is not None
            and done.outcome.edited
            and done.outcome.args == {"invoice": "INV-7", "amount": 25}
        )
        assert ("edit", "counted", "cfo") in acts(sim, asked)


def test_an_edit_of_one_needs_the_others_approval_too() -> None:
    """With a quorum, whoever approved the old arguments has not approved the new ones."""

    @require_approval(["cfo", "cto"], quorum=2, edit=True)
    async def buy(count: int) -> int:
        ran.append((count,))
        return count

    @agent()
    async def buyer(ctx: Context[None]) -> int:
        return await buy(100)

    with Simulation([buyer], contacts=PEOPLE) as sim:
        run = sim.start(buyer)
        [asked] = sim.requests()
        sim.approve(asked, by="cfo")
        sim.approve(asked, by="cto", args={"count": 10})

        assert ran == []
        assert "Changed by Tom" in texts(sim, "cfo")[-1] and "count: 10" in texts(sim, "cfo")[-1]

        sim.reply("cfo", "yes")

        assert sim.run(run).result == 10


def test_a_condition_decides_by_the_arguments_whether_to_ask() -> None:
    """Small ones pass; a condition that fails means that a person is asked."""

    def is_large(amount: int) -> bool:
        if amount == 13:
            raise RuntimeError("no idea")
        return amount > 100

    @require_approval("cfo", when=is_large)
    async def spend(amount: int) -> int:
        ran.append((amount,))
        return amount

    @agent()
    async def spender(ctx: Context[None]) -> int:
        return await spend(ctx.event.input)

    with Simulation([spender], contacts=PEOPLE) as sim:
        assert sim.run(sim.start(spender, 5)).result == 5
        assert sim.run(sim.start(spender, 13)).status == "waiting"
        sim.reply("cfo", "yes")
        assert sim.run(sim.start(spender, 500)).status == "waiting"

        assert ran == [(5,), (13,)]


def test_the_functions_own_errors_stay_its_own() -> None:
    """What it raises after the approval is what the caller gets."""

    @require_approval("cfo")
    async def explode() -> None:
        raise ZeroDivisionError("boom")

    @agent()
    async def daring(ctx: Context[None]) -> str:
        try:
            await explode()
        except ZeroDivisionError as error:
            return str(error)
        return "nothing"

    with Simulation([daring], contacts=PEOPLE) as sim:
        run = sim.start(daring)
        sim.reply("cfo", "yes")

        assert sim.run(run).result == "boom"


def test_code_that_changes_the_arguments_while_asleep_is_not_covered() -> None:
    """The approval was of other arguments: the run is parked, nothing runs."""

    def version(amount: float) -> Any:
        @agent(name="changing")
        async def changing(ctx: Context[None]) -> str:
            return await pay("INV-7", amount)

        return changing

    with Simulation([version(10)], contacts=PEOPLE) as sim:
        run = sim.start("changing")
        sim.replace_agents([version(10_000)])

        sim.reply("cfo", "yes")

        assert sim.run(run).status == "stuck"
        assert NonDeterminismError.__name__ in str(sim.run(run).error)
        assert ran == []


# ---------------------------------------------------------------------- failures on the way


@pytest.mark.parametrize("point", ["engine.committing", "engine.committed", "intake.recorded", "timers.claimed", "outbox.sent"])  # fmt: skip
def test_a_crash_between_decision_and_execution_loses_and_doubles_nothing(point: str) -> None:
    """Wherever it dies, the function runs exactly once."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])
        sim.kill_at(point)

        sim.reply("cfo", "yes")
        sim.advance(timedelta(minutes=5))

        assert sim.run(run).result == "paid 10 for INV-7"
        assert len(ran) == 1


def test_a_cancelled_run_withdraws_its_request() -> None:
    """The approver is told once; a yes after that runs nothing."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        run = sim.start(payer, ["INV-7"])

        sim.cancel(run)

        assert [one.status for one in sim.requests(None)] == ["cancelled"]
        assert texts(sim)[1:] == ["No longer needed: “May I pay? (invoice 'INV-7', amount 10)”"]
        sim.reply("cfo", "yes")
        assert "no longer needed" in texts(sim)[-1]
        assert ran == []


def test_a_gated_step_keeps_its_retries() -> None:
    """A step below the gate is retried as it says, under the one approval."""
    failures = [OSError("away"), OSError("away")]

    @require_approval("cfo")
    @step(retries=3, backoff=1)
    async def flaky(n: int) -> int:
        if failures:
            raise failures.pop()
        ran.append((n,))
        return n

    @agent()
    async def patient(ctx: Context[None]) -> int:
        return await flaky(7)

    with Simulation([patient], contacts=PEOPLE) as sim:
        run = sim.start(patient)
        sim.reply("cfo", "yes")
        sim.advance(60)

        assert sim.run(run).result == 7
        assert len(sim.requests(None)) == 1


# ---------------------------------------------------------------------- in advance


def test_a_grant_covers_calls_like_the_one_that_was_seen() -> None:
    """For a day, invoices up to the amount go through without a question, on record; others are asked about."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        sim.start(payer, ["INV-7", 40])
        [asked] = sim.requests()
        sim.approve(asked, grant=Grant(seconds=86400, limits={"invoice": "any", "amount": "at_most"}))

        assert sim.run(sim.start(payer, ["INV-8", 30])).result == "paid 30 for INV-8"
        assert sim.run(sim.start(payer, ["INV-9", 41])).status == "waiting"
        sim.reply("cfo", "no")
        sim.advance(timedelta(days=1))
        assert sim.run(sim.start(payer, ["INV-10", 1])).status == "waiting"

        granted = sim.requests(None)[1]
        assert granted.outcome is not None and granted.outcome.reason == "granted in advance"
        assert any(line.act == "approve" and "grant" in (line.auth or "") for line in sim.audit(granted))


def test_a_revoked_grant_covers_nothing() -> None:
    """From then on people are asked again."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        sim.start(payer, ["INV-7", 40])
        sim.approve(sim.requests()[0], grant=Grant(seconds=86400, limits={"invoice": "any"}))
        [grant] = sim.grants()
        assert sim.run(sim.start(payer, ["INV-8", 40])).status == "completed"

        sim.revoke_grant(grant.id, by="cfo")

        assert sim.run(sim.start(payer, ["INV-9", 40])).status == "waiting"


# ---------------------------------------------------------------------- ctx.approve


def test_an_action_without_a_function_can_be_approved() -> None:
    """`ctx.approve` gives who approved what, and how."""

    @agent()
    async def asks(ctx: Context[None]) -> Any:
        approval = await ctx.approve(
            "cfo",
            "wire",
            {"amount": 5, "to": "ACME"},
            text="Wire it?",
            escalate=[(timedelta(hours=1), "cto")],
        )
        return [
            approval.args,
            approval.by,
            list(approval.approvers),
            approval.comment,
            approval.channel,
            approval.edited,
        ]

    with Simulation([asks], contacts=PEOPLE) as sim:
        run = sim.start(asks)
        sim.advance(timedelta(hours=1))
        assert sim.requests()[0].asked == ("cfo", "cto")

        sim.reply("cto", "approved, thanks")

        assert sim.run(run).result == [{"amount": 5, "to": "ACME"}, "cto", ["cto"], "", "sms", False]


def test_an_approval_that_can_never_come_is_refused_at_once() -> None:
    """Too few may give it, by the quorum, the settings or whose wish it is: nobody is asked, and the caller is told."""

    @require_approval("finance", quorum=3)
    async def merge(company: str) -> str:
        return company

    @require_approval("finance")
    async def sell(company: str) -> str:
        return company

    @agent(on_message())
    async def dealer(ctx: Context[None]) -> list[str]:
        found = []
        for action in (merge, sell):
            try:
                await action("ACME")
            except NotPossible as error:
                found.append(str(error))
        try:
            await ctx.approve("alice", "promote", {}, four_eyes=True)
        except NotPossible as error:
            found.append(str(error))
        return found

    with Simulation([dealer], contacts=PEOPLE, approvers={"sell": ["cfo"]}) as sim:
        sim.reply("alice", "go")

        [run] = sim.runs(dealer)
        few, settings, own = run.result
        assert "needs 3 approvals" in few and "2 may" in few
        assert "only cfo may" in settings
        assert "alice is the one it is asked for" in own
        assert sim.outbox() == []


def test_a_quorum_that_cannot_be_reached_any_more_fails_loudly() -> None:
    """One of two has no working number: the other alone could never approve it, and the caller does not wait for that."""

    @require_approval(["cfo", "cto"], quorum=2)
    async def launch() -> None:
        ran.append(())

    @agent()
    async def launcher(ctx: Context[None]) -> str:
        try:
            await launch()
        except Undeliverable as error:
            return error.reason
        return "launched"

    with Simulation([launcher], contacts=PEOPLE) as sim:
        sim.channels["sms"].fail_next(PermanentChannelError("no such number"))
        run = sim.start(launcher)

        assert sim.run(run).result == "no such number"
        assert ran == []


def test_a_call_with_much_to_show_still_fits_a_text_message() -> None:
    """However many long arguments there are, the message is one that a carrier takes; what is left out is told."""

    @require_approval("cfo")
    async def publish(parts: list[str], **rest: str) -> None:
        ran.append(())

    @agent()
    async def publisher(ctx: Context[None]) -> None:
        await publish(["x" * 5000] * 20, **{f"note{n}": "y" * 3000 for n in range(60)})

    with Simulation([publisher], contacts=PEOPLE) as sim:
        sim.start(publisher)

        [text] = texts(sim)
        assert len(text) <= 1600
        assert text.startswith("May I publish?\n  parts: [") and "Reply yes or no." in text


def test_an_attempt_that_makes_no_sense_is_on_record_and_changes_nothing() -> None:
    """Arguments that do not fit are refused with the reason, and the attempt is in the audit."""
    with Simulation([payer], contacts=PEOPLE) as sim:
        sim.start(payer, ["INV-7"])
        [asked] = sim.requests()

        with pytest.raises(ValueError, match="amount"):
            sim.approve(asked, args={"invoice": "INV-7", "amount": "a lot"})

        assert acts(sim, asked)[-1] == ("approve", "refused: could not be read", "cfo")
        assert [one.args for one in sim.requests()] == [asked.args]
