"""How a phase writes the JSON Schema of its fields of a plan."""

from __future__ import annotations

from typing import Any


def defined(name: str) -> dict[str, Any]:
    """A value of a kind that `plans/plan.schema.json` defines: `text`, `layers`, `rate`, ..."""
    return {"$ref": f"#/$defs/{name}"}


def mapping(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """A mapping with these fields and no others; each with the schema of its value."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*required],
        "properties": {**required, **(optional or {})},
    }


def listing(items: dict[str, Any], *, at_least: int = 0, unique: bool = True) -> dict[str, Any]:
    """A list of such values."""
    return {"type": "array", "minItems": at_least, "uniqueItems": unique, "items": items}
