"""What people write when they are asked for a yes or a no, and what it is taken for."""

from __future__ import annotations

import time
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wakeloop.verdicts import LONGEST_YES_CHARACTERS, Kind, Phrases, Reading, Verdict, phrases, read_verdict

CORPUS = tomllib.loads((Path(__file__).parents[1] / "payloads" / "replies.toml").read_text(encoding="utf-8"))
TABLE = tomllib.loads((resources.files("wakeloop") / "phrases.toml").read_text(encoding="utf-8"))


def _label(verdict: Verdict, reply: str | list[str]) -> tuple[str, Reading]:
    if isinstance(reply, list):
        return reply[0], Reading(verdict=verdict, comment=reply[1])
    return reply, Reading(verdict=verdict, comment=reply.strip() if verdict is Verdict.UNCLEAR else "")


REPLIES = [
    _label(Verdict(verdict), reply)
    for lists in CORPUS.values()
    for verdict, replies in lists.items()
    for reply in replies
]
YES = [text for text, reading in REPLIES if reading.verdict is Verdict.YES]
NO = [text for text, reading in REPLIES if reading.verdict is Verdict.NO]
# What changes a yes when it stands before or after it, in every language that the corpus has.
CONDITIONS = [
    "but only 20", "if Bob agrees", "unless it rains", "when I am back", "pero solo 20", "si Bob quiere", "mais pas tout",
    "si Bob est d'accord", "aber nur 20", "wenn Bob zustimmt", "tomorrow", "not", "50", "maybe", "no", "nein",
]  # fmt: skip
UNKNOWN = st.text(alphabet="abcdefghijklmnopqrstuvwxyzéüñß", min_size=3, max_size=12)


def _is_known(word: str) -> bool:
    return any(reading.verdict is not Verdict.UNCLEAR for reading in map(read_verdict, (word, f"yes {word}")))


def test_the_corpus_is_large_and_mostly_doubtful() -> None:
    """Every section has all three labels, and no text stands twice with two labels."""
    assert len(REPLIES) >= 600
    assert len(REPLIES) - len(YES) - len(NO) >= 200
    assert all(set(lists) == set(Verdict) for lists in CORPUS.values())
    assert not set(YES) & set(NO)
    assert not (set(YES) | set(NO)) & {text for text, it in REPLIES if it.verdict is Verdict.UNCLEAR}


def test_nothing_is_taken_for_a_yes_that_is_none() -> None:
    """The bar of this module: no approval by mistake."""
    wrong = [text for text, it in REPLIES if it.verdict is not Verdict.YES and _verdict(text) is Verdict.YES]

    assert wrong == []


def test_nothing_is_taken_for_a_no_that_is_none() -> None:
    """No denial by mistake either, not even of "no problem"."""
    wrong = [text for text, it in REPLIES if it.verdict is not Verdict.NO and _verdict(text) is Verdict.NO]

    assert wrong == []


def test_every_reply_is_read_as_a_careful_human_reads_it() -> None:
    """Verdicts and comments are those of the corpus; in particular, what is plain is not unclear."""
    read = [(text, read_verdict(text)) for text, _ in REPLIES]

    assert read == REPLIES


def _verdict(text: str) -> Verdict:
    return read_verdict(text).verdict


@given(yes=st.sampled_from(YES), word=UNKNOWN, place=st.integers(min_value=0))
def test_a_yes_with_an_unknown_word_in_it_is_no_yes(yes: str, word: str, place: int) -> None:
    """Wherever the word stands: nobody knows what it changes."""
    assume(not _is_known(word))
    words = yes.split()
    at = place % (len(words) + 1)

    text = " ".join([*words[:at], word, *words[at:]])

    assert _verdict(text) is not Verdict.YES


@given(yes=st.sampled_from(YES), mark=st.sampled_from("?¿？؟❓❔⁉‽"), place=st.integers(min_value=0))
def test_a_yes_with_a_question_mark_in_it_is_no_yes(yes: str, mark: str, place: int) -> None:
    """Any of them, at any place, even within a word."""
    at = place % (len(yes) + 1)

    assert _verdict(yes[:at] + mark + yes[at:]) is not Verdict.YES


@given(
    yes=st.sampled_from(YES),
    condition=st.sampled_from(CONDITIONS),
    join=st.sampled_from([" ", ", ", ". ", "\n", " - "]),
)
def test_a_yes_with_a_condition_is_no_yes(yes: str, condition: str, join: str) -> None:
    """Before it or after it, and as a sentence of its own."""
    assert _verdict(yes + join + condition) is not Verdict.YES
    assert _verdict(condition + join + yes) is not Verdict.YES


@given(yes=st.sampled_from(YES), no=st.sampled_from(NO), join=st.sampled_from([" ", ", ", ". ", "\n"]))
def test_a_yes_and_a_no_together_are_no_yes(yes: str, no: str, join: str) -> None:
    """In either order, and in any two languages."""
    assert _verdict(yes + join + no) is not Verdict.YES
    assert _verdict(no + join + yes) is not Verdict.YES


