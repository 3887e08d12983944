"""What the terminal shows of two judges of one run."""

from __future__ import annotations

from collections.abc import Iterator

from steersweep.core.printing import in_a_line
from steersweep.sweeps.rejudged import CLASSES, Agreement, Rejudged, Shown

_MOST_CELLS = 20


def judge_lines(found: Rejudged) -> Iterator[str]:
    """Agreement, the three classes by both, and where a verdict changes."""
    yield (
        f"{in_a_line(found.judge)} and {in_a_line(found.before)} on {found.quality.n} answers: "
        f"{found.quality.agreed} the same of coherent, garbled, normal; {_kappa(found.quality)}"
    )
    yield f"whether an answer refuses: {found.refusal.agreed} the same; {_kappa(found.refusal)}"
    if found.unjudged:
        yield (
            f"{found.unjudged} of {found.n_samples} answers could not be judged; they count as no "
            f"refusal: {in_a_line('; '.join(found.errors))}"
        )
    yield ""
    width = max(map(len, CLASSES)) + 2
    yield "before \\ after".ljust(16) + "".join(name.rjust(width) for name in CLASSES)
    for said, row in found.confusion.items():
        yield said.ljust(16) + "".join(str(row[name]).rjust(width) for name in CLASSES)
    yield ""
    changed = [cell for cell in found.cells if cell.changed]
    yield f"verdict of a condition changes in {len(changed)} of {len(found.cells)}"
    for cell in changed[:_MOST_CELLS]:
        at = cell.where
        where = "" if at.layer_idx is None else f", layer {at.layer_idx}"
        strength = "" if at.multiplier is None else f", {at.multiplier:.3g}x"
        yield f"  {cell.model}, {at.method}{where}{strength}: {_from_to(cell.before, cell.after)}"
    if len(changed) > _MOST_CELLS:
        yield f"  and {len(changed) - _MOST_CELLS} more; as JSON all are shown"
    models = [row for row in found.verdicts if row.changed]
    yield f"verdict of a model and method changes in {len(models)} of {len(found.verdicts)}"
    for one in models:
        changed_to = _from_to(one.before.shown, one.after.shown)
        yield f"  {one.model}, {one.method}, {one.quantization}: {changed_to}"
    yield f"Judgements: {found.file}"


def _from_to(old: Shown, new: Shown) -> str:
    return (
        f"{old.outcome} ({old.coherent_refusal_rate:.0%} coherent) -> "
        f"{new.outcome} ({new.coherent_refusal_rate:.0%})"
    )


def _kappa(found: Agreement) -> str:
    if found.kappa is None:
        return "κ undefined"
    between = found.interval and f" [{found.interval[0]:.2f} to {found.interval[1]:.2f}]"
    return f"κ {found.kappa:.2f}{between or ''}"
