"""steersweep: layer x strength sweeps of refusal steering, judged and with honest intervals."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steersweep.core.errors import InputError, NumericalError, SteersweepError
    from steersweep.judging.files import judge_file
    from steersweep.judging.judges import get_judge
    from steersweep.library.comparing import ComparedPrices, compare_prices
    from steersweep.library.exchanging import Converted, convert, read_direction
    from steersweep.library.finding import FindResults, find
    from steersweep.library.judging import classify_output_quality, is_refusal
    from steersweep.library.measuring import measure_effects
    from steersweep.library.results import SweepResults
    from steersweep.library.sweeping import sweep
    from steersweep.methods.dim import dim_directions
    from steersweep.methods.extraction import extract_directions
    from steersweep.methods.method import Found, Given, Method
    from steersweep.model.chat_model import ChatModel
    from steersweep.prompts.prompts import load_extraction_set, load_test_set
    from steersweep.run.direction import Direction, random_direction
    from steersweep.run.judgement import Judgement
    from steersweep.run.verdict import Verdict, verdict
    from steersweep.steer.activations import residuals
    from steersweep.steer.edit import Edit
    from steersweep.steer.sampling import Sampling, stream_key
    from steersweep.steer.steering import Generation, Row, generate

__version__ = "0.1.0"

_HOMES = {
    "InputError": "core.errors",
    "NumericalError": "core.errors",
    "SteersweepError": "core.errors",
    "judge_file": "judging.files",
    "Judgement": "run.judgement",
    "get_judge": "judging.judges",
    "classify_output_quality": "library.judging",
    "is_refusal": "library.judging",
    "ComparedPrices": "library.comparing",
    "compare_prices": "library.comparing",
    "Converted": "library.exchanging",
    "convert": "library.exchanging",
    "read_direction": "library.exchanging",
    "FindResults": "library.finding",
    "find": "library.finding",
    "measure_effects": "library.measuring",
    "SweepResults": "library.results",
    "sweep": "library.sweeping",
    "dim_directions": "methods.dim",
    "extract_directions": "methods.extraction",
    "Found": "methods.method",
    "Given": "methods.method",
    "Method": "methods.method",
    "ChatModel": "model.chat_model",
    "load_extraction_set": "prompts.prompts",
    "load_test_set": "prompts.prompts",
    "Direction": "run.direction",
    "random_direction": "run.direction",
    "residuals": "steer.activations",
    "Edit": "steer.edit",
    "Sampling": "steer.sampling",
    "stream_key": "steer.sampling",
    "Generation": "steer.steering",
    "Row": "steer.steering",
    "generate": "steer.steering",
    "Verdict": "run.verdict",
    "verdict": "run.verdict",
}

__all__ = [
    "ChatModel",
    "ComparedPrices",
    "Converted",
    "Direction",
    "Edit",
    "FindResults",
    "Found",
    "Generation",
    "Given",
    "InputError",
    "Judgement",
    "Method",
    "NumericalError",
    "Row",
    "Sampling",
    "SteersweepError",
    "SweepResults",
    "Verdict",
    "classify_output_quality",
    "compare_prices",
    "convert",
    "dim_directions",
    "extract_directions",
    "find",
    "generate",
    "get_judge",
    "is_refusal",
    "judge_file",
    "load_extraction_set",
    "load_test_set",
    "measure_effects",
    "random_direction",
    "read_direction",
    "residuals",
    "stream_key",
    "sweep",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """Import public names when first used: torch takes seconds, `steersweep --help` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'steersweep' has no attribute {name!r}")
    return getattr(import_module(f"steersweep.{_HOMES[name]}"), name)
