"""A plan that is based on another: `extends: v3`, and what is different."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELD = "extends"
# Mappings that are one value, and not fields of their own.
_WHOLE = ("strength", "template_options")


def based_on(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's content over that of the plan it is based on.

    Mappings are put together field by field; a list, a text or a number takes the base's place, and
    so do a strength and template options. A field that is null is taken away.
    """
    found = dict(base)
    for name, value in own.items():
        held = found.get(name)
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict) and isinstance(held, dict) and name not in _WHOLE:
            found[name] = based_on(held, value)
        else:
            found[name] = value
    return found
