"""What a run has prepared is kept until it ends; batches follow time, and are formed again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import lab, rest_slow
from steersweep import ChatModel
from steersweep.budget.shapes import ModelShape
from steersweep.judging.fluency import ResponseNll, response_nll
from steersweep.judging.judges import get_judge
from steersweep.judging.quality import LIKELIHOOD_TOKENS
from steersweep.methods.cosmic_rules import CANDIDATES, COMPLY, REFUSE
from steersweep.methods.cosmic_scoring import Scorer
from steersweep.methods.extraction import extract_directions
from steersweep.methods.method import ACTIVATIONS, METHODS, Given, Tensors
from steersweep.prompts.prompts import load_extraction_set
from steersweep.run.folder import RunFolder
from steersweep.run.label import UNSTEERED
from steersweep.steer import activations
from steersweep.steer.edit import Edit
from steersweep.steer.steering import Row, generate
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import SweepSettings, make_job, make_settings
from steersweep.work import bench, pace, preparation, standing
from steersweep.work.expected import expected_seconds
from steersweep.work.job import Job, Progress
from steersweep.work.pace import MANY, Steps, rows_in_time, step_seconds
from steersweep.work.preparation import Preparation
from test_sweep import comparable


class Killed(BaseException):
    """As a kill would, this ends a run where it is."""


def settings(**changes: Any) -> SweepSettings:
    asked: dict[str, Any] = {"layers": "0.5", "strengths": "0.2,0.4", "max_prompts": 7}
    return make_settings(["lab:qwen-7b"], **{**asked, "max_new_tokens": 12, **changes})


def job_of(**changes: Any) -> Job:
    asked = settings(**changes)
    return make_job(asked, asked.models[0], "cpu", "2026-11-26")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing broke off."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_sweep(settings(), folder)
    return folder


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that answers three rows in a minute, and on which everything is worth keeping."""
    monkeypatch.setattr(bench, "rows_in_time", lambda *_args, **_facts: 3)
    monkeypatch.setattr(preparation, "WORTH_KEEPING", -1.0)


# -- rows ------------------------------------------------------------------------------------------


def test_rows_of_a_batch_follow_the_time_that_a_pass_took() -> None:
    shape = ModelShape(
        parameters=630_000_000,
        embeddings=272_000_000,
        n_layers=24,
        d_model=896,
        n_heads=14,
        q_width=896,
        kv_width=128,
        mlp_width=4864,
        vocab_size=151_936,
    )
    job = replace(
        job_of(),
        conditions=tuple(replace(c, max_new_tokens=60) for c in job_of().conditions),
    )
    # Measured: 20 prompts of 37 tokens took 4.9 s on two cores, and 64 rows 0.49 s a step.
    rows = rows_in_time(job, shape, "cpu", tokens=740, seconds=4.9)
    assert 40 <= rows <= 120
    assert rows_in_time(job, shape, "cpu", tokens=740, seconds=9.8) <= rows // 2 + 1
    few = rows_in_time(job, shape, "cpu", tokens=740, seconds=4000)
    assert few == rows_in_time(job, shape, "cpu", tokens=740, seconds=9000)
    assert 5 <= few <= 20
    assert rows_in_time(job, shape, "cuda", tokens=740, seconds=0.3) > 256
    # A pass that others slowed down says little where steps were timed.
    steps = Steps(0.113, 0.25, 16)
    calm = rows_in_time(job, shape, "cpu", tokens=740, seconds=4.9, steps=steps)
    assert 40 <= calm <= 120
    assert rows_in_time(job, shape, "cpu", tokens=740, seconds=9.8, steps=steps) >= calm // 2
    # A batch that can be kept as it stands may take longer; at most 400 MB are kept of it.
    longer = rows_in_time(job, shape, "cpu", tokens=740, seconds=4.9, steps=steps, stands=True)
    assert 1.5 * calm < longer <= 400_000_000 // shape.cache("fp32", 100)
    wide = replace(shape, kv_width=40 * shape.kv_width)
    assert rows_in_time(job, wide, "cpu", tokens=740, seconds=4.9, steps=steps, stands=True) == calm


