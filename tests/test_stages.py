"""Stages of a job: what is said of the time left, against the time that was left."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from steersweep.work.stages import Stages, seconds_left, share_done

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.jsonl"))
_SPEC = importlib.util.spec_from_file_location(
    "time_left", Path(__file__).parents[1] / "benchmarks" / "time_left.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
time_left = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(time_left)


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: str(path.stem))
def test_time_left_is_right_within_half_from_the_tenth_part_on(path: Path) -> None:
    said = [*time_left.replay(path)]
    total = said[-1][0] + said[-1][1]
    wrong = [
        (since, left, told, stage)
        for since, left, told, stage in said
        if since >= total / 10 and not left / 1.5 - 2 <= told <= left * 1.5 + 2
    ]
    assert wrong == []


def stages(**expected: float) -> tuple[Stages, Clock]:
    clock = Clock()
    return Stages(expected, apart=frozenset({"loading"}), now=clock), clock


def test_a_stage_that_runs_goes_by_its_own_pace_and_those_to_come_by_what_was_seen() -> None:
    found, clock = stages(loading=10, reading=10, generation=100)
    assert seconds_left(found.now()) == 120
    found.begin("loading")
    clock.seconds = 40  # says nothing of the others
    found.end()
    assert seconds_left(found.now()) == 110
    found.begin("reading")
    clock.seconds += 30  # three times as long as estimated
    found.end()
    assert 250 < seconds_left(found.now()) < 300
    found.begin("generation")
    clock.seconds += 200
    found.at(0.5)
    assert seconds_left(found.now()) == pytest.approx(200, rel=0.05)
    assert share_done(found.now()) == pytest.approx(270 / 470, rel=0.05)
    found.end()
    assert seconds_left(found.now()) == 0
    assert share_done(found.now()) == 1


def test_what_an_earlier_run_did_took_no_time_of_this_one() -> None:
    found, clock = stages(generation=100)
    found.skip("generation", 0.5)
    found.begin("generation")
    clock.seconds = 50
    found.at(0.75)
    (now,) = found.now()
    assert (now.seen, now.share) == (0.25, 0.75)
    assert now.left == pytest.approx(50, rel=0.1)


def test_stages_that_take_turns_keep_their_own_time() -> None:
    found, clock = stages(generation=100, likelihoods=50)
    for turn in range(1, 4):
        found.begin("generation")
        clock.seconds += 20
        found.at(turn / 10)
        found.begin("likelihoods")
        clock.seconds += 5
        found.at(turn / 10)
    spent = {stage.name: stage.spent for stage in found.now()}
    assert spent == {"generation": 60, "likelihoods": 15}
    assert seconds_left(found.now()) == pytest.approx(140 + 35, rel=0.1)


def test_a_stage_that_cannot_tell_its_share_goes_by_the_clock() -> None:
    found, clock = stages(search=40, generation=100)
    found.begin("search")
    clock.seconds = 20
    assert found.now()[0].share == 0.5
    clock.seconds = 400
    assert found.now()[0].share < 1
    assert found.now()[0].runs
