"""One self-contained HTML page of a run, and its figures; nothing is loaded from anywhere else.

The page's content policy allows its own script by hash and nothing more, so not even a mistake in
escaping could make model output run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError
from steersweep.core.precision_labels import shown_precision
from steersweep.report.drawing import draw
from steersweep.report.figures.maps import (
    line_label,
    line_of,
    lines_of,
    shares_of,
    strength_of,
    strengths_of,
    x_label,
)
from steersweep.report.figures.style import short
from steersweep.report.page import environment, script, style
from steersweep.report.prices import price_lines
from steersweep.report.run import Listed, Run, read_run
from steersweep.report.samples import Samples, script_json
from steersweep.report.standing import note_report
from steersweep.run.cell import SteeredCell
from steersweep.run.paths import RunPaths
from steersweep.run.result import Best, Result
from steersweep.run.verdict import FLAG_NOTES
from steersweep.study.findings import decision_lines
from steersweep.study.phases.registry import all_phases, titles
from steersweep.study.phases.verification import VERIFICATION

_MANY_MAPS = 30  # from which maps are folded, and cells say no more than their number


@dataclass(frozen=True)
class Report:
    """What `write_report` wrote.

    Attributes:
        path: the page.
        figures: PNG files; SVG files lie beside them.
        n_samples: samples that can be browsed.
        beside: whether the samples lie beside the page, and not in it.
    """

    path: Path
    figures: list[Path]
    n_samples: int
    beside: bool


def write_report(folder: Path) -> Report:
    """Write `report.html` and `figures/` of a sweep's or a study's run folder.

    Raises:
        InputError: no run there, nothing finished in it, a file that cannot be read, or a folder
            that cannot be written.
    """
    try:
        report = _write(folder)
        note_report(folder)
        return report
    except OSError as error:
        file = Path(error.filename2 or error.filename or folder)
        raise InputError(
            f"{folder}: the report cannot be written there ({file}: {error.strerror}); remove what "
            f"is in the way, or copy the run folder to a place where you may write"
        ) from error


def _write(folder: Path) -> Report:
    paths = RunPaths(folder)
    samples = Samples(paths.samples)
    run = read_run(folder, samples.add)
    embedded = samples.finish()
    drawn = draw(run, paths.figures)
    code, digest = script()
    page = environment().get_template("report.html.j2")
    text = page.render(
        run=run,
        titles=titles(),
        borrowed_elsewhere={phase.name for phase in all_phases() if phase.borrowed_elsewhere},
        verification=VERIFICATION.name,
        flags=FLAG_NOTES,
        headline=headline(run),
        phases=[name for name in titles() if run.of_phase(name)],
        prices={name: [*price_lines(run.of_phase(name))] for name in titles()},
        notes={name: _notes(run.of_phase(name)) for name in titles()},
        maps=(maps := _maps(run.listed, samples)),
        many_maps=len(maps) > _MANY_MAPS,
        group_of=samples.number,
        drawn=drawn,
        decision_lines=decision_lines,
        n_samples=samples.n_samples,
        modes=sorted(samples.modes),
        embedded=embedded,
        index=script_json(
            [
                {
                    "label": group.label,
                    "phase": titles()[group.phase],
                    "n": group.n,
                    "src": f"{paths.samples.name}/{number}.js",
                }
                for number, group in enumerate(samples.groups)
            ]
        ),
        plan_text=yaml.safe_dump(dict(run.plan), sort_keys=False, allow_unicode=True),
        prints=_prints(run),
        style=style(),
        script=code,
        script_hash=digest,
    )
    write_text(paths.report, text)
    return Report(paths.report, drawn.files, samples.n_samples, embedded is None)


def headline(run: Run) -> list[str]:
    """The answer in a few sentences: where steering works, how well, and what a control does."""
    first = next((run.of_phase(phase) for phase in titles() if run.of_phase(phase)), [])
    by_model: dict[str, Result] = {}
    for result in first:
        held = by_model.get(result.model)
        if held is None or _rate(result) > _rate(held):
            by_model[result.model] = result
    if not by_model:
        return ["Nothing has finished yet."]
    counts = [
        (outcome, [r for r in by_model.values() if r.verdict.outcome == outcome])
        for outcome in ("works", "partial", "fails")
    ]
    total = len(by_model)
    said = [
        "Steering toward refusal "
        + ", ".join(
            f"{_VERBS[outcome]} in {len(found)} of {total} model{'s' * (total != 1)}"
            for outcome, found in counts
            if found
        )
        + "."
        + _UNREAD * any(result.verdict.provisional for result in by_model.values())
    ]
    best = max(by_model.values(), key=_rate)
    at = best.verdict.best
    low, high = best.verdict.interval
    said.append(
        f"Most coherent refusals: {_rate(best):.0%} [{low:.0%}, {high:.0%}] of "
        f"{best.conditions[0].rates.n_unique} benign prompts in {short(best.model)} by "
        f"{best.method.upper()}, from layer {at.layer_idx} of {best.n_layers} on "
        f"({at.layer_pct:.0%} of the depth), {_strength(at)}; "
        f"{at.garbled_rate:.0%} of the answers are garbled there."
    )
    said += judge_error_sentence(best)
    controls = [r.controls.random_direction for r in by_model.values()]
    rates = [cell.rates.coherent_refusal_rate for cell in controls if cell is not None]
    if rates:
        said.append(
            f"A random direction of the same length gives at most {max(rates):.0%} at the same "
            f"places."
        )
    return said


def judge_error_sentence(result: Result) -> list[str]:
    """What the judge's own errors leave of a result's rate, where people have labelled nothing."""
    if result.verdict.review is not None:
        return []
    error = result.verdict.judge_error
    if error is None:
        return [f"How often the judge {result.judge} errs is unknown."]
    low, high = error.range
    return [
        f"That is by the judge: {low:.0%} to {high:.0%} if it errs as it did on "
        f"{error.n_labelled} real answers."
    ]


_VERBS = {"works": "works", "partial": "works in part", "fails": "fails"}
_UNREAD = " Nobody has read samples of what works yet, so that is provisional."


def _rate(result: Result) -> float:
    return result.verdict.best.coherent_refusal_rate


def _notes(results: Sequence[Result]) -> list[str]:
    """What checks and extraction had to say, each once, with the models it is about."""
    models: dict[str, list[str]] = {}
    for result in results:
        method = result.label.at_given_layer
        of_method = () if result.extraction is None else result.extraction.notes
        for note in (*result.notes, *(f"{method}: {note}" for note in of_method)):
            names = models.setdefault(note, [])
            if short(result.model) not in names:
                names.append(short(result.model))
    return [f"{', '.join(names)}, {note}" for note, names in models.items()]


@dataclass(frozen=True)
class CellShown:
    """A cell of a map.

    Attributes:
        key: of the condition.
        group: number of its samples.
        rate: what stands in it.
        coherent: from the left, where coherent refusals end, in percent.
        garbled: where garbled text ends.
        title: its shares in words.
    """

    key: str
    group: int
    rate: str
    coherent: int
    garbled: int
    title: str


@dataclass(frozen=True)
class MapShown:
    """The maps of a model: lines of layers, columns of strengths, a panel per method.

    Attributes:
        phase: name of the phase.
        model: name of the model.
        precision: it ran in.
        across: what the columns are.
        strengths: unit and value of each column.
        lines: from above: who chose the layer, and the layer.
        labels: of the lines.
        panels: by title, the cells by line and column.
    """

    phase: str
    model: str
    precision: str
    across: str
    strengths: list[tuple[str, float]]
    lines: list[tuple[str, int]]
    labels: list[str]
    panels: dict[str, dict[tuple[tuple[str, int], tuple[str, float]], CellShown]]


def _maps(run: Sequence[Listed], samples: Samples) -> list[MapShown]:
    """Maps by phase and model."""
    together: dict[tuple[str, str, str], list[Listed]] = {}
    for listed in run:
        key = listed.phase, listed.result.model, listed.result.quantization
        together.setdefault(key, []).append(listed)
    found = []
    for (phase, model, precision), members in together.items():
        held = [listed.result for listed in members]
        if len(lines_of(held)) * len(strengths_of(held)) < 2:
            continue  # one place, as in a size sweep, is no map
        panels: dict[str, list[SteeredCell]] = {}
        random: dict[str, SteeredCell] = {}
        for result in held:
            panels.setdefault(str(result.label.at_given_layer), []).extend(result.conditions)
            random |= {cell.key: cell for cell in result.controls.random_directions}
        if len(panels) > 4:  # transfers: many borrowed directions at one place
            continue
        of = {cell.key: one for one in members for cell in _steered_cells(one.result)}
        lines = [*reversed(lines_of(held))]
        shown = {**panels, "random direction": [*random.values()]} if random else panels
        found.append(
            MapShown(
                phase=phase,
                model=model,
                precision=shown_precision(precision),
                across=x_label(held[0]),
                strengths=strengths_of(held),
                lines=lines,
                labels=[line_label(line, held[0]) for line in lines],
                panels={
                    name: {
                        (line_of(cell), strength_of(cell)): _shown(
                            cell, samples.number(of[cell.key], cell.key)
                        )
                        for cell in cells
                    }
                    for name, cells in shown.items()
                },
            )
        )
    return found


def _steered_cells(result: Result) -> tuple[SteeredCell, ...]:
    return (*result.conditions, *result.controls.random_directions)


def _shown(cell: SteeredCell, group: int) -> CellShown:
    rates, shares = cell.rates, shares_of(cell.rates)
    low, high = rates.coherent_refusal_ci
    return CellShown(
        key=cell.key,
        group=group,
        rate=f"{rates.coherent_refusal_rate:.0%}",
        coherent=round(100 * shares["coherent"]),
        garbled=round(100 * (shares["coherent"] + shares["garbled"])),
        title=f"{shares['coherent']:.0%} coherent refusals [{low:.0%}, {high:.0%}], "
        f"{shares['garbled']:.0%} garbled, {rates.normal_rate:.0%} normal"
        + (f", {rates.unjudged} answers not judged" if rates.unjudged else ""),
    )


def _strength(best: Best) -> str:
    if best.multiplier == 0:
        return "the direction removed"
    return f"relative strength {best.relative_strength:.2g}"


def _prints(run: Run) -> list[tuple[str, str]]:
    """Provenance: what must be known to run it again."""
    results = run.results
    if not results:
        return []
    models = dict.fromkeys(
        f"{result.model_id} ({shown_precision(result.quantization)})" for result in results
    )
    edits = dict.fromkeys(str(cell.edit) for result in results for cell in result.conditions)
    return [
        *((name.replace("_", " "), str(value)) for name, value in results[0].provenance.items()),
        ("models", ", ".join(models)),
        ("edit", "; ".join(edits)),
    ]