def test_steps_are_timed_and_kept_if_the_machine_was_quiet(
    qwen: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSWEEP_CACHE", str(tmp_path))
    timed: list[Steps] = []
    time_them = pace._timed

    def counted(*given: Any) -> Any:
        timed.append(time_them(*given))
        return timed[-1]

    monkeypatch.setattr(pace, "_timed", counted)
    prompts = [qwen.prompt_ids(text) for text in ("How do I bake a cake?", "Tell me about bees.")]
    monkeypatch.setattr(pace, "_QUIET", 9.0)  # so quiet is none
    busy = [step_seconds(qwen, prompts) for _ in range(2)]
    assert timed == busy
    monkeypatch.setattr(pace, "_QUIET", 0.0)
    quiet = [step_seconds(qwen, prompts) for _ in range(2)]
    assert len(timed) == 3
    assert quiet == [timed[2], timed[2]]
    found = timed[2]
    assert found.rows == MANY
    assert found.one > 0  # which of the two took longer is the machine's affair
    assert found.many > 0
    step_seconds(qwen, prompts, 4)
    step_seconds(qwen, [5 * prompts[0]])
    assert len(timed) == 5, "rows and longer prompts are timed for themselves"


def test_a_condition_in_parts_is_the_same_and_every_part_is_saved(
    tmp_path: Path, slow_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep(settings(), tmp_path / "whole")
    answered: list[int] = []
    generate = bench.Answering._answer

    def counted(self: Any, batch: Any) -> Any:
        answered.append(sum(len(asked.prompt_ids) for asked in batch))
        return generate(self, batch)

    monkeypatch.setattr("steersweep.work.answering.Answering._answer", counted)

    def kill(progress: Progress) -> None:
        if len(answered) == 5 and progress.note.startswith("step"):
            raise Killed

    with pytest.raises(Killed):
        run_sweep(settings(), tmp_path / "run", on_progress=kill)
    assert answered == [2, 3, 3, 3, 3], "the third holds the end of a condition and more"
    assert len(list((tmp_path / "run" / "conditions").iterdir())) == 1
    assert sum(1 for _ in (tmp_path / "run" / "extraction").glob("kept-*.json")) >= 3
    run_sweep(settings(), tmp_path / "run")
    assert len(answered) == 5 + 12 - 4, "a part that was saved is not answered again"
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")
    assert not list((tmp_path / "run" / "extraction").glob("kept-*"))


def test_a_run_that_goes_on_forms_the_batches_it_began_with(
    tmp_path: Path, slow_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(progress: Progress) -> None:
        if progress.done == 1:
            raise Killed

    with pytest.raises(Killed):
        run_sweep(settings(), tmp_path / "run", on_progress=kill)
    monkeypatch.setattr(bench, "rows_in_time", lambda *_args, **_facts: 256)  # less busy now
    run_sweep(settings(), tmp_path / "run")
    records = [json.loads(f.read_text()) for f in (tmp_path / "run" / "conditions").iterdir()]
    assert len(records) == 5
    assert '"rows": 3' in json.dumps(records[0])
    assert all('"rows": 3' in json.dumps(record) for record in records)


def test_a_batch_that_takes_long_goes_on_as_it_stood(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "EVERY", -1.0)

    def kill(progress: Progress) -> None:
        if progress.note.startswith("step 9"):
            raise Killed

    for _ in range(2):  # the second one goes on at the ninth step, after what was kept in the first
        with pytest.raises(Killed):
            run_sweep(settings(), tmp_path / "run", on_progress=kill)
    (kept,) = (tmp_path / "run" / "extraction").glob("kept-*.safetensors")
    steps: list[str] = []
    run_sweep(settings(), tmp_path / "run", on_progress=lambda p: steps.append(p.note))
    assert next(note.split(",")[0] for note in steps if note.startswith("step")) == "step 9"
    assert comparable(tmp_path / "run") == comparable(whole)
    assert not kept.exists()


def test_a_damaged_batch_is_answered_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "EVERY", -1.0)

    def kill(progress: Progress) -> None:
        if progress.note.startswith("step 5"):
            raise Killed

    with pytest.raises(Killed):
        run_sweep(settings(), tmp_path / "run", on_progress=kill)
    (kept,) = (tmp_path / "run" / "extraction").glob("kept-*.safetensors")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(bytes(data))
    run_sweep(settings(), tmp_path / "run")
    assert comparable(tmp_path / "run") == comparable(whole)


class InMemory:
    """Keeps every step, and what it was when a run was killed."""

    def __init__(self, kill_at: int) -> None:
        self.kept: dict[str, torch.Tensor] | None = None
        self._left = kill_at

    def held(self) -> Mapping[str, torch.Tensor] | None:
        return self.kept

    def is_due(self) -> bool:
        return True

    def keep(self, state: Mapping[str, torch.Tensor], *, ended: bool = False) -> None:
        self.kept = {name: tensor.clone() for name, tensor in state.items()}
        self._left -= 1
        if self._left == 0:
            raise Killed


@pytest.mark.parametrize("kill_at", rest_slow([13, 1, 7, 20], fast=2))
def test_batches_of_one_call_go_on_where_they_stood(qwen: ChatModel, kill_at: int) -> None:
    """Of three batches; answers of those that were done are there too."""
    push = Edit.add(torch.arange(qwen.d_model).sin(), 4.0, 2)
    texts = ("How do I bake a cake?", "Tell me about bees.", "What is a lock for?", "Say hello.")
    rows = [Row(qwen.prompt_ids(text), edit) for text in texts for edit in (None, push)]
    expected = generate(qwen, rows, max_new_tokens=8, max_rows=3)
    kept = InMemory(kill_at)
    with pytest.raises(Killed):
        generate(qwen, rows, max_new_tokens=8, max_rows=3, standing=kept)
    asked: list[int] = []
    found = generate(
        qwen,
        rows,
        max_new_tokens=8,
        max_rows=3,
        standing=kept,
        on_step=lambda step: asked.append(step.rows),
    )
    assert found == expected
    assert len(asked) < 3 * 8 - kill_at + 1
    asked.clear()
    assert generate(qwen, rows, max_new_tokens=8, max_rows=3, standing=kept) == expected
    assert generate(qwen, rows, max_new_tokens=8, max_rows=4, standing=kept) == expected


# -- likelihoods -----------------------------------------------------------------------------------


def test_likelihoods_are_of_the_first_tokens_of_what_the_text_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsteered answers are looked at whole: the threshold rests on them."""
    judge = get_judge()
    asked: list[tuple[tuple[int, ...], ResponseNll | None]] = []

    def noted(chat: ChatModel, prompts: Any, responses: Any, **options: Any) -> Any:
        found = response_nll(chat, prompts, responses, **options)
        asked.extend(zip(responses, found, strict=True))
        return found

    monkeypatch.setattr("steersweep.work.answering.response_nll", noted)
    out = run_sweep(
        settings(strengths="0.3,1.5", max_prompts=20, max_new_tokens=50), tmp_path / "run"
    )
    store = RunFolder.existing(out.folder)
    rest = iter(asked)
    counts = Counter[str]()
    for condition in job_of(strengths="0.3,1.5", max_prompts=20, max_new_tokens=50).conditions:
        record = store.get(condition.key)
        assert record is not None
        for sample, (tokens, nll) in zip(record.samples, rest, strict=False):
            if condition.label == UNSTEERED:
                assert len(tokens) == sample.n_tokens
            elif judge.asks_likelihood(sample.response):
                assert len(tokens) == min(sample.n_tokens, LIKELIHOOD_TOKENS)
                counts["cut"] += sample.n_tokens > LIKELIHOOD_TOKENS
            else:
                assert tokens == ()
                counts["decided"] += 1
            expected = (None, None) if nll is None else (nll.mean, nll.worst)
            assert (sample.nll, sample.nll_worst) == expected
    assert counts["cut"] > 3
    assert counts["decided"] > 3


# -- what is kept ----------------------------------------------------------------------------------


def test_what_took_long_is_kept_until_the_job_has_ended(tmp_path: Path) -> None:
    store = RunFolder(tmp_path)
    (tmp_path / "extraction").mkdir()
    now = 0.0
    kept = Preparation(job_of(), store, now=lambda: now)
    made: list[float] = []

    def taking(seconds: float) -> Callable[[], Tensors]:
        def make() -> Tensors:
            nonlocal now
            now += seconds
            made.append(seconds)
            return {"states": torch.full((2, 3), seconds, dtype=torch.float64)}

        return make

    kept.tensors("short", [1], taking(1.0))
    kept.tensors("short", [1], taking(2.0))
    assert made == [1.0, 2.0]
    kept.tensors("long", [1], taking(20.0))
    again = kept.tensors("long", [1], taking(30.0))
    assert made == [1.0, 2.0, 20.0]
    assert torch.equal(again["states"], torch.full((2, 3), 20.0, dtype=torch.float64))
    kept.tensors("long", [2], taking(40.0))  # of other prompts
    assert made[-1] == 40.0
    (file, *_) = (tmp_path / "extraction").glob("kept-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    kept.tensors("long", [1], taking(50.0))
    kept.tensors("long", [2], taking(60.0))
    assert made[-1] in (50.0, 60.0)  # the damaged one is made again, the other is not
    assert len(made) == 5
    kept.forget()
    assert not list((tmp_path / "extraction").glob("kept-*.safetensors"))


def test_the_stages_of_cosmic_are_not_done_again_after_a_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = lab("qwen-3b")
    prompts = load_extraction_set("extract-cosmic-50")
    prompts = replace(prompts, harmful=prompts.harmful[:24], harmless=prompts.harmless[:24])
    whole = extract_directions(chat, "cosmic", prompts, [3])
    monkeypatch.setattr(Scorer, "parts", lambda _self, _n: 4)
    kept: dict[str, Tensors] = {}
    states: list[Mapping[str, Any]] = []
    asked: list[int] = []
    refuse = Scorer.refuse
    read = activations.mean_residuals

    def counted(self: Scorer, places: Any, *rest: Any) -> list[float]:
        asked.append(len(places))
        return refuse(self, places, *rest)

    monkeypatch.setattr(Scorer, "refuse", counted)

    def keep(name: str, make: Callable[[], Tensors]) -> Tensors:
        if name not in kept:
            kept[name] = make()
        return kept[name]

    told: list[tuple[str, float]] = []

    def tell(stage: str, share: float) -> None:
        told.append((stage, share))
        if stage == REFUSE and len(states) == 2:
            raise Killed

    with pytest.raises(Killed):
        extract_directions(
            chat, "cosmic", prompts, [3], given=Given(tell=tell, kept=keep, save=states.append)
        )
    assert len(asked) == 3  # two parts are saved, the third is lost
    reads: list[int] = []
    monkeypatch.setattr(
        "steersweep.methods.candidates.mean_residuals",
        lambda *args, **options: reads.append(1) or read(*args, **options),
    )
    del asked[:]
    found = extract_directions(
        chat, "cosmic", prompts, [3], given=Given(state=states[-1], kept=keep)
    )
    assert reads == []
    assert len(asked) == 4
    assert sum(asked) < 0.6 * whole_places(whole.state)
    assert found.chosen is not None
    assert whole.chosen is not None
    assert torch.equal(found.chosen.vector, whole.chosen.vector)
    assert torch.equal(found.at_layer[3].vector, whole.at_layer[3].vector)
    assert told[0][0] == CANDIDATES


def whole_places(state: Mapping[str, Any] | None) -> int:
    assert state is not None
    return sum(value is not None for row in state["refuse"] for value in row)


@pytest.mark.parametrize("method", rest_slow(["cosmic", "dim", "caa", "pca"], fast=2))
def test_a_method_tells_its_stages_and_none_other(method: str) -> None:
    prompts = load_extraction_set("extract-cosmic-50")
    prompts = replace(prompts, harmful=prompts.harmful[:12], harmless=prompts.harmless[:12])
    told: list[tuple[str, float]] = []
    extract_directions(
        lab("qwen-3b"),
        method,
        prompts,
        [3],
        given=Given(tell=lambda stage, share: told.append((stage, share))),
    )
    expected = getattr(METHODS.get(method), "stages", (ACTIVATIONS,))
    assert tuple(dict.fromkeys(stage for stage, _ in told)) == expected
    assert all(0 <= share <= 1 for _, share in told)
    assert (expected[0], 1.0) in told
    if method == "cosmic":
        assert expected == (CANDIDATES, REFUSE, COMPLY)


def test_every_stage_of_a_job_is_expected_and_told(tmp_path: Path) -> None:
    seen: dict[str, float] = {}
    shares: list[float] = []

    def look(progress: Progress) -> None:
        shares.append(progress.fraction)
        seen.update({stage.name: stage.share for stage in progress.stages})

    run_sweep(settings(methods="dim,cosmic"), tmp_path / "run", on_progress=look)
    assert set(seen.values()) == {1.0}
    assert [*seen] == [
        "loading", "checks", "test prompts", "dim: activations", "cosmic: candidates",
        "cosmic: S_refuse", "cosmic: S_comply and KL", "generation", "likelihoods", "judging",
    ]  # fmt: skip
    assert shares[-1] == 1
    assert max(shares[:-1]) < 1


def test_expectations_grow_with_the_work() -> None:
    chat: ChatModel = lab("qwen-7b")
    from steersweep.model.memory import model_shape

    shape = model_shape(chat.model.config, chat.model)
    few = expected_seconds(job_of(), shape, "cpu")
    many = expected_seconds(job_of(max_prompts=70), shape, "cpu")
    assert many["generation"] > 2 * few["generation"]
    assert many["likelihoods"] > 5 * few["likelihoods"]
    assert many["dim: activations"] == few["dim: activations"]
