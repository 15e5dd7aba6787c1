"""Reading a person's plain words, in several languages, as a yes or a no, and as nothing when they are not plain.

What a person may say is data, in `phrases.toml` beside this module; here is only the grammar:

- A yes is a text made of known pieces and nothing else, one of them a yes.
- A no is a text that begins with a known no, and whose rest does not turn it around.
- Everything else is unclear, and is the caller's to ask about again.
"""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

LONGEST_YES_CHARACTERS = 200


class Verdict(StrEnum):
    """What a reply says: yes, no, or neither of them plainly."""

    YES = "yes"
    NO = "no"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A reply as it was understood.

    comment: of a yes always empty, of a no what was written after it, of an unclear text all of it; as written, without
    the white space around it.
    """

    verdict: Verdict
    comment: str = ""


class Kind(StrEnum):
    """The lists of phrases that a language may have; `phrases.toml` says what belongs in each."""

    YES = "yes"
    YES_ALONE = "yes_alone"
    GREETING = "greeting"
    COURTESY = "courtesy"
    GLAD = "glad"
    CLOSING = "closing"
    NO = "no"
    NO_OPEN = "no_open"
    NO_ALONE = "no_alone"
    REGRET = "regret"
    AFTER_NO = "after_no"
    NOT_NO = "not_no"
    TURNS = "turns"
    HEDGE = "hedge"
    UNCLEAR = "unclear"
    STRETCH = "stretch"
    KEYWORD = "keyword"


def read_verdict(text: str) -> Reading:
    """What a person's whole reply says, to "may the agent do this?" or to another question of yes or no.

    Guarantees of YES: the text has at most 200 characters, every word, number and sign of it stands in the table, one
    of them is a yes, none is a no, and it has no question mark, no quotation mark, no ellipsis, no control character,
    and no comma or dash at its end, since the rest may come in a second message. So `"yes"` in quotation marks is
    unclear, since it may be somebody else's word, while brackets or asterisks around the whole are ignored.

    Guarantees of NO: the text begins with a known no (courtesies may precede it), and no yes and no word that turns or
    hedges comes after it. A question after it is a comment only if the no was a sentence of its own.

    Case, width of letters, missing accents or apostrophes and skin tones make no difference. Takes time linear in the
    length of the text, and raises nothing.
    """
    whole = text.strip()
    if any(map(_is_strange, whole)):
        return Reading(verdict=Verdict.UNCLEAR, comment=whole)
    tokens = list(_tokens(whole, stretch=phrases().stretch))
    asks = not _QUESTION_MARKS.isdisjoint(whole + unicodedata.normalize("NFKC", whole))
    if len(whole) <= LONGEST_YES_CHARACTERS and not asks and _is_yes(tokens):
        return Reading(verdict=Verdict.YES)
    if (start := _comment_of_no(tokens, asks)) is not None:
        return Reading(verdict=Verdict.NO, comment=whole[start:].strip())
    return Reading(verdict=Verdict.UNCLEAR, comment=whole)


@dataclass(frozen=True, kw_only=True)
class _Token:
    """A word, a number or a sign: `key` is its normal form, text[start:end] what was written."""

    key: str
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        return self.key[0].isalnum()


_Keys = tuple[str, ...]

_ZERO_WIDTH = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_MARKS = "\u0300-\u036f"
_APOSTROPHES = "'\u2019\u2018\u02bc\u2032\u00b4`"
_MODIFIERS = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
_LETTER = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""(?P<skip> [^\S\n]+ | [{_ZERO_WIDTH}]+ | (?<={_LETTER})[-\u2010\u2011](?={_LETTER}) )
    | (?P<word> {_LETTER} (?: [^\W_] | [{_MARKS}{_ZERO_WIDTH}] | [{_APOSTROPHES}](?={_LETTER}) )* )
    | (?P<code> :[a-z0-9_+-]{{1,30}}: )
    | (?P<dots> \.(?:\s*\.)+ )
    | (?P<sign> \d+ | \n | (?:[^\w\s]|_) [{_MODIFIERS}]* (?:\u200d[\u2640\u2642]\ufe0f?)? | . )""",
    re.VERBOSE | re.IGNORECASE,
)
_DROPPED = re.compile(f"[{_ZERO_WIDTH}{_APOSTROPHES}{_MODIFIERS}\u2640\u2642]")

