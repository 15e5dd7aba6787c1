"""What must hold at the end of a campaign, whatever happened: each guarantee that can be checked from outside and in the store.

A check says how often it looked, and what it found wrong, with the session that it concerns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.chaos.agents import BOSSES
from tests.chaos.evidence import COMPLETED, Evidence, Mark, Run, monotonic, wall
from tests.chaos.plan import is_approved, wants

from wakeloop.engine.values import JSON_CODEC
from wakeloop.testing.twilio import StandInMessage

SMS_SKEW_SECONDS = 4.0
"""The list of the SMS is read with five seconds to spare, and its times are whole seconds."""
CLOCK_LAG_SECONDS = 8.0
"""Processes learn the database's time every five seconds of use, and a busy machine takes some more."""
TOLERANCE_SECONDS = 1.0
MOST_COPIES = 3
COUNTING = ("chain", "nap", "shelf", "echo", "beat")
TICKING = {"beat": 1, "slow_beat": 1, "patient_beat": 2}
TAKEN = (200, 201, 202)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Something that must not be. session: whose history shows it, if it is one's."""

    check: str
    what: str
    session: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A promise, by its number in docs/guarantees.md (0: all of them), in words, with what looks whether it was kept:
    it gives None for each thing that is right and a violation for each that is not."""

    guarantee: int
    name: str
    look: Callable[[Evidence], Iterable[Violation | None]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all checks found: how often each looked, what was wrong, and what the guarantees allow and happened."""

    checked: dict[str, int]
    violations: tuple[Violation, ...]
    allowed: dict[str, int]


CHECKS: list[Check] = []
Found = Iterator[Violation | None]


def check(guarantee: int, name: str) -> Callable[[Callable[[Evidence], Found]], Callable[[Evidence], Found]]:
    """Make this one of the checks."""

    def add(look: Callable[[Evidence], Found]) -> Callable[[Evidence], Found]:
        CHECKS.append(Check(guarantee=guarantee, name=name, look=look))
        return look

    return add


def judge(evidence: Evidence) -> Verdict:
    """Look at everything."""
    checked: dict[str, int] = {}
    wrong: list[Violation] = []
    for one in CHECKS:
        found = list(one.look(evidence))
        checked[one.name] = len(found)
        wrong += [
            Violation(check=one.name, what=item.what, session=item.session)
            for item in found
            if item is not None
        ]
    return Verdict(checked=checked, violations=tuple(wrong), allowed=allowed(evidence))


def _is(right: bool, what: str, run: Run | None = None, session: str | None = None) -> Violation | None:
    if right:
        return None
    if run is not None:
        return Violation(check="", what=f"run {run.id}: {what}", session=run.session)
    return Violation(check="", what=what, session=session)


# ---------------------------------------------------------------------- nothing is lost


@check(0, "each call that was taken is a run that is over, or a signal that was")
def _accepted(evidence: Evidence) -> Found:
    signals = Counter(run.result["label"] for run in evidence.of("shelf"))
    for call in evidence.outside.plan.calls:
        status = evidence.outside.taken.get(call.number)
        if status not in TAKEN:
            yield _is(False, f"call {call.number} ({call.label}) was answered {status}")
        elif call.run is None:
            yield _is(signals[call.label] > 0, f"signal {call.label} was taken and woke nobody")
        else:
            run = evidence.runs.get(call.run)
            there = run is not None and run.status == COMPLETED and run.event.get("input") == call.input
            state = "not there" if run is None else run.status
            yield _is(there, f"run {call.run} ({call.label}) was taken and is {state}", run)


@check(11, "every run there is came to its end; what was skipped says why")
def _over(evidence: Evidence) -> Found:
    for run in evidence.runs.values():
        fine = run.status == COMPLETED or (run.status == "cancelled" and run.skipped is not None)
        yield _is(fine, f"is {run.status}: {run.failure}", run)


@check(4, "nothing that arrived is left in an inbox")
def _inboxes(evidence: Evidence) -> Found:
    for row in evidence.rows["inbox"]:
        yield _is(
            row.consumed_at is not None,
            f"{row.kind} {row.dedupe} was not taken",
            session=evidence.name(row.session_id),
        )


# ---------------------------------------------------------------------- 1: steps


@check(1, "the handler saw exactly the results that are recorded")
def _recorded(evidence: Evidence) -> Found:
    for run in evidence.completed:
        if run.agent in ("buy", "echo"):
            continue
        recorded = [
            JSON_CODEC.load(row.value) for row in run.journal if row.kind == "step" and row.name == "work"
        ]
        yield _is(recorded == run.results != [], f"returned {run.results}; recorded are {recorded}", run)


