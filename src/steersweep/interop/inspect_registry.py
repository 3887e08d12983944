"""What Inspect finds of this package: `inspect eval --model steersweep/MODEL`.

Inspect imports this file whenever it looks for models, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


def _steersweep() -> Any:
    from steersweep.interop.inspect_model import SteersweepAPI

    return SteersweepAPI


provider = modelapi(name="steersweep")(_steersweep)
