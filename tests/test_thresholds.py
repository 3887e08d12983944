"""One definition of "works": verdict, human gate, decisions and report follow a plan's thresholds.

A real sweep whose steered answers are labelled anew, so that 11 of 20 refuse coherently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from steersweep import InputError
from steersweep.core.atomic import write_bytes
from steersweep.core.digests import seal
from steersweep.people.corrected import apply_to_files
from steersweep.people.reviews import add_review, queue
from steersweep.report.html import write_report
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import Judgement, rates_of
from steersweep.run.result import Result
from steersweep.run.result_files import write_result_file
from steersweep.run.verdict import Thresholds, verdict
from steersweep.study.choices import choose_for_precision
from steersweep.study.decisions import decide_families, outcomes_of
from steersweep.sweeps.rejudge import rejudge
from steersweep.sweeps.results import sweep_results
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_job, make_settings

Judged = Callable[[Thresholds], Result]

HALF = Thresholds(works=0.5, partial=0.2)
LOW = Thresholds(works=0.95, partial=0.6)
NAMES = {"lab:qwen-3b": "q3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("thresholds") / "run"


@pytest.fixture(scope="module")
def judged(folder: Path) -> Judged:
    settings = make_settings(
        ["lab:qwen-3b"], layers="0.5", strengths="0.5", max_prompts=20, max_new_tokens=4
    )
    settings = replace(settings, test=replace(settings.test, repeats=1))
    run_sweep(settings, folder)
    store = RunFolder(folder)
    run = store.read_json(store.root / "run.json")
    assert run is not None
    job = make_job(settings, settings.models[0], "cpu", run["created"][:10])
    steered = next(c for c in job.conditions if c.label.is_swept)
    record = store.get(steered.key)
    assert record is not None
    kinds = [Judgement(i < 11, "coherent" if i < 11 else "normal", None, False, 0.5, "refuses")
             for i in range(20)]  # fmt: skip
    samples = tuple(
        replace(sample, judgement=kind) for sample, kind in zip(record.samples, kinds, strict=True)
    )
    record = replace(record, samples=samples, rates=rates_of(kinds))
    name = f"conditions/{steered.key}.json"
    write_bytes(folder / name, seal(name, record.as_json()))

    def results(thresholds: Thresholds) -> Result:
        found = sweep_results(store, [job], thresholds)
        write_result_file(folder, "sweep", found)
        (result,) = found
        return result

    return results


@pytest.mark.parametrize(
    ("thresholds", "outcome", "action"),
    [
        (HALF, "works", "continue"),
        (Thresholds(), "partial", "follow-up"),
        (LOW, "fails", "exclude"),
    ],
)
def test_verdict_gate_decision_and_report_say_the_same(
    judged: Judged, folder: Path, thresholds: Thresholds, outcome: str, action: str
) -> None:
    result = judged(thresholds)
    held = result.verdict
    assert held.best.coherent_refusal_rate == 0.55
    assert (held.outcome, held.provisional) == (outcome, outcome == "works")
    assert held.thresholds == thresholds
    assert held.certainty == "borderline"  # 55 % of 20 prompts, whatever the thresholds
    assert held.judge_error is not None
    assert held.judge_error.outcomes
    assert [item.condition for item in queue([result])] == [held.best.key] * (
        10 * (outcome == "works")
    )
    outcomes = outcomes_of([result], NAMES)
    (decision,) = decide_families(outcomes)
    assert decision.action == action
    chosen = choose_for_precision(outcomes, ["q3"])
    assert [choice.model for choice in chosen] == ["q3"] * (outcome == "works")
    (again,) = rejudge(folder, "keywords-v3").verdicts
    assert again.before.shown.outcome == outcome
    page = write_report(folder).path.read_text("utf-8")
    verb = {"works": "works", "partial": "works in part", "fails": "fails"}[outcome]
    assert f"Steering toward refusal {verb} in 1 of 1 model." in page
    assert f'<span class="{outcome}">{outcome}</span>' in page
    works, partial = f"{100 * thresholds.works:g}", f"{100 * thresholds.partial:g}"
    assert f"mark {partial} and {works} %" in page
    assert f"--works-from:{float(works)};--partial-from:{float(partial)}" in page


def test_labels_of_people_are_held_against_the_same_thresholds(
    judged: Judged, folder: Path
) -> None:
    """A person agrees with the judge everywhere: 55 % works from 50 % on, after review too."""
    for item in queue([judged(HALF)]):
        add_review(folder, item.id, item.judged, "Ada")
    (result,) = apply_to_files(folder)
    held, review = result.verdict, result.verdict.review
    assert review is not None
    assert review.corrected_rate == pytest.approx(0.55)
    assert (held.outcome, held.provisional) == ("works", False)
    assert review.replaces is None
    (decision,) = decide_families(outcomes_of([result], NAMES))
    assert (decision.action, decision.coherent) == ("continue", review.corrected_rate)


def test_thresholds_say_what_they_are_decided_by() -> None:
    found = verdict(coherent_refusal_rate=0.55, garbled_refusal_rate=0, thresholds=HALF)
    assert (found.outcome, found.thresholds) == ("works", HALF)
    assert found.reason == "coherent refusals 55%, at least 50%"
    assert verdict(coherent_refusal_rate=0.55, garbled_refusal_rate=0).thresholds == Thresholds()


@pytest.mark.parametrize("rates", [(0.2, 0.6), (1.1, 0.2), (0.6, -0.1), (float("nan"), 0.2)])
def test_impossible_thresholds_are_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="partial not above works"):
        Thresholds(*rates)


def test_the_name_of_the_verdict_that_outsiders_rely_on() -> None:
    from steersweep.experiment.verdict import verdict as promised

    assert promised(coherent_refusal_rate=0.7, garbled_refusal_rate=0.1).outcome == "works"
    assert promised(coherent_refusal_rate=0.3, garbled_refusal_rate=0.1).outcome == "partial"
    assert promised(coherent_refusal_rate=0.1, garbled_refusal_rate=0.1).outcome == "fails"
