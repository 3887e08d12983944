"""What every page shares: the style, and an environment that escapes whatever it is given."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from steersweep.core.printing import printable
from steersweep.report.figures.style import short


def environment() -> Any:
    """Templates of this package; undefined names are errors, values are escaped, for HTML and for
    characters that hide or reorder others."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("steersweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": lambda rate: f"{rate:.0%}", "short": short}
    made.filters |= {"time": shown_time, "p": shown_p}
    return made


def style() -> str:
    """The style sheet."""
    return _asset("report.css")


def script() -> tuple[str, str]:
    """The report's script, and its hash for the content policy."""
    text = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return text, f"sha256-{digest}"


def _asset(name: str) -> str:
    folder = resources.files("steersweep.report") / "templates"
    return (folder / name).read_text("utf-8")


def shown_time(seconds: float | None) -> str:
    """Seconds for people: 2.1 s, 3 min 10 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown_p(value: float | None) -> str:
    """A p-value for people."""
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.2g}"
