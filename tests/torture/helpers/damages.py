"""Ways in which a file of a run folder comes to harm; each is a function of the file's path."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torture.helpers.cases import void

Damage = Callable[[Path, random.Random], list[Path] | None]
"""Harms a file; returns the files harmed where it is not that one alone."""

# What people said and did, which nobody can compute again; what rests on it may change with it.
BY_PEOPLE = ("reviews.jsonl", "gates.jsonl", "changes.jsonl")
_RATES = ("refusal_rate", "coherent_refusal_rate", "garbled_refusal_rate", "coherent", "efficiency")


# -- any file ----------------------------------------------------------------------------------


def _content(text: str) -> Damage:
    return lambda path, _rng: void(path.write_bytes(text.encode("utf-8")))


def _cut(share: float) -> Damage:
    def cut(path: Path, _rng: random.Random) -> None:
        data = path.read_bytes()
        end = min(int(len(data) * share), max(0, len(data) - 3))
        if data[:end].endswith(b"\n"):  # whole lines and no more are an earlier state of a file
            end -= 3
        path.write_bytes(data[:end])

    return cut


def flip(path: Path, rng: random.Random) -> None:
    """Turn one bit around."""
    data = bytearray(path.read_bytes())
    if data:
        place = rng.randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)


def _flip_many(path: Path, rng: random.Random) -> None:
    for _ in range(16):
        flip(path, rng)


def _swap(path: Path, rng: random.Random) -> list[Path]:
    siblings = [p for p in sorted(path.parent.glob(f"*{path.suffix}")) if p != path]
    if not siblings:
        _cut(0.7)(path, rng)
        return [path]
    other = rng.choice(siblings)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return [path, other]


def _changed(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path, _rng: void(path.write_bytes(change(path.read_bytes())))


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", errors="replace").encode("utf-16")


def _separated(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + "\u2028".encode() + data[half:]


def _folder(path: Path, _rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(target: str) -> Damage:
    def link(path: Path, _rng: random.Random) -> None:
        path.unlink()
        path.symlink_to(target or path.name)

    return link


def _fifo(path: Path, _rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


ANY: Mapping[str, Damage] = {
    "empty": _content(""),
    "cut-early": _cut(0.1),
    "cut-half": _cut(0.5),
    "cut-late": _cut(1.0),
    "null": _content("null"),
    "list": _content("[]"),
    "object": _content("{}"),
    "deep": _content("[" * 100_000),
    "number": _content("7"),
    "flip": flip,
    "flips": _flip_many,
    "swapped": _swap,
    "utf16": _changed(_utf16),
    "bom": _changed(lambda data: b"\xef\xbb\xbf" + data),
    "crlf": _changed(lambda data: data.replace(b"\n", b"\r\n")),
    "u2028": _changed(_separated),
    "nul": _changed(lambda data: data + b"\0"),
    "twice": _changed(lambda data: data + data),
    "folder": _folder,
    "loop": _link(""),
    "dangling": _link("nowhere"),
    "fifo": _fifo,
    "unreadable": lambda path, _rng: path.chmod(0),
}


# -- JSON: edits that leave the form right -----------------------------------------------------


def _edited(edit: Callable[[Any, random.Random], bool]) -> Damage:
    def apply(path: Path, rng: random.Random) -> None:
        content = json.loads(path.read_text("utf-8"))
        if not edit(content, rng):
            flip(path, rng)
            return
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")

    return apply


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in [*items] if isinstance(value, dict | list) else []:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_becomes(change: Callable[[float], Any]) -> Callable[[Any, random.Random], bool]:
    def edit(content: Any, rng: random.Random) -> bool:
        numbers = [(held, key) for held, key in _places(content) if _is_number(held[key])]
        rates = [(held, key) for held, key in numbers if key in _RATES]
        if not numbers:
            return False
        held, key = rng.choice(rates or numbers)
        held[key] = change(held[key])
        return True

    return edit


def _label_edited(content: Any, rng: random.Random) -> bool:
    labels = [(h, k) for h, k in _places(content) if k in ("refusal", "quality", "outcome")]
    if not labels:
        return False
    held, key = rng.choice(labels)
    other = {"coherent": "normal", "normal": "coherent", "garbled": "coherent"}
    other |= {"works": "fails", "fails": "works", "partial": "works"}
    value = held[key]
    held[key] = not value if isinstance(value, bool) else other.get(value, "coherent")
    return True


def _samples(content: Any, rng: random.Random) -> list[Any] | None:
    found = [held[key] for held, key in _places(content) if key == "samples" and held[key]]
    return rng.choice(found) if found else None


def _sample_removed(content: Any, rng: random.Random) -> bool:
    samples = _samples(content, rng)
    if samples is None:
        return False
    samples.pop()
    return True


def _sample_doubled(content: Any, rng: random.Random) -> bool:
    samples = _samples(content, rng)
    if samples is None:
        return False
    samples.append(samples[0])
    return True


def _foreign_prompt(content: Any, rng: random.Random) -> bool:
    samples = _samples(content, rng)
    if samples is None:
        return False
    samples[0]["prompt"] = "A prompt that nobody asked?"
    return True


def _field_removed(content: Any, rng: random.Random) -> bool:
    fields = [(held, key) for held, key in _places(content) if isinstance(held, dict)]
    if not fields:
        return False
    held, key = rng.choice(fields)
    del held[key]
    return True


JSON: Mapping[str, Damage] = {
    "edited": _edited(_number_becomes(lambda x: 1 - x if 0 <= x <= 1 else x + 1)),
    "not-a-number": _edited(_number_becomes(lambda _x: math.nan)),
    "negative": _edited(_number_becomes(lambda x: -abs(x) - 1)),
    "huge": _edited(_number_becomes(lambda _x: 10**400)),
    "text": _edited(_number_becomes(str)),
    "label": _edited(_label_edited),
    "sample-gone": _edited(_sample_removed),
    "sample-twice": _edited(_sample_doubled),
    "foreign": _edited(_foreign_prompt),
    "field-gone": _edited(_field_removed),
}


# -- JSON lines --------------------------------------------------------------------------------


def _lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Damage:
    def apply(path: Path, rng: random.Random) -> None:
        lines = path.read_bytes().split(b"\n")[:-1]
        path.write_bytes(b"".join(line + b"\n" for line in change(lines, rng)))

    return apply


def _line_becomes(change: Callable[[dict[str, Any]], None]) -> Damage:
    def edit(lines: list[bytes], rng: random.Random) -> list[bytes]:
        place = rng.randrange(len(lines))
        content = json.loads(lines[place])
        change(content)
        lines[place] = json.dumps(content).encode()
        return lines

    return _lines(edit)


def _money(value: Any) -> Damage:
    return _line_becomes(lambda entry: entry.update(usd=value))


def _without(lines: list[bytes], rng: random.Random) -> list[bytes]:
    place = rng.randrange(len(lines))
    return lines[:place] + lines[place + 1 :]


LINES: Mapping[str, Damage] = {
    "line-gone": _lines(_without),
    "line-twice": _lines(lambda lines, rng: [*lines, rng.choice(lines)]),
    "line-torn": _lines(lambda lines, _rng: [*lines[:-1], lines[-1][:30]]),
    "line-junk": _lines(lambda lines, _rng: [lines[0], b"\x00\xff junk", *lines[1:]]),
    "line-list": _lines(lambda lines, _rng: [b"[]", *lines]),
}

# Of a line that is not there nothing tells that it ever was; a copy of one says nothing new.
PEOPLE: Mapping[str, Damage] = {
    name: damage for name, damage in LINES.items() if name not in ("line-gone", "line-twice")
}

LEDGER: Mapping[str, Damage] = {
    **LINES,
    "usd-nan": _money(math.nan),
    "usd-negative": _money(-1000.0),
    "usd-huge": _money(1e300),
    "usd-text": _money("12"),
    "id-taken": _line_becomes(lambda entry: entry.update({"id": "5"})),
    "id-list": _line_becomes(lambda entry: entry.update({"id": [1]})),
}


# -- directions and other tensors --------------------------------------------------------------


def _vector(change: Callable[[Any], Any]) -> Damage:
    def apply(path: Path, _rng: random.Random) -> None:
        from safetensors import safe_open
        from safetensors.torch import save

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {
                name: change(file.get_tensor(name)).contiguous() for name in sorted(file.keys())
            }
        path.write_bytes(save(tensors, metadata=metadata))

    return apply


def _one_changed(tensor: Any) -> Any:
    changed = tensor.clone()
    changed.view(-1)[0] += 0.5
    return changed


TENSORS: Mapping[str, Damage] = {
    "zeroed": _vector(lambda x: x * 0),
    "tripled": _vector(lambda x: x * 3),
    "negated": _vector(lambda x: -x),
    "nan": _vector(lambda x: x * math.nan),
    "one-changed": _vector(_one_changed),
    "shorter": _vector(lambda x: x[..., :-1]),
    "half-precision": _vector(lambda x: x.half()),
}


def damages_of(path: Path) -> dict[str, Damage]:
    """Every damage that this kind of file can have, the edits that keep its form first."""
    by_form = {".json": JSON, ".jsonl": LINES, ".safetensors": TENSORS}
    by_name = {"ledger.jsonl": LEDGER, **dict.fromkeys(BY_PEOPLE, PEOPLE)}
    found = {**by_name.get(path.name, by_form.get(path.suffix, {})), **ANY}
    if path.name in BY_PEOPLE:
        del found["twice"]
    return found
