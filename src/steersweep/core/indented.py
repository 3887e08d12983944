"""JSON with an indent of one space, in pieces, as `json.dumps(value, indent=1)` gives it.

The library encodes with an indent in Python alone. Here each object or list of simple values, which
is nearly all of a large file, goes through its encoder in C: several times as fast. Nothing is
encoded before it is its turn, so that a file may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

_SIMPLE = frozenset({str, int, float, bool, type(None)})


def plain_already(value: Any) -> Any:
    """Refuse what is no plain data.

    Raises:
        TypeError: always.
    """
    raise TypeError(f"{type(value).__name__} is no JSON")


def pieces(
    value: Any, later: Callable[[Any], Any] = plain_already, depth: int = 0
) -> Iterator[str]:
    """The text of a value, bit by bit; characters beyond ASCII as they are.

    Args:
        value: plain data.
        later: makes plain data of what is none, when its turn has come.
        depth: how deep the value lies in what is written.

    Raises:
        ValueError: NaN or infinity in it.
        TypeError: something that is no plain data.
    """
    is_object = isinstance(value, Mapping)
    if not is_object and not isinstance(value, list | tuple):
        if value is None or isinstance(value, str | int | float):
            yield _encoder(0).encode(value)
        else:
            yield from pieces(later(value), later, depth)
        return
    if _SIMPLE.issuperset(map(type, value.values() if is_object else value)):
        yield _of_simple(value, depth)
        return
    if type(value) is list and all(map(_is_simple_object, value)):
        yield _of_simple_objects(value, depth)
        return
    between = "\n" + " " * (depth + 1)
    yield "{" if is_object else "["
    items: Iterator[tuple[str, Any]]
    items = _named(value) if is_object else (("", one) for one in value)
    for number, (name, one) in enumerate(items):
        yield f",{between}{name}" if number else f"{between}{name}"
        yield from pieces(one, later, depth + 1)
    yield "\n" + " " * depth + ("}" if is_object else "]")


def _named(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        yield f"{_encoder(0).encode(name)}: ", one


def _is_simple_object(value: Any) -> bool:
    return type(value) is dict and bool(value) and _SIMPLE.issuperset(map(type, value.values()))


def _of_simple(value: Mapping[str, Any] | Sequence[Any], depth: int) -> str:
    """An object or list that holds no other."""
    text = _encoder(depth + 1).encode(value)
    if len(text) == 2:  # empty
        return text
    return f"{text[0]}\n{' ' * (depth + 1)}{text[1:-1]}\n{' ' * depth}{text[-1]}"


def _of_simple_objects(value: Sequence[Mapping[str, Any]], depth: int) -> str:
    """A list of objects that hold no other: encoded at once, its lines are only broken here."""
    outer, inner = "\n" + " " * (depth + 1), "\n" + " " * (depth + 2)
    text = _encoder(depth + 2).encode(value)[2:-2]
    # No string holds a line feed as it is, so this stands between two objects alone.
    text = text.replace(f"}},{inner}{{", f"{outer}}},{outer}{{{inner}")
    return f"[{outer}{{{inner}{text}{outer}}}\n{' ' * depth}]"


@cache
def _encoder(depth: int) -> json.JSONEncoder:
    """An encoder that begins a line of its own for each part."""
    separators = (",\n" + " " * depth, ": ")
    return json.JSONEncoder(separators=separators, ensure_ascii=False, allow_nan=False)
