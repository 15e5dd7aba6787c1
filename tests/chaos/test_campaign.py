"""The campaign in short: a fleet and a desk under faults, a provider away for an hour, and a checker that finds what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.chaos import campaign, disks, outage, report
from tests.chaos.evidence import Outside, gather
from tests.chaos.faults import FleetFaults
from tests.chaos.invariants import CHECKS, judge
from tests.chaos.people import People, Word
from tests.chaos.plan import Options, Plan
from tests.chaos.works import Fleet, Works

from wakeloop.store import schema

pytestmark = pytest.mark.timeout(400)

SHORT = Options(runs=70, kills=4, every=0.6, seed=7, settle=150.0)
DISK = Options(runs=24, kills=1, every=1.5, seed=3, settle=150.0)
Tamper = Callable[[Connection, Outside], Outside]


def test_kills_and_outages_break_no_promise_and_each_loss_and_doubling_would_be_found(tmp_path: Path) -> None:
    """Workers, the web service, the client and the servers are killed while runs go on; at the end every check holds. Then
    each kind of loss and doubling is brought about by hand in what is left, and the check that is there for it names it."""
    plan = Plan(options=SHORT)
    people = People(plan)
    works = Fleet(tmp_path, plan, heard=people.hear)
    with works.running():
        course = campaign.run(works, people, FleetFaults(works))

        works.runtime.database.close()
        with works.runtime.database.read() as connection:
            verdict = judge(gather(connection, course.outside))
        told = report.table(course, verdict) + report.violations(verdict, course, works.runtime.database)
        found = {tamper: _found(works, course.outside, tamper) for tamper in TAMPERINGS}

    assert not verdict.violations and not course.rests, told
    assert course.calls == SHORT.runs
    assert course.kills.total() >= SHORT.kills
    # What cannot be checked in so short a time is checked by `make chaos`.
    assert sum(times > 0 for times in verdict.checked.values()) >= len(CHECKS) - 3, told
    missed = {
        tamper.__name__: found[tamper] for tamper, name in TAMPERINGS.items() if name not in found[tamper]
    }
    assert not missed


def _found(works: Works, outside: Outside, tamper: Tamper) -> list[str]:
    """The checks that something is wrong by, after this tampering, which is undone."""
    found: list[str] = []
    with contextlib.suppress(_Undone), works.runtime.database.begin() as connection:
        changed = tamper(connection, outside)
        found = [one.check for one in judge(gather(connection, changed)).violations]
        raise _Undone
    return found


def test_a_disk_that_fills_up_under_sqlite_breaks_no_promise(tmp_path: Path) -> None:
    """`wakeloop dev` on a disk that is full again and again, with a clock that is stepped: it goes on when there is room."""
    plan = Plan(options=DISK)
    people = People(plan)
    works = disks.Desk(tmp_path, plan, heard=people.hear)
    with works.running():
        faults = disks.DeskFaults(works)

        course = campaign.run(works, people, faults)

        works.runtime.database.close()
        with works.runtime.database.read() as connection:
            verdict = judge(gather(connection, course.outside))
        told = report.table(course, verdict) + report.violations(verdict, course, works.runtime.database)
    assert not verdict.violations and not course.rests, told
    assert course.faults["fill the disk"] > 0, told


def test_a_provider_that_is_away_for_an_hour_loses_and_doubles_nothing() -> None:
    """Refused, not reached, or taken without an answer: each question arrives once or its asker is told, and asks again."""
    hour = outage.hold(runs=16, seed=1)

    assert not hour.wrong
    assert hour.runs == 16
    assert len(hour.faults) == 3
    assert hour.told > 0
    assert hour.crashes > 0


# ---------------------------------------------------------------------- what the checker must find


def _run_of(connection: Connection, agent: str) -> Any:
    statement = (
        sa.select(schema.runs)
        .join(schema.sessions, schema.sessions.c.id == schema.runs.c.session_id)
        .where(schema.sessions.c.agent == agent, schema.runs.c.status == "completed")
        .order_by(schema.runs.c.id)
        .limit(1)
    )
    return connection.execute(statement).one()


def drop_a_run(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "chain")
    connection.execute(sa.delete(schema.journal).where(schema.journal.c.run_id == run.id))
    connection.execute(sa.delete(schema.runs).where(schema.runs.c.id == run.id))
    return outside


def lose_a_recorded_step(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "chain")
    connection.execute(
        sa.delete(schema.journal).where(schema.journal.c.run_id == run.id, schema.journal.c.seq == 2)
    )
    return outside


def compute_a_recorded_step_again(connection: Connection, outside: Outside) -> Outside:
    run = str(_run_of(connection, "chain").id)
    mine = [mark for mark in outside.marks if mark["what"] == "step" and mark["run"] == run]
    return dataclasses.replace(outside, marks=[*outside.marks, {**mine[0], "process": mine[-1]["process"]}])


def let_a_step_see_another_result(connection: Connection, outside: Outside) -> Outside:
    run = str(_run_of(connection, "chain").id)
    marks = [
        {**mark, "seen": "another"}
        if mark["what"] == "step" and mark["run"] == run and mark["part"] == "3"
        else mark
        for mark in outside.marks
    ]
    return dataclasses.replace(outside, marks=marks)


def let_a_ghost_take_effect(connection: Connection, outside: Outside) -> Outside:
    ghost = {
        "process": "x",
        "at": 1.0,
        "what": "step",
        "run": str(uuid.uuid4()),
        "part": "1",
        "seen": "",
        "result": "r",
    }
    return dataclasses.replace(outside, marks=[*outside.marks, ghost])


def park_a_run(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "order")
    connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run.id).values(status="failed"))
    return outside


def lose_an_update_of_a_state(connection: Connection, outside: Outside) -> Outside:
    session = _run_of(connection, "chain").session_id
    connection.execute(
        sa.update(schema.sessions).where(schema.sessions.c.id == session).values(state='{"runs":0}')
    )
    return outside


def leave_something_in_an_inbox(connection: Connection, outside: Outside) -> Outside:
    first = sa.select(sa.func.min(schema.inbox.c.id)).scalar_subquery()
    connection.execute(sa.update(schema.inbox).where(schema.inbox.c.id == first).values(consumed_at=None))
    return outside


def lose_a_signal(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "shelf")
    connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run.id).values(status="cancelled"))
    return outside


def double_a_message_at_the_provider(connection: Connection, outside: Outside) -> Outside:
    asked = next(message for message in outside.sms if "what now?" in message.body.splitlines()[0])
    long_ago = asked.date_created - timedelta(days=1)  # when no clock was wrong
    copy = dataclasses.replace(asked, sid="SM" + "9" * 32, date_created=long_ago)
    return dataclasses.replace(outside, sms=[*outside.sms, copy])


def lose_a_message_at_the_provider(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, sms=list(outside.sms)[1:])


def give_a_delivery_up(connection: Connection, outside: Outside) -> Outside:
    first = (
        sa.select(schema.deliveries.c.id)
        .where(schema.deliveries.c.channel == "sms")
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(
        sa.update(schema.deliveries).where(schema.deliveries.c.id == first).values(status="failed")
    )
    return outside


def forget_an_acknowledged_word(connection: Connection, outside: Outside) -> Outside:
    sid = next(word.sid for word in outside.words)
    connection.execute(sa.delete(schema.received).where(schema.received.c.provider_id == sid))
    return outside


def take_a_forgery(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, words=list(outside.words)[1:])


def answer_a_forgery_kindly(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, forged={200: 1})


def pay_twice(connection: Connection, outside: Outside) -> Outside:
    paid = next(mark for mark in outside.marks if mark["what"] == "paid")
    return dataclasses.replace(outside, marks=[*outside.marks, paid])


def pay_more_than_was_approved(connection: Connection, outside: Outside) -> Outside:
    marks = [{**mark, "amount": 1_000_000} if mark["what"] == "paid" else mark for mark in outside.marks]
    return dataclasses.replace(outside, marks=marks)


def decide_twice(connection: Connection, outside: Outside) -> Outside:
    counted = connection.execute(
        sa.select(schema.audit).where(schema.audit.c.act == "approve").limit(1)
    ).one()
    row = {name: value for name, value in counted._mapping.items() if name != "id"}
    connection.execute(sa.insert(schema.audit).values(**row))
    return outside


def give_an_answer_to_another(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "ask")
    wrong = run.result.replace("it is ask", "it is not ask")
    connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run.id).values(result=wrong))
    return outside


def lose_a_tick(connection: Connection, outside: Outside) -> Outside:
    middle = (
        sa.select(schema.runs.c.id)
        .where(schema.runs.c.schedule_id.is_not(None))
        .order_by(schema.runs.c.schedule_id, schema.runs.c.nominal)
        .offset(3)
        .limit(1)
    )
    id = connection.execute(middle).scalar_one()
    connection.execute(sa.delete(schema.journal).where(schema.journal.c.run_id == id))
    connection.execute(sa.delete(schema.runs).where(schema.runs.c.id == id))
    return outside


def wake_too_early(connection: Connection, outside: Outside) -> Outside:
    run = str(_run_of(connection, "nap").id)
    marks = [
        {**mark, "at": mark["at"] - 60.0}
        if mark["what"] == "step" and mark["run"] == run and mark["part"] == "2"
        else mark
        for mark in outside.marks
    ]
    return dataclasses.replace(outside, marks=marks)


def shrink_a_token(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, leases=["session 1: token 3 became 2"], looks=outside.looks + 1)


def hold_a_session(connection: Connection, outside: Outside) -> Outside:
    session = _run_of(connection, "order").session_id
    connection.execute(
        sa.update(schema.sessions).where(schema.sessions.c.id == session).values(owner="somebody")
    )
    return outside


def run_the_pickle(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, bombs=1)


def lose_a_child(connection: Connection, outside: Outside) -> Outside:
    run = _run_of(connection, "child")
    connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run.id).values(parent_id=None))
    return outside


def refuse_a_call(connection: Connection, outside: Outside) -> Outside:
    return dataclasses.replace(outside, taken={**outside.taken, 0: 409})


def begin_a_chat_twice(connection: Connection, outside: Outside) -> Outside:
    word = Word(sid="SM" + "8" * 32, contact="chatter0", text="chat999x", label="chat999x")
    return dataclasses.replace(outside, words=[*outside.words, word])


TAMPERINGS: dict[Tamper, str] = {
    drop_a_run: "each call that was taken is a run that is over, or a signal that was",
    refuse_a_call: "each call that was taken is a run that is over, or a signal that was",
    park_a_run: "every run there is came to its end; what was skipped says why",
    leave_something_in_an_inbox: "nothing that arrived is left in an inbox",
    lose_a_recorded_step: "the handler saw exactly the results that are recorded",
    let_a_step_see_another_result: "each recorded result was computed outside, and what came after it saw that one only",
    compute_a_recorded_step_again: "no recorded result was computed again, but by a worker that had been replaced",
    let_a_ghost_take_effect: "whatever took effect belongs to a run that there is",
    lose_an_update_of_a_state: "a session's state holds each of its runs once",
    lose_a_child: "a run that spawned others got the result of each",
    lose_a_signal: "each signal woke one run, once",
    shrink_a_token: "fencing tokens and versions only grow, and a new holder has a new token",
    hold_a_session: "no session is held, or counted as killing its workers, when all is over",
    run_the_pickle: "no poison on the queue was run",
    wake_too_early: "nobody woke before the time",
    lose_a_tick: "each occurrence of a schedule is accounted for once: run, stood for, or skipped with its reason",
    forget_an_acknowledged_word: "what was acknowledged is recorded, once however often it came",
    take_a_forgery: "no forgery was taken, and none left a trace",
    answer_a_forgery_kindly: "no forgery was taken, and none left a trace",
    begin_a_chat_twice: "each message that begins something began one run",
    double_a_message_at_the_provider: "the provider has each SMS once, and the store knows each that the provider has",
    lose_a_message_at_the_provider: "the provider has each SMS once, and the store knows each that the provider has",
    give_a_delivery_up: "every message out was delivered; none is waiting, in doubt or given up, unless three attempts had no answer",
    pay_twice: "a gated function ran once where it was approved, with the approved arguments, and nowhere else",
    pay_more_than_was_approved: "a gated function ran once where it was approved, with the approved arguments, and nowhere else",
    decide_twice: "each approval was decided once, by the one who was asked, about exactly these arguments",
    give_an_answer_to_another: "each question got its own answer, from the one who was asked",
}


class _Undone(Exception):
    """Nothing of it is to stay."""


def test_every_check_of_what_may_be_lost_or_doubled_is_tampered_with() -> None:
    """No check is there that nobody has seen fail, but for those that repeat another one from another side."""
    names = {one.name for one in CHECKS}
    untested = names - set(TAMPERINGS.values())

    assert set(TAMPERINGS.values()) <= names
    assert untested <= {
        "the journal of a run has no gap, and one end for each operation",
        "what a run sent, asked and spawned is there once for each line of its journal",
        "no occurrence of a schedule ran before its time",
        "each question, request and echo by SMS was sent once, by what it says",
        "what cannot be looked up, and whose outcome was unknown, was sent three times at the most",
        "no request is open when all is over",
    }
