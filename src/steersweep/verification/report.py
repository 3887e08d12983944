"""The verification as a page to read and sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersweep.core.printing import markdown
from steersweep.verification.outcome import Verification

GATE = "cosmic-verification"


def render_markdown(
    result: Verification, results_file: str, sign_off: Mapping[str, Any] | None
) -> str:
    """`COSMIC_VERIFICATION.md` of a verification.

    Args:
        result: what it came to.
        results_file: name of its result file.
        sign_off: who signed, from `gates.jsonl`; None: nobody yet.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("steersweep", "verification"),
        autoescape=False,  # Markdown of our own text and numbers, apart from what `md` escapes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = markdown
    environment.filters["percent"] = lambda rate: f"{rate:.0%}"
    environment.filters["difference"] = shown_difference
    return environment.get_template("report.md.j2").render(
        result=result, results_file=results_file, sign_off=sign_off
    )


def shown_difference(value: float | None) -> str:
    """A difference for people; None stands for shapes or NaN that do not match."""
    return "no match" if value is None else f"{value:.1e}" if value else "0"