_SAME = {
    "\u3002": ".",
    "\uff61": ".",
    "\u3001": ",",
    "\u2010": "-",
    "\u2011": "-",
    "\u2013": "-",
    "\u2014": "-",
}
_QUESTION_MARKS = frozenset("?\u00bf\u061f\u037e\u203d\u2e2e\u2753\u2754")
_ELLIPSIS = "..."
_SENTENCE_ENDS = frozenset(".!\n")
_CUTS = _SENTENCE_ENDS | frozenset(",;:-")
_HARMLESS_IN_YES = frozenset(".!,-\n\u00a1()")
_CUT_OFF = frozenset(",-(")
_WRAPPERS = {"[": "]", "*": "*", "_": "_"}
_OPENERS = frozenset("([*_-.,!\n\u00a1")
_EMPHASIS = frozenset(")]*_")
_COMMENT_SIGNS = frozenset("(\u00bf\u00a1")


def _is_strange(character: str) -> bool:
    """Control and format characters, such as those that change the direction of writing, hide what a person saw."""
    category = unicodedata.category(character)
    return (category == "Cc" and character not in "\t\n\r") or (
        category in ("Cf", "Co", "Cs") and character not in _ZERO_WIDTH
    )


def _tokens(text: str, *, stretch: frozenset[str] = frozenset()) -> Iterator[_Token]:
    """The tokens of a text. stretch: the words whose last letter may be repeated."""
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "skip":
            continue
        key = _ELLIPSIS
        if found.lastgroup != "dots" and found.group() != "\u2026":
            key = unicodedata.normalize("NFKC", _DROPPED.sub("", found.group()) or found.group()).casefold()
            key = _SAME.get(key, key)
        if (short := key.rstrip(key[-1]) + key[-1]) in stretch and len(key) >= found.end() - found.start():
            key = short
        yield _Token(key=key, start=found.start(), end=found.end())


def _variants(phrase: str) -> set[_Keys]:
    """Every way to write a phrase of the table: without accents, apostrophes or the commas that it has."""
    spellings = {phrase, phrase.replace("'", " "), phrase.replace(",", "")}
    plain = {write(spelling) for spelling in spellings for write in (_without_accents, _without_umlauts)}
    return {tuple(token.key for token in _tokens(form)) for form in spellings | plain}


def _without_accents(text: str) -> str:
    return re.sub(f"[{_MARKS}]", "", unicodedata.normalize("NFD", text))


