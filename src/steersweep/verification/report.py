"""The verification as a page to read and sign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def render_markdown(
    result: dict[str, Any], results_file: str, sign_off: dict[str, Any] | None
) -> str:
    """`COSMIC_VERIFICATION.md` of a result object.

    Args:
        result: as in the result file.
        results_file: its name.
        sign_off: who signed, from `gates.jsonl`; None: nobody yet.
    """
    return "\n".join(_lines(result, results_file, sign_off)) + "\n"


def _lines(
    result: dict[str, Any], results_file: str, sign_off: dict[str, Any] | None
) -> Iterator[str]:
    yield "# COSMIC verification"
    yield ""
    yield f"**{'PASSED' if result['passed'] else 'FAILED'}**, {result['timestamp']}, `{results_file}`"
    yield ""
    yield "## Acceptance"
    yield ""
    for item in result["acceptance"]:
        met, note = item["met"], item["note"]
        if sign_off is not None and item is result["acceptance"][-1]:
            met, note = True, f"{sign_off['by']}, {sign_off['time']}"
        yield f"- [{'x' if met else ' '}] {item['criterion']} ({'not met: ' if met is False else ''}{note})"
    yield ""
    yield "## Numbers against the official code"
    yield ""
    names = ", ".join(fixture["name"] for fixture in result["fixtures"])
    yield f"Largest absolute difference over the fixtures {names}. Masks and choices: how many differ."
    yield ""
    yield "| quantity | difference | tolerance | |"
    yield "|---|---|---|---|"
    for name, row in result["quantities"].items():
        yield (
            f"| {name} | {shown_difference(row['max_abs_difference'])} | {row['tolerance']:g} | "
            f"{'ok' if row['passed'] else '**differs**'} |"
        )
    yield ""
    yield "## Reproduction"
    yield ""
    yield from _reproduction(result["reproduction"])
    yield ""
    yield "## Steps"
    yield ""
    yield "| step | paper as reported | official code | here |"
    yield "|---|---|---|---|"
    for step in result["steps"]:
        yield f"| {step['step']} | {step['paper']} | {step['official']} | {step['ours']} |"
    yield ""
    yield "Where paper and official code differ, the code's behaviour is the default; the paper's is `cosmic-paper`."
    yield ""
    yield "## Differences from the official code"
    yield ""
    for difference in result["differences"]:
        yield f"- {difference}"
    yield ""
    yield "## Sign-off"
    yield ""
    if sign_off is None:
        yield "Not signed. `steersweep approve DIR cosmic-verification --by NAME` signs this report."
    else:
        note = f": {sign_off['note']}" if sign_off["note"] else ""
        yield f"Signed by {sign_off['by']}, {sign_off['time']}{note}"
    yield ""
    facts = ", ".join(f"{key} {value}" for key, value in result["provenance"].items() if value)
    yield f"Made by: {facts}"


def _reproduction(run: dict[str, Any] | None) -> Iterator[str]:
    if run is None:
        yield "Not run. `steersweep verify cosmic --model MODEL` runs it."
        return
    low, high = run["coherent_refusal_ci"]
    yield (
        f"{run['model_id']}, {run['method']}, layer {run['layer_idx']} of {run['n_layers']}, position "
        f"{run['position']}, relative strength {run['relative_strength']:.3g} (multiplier "
        f"{run['multiplier']:.3g}): {run['coherent_refusal_rate']:.0%} coherent refusals of "
        f"{run['n_unique']} unique benign prompts, 95 % interval {low:.0%} to {high:.0%}; garbled "
        f"{run['garbled_rate']:.0%}. Expected at least {run['expected_at_least']:.0%}: "
        f"**{'reached' if run['passed'] else 'not reached'}**. Random direction of that length "
        f"{run['random_direction']:.0%}, unsteered {run['unsteered']:.0%}."
    )


def shown_difference(value: float | None) -> str:
    """A difference for people; None stands for shapes or NaN that do not match."""
    return "no match" if value is None else f"{value:.1e}" if value else "0"
