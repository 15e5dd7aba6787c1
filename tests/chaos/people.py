"""The people: they read what the provider brings, and answer through the web service, late, twice and in any order."""

from __future__ import annotations

import heapq
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.plan import Plan, wants
from tests.chaos.works import Works

from wakeloop.testing.twilio import StandInMessage

THREADS = 4
AGAIN_SECONDS = 0.5
SLOWEST_SECONDS = 3.0
TWICE = 0.3
FORGED = 0.05
REPORTED = 0.3
_LABEL = re.compile(r"\b(?:ask|buy)\d+x\b")
_CODE = re.compile(r"[Rr]eply ([A-Z]\d+)\b")
_EARLIER = re.compile(r"^\(For “(.*)” reply (\w+) and your answer\.\)$")
_LISTED = re.compile(r"^([A-Z]\d+): (.*)$")


@dataclass(frozen=True, kw_only=True)
class Word:
    """What a person wrote. sid: the provider's id; taken: the web service said that it has it."""

    sid: str
    contact: str
    text: str
    label: str


@dataclass
class _Question:
    """Where a person is with a question."""

    contact: str
    code: str | None = None
    coded: bool = False


@dataclass(order=True)
class _Due:
    at: float
    place: int
    act: Callable[[], None] = field(compare=False)


class People:
    """Everybody who has a telephone, and the provider that carries what they say until it is taken.

    A person answers each question once: without a code if it named none; with its code if the answer was not understood.
    The provider delivers it once, or several times at once and later, and tries again for as long as it takes."""

    def __init__(self, plan: Plan) -> None:
        self.words: list[Word] = []
        self.acknowledged: Counter[str] = Counter()
        """How often each word was taken, by its sid."""
        self.counts: Counter[str] = Counter()
        self._plan = plan
        self._chance = random.Random(f"{plan.options.seed} people")
        self._lock = threading.Condition()
        self._places = itertools.count()
        self._due: list[_Due] = []
        self._questions: dict[str, _Question] = {}
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._over = False
        self._works: Works | None = None

    # ------------------------------------------------------------------ life

    def begin(self, works: Works) -> None:
        """Listen to what the provider brings."""
        self._works = works
        self._names = {number: name for name, number in works.numbers.items()}
        self._threads = [threading.Thread(target=self._run, name=f"people-{n}") for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let nobody say anything more."""
        with self._lock:
            self._over = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_quiet(self) -> bool:
        """Whether nobody is about to say anything."""
        with self._lock:
            return not self._due and not self._busy

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._over and not (self._due and self._due[0].at <= time.monotonic()):
                    self._lock.wait(self._due[0].at - time.monotonic() if self._due else None)
                if self._over:
                    return
                due = heapq.heappop(self._due)
                self._busy += 1
            try:
                due.act()
            finally:
                with self._lock:
                    self._busy -= 1

    def _later(self, act: Callable[[], None], seconds: float) -> None:
        with self._lock:
            heapq.heappush(self._due, _Due(time.monotonic() + seconds, next(self._places), act))
            self._lock.notify()

    # ------------------------------------------------------------------ questions

    def hear(self, message: StandInMessage) -> None:
        """An SMS came."""
        with self._lock:
            chance = self._chance
            if chance.random() < REPORTED:
                self._report(message)
            contact = self._names[message.to]
            lines = message.body.splitlines()
            if "open. Reply with a code and your answer:" in lines[0]:
                for listed in filter(None, map(_LISTED.match, lines)):
                    self._coded(contact, listed[2], listed[1])
                return
            for earlier in filter(None, map(_EARLIER.match, lines)):
                self._learn(earlier[1], earlier[2])
            body = "\n".join(line for line in lines if not _EARLIER.match(line))
            label = _LABEL.search(body)
            if label is None or not ("what now?" in body or "May I pay?" in lines[0]):
                return
            if label[0] in self._questions or lines[0].startswith(("Approved", "Denied", "That ")):
                self.counts["questions heard twice"] += label[0] in self._questions
                return
            code = _CODE.search(body)
            question = _Question(contact=contact, code=code[1] if code else None, coded=code is not None)
            self._questions[label[0]] = question
            self._later(lambda: self._answer(label[0]), chance.uniform(0.0, SLOWEST_SECONDS))

    def _learn(self, title: str, code: str) -> None:
        label = _LABEL.search(title)
        question = self._questions.get(label[0]) if label else None
        if question is not None and question.code is None:
            question.code = code

    def _coded(self, contact: str, title: str, code: str) -> None:
        """An answer was not understood: give it with the code, if it was given without one."""
        label = _LABEL.search(title)
        question = self._questions.get(label[0]) if label else None
        if label is None or question is None or question.coded:
            return
        question.code, question.coded = code, True
        self._later(lambda: self._answer(label[0]), self._chance.uniform(0.0, 0.5))

    def _answer(self, label: str) -> None:
        with self._lock:
            question = self._questions[label]
            question.coded = question.coded or question.code is not None
            said = wants(self._plan.by_label[label])
            text = f"{question.code} {said}" if question.code else said
        self.say(question.contact, text, label)

    # ------------------------------------------------------------------ what is said

    def say(self, contact: str, text: str, label: str) -> None:
        """Somebody writes an SMS, which the provider brings until it is taken: sometimes more than once, sometimes with a
        forgery before it."""
        assert self._works is not None
        number = self._works.numbers[contact]
        with self._lock:
            chance = self._chance
            sid = f"SM{chance.getrandbits(128):032x}"
            word = Word(sid=sid, contact=contact, text=text, label=label)
            self.words.append(word)
            again = chance.random() < TWICE
            if chance.random() < FORGED:
                self._later(lambda: self._forge(number, text), 0.0)
            if again:
                for _ in range(chance.randint(1, 2)):
                    self.counts["webhooks sent again"] += 1
                    self._later(lambda: self._bring(word), chance.choice([0.0, 0.0, chance.uniform(0, 8)]))
        self._bring(word)

    def _bring(self, word: Word) -> None:
        assert self._works is not None
        try:
            status = self._works.twilio.reply(
                word.text, from_=self._works.numbers[word.contact], sid=word.sid
            ).status
        except OSError:
            status = 0
        with self._lock:
            if 200 <= status < 300:
                self.acknowledged[word.sid] += 1
                return
            self.counts["webhooks not taken"] += 1
        self._later(lambda: self._bring(word), AGAIN_SECONDS)

    def _forge(self, number: str, text: str) -> None:
        assert self._works is not None
        try:
            status = self._works.twilio.forge(text, from_=number).status
        except OSError:
            return
        with self._lock:
            self.counts[f"forgeries answered {status}"] += 1

    def _report(self, message: StandInMessage) -> None:
        """Twilio tells how far a message has come: in any order, and more than once."""
        reports = ["sent", "delivered", self._chance.choice(["sent", "delivered"])]
        self._chance.shuffle(reports)
        for status in reports:
            self.counts["reports of deliveries"] += 1
            self._later(
                lambda status=status: self._tell(message.sid, status),  # type: ignore[misc]
                self._chance.uniform(0.2, 2.0),
            )

    def _tell(self, sid: str, status: str) -> None:
        assert self._works is not None
        try:
            self._works.twilio.post_status(sid, status)
        except OSError:
            with self._lock:
                self.counts["reports that nobody took"] += 1