def _without_umlauts(text: str) -> str:
    spelt = re.sub("([aou])\u0308", r"\1e", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", spelt)


class Phrases:
    """The table of phrases, by kind, of all languages together. Immutable.

    table: as in `phrases.toml`, by language and then by kind. Raises ValueError naming the phrase if a kind is not
    known, if a phrase says two things at once, if what may stand in a yes holds a hedge, or if a carrier's keyword is
    a verdict.
    """

    def __init__(self, table: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        phrases: dict[str, set[_Keys]] = {kind: set() for kind in Kind}
        for language, lists in table.items():
            for name, written in lists.items():
                if name not in phrases:
                    raise ValueError(f"{language}.{name} is no kind of phrase; there are {', '.join(Kind)}")
                phrases[name].update(*map(_variants, written))
        self.stretch = frozenset(keys[0] for keys in phrases[Kind.STRETCH])
        # Without its accent "sí" is a yes only by itself, and "si puedes" is none.
        phrases[Kind.YES] -= phrases[Kind.YES_ALONE] | phrases[Kind.UNCLEAR]
        self._phrases = phrases
        self._longest = {kind: max(map(len, found), default=0) for kind, found in phrases.items()}
        self._check(table)

    def pieces(self, keys: Sequence[str], at: int, *kinds: Kind) -> Iterator[tuple[int, Kind]]:
        """Every phrase of these kinds that stands at a position: how many keys it takes, and its kind."""
        for kind in kinds:
            for length in range(1, min(self._longest[kind], len(keys) - at) + 1):
                if tuple(keys[at : at + length]) in self._phrases[kind]:
                    yield length, kind

    def match(self, keys: Sequence[str], at: int, *kinds: Kind) -> int:
        """How many keys the longest of these phrases takes that stands at a position; 0 if none does."""
        return max((length for length, _ in self.pieces(keys, at, *kinds)), default=0)

    def is_whole(self, keys: Sequence[str], kind: Kind) -> bool:
        """Whether these keys are one phrase of this kind."""
        return tuple(keys) in self._phrases[kind]

    def _check(self, table: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        yes = self._phrases[Kind.YES] | self._phrases[Kind.YES_ALONE]
        no = {keys for kind in (*_NO, Kind.NO_ALONE) for keys in self._phrases[kind]}
        beside = {keys for kind in _BESIDE_YES for keys in self._phrases[kind]}
        for one, other, problem in (
            (yes, no, "is both a yes and a no"),
            (
                yes | no,
                beside | self._phrases[Kind.REGRET],
                "is both a verdict and what may stand beside one",
            ),
            (
                yes | no,
                self._phrases[Kind.NOT_NO] | self._phrases[Kind.UNCLEAR],
                "is both a verdict and none",
            ),
            (yes | no | beside, self._phrases[Kind.KEYWORD], "is a keyword of the carriers"),
        ):
            if both := one & other:
                raise ValueError(f"{' '.join(min(both))!r} {problem}")
        for language, lists in table.items():
            for phrase in (phrase for kind in (Kind.YES, *_BESIDE_YES) for phrase in lists.get(kind, ())):
                keys = [token.key for token in _tokens(phrase)]
                if any(self.match(keys, at, Kind.HEDGE) for at in range(len(keys))):
                    raise ValueError(f"{phrase!r} of {language} may stand in a yes, and holds a hedge")


_BESIDE_YES = (Kind.GREETING, Kind.COURTESY, Kind.GLAD, Kind.CLOSING)
_BEFORE_NO = (Kind.GREETING, Kind.COURTESY, Kind.REGRET)
_NO = (Kind.NO, Kind.NO_OPEN)
_AFTER_ANY_NO = (Kind.COURTESY, Kind.REGRET)


@functools.cache
def phrases() -> Phrases:
    """The table of `phrases.toml`. It is read with the first reply, as that takes a while, and many processes read none."""
    return Phrases(tomllib.loads((resources.files("wakeloop") / "phrases.toml").read_text(encoding="utf-8")))


def _is_yes(tokens: Sequence[_Token]) -> bool:
    """Whether the text is greetings, then a yes among courtesies, then closings, and nothing else at all."""
    keys = [token.key for token in tokens]
    while len(keys) > 1 and (keys[-1] in _SENTENCE_ENDS or _WRAPPERS.get(keys[0]) == keys[-1]):
        keys = keys[:-1] if keys[-1] in _SENTENCE_ENDS else keys[1:-1]
    if keys and keys[-1] in _CUT_OFF:
        return False
    words = [key for key in keys if key not in _HARMLESS_IN_YES]
    if phrases().is_whole(words, Kind.YES_ALONE):
        return True
    if any(
        phrases().match(words, at, Kind.UNCLEAR) > phrases().match(words, at, Kind.YES)
        for at in range(len(words))
    ):
        return False
    # For every position the ways to read what is before it: how far the order has come, and whether a yes was in it.
    read: list[set[tuple[int, bool]]] = [{(0, False)}, *(set() for _ in keys)]
    for at, key in enumerate(keys):
        for stage, agreed in read[at]:
            if key in _HARMLESS_IN_YES:
                read[at + 1].add((stage, agreed))
            for length, kind in phrases().pieces(keys, at, Kind.YES, *_BESIDE_YES):
                if (to := _STAGES.get(kind, 1)) >= stage:
                    read[at + length].add((to, agreed or kind is Kind.YES))
    return any(agreed for _, agreed in read[-1])


_STAGES = {Kind.GREETING: 0, Kind.CLOSING: 2}


def _comment_of_no(tokens: Sequence[_Token], asks: bool) -> int | None:
    """Where the comment of a denial starts in its text; None if it is no denial. asks: there is a question mark."""
    keys = [token.key for token in tokens]
    if phrases().is_whole([key for key in keys if key not in _OPENERS | _EMPHASIS], Kind.NO_ALONE):
        return tokens[-1].end
    at = 0
    while not (denials := sorted(phrases().pieces(keys, at, *_NO), reverse=True)):
        step = phrases().match(keys, at, *_BEFORE_NO) or int(at < len(keys) and keys[at] in _OPENERS)
        if not step:
            return None
        at += step
    # The longest that fits: "no, we don't" before "no", but not in "no, we don't need any".
    ends = (_comment_after(tokens[at:], length, kind is Kind.NO_OPEN, asks) for length, kind in denials)
    return next((end for end in ends if end is not None), None)


def _comment_after(tokens: Sequence[_Token], length: int, is_open: bool, asks: bool) -> int | None:
    """Where the comment starts after a no of this many tokens; None if what comes after it leaves it no denial."""
    if _is_turned(tokens, length):
        return None
    keys, at = [token.key for token in tokens], length
    is_sign, ended = not tokens[at - 1].is_word, False
    while True:
        gap = at
        while (
            at < len(keys) and keys[at] in _CUTS | _EMPHASIS and not phrases().match(keys, at, *_AFTER_ANY_NO)
        ):
            at += 1
        cut = _CUTS.intersection(keys[gap:at])
        ended = ended or not cut.isdisjoint(_SENTENCE_ENDS)
        # "No, please don't. We have enough": more of the same is no part of the comment.
        is_apart = cut or is_sign or (at < len(keys) and not tokens[at].is_word)
        more, kinds = at, _AFTER_ANY_NO + (_NO if is_apart else (Kind.NO_OPEN,))
        while found := phrases().match(keys, more, *kinds):
            more += found
        if more == len(keys):
            return tokens[-1].end
        if more == at or keys[more] not in _CUTS:
            break
        at = more
    if asks and not ended:
        return None
    first, before = tokens[at], tokens[at - 1]
    if not first.is_word:
        goes_on = first.key in _COMMENT_SIGNS or unicodedata.category(first.key[0]) in ("So", "Sc")
    elif cut:
        # "No. 5" and "no.reply" are other words than "no".
        goes_on = before.key != "." or (not first.key.isdigit() and first.start > before.end)
    else:
        goes_on = is_sign or bool(is_open and phrases().match(keys, at, Kind.AFTER_NO, *kinds))
    return first.start if goes_on else None


def _is_turned(tokens: Sequence[_Token], length: int) -> bool:
    """Whether a text that begins with a no of this many tokens goes on to say something else than no."""
    words = [token for token in tokens if token.key not in _CUTS | _OPENERS | _EMPHASIS]
    keys = [word.key for word in words]
    end = tokens[length - 1].end
    plain = [token for token in tokens if token.key not in _EMPHASIS]
    other = phrases().match([token.key for token in plain], 0, Kind.NOT_NO)
    if other and plain[other - 1].end > end:
        return True
    rest = [word.key for word in words if word.start >= end]
    if rest and all(phrases().is_whole([key], Kind.YES_ALONE) for key in rest):
        return True
    # "Do it" within "don't do it" turns nothing.
    raw, denied, denials = [token.key for token in tokens], 0, {}
    for at, token in enumerate(tokens):
        if found := phrases().match(raw, at, *_NO):
            denied = max(denied, tokens[at + found - 1].end)
        denials[token.start] = denied
    return any(
        (found := phrases().match(keys, at, Kind.YES, Kind.TURNS, Kind.HEDGE))
        and words[at + found - 1].end > denials[word.start]
        for at, word in enumerate(words)
    )
