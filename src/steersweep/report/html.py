"""One self-contained HTML page of a run, and its figures; nothing is loaded from anywhere else.

The page's content policy allows its own script by hash and nothing more, so not even a mistake in
escaping could make model output run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from steersweep.report.run import Run, read_run
from steersweep.report.samples import Samples, script_json
from steersweep.run.edit_settings import EditSettings
from steersweep.run.label import Label
from steersweep.run.paths import RunPaths
from steersweep.study.findings import decision_lines
from steersweep.study.phases.registry import all_phases, titles
from steersweep.study.phases.verification import VERIFICATION
from steersweep.sweeps.verdict import FLAG_NOTES

Result = dict[str, Any]

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
        return _write(folder)
    except OSError as error:
        file = Path(error.filename2 or error.filename or folder).name
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
        notes={name: _notes(run.of_phase(name)) for name in titles()},
        maps=_maps(run.results),
        drawn=drawn,
        decision_lines=decision_lines,
        n_samples=samples.n_samples,
        modes=sorted(samples.modes),
        embedded=embedded,
        index=script_json(
            [
                {
                    **group,
                    "phase": titles()[group["phase"]],
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
        held = by_model.get(result["model"])
        if held is None or _rate(result) > _rate(held):
            by_model[result["model"]] = result
    if not by_model:
        return ["Nothing has finished yet."]
    counts = [
        (outcome, [r for r in by_model.values() if r["verdict"]["outcome"] == outcome])
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
        + _UNREAD * any(result["verdict"]["provisional"] for result in by_model.values())
    ]
    best = max(by_model.values(), key=_rate)
    verdict, at = best["verdict"], best["verdict"]["best"]
    low, high = verdict["interval"]
    said.append(
        f"Most coherent refusals: {_rate(best):.0%} [{low:.0%}, {high:.0%}] of "
        f"{best['conditions'][0]['n_unique']} benign prompts in {short(best['model'])} by "
        f"{best['method'].upper()}, from layer {at['layer_idx']} of {best['n_layers']} on "
        f"({at['layer_pct']:.0%} of the depth), {_strength(at)}; "
        f"{at['garbled_rate']:.0%} of the answers are garbled there."
    )
    said += judge_error_sentence(best)
    controls = [r["controls"]["random_direction"] for r in by_model.values()]
    rates = [entry["coherent_refusal_rate"] for entry in controls if entry is not None]
    if rates:
        said.append(
            f"A random direction of the same length gives at most {max(rates):.0%} at the same "
            f"places."
        )
    return said


def judge_error_sentence(result: Result) -> list[str]:
    """What the judge's own errors leave of a result's rate, where people have labelled nothing."""
    held = result["verdict"]
    if "review" in held or "judge_error" not in held:
        return []
    error = held["judge_error"]
    if error is None:
        return [f"How often the judge {result['judge']} errs is unknown."]
    low, high = error["range"]
    return [
        f"That is by the judge: {low:.0%} to {high:.0%} if it errs as it did on "
        f"{error['n_labelled']} real answers."
    ]


_VERBS = {"works": "works", "partial": "works in part", "fails": "fails"}
_UNREAD = " Nobody has read samples of what works yet, so that is provisional."


def _rate(result: Result) -> float:
    return float(result["verdict"]["best"]["coherent_refusal_rate"])


def _notes(results: Sequence[Result]) -> list[str]:
    """What checks and extraction had to say, each once, with the models it is about."""
    models: dict[str, list[str]] = {}
    for result in results:
        method = Label.parse(result["method"]).at_given_layer
        of_method = (result.get("extraction") or {}).get("notes", [])
        for note in (*result.get("notes", ()), *(f"{method}: {note}" for note in of_method)):
            names = models.setdefault(note, [])
            if short(result["model"]) not in names:
                names.append(short(result["model"]))
    return [f"{', '.join(names)}, {note}" for note, names in models.items()]


def _maps(results: Sequence[Result]) -> dict[str, Any]:
    """Maps by phase and model: lines of layers, columns of strengths, a panel per method."""
    together: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        key = result["phase_name"], result["model"], result["quantization"]
        together.setdefault(key, []).append(result)
    found = []
    for (phase, model, precision), held in together.items():
        if len(lines_of(held)) * len(strengths_of(held)) < 2:
            continue  # one place, as in a size sweep, is no map
        panels: dict[str, list[Result]] = {}
        random: dict[str, Result] = {}
        for result in held:
            panel = str(Label.parse(result["method"]).at_given_layer)
            panels.setdefault(panel, []).extend(result["conditions"])
            random |= {entry["key"]: entry for entry in result["controls"]["random_directions"]}
        if len(panels) > 4:  # transfers: many borrowed directions at one place
            continue
        strengths, lines = strengths_of(held), [*reversed(lines_of(held))]
        shown = {**panels, "random direction": [*random.values()]} if random else panels
        found.append(
            {
                "phase": phase,
                "model": model,
                "precision": shown_precision(precision),
                "group": held[0]["group"],
                "across": x_label(held[0]),
                "strengths": strengths,
                "lines": lines,
                "labels": [line_label(line, held[0]) for line in lines],
                "panels": {
                    name: {(line_of(entry), strength_of(entry)): _cell(entry) for entry in entries}
                    for name, entries in shown.items()
                },
            }
        )
    return {"models": found, "many": len(found) > _MANY_MAPS}


def _cell(entry: Result) -> Result:
    shares = shares_of(entry)
    low, high = entry["coherent_refusal_ci"]
    return {
        "key": entry["key"],
        "rate": f"{entry['coherent_refusal_rate']:.0%}",
        "coherent": round(100 * shares["coherent"]),
        "garbled": round(100 * (shares["coherent"] + shares["garbled"])),
        "title": f"{shares['coherent']:.0%} coherent refusals [{low:.0%}, {high:.0%}], "
        f"{shares['garbled']:.0%} garbled, {entry.get('normal_rate', shares['other']):.0%} normal"
        + (f", {entry['unjudged']} answers not judged" if entry.get("unjudged") else ""),
    }


def _strength(best: Result) -> str:
    if best["multiplier"] == 0:
        return "the direction removed"
    return f"relative strength {best['relative_strength']:.2g}"


def _prints(run: Run) -> list[tuple[str, str]]:
    """Provenance: what must be known to run it again."""
    if not run.results:
        return []
    facts = run.results[0]["provenance"]
    models = dict.fromkeys(
        f"{result['model_id']} ({shown_precision(result['quantization'])})"
        for result in run.results
    )
    rows = [(name.replace("_", " "), str(value)) for name, value in facts.items()]
    edits = dict.fromkeys(
        str(EditSettings.read(entry["edit"]))
        for result in run.results
        for entry in result["conditions"]
    )
    return [*rows, ("models", ", ".join(models)), ("edit", "; ".join(edits))]
