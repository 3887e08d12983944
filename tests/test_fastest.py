"""The fastest precision: measured once, said, kept by the run, and never a slower one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import GPT2Config

from conftest import lab
from steersweep import InputError
from steersweep.core.plain_yaml import parse_yaml
from steersweep.model import fastest
from steersweep.model.fastest import chosen, fastest_precision, linear_shapes
from steersweep.model.find import find_model
from steersweep.model.precision import resolve_precision
from steersweep.sweeps.fastest import with_precision
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import SweepSettings, make_settings

QUICK = {"fp32": 4.0, "bf16": 3.0, "int8-dynamic": 1.0}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSWEEP_CACHE", str(tmp_path / "cache"))


def settings(precision: str = "fastest") -> SweepSettings:
    return make_settings(
        [find_model("lab:qwen-3b")],
        layers="0.5",
        strengths="0.2",
        max_prompts=2,
        max_new_tokens=4,
        precision=precision,
    )


def says(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    monkeypatch.setattr(fastest, "measured", lambda _shapes: seconds)


def test_another_precision_must_be_worth_its_rounding() -> None:
    assert chosen(QUICK) == "int8-dynamic"
    assert chosen({"fp32": 4.0, "bf16": 3.0}) == "bf16"
    assert chosen({"fp32": 4.0, "bf16": 3.5, "int8-dynamic": 3.3}) == "fp32"
    assert chosen({"fp32": 1.0, "bf16": 2.0}) == "fp32"


def test_all_linear_layers_are_counted_without_loading_them() -> None:
    config: Any = find_model("lab:gemma-9b").config()
    layers = [m for m in lab("gemma-9b").model.modules() if type(m) is nn.Linear]
    assert linear_shapes(config).total() == len(layers)
    assert set(linear_shapes(config)) == {tuple(m.weight.shape) for m in layers}


def test_a_model_whose_layers_are_of_another_kind_stays_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As GPT-2's, which cannot run in eight bits."""
    says(monkeypatch, QUICK)
    found = fastest_precision(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64))
    assert found.precision == "fp32"
    assert found.note == "precision fastest: fp32 (nothing else here)"


def test_it_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = find_model("lab:qwen-3b").config()
    found = fastest_precision(config)
    assert {"fp32", "bf16"} <= found.seconds.keys()
    assert min(found.seconds.values()) > 0
    monkeypatch.setattr(fastest, "measured", lambda _shapes: pytest.fail("measured again"))
    assert fastest_precision(config) == found
    says(monkeypatch, QUICK)
    other = fastest_precision(find_model("lab:gemma-9b").config())
    assert other.precision == "int8-dynamic"
    assert "int8-dynamic (matrix products here, against fp32: bf16 1.3 ×, int8-dynamic 4.0" in (
        other.note
    )
    assert "fp32, which stays the reference" in other.note


def test_where_a_processor_has_no_products_of_bytes_they_are_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastest, "multiplies_bytes", lambda: False)
    assert set(fastest_precision(find_model("lab:qwen-3b").config()).seconds) == {"fp32", "bf16"}


def test_a_run_keeps_what_it_began_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where another is fastest too; and it says once what was chosen."""
    says(monkeypatch, {"fp32": 4.0, "bf16": 1.0})
    notes: list[str] = []
    first = run_sweep(settings(), tmp_path / "run", device="cpu", on_note=notes.append)
    assert [result.quantization for result in first.results] == ["bf16"]
    assert [note for note in notes if "precision fastest: bf16" in note]
    text = (tmp_path / "run" / "plan.yaml").read_text()
    assert parse_yaml(text, "plan.yaml").data["precision"] == "bf16"
    monkeypatch.setenv("STEERSWEEP_CACHE", str(tmp_path / "other"))
    says(monkeypatch, QUICK)
    again = run_sweep(settings(), tmp_path / "run", device="cpu")
    assert [result.quantization for result in again.results] == ["bf16"]
    assert with_precision(settings(), tmp_path / "new", "cpu", print).precision == "int8-dynamic"


def test_it_is_refused_where_it_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"precision fastest: is measured on the machine"):
        with_precision(settings(), tmp_path, "cpu", print, is_here=False)
    with pytest.raises(InputError, match=r"precision fastest: only a sweep or a search"):
        resolve_precision("fastest", object(), "cpu")
    assert with_precision(settings(), tmp_path, "cuda", print).precision == "auto"
    assert with_precision(settings("bf16"), tmp_path, "cpu", print) == settings("bf16")
