"""JSON in pieces is what the library writes at once, to the last character."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from steersweep.core.indented import pieces

TEXTS = ("", "plain", 'é "quoted" \\ \n\t', "\u2028 \x00 },\n  {", "\udc80 alone")


def some_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(10 if depth < 5 else 6)
    simple = (None, True, chance.random() * 10 ** chance.randrange(-30, 30), -(10**20))
    if kind < 6:
        return chance.choice([*simple, *TEXTS])
    n = chance.randrange(4)
    if kind == 6:
        return [some_value(chance, depth + 1) for _ in range(n)]
    if kind == 7:
        return tuple(some_value(chance, depth + 1) for _ in range(n))
    if kind == 8:  # as samples are
        return [{"a": chance.choice(TEXTS), "b": some_value(chance, 5)} for _ in range(n)]
    return {f"{chance.choice(TEXTS)}{i}": some_value(chance, depth + 1) for i in range(n)}


def test_it_is_what_the_library_writes() -> None:
    chance = random.Random(5)
    for _ in range(3000):
        value = some_value(chance)
        expected = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        assert "".join(pieces(value)) == expected


def test_parts_are_made_when_their_turn_has_come() -> None:
    made: list[complex] = []

    def later(value: complex) -> dict[str, float]:
        made.append(value)
        return {"real": value.real}

    found = pieces({"first": [1], "parts": [1j, 2 + 0j], "last": 3}, later)
    text = next(found)
    while "first" not in text:
        text += next(found)
    assert made == []
    text += "".join(found)
    assert made == [1j, 2 + 0j]
    assert json.loads(text) == {"first": [1], "parts": [{"real": 0}, {"real": 2}], "last": 3}


@pytest.mark.parametrize(
    ("value", "error"), [([float("nan")], ValueError), ({"a": [float("inf")]}, ValueError)]
)
def test_what_other_programs_cannot_read_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        "".join(pieces(value))


def test_what_is_no_plain_data_is_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        "".join(pieces([1, [1j]]))