@given(
    one=st.sampled_from(YES),
    other=st.sampled_from(YES),
    no=st.sampled_from(["no", "nein", "non", "nope", "👎"]),
)
def test_a_no_that_goes_on_with_a_yes_is_unclear(one: str, other: str, no: str) -> None:
    """It is neither; the person has to say which."""
    assert _verdict(f"{no}, {one}") is Verdict.UNCLEAR
    assert _verdict(f"{no}. {one}. {other}") is Verdict.UNCLEAR


@given(reply=st.sampled_from(REPLIES), space=st.text(alphabet=" \t\n\u00a0", max_size=4))
def test_white_space_around_it_changes_nothing(reply: tuple[str, Reading], space: str) -> None:
    """Phones and mail programs add it."""
    text, reading = reply

    assert reading == read_verdict(space + text + space)


@given(text=st.sampled_from(YES + NO), end=st.sampled_from([".", "!", ""]))
def test_case_and_a_final_stop_change_no_verdict(text: str, end: str) -> None:
    """As long as there was no stop before: two are half an ellipsis."""
    ending = "" if text.endswith(".") else end

    assert _verdict(text) is _verdict(text.upper() + ending)
    assert _verdict(text) is _verdict(text.lower() + ending)


@given(text=st.text())
def test_any_text_at_all_has_a_reading(text: str) -> None:
    """It raises nothing, a yes has no comment, an unclear text keeps all that was written, a no the end of it."""
    reading = read_verdict(text)

    assert reading == read_verdict(text)
    assert text.strip().endswith(reading.comment)
    assert reading.verdict is not Verdict.YES or reading.comment == ""
    assert reading.verdict is not Verdict.UNCLEAR or reading.comment == text.strip()


@given(words=st.lists(st.sampled_from([*YES, "but", "if", "no", "?", "…", "wait", '"', "bob"]), max_size=6))
def test_a_heap_of_pieces_is_a_yes_only_without_a_doubt_in_it(words: list[str]) -> None:
    """No order of known pieces lets a doubtful one slip in."""
    if _verdict(" ".join(words)) is Verdict.YES:
        assert set(words) <= set(YES)


@pytest.mark.parametrize("keyword", TABLE["carriers"]["keyword"])
def test_a_keyword_of_the_carriers_is_no_verdict(keyword: str) -> None:
    """Who wants no more messages has not answered the question."""
    assert [_verdict(keyword), _verdict(keyword.upper()), _verdict(f"yes {keyword}")] == [Verdict.UNCLEAR] * 3


@pytest.mark.parametrize("place", ["{}yes", "yes{}", "y{}es", "no{}", "{}no", "no, {}we have enough"])
@pytest.mark.parametrize(
    "strange", ["\u202e", "\u202d", "\u2066", "\u2069", "\u200e", "\u200f", "\x00", "\x08", "\x1b", "\ue000"]
)
def test_what_hides_or_turns_the_text_makes_it_unclear(place: str, strange: str) -> None:
    """The person may have seen something else than we read."""
    assert _verdict(place.format(strange)) is Verdict.UNCLEAR


@pytest.mark.parametrize(
    "text", ['"yes"', "“yes”", "«oui»", "„ja“", "'yes'", "`yes`", '"no"', "> yes", "~~yes~~"]
)
def test_a_quoted_or_struck_verdict_is_unclear(text: str) -> None:
    """It may be somebody else's; to be asked again costs little."""
    assert _verdict(text) is Verdict.UNCLEAR


@pytest.mark.parametrize(
    "text", ["(yes)", "[yes]", "*yes*", "**yes**", "__yes__", "**Yes.**", "*Yes*!", "**[yes]**"]
)
def test_brackets_and_emphasis_around_a_yes_are_ignored(text: str) -> None:
    """They are how chat programs write bold."""
    assert _verdict(text) is Verdict.YES


@pytest.mark.parametrize(
    "text", ["yes,", "yes -", "yes –", "yes(", "yes:", "yes…", "yes ..", "yes*", "[yes", "*yes"]
)
def test_a_yes_that_was_cut_off_is_unclear(text: str) -> None:
    """The rest may come in a second message, or stand in a footnote."""
    assert _verdict(text) is Verdict.UNCLEAR


def test_a_long_text_is_never_a_yes() -> None:
    """Up to the limit it may be one, white space around it not counted."""
    longest = ("yes " * LONGEST_YES_CHARACTERS)[: LONGEST_YES_CHARACTERS - 1]

    assert _verdict(longest) is Verdict.YES
    assert _verdict(longest + "!") is Verdict.YES
    assert _verdict(longest + "!!") is Verdict.UNCLEAR
    assert _verdict(" " * LONGEST_YES_CHARACTERS + "yes") is Verdict.YES


def test_a_comment_is_what_stood_after_the_no_as_written() -> None:
    """Its case, its signs and its line ends are kept."""
    text = "NO — We’ve got 300 Loaves\nleft, Bob!!  "

    assert Reading(verdict=Verdict.NO, comment="We’ve got 300 Loaves\nleft, Bob!!") == read_verdict(text)


