"""What the sweeps of a plan are expected to take: time, memory, GPUs and prices."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.plans import TEXT, V3
from steersweep import InputError
from steersweep.budget.estimate import Workload, calibration, stage_seconds
from steersweep.budget.shapes import ModelShape
from steersweep.budget.timing import CPU, Machine, gpu
from steersweep.catalog.gpus import gpu_catalog, kind_of
from steersweep.catalog.models import model_shapes
from steersweep.model.find import find_model
from steersweep.model.memory import model_shape
from steersweep.report.plan_table import planned
from steersweep.run.condition import Borrowed, Condition
from steersweep.run.label import Label
from steersweep.study.costs import estimate, shape_of
from steersweep.study.decisions import Outcome
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.plan_file import load_plan, parse_plan, with_prices
from steersweep.study.settings import settings_of
from steersweep.study.sweeps import Cuts, Sweep
from steersweep.sweeps.settings import make_job

LAB = load_plan("v3-lab")
QWEN_HALF = ModelShape(494_032_768, 136_134_656, 24, 896, 14, 896, 128, 4864, 151_936)
QWEN_7B = ModelShape(7_615_616_512, 1_089_994_752, 28, 3584, 28, 3584, 512, 18_944, 152_064)


def test_estimates_grow_with_work_and_never_hide_what_does_not_fit() -> None:
    sweeps = {sweep.model.name: sweep for sweep in FAMILIES.sweeps(V3)}
    big, small = sweeps["gemma-9b"], sweeps["phi-35"]
    assert estimate(V3, big, 40).seconds > estimate(V3, big, 10).seconds
    # Beside nine billion parameters an A10G has room for few rows, as the plan itself fears.
    assert estimate(V3, big, 40).fits
    assert estimate(V3, big, 40).rows < estimate(V3, small, 40).rows
    assert estimate(V3, big, 40).rows < estimate(V3, big, 40, gpu="A100-80GB").rows == 256
    assert estimate(V3, big, 40).memory_gb <= 24
    assert estimate(V3, small, 10, factor=2).usd == pytest.approx(2 * estimate(V3, small, 10).usd)
    assert estimate(V3, small, 10, gpu="local").usd == 0
    assert calibration([]) == 1
    assert calibration([(20, 10), (30, 10), (10, 10)]) == 2
    assert calibration([(1e9, 1)]) == 10


def test_other_precisions_of_a_cpu_change_products_and_what_is_read() -> None:
    shape = ModelShape(1000, 200, 2, 10, 2, 10, 10, 40, 20)  # its embeddings are tied
    machine = Machine(1.0, 1.0, 10.0, 100.0, 0.5, products={"int8-dynamic": 4.0, "bf16": 0.5})
    assert machine.step(shape, "fp32", 3, 7) == 0.5 * 2 + 4000 / 100 + 3 * 2000 / 10
    assert machine.step(shape, "bf16", 3, 7) == 0.5 * 2 + 2000 / 100 + 3 * 2000 / 5
    assert machine.step(shape, "fp16", 3, 7) == 0.5 * 2 + 2000 / 100 + 3 * 2000 / 10
    for precision in ("int8-dynamic", "Q4_1-as-int8-dynamic"):
        assert machine.step(shape, precision, 3, 7) == 0.5 * 2 + 1010 / 100 + 3 * 2000 / 40
        assert machine.tokens(shape, precision, 9) == 9 * 2000 / 40
    # The input embedding stays in float32 beside the output layer in eight bits.
    assert shape.weights("int8-dynamic") == 1010 + 4 * 200
    assert replace(shape, embeddings=400).read("int8-dynamic") == 1.01 * 800


@pytest.mark.parametrize(
    ("rows", "int8", "bf16"), [(8, 3.9, 1.8), (64, 2.8, 0.8), (190, 2.4, None)]
)
def test_steps_in_other_precisions_are_as_much_faster_as_was_measured(
    rows: int, int8: float, bf16: float | None
) -> None:
    """Of Qwen2.5-0.5B on the processor that the rates are of (docs/performance.md)."""
    shape = QWEN_HALF
    whole = CPU.step(shape, "fp32", rows, 60)
    assert whole / CPU.step(shape, "int8-dynamic", rows, 60) == pytest.approx(int8, rel=0.3)
    if bf16 is not None:
        assert whole / CPU.step(shape, "bf16", rows, 60) == pytest.approx(bf16, rel=0.35)


def test_a_sweep_in_eight_bits_is_as_much_faster_as_was_measured() -> None:
    sweep = Workload(QWEN_HALF, "fp32", 19, 20, 40, 190, 0)
    seconds = [
        sum(stage_seconds(replace(sweep, precision=precision), CPU).values())
        for precision in ("fp32", "int8-dynamic")
    ]
    assert seconds[0] / seconds[1] == pytest.approx(2.3, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "milliseconds"),
    [
        (QWEN_HALF, {1: 2.47, 64: 2.99, 256: 4.03, 1024: 7.59, 2048: 12.58}),
        (QWEN_7B, {1: 6.47, 64: 7.65, 256: 11.26, 1024: 34.56, 2048: 66.55}),
    ],
)
def test_steps_of_a_gpu_take_what_was_measured(
    shape: ModelShape, milliseconds: dict[int, float]
) -> None:
    """In bf16, at a context of 42, on an H200 (docs/performance.md)."""
    machine = gpu(gpu_catalog()["H200"])
    for rows, took in milliseconds.items():
        assert 1000 * machine.step(shape, "bf16", rows, 42) == pytest.approx(took, rel=0.2)
        # Steps that cannot be recorded wait for every layer.
        assert machine.step(shape, "int4", rows, 42) > 0.001 * shape.n_layers


def test_a_sweep_counts_the_directions_it_borrows() -> None:
    """Not only those of another precision: a transfer tries one of every other model."""
    held = [
        Outcome(name, model.family, "dim", "works", 1.0, (0.5, 1.0), 3, 0.5, 8, LAB.strength)
        for name, model in LAB.models.items()
    ]
    sweep = TRANSFER.sweeps(LAB, held)[0]
    alone = ["none", "dim", "random"]
    assert [str(condition.label) for condition in conditions(sweep)] == alone
    assert sweep.n_conditions == 3
    borrowed = tuple(
        Borrowed(Label("dim", source=name), 3, "0" * 16, "p@1") for name in ("q3", "q14")
    )
    sweep = replace(sweep, borrowed=borrowed)
    assert [str(c.label) for c in conditions(sweep)] == [*alone, "dim@q3", "dim@q14"]
    assert sweep.n_conditions == 5
    shares = [estimate(LAB, s, 30).seconds for s in (replace(sweep, borrowed=()), sweep)]
    assert shares[1] > shares[0]


def conditions(sweep: Sweep) -> tuple[Condition, ...]:
    """Those of the job that a sweep of the lab plan becomes."""
    made = settings_of(LAB, sweep, Cuts())
    return make_job(made, made.models[0], "cpu", "2026-11-25").conditions


MODEL_TYPES = {"Qwen": "qwen2", "google": "gemma2", "meta-llama": "llama", "mistralai": "mistral"}


@pytest.mark.parametrize("name", V3.models)
def test_the_catalogs_shapes_give_the_parameters_that_the_plan_says(name: str) -> None:
    """Counted by transformers on a model without weights."""
    from transformers import AutoConfig

    model = V3.models[name]
    shape = model_shapes()[model.model]
    config = AutoConfig.for_model(
        MODEL_TYPES.get(model.model.split("/")[0], "phi3"),
        num_hidden_layers=shape["n_layers"],
        hidden_size=shape["d_model"],
        num_attention_heads=shape["n_heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["mlp_width"],
        vocab_size=shape["vocab_size"],
        tie_word_embeddings=shape["tied"],
        pad_token_id=0,
    )
    counted = model_shape(config)
    assert counted.parameters == pytest.approx(model.billions * 1e9, rel=0.005)
    assert replace(counted, parameters=0) == replace(shape_of(model), parameters=0)
    assert shape["n_layers"] == model.n_layers


def test_a_model_on_this_machine_is_estimated_from_its_config(tmp_path: Path) -> None:
    model = replace(V3.models["llama-8b"], model="lab:llama-8b")
    config = find_model("lab:llama-8b").config()
    assert shape_of(model) == model_shape(config)
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no such type"}')
    guessed = shape_of(replace(model, model=str(broken)))
    assert guessed == shape_of(replace(model, model="somebody/else"))


def test_a_model_out_of_the_catalog_is_estimated_from_its_parameters() -> None:
    model = V3.models["llama-8b"]
    known, guessed = shape_of(model), shape_of(replace(model, model="somebody/else"))
    for precision in ("bf16", "int4"):
        assert guessed.weights(precision) == pytest.approx(known.weights(precision), rel=0.15)
    assert guessed.row("bf16", 40, 100) == pytest.approx(known.row("bf16", 40, 100), rel=0.5)


@pytest.mark.parametrize(
    ("device", "gigabytes", "kind"),
    [
        ("NVIDIA A10G", 23.7, "A10G"),
        ("NVIDIA A10", 23.7, "A10G"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 85.1, "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 42.3, "A100-40GB"),
        ("NVIDIA L4", 23.6, "L4"),
        ("NVIDIA L40S", 47.7, "L40S"),
        ("NVIDIA H100 80GB HBM3", 85.0, "H100"),
        ("NVIDIA H200", 150.7, "H200"),
        ("Quadro of old", 4.0, None),
    ],
)
def test_gpus_are_known_by_what_the_driver_calls_them(
    device: str, gigabytes: float, kind: str | None
) -> None:
    assert kind_of(device, gigabytes) == kind


def test_prices_of_a_file_go_before_the_plans_and_the_catalogs(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("A10G: 0.5\nL4: 0\n")
    cheap = with_prices(V3, file)
    assert [cheap.price(gpu) for gpu in ("A10G", "L4", "A100-80GB")] == [0.5, 0, 3.73]
    before, after = (
        sum(row.usd for row in planned(plan, Cuts()) if row.gpu == "A10G") for plan in (V3, cheap)
    )
    assert after == pytest.approx(before * 0.5 / 1.10, rel=0.01)
    assert {row.cheapest.gpu for row in planned(cheap, Cuts()) if row.model == "phi-35"} == {"L4"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "must be a mapping"),
        ("A10G: cheap", "A10G: 'cheap' is no price"),
        ("A10G: -1", "A10G: -1 is no price"),
        ("A10G: .nan", "A10G: nan is no price"),
        ("A10G: true", "A10G: True is no price"),
        ("Z9: 1", "Z9: no such GPU"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_bad_prices_name_the_file_and_the_gpu(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        with_prices(V3, file)
    assert "prices.yaml" in str(caught.value)


def test_a_model_that_does_not_fit_is_sent_where_it_does() -> None:
    plan = parse_plan(TEXT.replace("gpu: A100-80GB", "gpu: A100-40GB"), "v3.yaml")
    rows = {row.model: row for row in planned(plan, Cuts()) if row.phase == "2"}
    assert rows["qwen-32b"].fits is False
    assert rows["qwen-32b"].cheapest.gpu in ("A100-80GB", "H100", "H200")
    for row in rows.values():
        if row.fits:
            assert row.cheapest.usd <= row.usd * 1.5