@check(1, "each recorded result was computed outside, and what came after it saw that one only")
def _computed(evidence: Evidence) -> Found:
    for run in evidence.completed:
        seen = ""
        for number, result in enumerate(run.results, start=1):
            marks = evidence.steps[run.id][str(number)]
            fine = any(mark.facts["result"] == result for mark in marks)
            yield _is(fine, f"nothing outside computed the result {result} of part {number}", run)
            others = {mark.facts["seen"] for mark in marks} - {seen}
            yield _is(not others, f"part {number} saw {sorted(others)} besides the recorded {seen!r}", run)
            seen = result


@check(1, "no recorded result was computed again, but by a worker that had been replaced")
def _not_again(evidence: Evidence) -> Found:
    for run in evidence.completed:
        for number in range(1, len(run.results)):
            late = [
                mark for mark in _late(evidence, run, number) if not _is_replaced(evidence, run, number, mark)
            ]
            yield _is(
                not late, f"part {number} was computed again after part {number + 1} had begun: {late}", run
            )


def _late(evidence: Evidence, run: Run, number: int) -> list[Mark]:
    """What part `number` did after the next one had begun, which begins once its result is recorded."""
    parts = evidence.steps[run.id]
    following = parts[str(number + 1)]
    return [mark for mark in parts[str(number)] if following and mark.place > following[0].place]


def _is_replaced(evidence: Evidence, run: Run, number: int, mark: Mark) -> bool:
    """Whether a process was there before another went on with the run, and has not gone on with it itself: it had not
    noticed that it was replaced, which guarantee 3 says may be."""
    following = evidence.steps[run.id][str(number + 1)]
    knew = any(one.process == mark.process and one.place < mark.place for one in following)
    return evidence.began.get(mark.process, mark.place) < following[0].place and not knew


@check(1, "the journal of a run has no gap, and one end for each operation")
def _journals(evidence: Evidence) -> Found:
    ends = ("step", "timer", "reply", "child", "receive", "send", "ask", "approve", "spawn", "emit")
    for run in evidence.completed:
        numbers = [row.seq for row in run.journal]
        operations = [(row.op, row.kind) for row in run.journal if row.kind in ends]
        fine = numbers == list(range(1, len(numbers) + 1)) and len(set(operations)) == len(operations)
        yield _is(fine, f"its journal has the lines {numbers} and ends {operations}", run)


# ---------------------------------------------------------------------- 2: atomicity


@check(2, "whatever took effect belongs to a run that there is")
def _no_ghosts(evidence: Evidence) -> Found:
    for id in evidence.steps:
        yield _is(id in evidence.runs, f"a step of run {id} took effect, and there is no such run")


@check(2, "a session's state holds each of its runs once")
def _states(evidence: Evidence) -> Found:
    by_session: dict[str, list[Run]] = defaultdict(list)
    for run in evidence.completed:
        if run.agent in COUNTING:
            by_session[run.session].append(run)
    states = {f"{row.agent}/{row.key}": row.state for row in evidence.rows["sessions"]}
    for session, runs in by_session.items():
        counts = sorted(run.result["count"] for run in runs)
        state = JSON_CODEC.load(states[session])["runs"] if states.get(session) else None
        fine = counts == list(range(1, len(runs) + 1)) and state == len(runs)
        yield _is(fine, f"{len(runs)} runs counted {counts}, and the state says {state}", session=session)


@check(2, "what a run sent, asked and spawned is there once for each line of its journal")
def _outgoing(evidence: Evidence) -> Found:
    said = Counter(
        str(row.run_id) for row in evidence.rows["messages"] if not row.inbound and row.request_id is None
    )
    asked = Counter(str(row.run_id) for row in evidence.rows["requests"])
    spawned = Counter(run.parent for run in evidence.runs.values())
    for run in evidence.completed:
        kinds = Counter(row.kind for row in run.journal)
        there = (said[run.id], asked[run.id], spawned[run.id])
        noted = (kinds["send"], kinds["ask"] + kinds["approve"], kinds["spawn"])
        yield _is(there == noted, f"sent, asked and spawned {there}; recorded are {noted}", run)


@check(2, "a run that spawned others got the result of each")
def _children(evidence: Evidence) -> Found:
    for run in evidence.of("family"):
        children = [evidence.runs.get(id) for id in run.result["children"]]
        mine = {one.id for one in evidence.runs.values() if one.parent == run.id}
        fine = all(one is not None and one.status == COMPLETED for one in children)
        fine = fine and mine == set(run.result["children"]) and run.result["parts"] == ["left", "right"]
        yield _is(fine, f"spawned {run.result['children']}; there are {sorted(mine)}", run)


