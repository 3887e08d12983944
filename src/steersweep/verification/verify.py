"""The verification of COSMIC: fixtures, a reproduction run, and what is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from steersweep.core import typed
from steersweep.core.atomic import write_text
from steersweep.core.errors import SteersweepError, setting
from steersweep.core.printing import safe_name
from steersweep.core.statistics import wilson
from steersweep.judging.judges import get_judge
from steersweep.methods.official import Check, check_fixture, fixture_folders
from steersweep.run.condition import content_key
from steersweep.run.label import Label
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import write_verification
from steersweep.sweeps.run import RunJob, SweepOutcome, run_sweep
from steersweep.sweeps.settings import SweepSettings
from steersweep.verification.outcome import (
    Checked,
    Criterion,
    Fixture,
    Quantity,
    Reproduced,
    RunSettings,
    Verification,
)
from steersweep.verification.report import GATE, render_markdown
from steersweep.verification.steps import DIFFERENCES, STEPS
from steersweep.work.job import OnProgress


@dataclass(frozen=True)
class Reproduction:
    """A run to compare with a stated expectation.

    Attributes:
        settings: of one model, with COSMIC, one layer and one strength.
        expect: coherent refusal rate that must be reached, 0 to 1.
        chosen: whether COSMIC's own choice of layer counts, and not that of the settings.
    """

    settings: SweepSettings
    expect: float = 0.6
    chosen: bool = False


def verify_cosmic(
    fixtures: Path,
    out: Path,
    *,
    reproduction: Reproduction | None = None,
    on_fixture: Callable[[str], None] = lambda _name: None,
    on_progress: OnProgress = lambda _progress: None,
    device: str = "auto",
    run: RunJob | None = None,
) -> tuple[Verification, Path]:
    """Compare with the official numbers, run the reproduction, write report and result file.

    Args:
        fixtures: a folder of fixtures, or a fixture.
        out: where `COSMIC_VERIFICATION.md`, `results/` and the reproduction's run folder go.
        reproduction: what to run on a model; None: nothing.
        on_fixture: called with the name of each fixture before it is checked.
        on_progress: receives the reproduction's progress.
        device: torch device of the reproduction.
        run: runs the reproduction's job on another machine; see `run_sweep`.

    Returns:
        What it came to, and the result file.

    Raises:
        InputError: a fixture cannot be read, or the reproduction's settings are wrong.
    """
    import torch

    from steersweep.core import provenance

    folders = fixture_folders(fixtures)
    checks: list[Check] = []
    for folder in folders:
        on_fixture(folder.name)
        checks += check_fixture(folder)
    reproduced = None
    if reproduction is not None:
        settings = reproduction.settings
        folder = RunPaths(out).reproduction(_name(reproduction))
        outcome = run_sweep(settings, folder, device=device, on_progress=on_progress, run=run)
        reproduced = _compared(reproduction, outcome, out)
    fixtures_passed = all(check.passed for check in checks)
    result = Verification(
        phase="pre",
        kind=GATE,
        timestamp=provenance.utc_now(),
        passed=fixtures_passed and (reproduced is None or reproduced.passed),
        quantities=_by_quantity(checks),
        fixtures=tuple(_fixture(folder.name, checks) for folder in folders),
        reproduction=reproduced,
        steps=STEPS,
        differences=DIFFERENCES,
        acceptance=_acceptance(fixtures_passed, reproduced),
        provenance=provenance.facts(torch.device("cpu")),
    )
    path = write_verification(out, typed.plain(result))
    write_text(RunPaths(out).verification, render_markdown(result, path.name, None))
    return result, path


def _fixture(name: str, checks: Iterable[Check]) -> Fixture:
    own = [check for check in checks if check.fixture == name]
    shown = (
        Checked(name, one.quantity, _finite(one.difference), one.tolerance, one.passed)
        for one in own
    )
    return Fixture(name, all(check.passed for check in own), tuple(shown))


def _by_quantity(checks: Iterable[Check]) -> dict[str, Quantity]:
    """Largest difference of each quantity over all fixtures; None where it is not a number."""
    table: dict[str, Check] = {}
    for check in checks:
        held = table.get(check.quantity)
        if held is None or check.difference > held.difference:
            table[check.quantity] = check
    return {
        name: Quantity(_finite(check.difference), check.tolerance, check.passed)
        for name, check in table.items()
    }


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


def _name(asked: Reproduction) -> str:
    """A folder of its own for a reproduction with exactly these settings."""
    settings = asked.settings
    model = safe_name(settings.models[0].name.replace(":", "-").replace("/", "-"))
    layer = "auto" if asked.chosen else settings.layers[0].text
    return f"{model}-{layer}-{settings.strengths[0].value:g}-{content_key(settings.plan())[:8]}"


def _compared(asked: Reproduction, outcome: SweepOutcome, out: Path) -> Reproduced:
    """What the reproduction found, beside what was expected."""
    method = str(Label("cosmic", chose_layer=asked.chosen))
    result = next((found for found in outcome.results if found.method == method), None)
    if result is None:
        extraction = outcome.results[0].extraction
        assert extraction is not None, "COSMIC scores candidates"
        raise SteersweepError(
            f"{asked.settings.models[0].model_id}: {extraction.notes[-1]}. Give {setting('layer')}"
        )
    cell, controls = result.conditions[0], result.controls
    assert controls.unsteered is not None, "the run has finished"
    assert controls.random_direction is not None, "the run has finished"
    assert cell.steering.position is not None, "COSMIC reads at one"
    n, rate = cell.rates.n_unique, cell.rates.coherent_refusal_rate
    return Reproduced(
        model_id=result.model_id,
        settings=RunSettings(
            precision=result.quantization,
            judge=get_judge(asked.settings.judge).id,
            seed=asked.settings.seed,
            max_new_tokens=asked.settings.max_new_tokens,
            test_prompts=asked.settings.test.id,
            extraction_prompts=asked.settings.extraction["cosmic"].id,
        ),
        method=method,
        layer_idx=cell.layer,
        n_layers=result.n_layers,
        position=cell.steering.position,
        multiplier=cell.steering.multiplier,
        relative_strength=cell.steering.relative_strength,
        n_unique=n,
        coherent_refusal_rate=rate,
        coherent_refusal_ci=wilson(round(rate * n), n),
        garbled_rate=cell.rates.garbled_rate,
        expected_at_least=asked.expect,
        passed=rate >= asked.expect,
        unsteered=controls.unsteered.rates.coherent_refusal_rate,
        random_direction=controls.random_direction.rates.coherent_refusal_rate,
        results_file=str(outcome.results_file.relative_to(out)),
    )


def _acceptance(fixtures_passed: bool, run: Reproduced | None) -> tuple[Criterion, ...]:
    """The four criteria of phase 0 (docs/study-plan.md)."""
    return (
        Criterion(
            "Every algorithmic step maps to the method's source",
            True,
            "to the official code's functions; sections of the paper could not be checked",
        ),
        Criterion(
            "All differences are documented with justification, and the numbers agree",
            fixtures_passed,
            "compared with the official code's own output",
        ),
        Criterion(
            "The reproduction run reaches the stated refusal rate",
            None if run is None else run.passed,
            "not run: no model was given" if run is None else run.model_id,
        ),
        Criterion(
            "The lead signs off on this report", None, f"steersweep approve DIR {GATE} --by NAME"
        ),
    )