@pytest.mark.parametrize(
    "piece",
    [
        "no ", "yes ", "a", "o", "nooo", "no, we have enough ", "*", ".", ". ", "no. ", "don't do it ", ":", ":a", "'",
        "👎", "-", "\u200b", "no\n", "no don't ", "thanks ", "yes\u0301", "(", "[", "no we don't ", "\u0301", "1",
    ],
)  # fmt: skip
def test_a_long_text_takes_time_in_proportion(piece: str) -> None:
    """Ten thousand characters are read at once, whatever they repeat; a quadratic reader would take minutes."""
    text = (piece * 10_000)[:10_000]
    started = time.perf_counter()

    read_verdict(text)
    read_verdict("yes" + text)
    read_verdict("no " + text)

    assert time.perf_counter() - started < 10


def test_every_yes_of_the_table_is_one() -> None:
    """Alone, each of them is plain enough."""
    listed = [
        phrase for lists in TABLE.values() for kind in ("yes", "yes_alone") for phrase in lists.get(kind, ())
    ]

    assert [phrase for phrase in listed if _verdict(phrase) is not Verdict.YES] == []


def test_every_no_of_the_table_is_one() -> None:
    """Alone, each of them is a plain denial with nothing beside it."""
    kinds = ("no", "no_open", "no_alone")
    listed = [phrase for lists in TABLE.values() for kind in kinds for phrase in lists.get(kind, ())]

    assert [phrase for phrase in listed if read_verdict(phrase) != Reading(verdict=Verdict.NO)] == []


@pytest.mark.parametrize(
    "kind", ["greeting", "courtesy", "glad", "closing", "regret", "not_no", "turns", "hedge", "unclear"]
)
def test_what_the_table_lists_as_no_verdict_is_none(kind: str) -> None:
    """Except "si", which is an "if" among other words and a yes only by itself."""
    alone = {phrase for lists in TABLE.values() for phrase in lists.get("yes_alone", ())}
    listed = [phrase for lists in TABLE.values() for phrase in lists.get(kind, ()) if phrase not in alone]

    assert [phrase for phrase in listed if _verdict(phrase) is Verdict.YES] == []
    assert [phrase for phrase in listed if _verdict(phrase) is Verdict.NO] == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"en": {"yes": ["yes"], "no": ["yes"]}}, "'yes' is both a yes and a no"),
        ({"en": {"yes": ["sí"]}, "es": {"no_open": ["si"]}}, "'si' is both a yes and a no"),
        (
            {"en": {"yes": ["yes"], "courtesy": ["yes"]}},
            "'yes' is both a verdict and what may stand beside one",
        ),
        ({"en": {"no": ["no idea"], "not_no": ["no idea"]}}, "'no idea' is both a verdict and none"),
        ({"en": {"yes": ["start"], "keyword": ["start"]}}, "'start' is a keyword"),
        (
            {"en": {"yes": ["yes but"], "hedge": ["but"]}},
            "'yes but' of en may stand in a yes, and holds a hedge",
        ),
        ({"en": {"yess": ["yes"]}}, "en.yess is no kind of phrase"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    table: dict[str, dict[str, list[str]]], message: str
) -> None:
    """The one who edits it learns which phrase it is about."""
    with pytest.raises(ValueError, match=message):
        Phrases(table)


def test_no_phrase_is_a_yes_and_a_no() -> None:
    """In no spelling: accents, apostrophes and commas left out, umlauts written as two letters."""
    said = {"yes": set[tuple[str, ...]](), "no": set[tuple[str, ...]]()}
    for lists in TABLE.values():
        for kind in ("yes", "no"):
            said[kind] |= {tuple(phrase.split()) for phrase in lists.get(kind, ())}

    assert said["yes"] and said["no"] and not said["yes"] & said["no"]
    assert (
        phrases().match(["yes"], 0, Kind.YES) == 1 and phrases().match(["yes"], 0, Kind.NO, Kind.NO_OPEN) == 0
    )


def test_missing_accents_and_apostrophes_change_nothing() -> None:
    """People write with one thumb."""
    pairs = [
        ("d'accord", "daccord"),
        ("sí", "si"),
        ("natürlich", "natuerlich"),
        ("c'est bon", "c est bon"),
        ("bien sûr", "bien sur"),
    ]

    assert (
        [Verdict.YES] * 5 == [_verdict(plain) for _, plain in pairs] == [_verdict(full) for full, _ in pairs]
    )
    assert (
        read_verdict("don't") == read_verdict("dont") == read_verdict("don’t") == Reading(verdict=Verdict.NO)
    )


def test_an_accent_too_many_makes_another_word() -> None:
    """French "sûre" asks for certainty; English "sure" gives it. And a struck "yes" is no yes."""
    assert [_verdict("sûre"), _verdict("y\u0336e\u0336s\u0336"), _verdict("уes")] == [Verdict.UNCLEAR] * 3