@check(2, "each signal woke one run, once")
def _signals(evidence: Evidence) -> Found:
    woken = Counter(run.result["label"] for run in evidence.of("shelf"))
    sent = {call.label for call in evidence.outside.plan.calls if call.kind in ("order", "signal")}
    for label in sent | set(woken):
        yield _is(woken[label] == 1 and label in sent, f"the signal {label} woke {woken[label]} runs")


# ---------------------------------------------------------------------- 3: one writer


@check(3, "fencing tokens and versions only grow, and a new holder has a new token")
def _leases(evidence: Evidence) -> Found:
    for wrong in evidence.outside.leases:
        yield Violation(check="", what=wrong)
    for _ in range(evidence.outside.looks - len(evidence.outside.leases)):
        yield None


@check(3, "no session is held, or counted as killing its workers, when all is over")
def _at_rest(evidence: Evidence) -> Found:
    for row in evidence.rows["sessions"]:
        yield _is(row.owner is None and row.takeovers == 0, f"is held by {row.owner}, {row.takeovers} takeovers", session=f"{row.agent}/{row.key}")  # fmt: skip


# ---------------------------------------------------------------------- 4: the broker


@check(4, "no poison on the queue was run")
def _bombs(evidence: Evidence) -> Found:
    yield _is(evidence.outside.bombs == 0, f"{evidence.outside.bombs} processes were ended by a pickle")
    agents = {row.agent for row in evidence.rows["sessions"]}
    yield _is("nobody" not in agents, "a turn of an agent that nobody knows left a session")


# ---------------------------------------------------------------------- 5: time


@check(5, "nobody woke before the time")
def _naps(evidence: Evidence) -> Found:
    for run in evidence.of("nap"):
        first, second = evidence.steps[run.id]["1"], evidence.steps[run.id]["2"]
        slept = [mark for mark in first if mark.facts["result"] == run.results[0]]
        if not slept or not second:
            yield _is(False, "left no marks", run)
            continue
        wanted = run.event["input"]["seconds"]
        took = second[0].at - slept[0].at
        moved = evidence.moved(slept[0].at, second[0].at, lag=CLOCK_LAG_SECONDS)
        yield _is(took >= wanted - TOLERANCE_SECONDS - moved, f"slept {took:.2f} s of {wanted} s", run)


@check(5, "no occurrence of a schedule ran before its time")
def _not_early(evidence: Evidence) -> Found:
    for run in (run for run in evidence.completed if run.nominal is not None):
        marks = evidence.steps[run.id]["1"]
        if not marks:
            yield _is(False, "left no mark", run)
            continue
        assert run.nominal is not None
        moved = evidence.moved(marks[0].at - CLOCK_LAG_SECONDS, marks[0].at, lag=CLOCK_LAG_SECONDS)
        early = (run.nominal - wall(marks[0].at)) / timedelta(seconds=1)
        yield _is(early <= TOLERANCE_SECONDS + moved, f"ran {early:.2f} s before {run.nominal}", run)


@check(5, "each occurrence of a schedule is accounted for once: run, stood for, or skipped with its reason")
def _ticks(evidence: Evidence) -> Found:
    by_schedule: dict[int, list[Run]] = defaultdict(list)
    for run in evidence.runs.values():
        if run.schedule is not None:
            by_schedule[run.schedule].append(run)
    for runs in by_schedule.values():
        every = timedelta(seconds=TICKING[runs[0].agent])
        accounted: Counter[datetime] = Counter()
        for run in runs:
            assert run.nominal is not None
            if run.nominal > evidence.outside.last_ticks.get(run.schedule or 0, run.nominal):
                continue
            # Those that one stands for, whether it ran or was skipped itself, are the ones just before it.
            stands_for = int(run.event.get("missed_count", 0)) + max(run.skip_count - 1, 0)
            for back in range(stands_for + 1):
                accounted[run.nominal - back * every] += 1
        nominal = min(accounted)
        while nominal <= max(accounted):
            yield _is(accounted[nominal] == 1, f"{runs[0].agent} at {nominal} is accounted for {accounted[nominal]} times", session=runs[0].session)  # fmt: skip
            nominal += every


# ---------------------------------------------------------------------- 6: inbound


