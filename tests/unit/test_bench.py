"""The harness of the benchmarks: rounds in turn, medians, ratios, bars, what counts as worse, the files, and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bench import results, table
from bench.__main__ import left_out
from bench.page import BEGIN, END, PAGE, replaced, section
from bench.rounds import OURS, Outcome, run_trial, run_trials
from bench.side import figures_in
from bench.texts import LENGTH, message
from bench.trial import Bar, Better, Figures, Line, Trial
from bench.verdicts import TOLERANCE, Told, changes, lines_of, spread

ROOT = Path(__file__).parents[2]
RATE = Line(key="rate", work="runs", unit="/s", better=Better.MORE, bar=Bar(times=10), limit="celery")
LATE = Line(key="late", work="lateness", unit="ms", better=Better.LESS, bar=Bar(at_most=5))


def trial(**sides: Sequence[Mapping[str, float]]) -> Trial:
    """A trial whose sides give these figures, round by round; `ours` is ours."""

    def side(rounds: Sequence[Mapping[str, float]]) -> Any:
        left = iter(rounds)
        return lambda: next(left)

    ours = side(sides.pop("ours"))
    return Trial(
        name="test.rates", lines=(RATE, LATE), ours=ours, peers={name: side(rounds) for name, rounds in sides.items()},
        size={"runs": 10},
    )  # fmt: skip


def kept(
    ours: Sequence[float], peer: Sequence[float] = (), *, unit: str = "/s", **more: Any
) -> dict[str, Any]:
    """A trial of one line as it is kept, with these figures."""
    line = {"work": "runs", "unit": unit, "better": "more", "limit": None, "bar": None} | more
    rounds = {OURS: [{"rate": one} for one in ours]} | (
        {"DBOS": [{"rate": one} for one in peer]} if peer else {}
    )
    return {
        "name": "test.rates", "size": {"runs": 10}, "lines": {"rate": line}, "rounds": rounds,
        "yardstick": [0.01] * len(ours),
    }  # fmt: skip


def told(ours: Sequence[float], peer: Sequence[float] = (), **more: Any) -> Told:
    [line] = lines_of(kept(ours, peer, **more))
    return line


# ---------------------------------------------------------------------- rounds


def test_sides_take_turns() -> None:
    """A round of ours, one of each peer, and again."""
    order: list[str] = []

    def side(name: str) -> Any:
        def go() -> Figures:
            order.append(name)
            return {"rate": 1.0}

        return go

    run_trial(
        Trial(name="test.turns", lines=(RATE,), ours=side("a"), peers={"b": side("b"), "c": side("c")}), 2
    )

    assert order == ["a", "b", "c", "a", "b", "c"]


def test_peers_can_be_left_out_and_a_long_trial_has_fewer_rounds() -> None:
    """What one was not asked to measure is not measured."""
    outcome = run_trial(trial(ours=[{"rate": 1.0}] * 3, DBOS=[{"rate": 1.0}] * 3), 2, peers=False)
    assert {name: len(rounds) for name, rounds in outcome.rounds.items()} == {OURS: 2}

    once = Trial(name="test.once", lines=(RATE,), ours=lambda: {"rate": 1.0}, rounds=1)
    assert len(run_trial(once, 5).rounds[OURS]) == 1


def test_peers_are_left_out_by_how_their_names_begin() -> None:
    """Capitals do not matter, and whoever is not named stays."""
    sides = {
        "DBOS, its queue": [{"rate": 1.0}],
        "celery beat": [{"rate": 1.0}],
        "celery-redbeat": [{"rate": 1.0}],
    }
    [left] = left_out(["dbos", "celery-"], [trial(ours=[{"rate": 1.0}], **sides)])
    assert set(left.peers) == {"celery beat"}

    [same] = left_out([], [left])
    assert set(same.peers) == {"celery beat"}


def test_a_side_that_fails_is_told_and_not_asked_again() -> None:
    """The others go on, and its failure is kept."""
    asked = 0

    def broken() -> Figures:
        nonlocal asked
        asked += 1
        raise OSError("collapsed")

    outcome = run_trial(Trial(name="t", lines=(RATE,), ours=lambda: {"rate": 2.0}, peers={"DBOS": broken}), 3)

    assert (asked, outcome.failures, len(outcome.rounds[OURS])) == (1, {"DBOS": ["OSError: collapsed"]}, 3)
    [line] = lines_of(outcome.as_json())
    assert (line.ours, line.peer, line.ratio, line.met) == (2.0, None, None, None)


def test_what_was_over_before_ctrl_c_is_kept() -> None:
    """The trial that it came into, and those after it, are not."""

    def interrupted() -> Figures:
        raise KeyboardInterrupt

    good = Trial(name="good", lines=(RATE,), ours=lambda: {"rate": 1.0})
    cut = Trial(name="cut", lines=(RATE,), ours=interrupted)

    outcomes, is_cut_short = run_trials([good, cut, good], 1)

    assert ([outcome.trial.name for outcome in outcomes], is_cut_short) == (["good"], True)
    assert run_trials([good], 1)[1] is False


# ---------------------------------------------------------------------- ratios and bars


def test_a_line_has_medians_and_the_best_peer() -> None:
    """Of rates the highest peer is the nearest, of times the lowest."""
    outcome = run_trial(
        trial(
            ours=[{"rate": 90.0, "late": 9.0}, {"rate": 100.0, "late": 4.0}, {"rate": 500.0, "late": 1.0}],
            slow=[{"rate": 5.0, "late": 80.0}] * 3,
            fast=[{"rate": 10.0, "late": 90.0}] * 3,
        ),
        3,
    )

    rate, late = lines_of(outcome.as_json())

    assert (rate.ours, rate.peer_name, rate.peer, rate.ratio, rate.met) == (100.0, "fast", 10.0, 10.0, True)
    assert (late.ours, late.peer_name, late.peer, late.ratio, late.met) == (4.0, "slow", 80.0, 20.0, True)


@pytest.mark.parametrize(
    ("bar", "figure", "ratio", "met"),
    [
        (Bar(times=10), 1.0, 9.9, False),
        (Bar(times=10), 1.0, 10.0, True),
        (Bar(times=10), 1.0, None, None),
        (Bar(at_most=2), 2.0, None, True),
        (Bar(at_most=2), 2.1, 50.0, False),
        (Bar(at_least=2000), 1999.0, None, False),
        (Bar(times=10, at_most=2), 3.0, 11.0, False),
    ],
)
def test_a_bar_is_reached_or_not_or_nobody_knows(
    bar: Bar, figure: float, ratio: float | None, met: bool | None
) -> None:
    """All that it asks for must hold, as far as it was measured."""
    assert bar.met(figure, {} if ratio is None else {"DBOS": ratio}) is met


@pytest.mark.parametrize(
    ("ratios", "met"),
    [
        ({"DBOS, its queue": 11.0, "DBOS, started directly": 10.0, "Restate": 3.0}, True),
        ({"DBOS, its queue": 11.0, "DBOS, started directly": 9.9, "Restate": 3.0}, False),
        ({"DBOS, its queue": 11.0, "Restate": 2.9}, False),
        ({"DBOS, its queue": 11.0}, True),
        ({"LangGraph": 0.1}, None),
    ],
)
def test_a_bar_can_ask_for_more_beside_one_peer_than_beside_another(
    ratios: Mapping[str, float], met: bool | None
) -> None:
    """It is held against each way to use a peer, and against nobody that was not measured."""
    assert Bar(times_of={"DBOS": 10, "Restate": 3}).met(1.0, ratios) is met


def test_a_bar_beside_several_peers_is_told_with_their_names_and_survives_the_file(tmp_path: Path) -> None:
    """The nearest peer is the one that is shown, and each ratio that is asked for counts and is told."""
    bar = {"times_of": {"DBOS": 10, "Restate": 3}}
    one = kept([100.0] * 3, [10.0] * 3, bar=bar)
    one["rounds"]["Restate"] = [{"rate": 50.0}] * 3

    text = section([results.load(results.save(result(one), tmp_path))])

    assert "| runs | 100/s | 50/s Restate | 2× | 10× DBOS (10×), 3× Restate (2×) ✗ | 3 |" in text


def test_the_spread_is_half_of_the_middle_half() -> None:
    """One wild round does not make it large."""
    assert spread([100.0]) == 0
    assert spread([90.0, 95.0, 100.0, 105.0, 110.0]) == pytest.approx(0.05)
    assert spread([90.0, 95.0, 100.0, 105.0, 1e6]) == pytest.approx(0.05)


# ---------------------------------------------------------------------- worse or better


def test_ratios_are_compared_so_that_a_slower_machine_is_not_a_regression() -> None:
    """Half the rate beside half of the peer's is the same; half beside all of the peer's is worse."""
    before = told([100.0] * 5, [10.0] * 5)

    [same] = changes([told([50.0] * 5, [5.0] * 5)], [before])
    [worse] = changes([told([50.0] * 5, [10.0] * 5)], [before])
    [better] = changes([told([150.0] * 5, [10.0] * 5)], [before])

    assert (same.is_worse, same.is_better, same.share) == (False, False, 0.0)
    assert (worse.is_worse, worse.is_better, worse.share) == (True, False, -0.5)
    assert (better.is_worse, better.is_better) == (False, True)


def test_what_is_worse_depends_on_how_far_the_rounds_lie_apart() -> None:
    """The same fall is a regression on a quiet machine, and says nothing on a busy one."""
    quiet, noisy = [99.0, 100.0, 100.0, 100.0, 101.0], [60.0, 80.0, 100.0, 120.0, 140.0]
    fallen = [value * 0.8 for value in quiet]

    [still] = changes([told(fallen, [10.0] * 5)], [told(quiet, [10.0] * 5)])
    [loud] = changes([told([value * 0.8 for value in noisy], [10.0] * 5)], [told(noisy, [10.0] * 5)])
    [little] = changes([told([value * 0.95 for value in quiet], [10.0] * 5)], [told(quiet, [10.0] * 5)])

    assert (still.is_worse, still.tolerance) == (True, TOLERANCE)
    assert (loud.is_worse, loud.tolerance > 0.5) == (False, True)
    assert not little.is_worse


def test_without_a_peer_a_time_stands_beside_the_yardstick_of_its_round() -> None:
    """Twice the time in a round in which plain Python took twice as long is the same; bytes are compared as they are."""
    before, slow = kept([10.0] * 3, unit="ms", better="less"), kept([20.0] * 3, unit="ms", better="less")
    slow["yardstick"] = [0.02] * 3
    [same] = changes(lines_of(slow), lines_of(before))
    assert (same.basis, same.share, same.is_worse) == ("beside the yardstick", 0.0, False)

    few, many = (told([size] * 3, unit="bytes", better="less") for size in (500.0, 900.0))
    [grown] = changes([many], [few])
    assert (grown.basis, grown.is_worse) == ("as it is", True)


def test_only_the_same_work_beside_the_same_peer_is_compared() -> None:
    """Another size, or another basis, is nothing to compare with."""
    now = told([100.0] * 3, [10.0] * 3)
    other = kept([100.0] * 3, [10.0] * 3) | {"size": {"runs": 11}}

    assert changes([now], lines_of(other)) == []
    assert changes([now], [told([100.0] * 3)]) == []


# ---------------------------------------------------------------------- files


def result(*trials: Mapping[str, Any]) -> dict[str, Any]:
    """A run as it is kept."""
    return {
        "at": "2026-11-28T12:00:00+00:00", "commit": "1a2b3c4d", "only": ["runs"], "rounds": 3, "quick": False,
        "machine": {"cpus": 2, "model": "A CPU", "memory_gb": 8.0, "python": "3.11.7"},
        "load": {"begin": [0.1, 0.1, 0.1], "end": [1.5, 1.0, 0.5]},
        "versions": {"ours": {"wakeloop": "0.1.0"}, "peers": {"dbos": "3.4.0"}, "servers": {"redis": "Valkey 9"}},
        "limits": {"celery": {"what": "tasks", "unit": "/s", "taken": [1000.0], "median": 1000.0}},
        "trials": [{"failures": {}} | dict(one) for one in trials],
    }  # fmt: skip


def test_each_line_is_compared_with_the_latest_run_that_has_it(tmp_path: Path) -> None:
    """Whatever other benchmarks ran since; files of another format are passed over."""
    moments = [datetime(2026, 11, day, tzinfo=UTC) for day in range(1, 6)]
    other = kept([5.0] * 3) | {"name": "other"}
    results.save(result(kept([100.0] * 3)), tmp_path, at=moments[0])
    results.save(result(kept([200.0] * 3)), tmp_path, at=moments[1])
    results.save(result(other), tmp_path, at=moments[2])
    (tmp_path / "20261104-000000-01.json").write_text(json.dumps({"format": 0}))
    last = results.save(result(kept([150.0] * 3)), tmp_path, at=moments[4])

    lines = results.told(results.load(last))
    found = results.earlier(lines, tmp_path, than=last)

    assert [one.ours for one in found] == [200.0]
    assert results.earlier(lines, tmp_path / "empty") == []


def test_two_runs_of_one_second_are_two_files_in_order(tmp_path: Path) -> None:
    """The later one sorts behind the earlier one."""
    at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    first, second = results.save({}, tmp_path, at=at), results.save({}, tmp_path, at=at)
    assert sorted([second, first]) == [first, second]


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "ms", "0 ms"), (1234.5, "/s", "1,230/s"), (0.01234, "s", "0.0123 s"), (9.999, "×", "10 ×"),
        (150, "bytes", "150 bytes"), (412_345, "bytes", "412 KB"), (114e6, "bytes", "114 MB"), (2.5e9, "bytes", "2.5 GB"),
    ],
)  # fmt: skip
def test_figures_are_short(value: float, unit: str, text: str) -> None:
    """Three digits that count, and a unit."""
    assert table.figure(value, unit) == text


def test_a_section_says_on_what_and_how_and_what_failed() -> None:
    """Machine, load, versions, every line with its peer, ratio, bar and limit, and who collapsed."""
    one = kept([100.0] * 3, [10.0] * 3, limit="celery", bar={"times": 20})
    one["failures"] = {"Restate": ["OSError: not there\nat all"]}

    text = section([result(one)])

    assert "2 × A CPU, 8 GB of memory, Python 3.11.7; full sizes." in text
    assert "- runs: 2026-11-28, at 1a2b3c4d; load 0.1 at the begin, 1.5 at the end." in text
    assert "Ours: wakeloop 0.1.0. Servers: Valkey 9. Peers: dbos 3.4.0." in text
    assert "| runs | 100/s | 10/s DBOS | 10× | 20× ✗ | 3 | 1,000/s tasks |" in text
    assert "- test.rates: Restate failed: OSError: not there at all" in text


def test_parts_of_a_run_make_one_table() -> None:
    """Each part says when it was made and beside what load; of what two measured, the later one counts, and limits are the
    median of all that were taken."""
    first, again = (
        kept([100.0] * 3, [10.0] * 3, limit="celery"),
        kept([300.0] * 5, [10.0] * 5, limit="celery"),
    )
    other = kept([5.0], unit="ms", work="growth") | {"name": "test.growth"}
    late = result(other, again) | {"only": ["growth"], "at": "2026-11-29T12:00:00+00:00"}
    late["limits"] = {"celery": {"what": "tasks", "unit": "/s", "taken": [2000.0], "median": 2000.0}}

    text = section([result(first), late])

    assert "- runs: 2026-11-28," in text
    assert "- growth: 2026-11-29," in text
    assert "| growth | 5 ms | – | – | – | 1 | – |" in text
    assert "| runs | 300/s | 10/s DBOS | 30× | – | 5 | 1,500/s tasks |" in text
    assert "100/s" not in text


@pytest.mark.parametrize(
    ("fact", "value", "words"),
    [
        ("machine", {"cpus": 64}, "machine is"),
        ("quick", True, "quick is False, and True"),
        ("versions", {"ours": {}, "peers": {"dbos": "3.5.0"}, "servers": {}}, "dbos is 3.4.0, and 3.5.0"),
    ],
)
def test_runs_that_are_no_parts_of_one_are_refused(fact: str, value: Any, words: str) -> None:
    """Another machine, other sizes, or another version of anything: their figures do not belong in one table."""
    whole = result(kept([100.0] * 3))
    with pytest.raises(ValueError, match=words):
        section([whole, whole | {fact: value}])


def test_the_page_has_a_place_for_figures_and_keeps_the_rest() -> None:
    """Writing twice leaves what writing once does; a page without the marks is refused."""
    page = PAGE.read_text()

    once = replaced(page, "| figures |")

    assert replaced(once, "| figures |") == once
    assert once.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert once.partition(END)[2] == page.partition(END)[2]
    assert once.count("| figures |") == 1
    with pytest.raises(ValueError, match="no place for figures"):
        replaced("no marks", "| figures |")


def test_messages_are_as_long_as_they_should_be_and_differ() -> None:
    """The same for every side: 200 characters of ASCII each."""
    texts = [message(number) for number in range(100)]
    assert {len(text.encode()) for text in texts} == {LENGTH}
    assert len(set(texts)) == 100
    assert message(7) == texts[7]


def test_what_a_side_prints_besides_is_no_figure() -> None:
    """Its last line of figures counts, and a side without one has failed."""
    assert figures_in('warning\nfigures: {"a": 1}\nfigures: {"a": 2.5}\n') == {"a": 2.5}
    assert figures_in("killed\n") is None


def test_an_outcome_survives_the_file(tmp_path: Path) -> None:
    """Read back, it comes to the same lines."""
    outcome: Outcome = run_trial(
        trial(ours=[{"rate": 50.0, "late": 3.0}], DBOS=[{"rate": 5.0, "late": 6.0}]), 1
    )
    path = results.save(result(outcome.as_json()), tmp_path)
    assert results.told(results.load(path)) == lines_of(outcome.as_json())


# ---------------------------------------------------------------------- all of it


def test_a_small_run_gives_a_table_and_a_file_and_is_compared_with_the_next(tmp_path: Path) -> None:
    """The program itself, on one benchmark that needs no server and no peer, by its name and by its trial's."""
    more = ["--rounds", "1", "--quick", "--no-peers", "--folder", str(tmp_path)]
    done = [bench("run", "--only", name, *more) for name in ("smoke", "smoke.operation")]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    said = [one.stdout for one in done]

    first, second = sorted(tmp_path.glob("*.json"))
    assert "nothing to compare with" in said[0]
    assert "figures compared with the last run" in said[1]
    assert f"kept as {second}" in said[1].replace("\n", "")
    kept_run = results.load(first)
    assert [len(one["rounds"][OURS]) for one in kept_run["trials"]] == [1]
    assert {line.key for line in results.told(kept_run)} == {
        "live-10",
        "live-100",
        "replay-10",
        "replay-100",
        "growth",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "smok"], "no benchmark smok; there are: engine,"),
        (["--only", "smoke.operatio"], "no trial smoke.operatio; there are: smoke.operation"),
        (["--only", "recovery", "--without", "dbso"], "no peer dbso here; there are: DBOS"),
    ],
)
def test_what_is_not_there_is_not_measured(arguments: list[str], words: str) -> None:
    """The error says what there is."""
    done = bench("run", *arguments)

    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=dict(os.environ),
    )  # fmt: skip