@check(6, "what was acknowledged is recorded, once however often it came")
def _received(evidence: Evidence) -> Found:
    rows = Counter(row.provider_id for row in evidence.rows["received"] if row.channel == "sms")
    for word in evidence.outside.words:
        times = evidence.outside.acknowledged.get(word.sid, 0)
        yield _is(times > 0, f"{word.contact}'s {word.text!r} was never taken")
        yield _is(rows[word.sid] == 1, f"{word.contact}'s {word.text!r} was taken {times} times and is recorded {rows[word.sid]} times")  # fmt: skip


@check(6, "no forgery was taken, and none left a trace")
def _forged(evidence: Evidence) -> Found:
    for status, times in evidence.outside.forged.items():
        for _ in range(times):
            yield _is(status in (403, 503), f"a forgery was answered {status}")
    said = {word.sid for word in evidence.outside.words}
    for row in evidence.rows["received"]:
        yield _is(row.channel != "sms" or row.provider_id in said, f"{row.provider_id} was recorded, and nobody said it")  # fmt: skip


@check(6, "each message that begins something began one run")
def _chats(evidence: Evidence) -> Found:
    ran = Counter(run.result["text"] for run in evidence.of("echo"))
    said = {word.text for word in evidence.outside.words if word.label.startswith("chat")}
    for text in said | set(evidence.outside.written) | set(ran):
        yield _is(ran[text] == 1, f"the message {text!r} began {ran[text]} runs")
    yield _is(evidence.outside.left == 0, f"{evidence.outside.left} messages were not fetched")


# ---------------------------------------------------------------------- 7: outbound


@check(7, "the provider has each SMS once, and the store knows each that the provider has")
def _provider(evidence: Evidence) -> Found:
    known = Counter(row.provider_id for row in evidence.rows["deliveries"] if row.channel == "sms")
    taken = Counter(message.sid for message in evidence.outside.sms)
    for message in evidence.outside.sms:
        fine = known[message.sid] == 1 or _is_skewed(evidence, message)
        yield _is(fine, f"{message.sid} to {message.to} is of no delivery: {message.body!r}")
    for sid in known:
        yield _is(sid in taken, f"{sid} is recorded as sent, and the provider does not have it")


@check(7, "each question, request and echo by SMS was sent once, by what it says")
def _once(evidence: Evidence) -> Found:
    known = {row.provider_id for row in evidence.rows["deliveries"]}
    sent = Counter(
        _subject_of(message.body)
        for message in evidence.outside.sms
        if message.sid in known or not _is_skewed(evidence, message)
    )
    for call in evidence.outside.plan.calls:
        if call.kind in ("ask", "buy"):
            yield _is(sent[call.label] == 1, f"the question of {call.label} was sent {sent[call.label]} times", session=f"{call.kind}/{call.key}")  # fmt: skip
    for word in evidence.outside.words:
        if word.label.startswith("chat"):
            times = sent[word.label]
            yield _is(
                times == 1,
                f"the echo of {word.text!r} was sent {times} times",
                session=f"echo/{word.contact}",
            )


def _is_skewed(evidence: Evidence, message: StandInMessage) -> bool:
    """Whether a message was sent while the store's clock and Twilio's differed by more than the seconds that its list is
    read with: docs/channels/sms.md says what that may do after a crash."""
    at = monotonic(message.date_created)
    return any(
        abs(step) > SMS_SKEW_SECONDS and since - CLOCK_LAG_SECONDS <= at <= until + 2 * CLOCK_LAG_SECONDS
        for since, until, step in evidence.outside.steps
    )


def _subject_of(text: str) -> str:
    """Of which label a message is, if it asks or echoes."""
    first, _, rest = text.partition("\n")
    if first.endswith((": what now?", " to you")):
        return first.partition(":")[0].partition(" ")[0]
    if first == "May I pay?":
        return rest.partition("label: '")[2].partition("'")[0]
    return ""


@check(7, "what cannot be looked up, and whose outcome was unknown, was sent three times at the most")
def _copies(evidence: Evidence) -> Found:
    sent = evidence.copies
    for text in evidence.outside.written:
        times = sent[f"{text} to you"]
        yield _is(1 <= times <= MOST_COPIES, f"the echo of {text!r} was sent {times} times by Telegram")


@check(
    7,
    "every message out was delivered; none is waiting, in doubt or given up, unless three attempts had no answer",
)
def _delivered(evidence: Evidence) -> Found:
    for row in evidence.rows["deliveries"]:
        fine = row.status in ("sent", "delivered") or _is_sent_often(evidence, row)
        yield _is(fine, f"delivery {row.id} to {row.contact} is {row.status}: {row.error}")


def _is_sent_often(evidence: Evidence, delivery: Any) -> bool:
    """Whether it went by Telegram, which can look nothing up, was tried as often as may be, and no answer came. An attempt
    whose connection broke may not have arrived; one of them did."""
    sent = evidence.copies[evidence.texts.get(delivery.message_id, "")]
    is_given_up = delivery.status == "failed" and delivery.tries == MOST_COPIES
    return delivery.channel == "telegram" and is_given_up and 1 <= sent <= MOST_COPIES


# ---------------------------------------------------------------------- 8: approvals


@check(8, "a gated function ran once where it was approved, with the approved arguments, and nowhere else")
def _gated(evidence: Evidence) -> Found:
    paid: dict[str, list[Mark]] = defaultdict(list)
    for mark in evidence.marks:
        if mark.what == "paid":
            paid[mark.facts["label"]].append(mark)
    for call in evidence.outside.plan.calls:
        marks = paid.pop(call.label, [])
        if call.kind != "buy":
            continue
        run = evidence.runs.get(call.run or "")
        told = {name: call.input[name] for name in ("label", "amount", "boss")}
        took = [{name: mark.facts[name] for name in told} for mark in marks]
        yield _is(took == ([told] if is_approved(call) else []), f"{told}, approved {is_approved(call)}: took effect as {took}", run)  # fmt: skip
        if run is not None and run.status == COMPLETED:
            due = {"paid": marks[0].facts["result"]} if marks else {"denied": call.input["boss"]}
            yield _is(run.result == due, f"returned {run.result}, not {due}", run)
    for label in paid:
        yield _is(False, f"{label} was paid, and nobody asked for it")


@check(8, "each approval was decided once, by the one who was asked, about exactly these arguments")
def _decided(evidence: Evidence) -> Found:
    counted: dict[Any, list[Any]] = defaultdict(list)
    for row in evidence.rows["audit"]:
        if row.result == "counted":
            counted[row.request_id].append(row)
    calls = {call.run: call for call in evidence.outside.plan.calls if call.kind == "buy"}
    for row in evidence.rows["requests"]:
        if row.kind != "approval":
            continue
        call = calls.get(str(row.run_id))
        told = JSON_CODEC.load(row.args)
        decided = [(one.contact, one.digest) for one in counted[row.id]]
        fine = call is not None and told == {name: call.input[name] for name in ("label", "amount")}
        fine = fine and decided == [(call.input["boss"], row.digest)] and decided[0][0] in BOSSES  # type: ignore[union-attr]
        yield _is(fine, f"request {row.id} about {told} was decided by {decided}", session=evidence.name(row.session_id))  # fmt: skip


# ---------------------------------------------------------------------- 9: replies


@check(9, "each question got its own answer, from the one who was asked")
def _answers(evidence: Evidence) -> Found:
    calls = {call.run: call for call in evidence.outside.plan.calls if call.kind == "ask"}
    for run in evidence.of("ask"):
        call = calls.get(run.id)
        fine = (
            call is not None and run.result["answer"] == wants(call) and run.result["by"] == call.input["to"]
        )
        yield _is(fine, f"got {run.result['answer']!r} by {run.result['by']}", run)


@check(9, "no request is open when all is over")
def _settled(evidence: Evidence) -> Found:
    for row in evidence.rows["requests"]:
        yield _is(row.status in ("answered", "approved", "denied"), f"request {row.id} is {row.status}", session=evidence.name(row.session_id))  # fmt: skip


# ---------------------------------------------------------------------- what is allowed


def allowed(evidence: Evidence) -> dict[str, int]:
    """What the guarantees allow, and happened."""
    repeated = sum(len(marks) - 1 for parts in evidence.steps.values() for marks in parts.values())
    late = sum(
        len(_late(evidence, run, number))
        for run in evidence.completed
        for number in range(1, len(run.results))
    )
    sent = evidence.copies
    known = {row.provider_id for row in evidence.rows["deliveries"]}
    return {
        "SMS sent again while two clocks differed by more than five seconds (7)": sum(
            message.sid not in known and _is_skewed(evidence, message) for message in evidence.outside.sms
        ),
        "steps run again before their result was recorded (1)": repeated - late,
        "steps run again by a worker that had been replaced (1, 3)": late,
        "messages by Telegram sent again, their outcome unknown (7)": sent.total() - len(sent),
        "messages by Telegram given up after three answers were lost (7)": sum(
            _is_sent_often(evidence, row) for row in evidence.rows["deliveries"]
        ),
        "gated functions whose outcome a person had to tell (8)": evidence.outside.told,
    }
