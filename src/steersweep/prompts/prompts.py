"""Reading prompt sets: the shipped ones by name, the user's own by path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from steersweep.errors import InputError

PLAN_TEST_SET = "plan-10x5"
DEFAULT_TEST_SET = "benign-120"
DIM_EXTRACTION_SET = "extract-dim-5"
COSMIC_EXTRACTION_SET = "extract-cosmic-50"


@dataclass(frozen=True)
class TestSet:
    """Prompts a steered model is tested on.

    Attributes:
        name: file name without ending.
        prompts: unique prompts, in order.
        repeats: how often the source plan asks each prompt. Greedy answers to a repeat are
            identical, so each prompt is generated once; `repeats` only enters `n_samples`.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str
    prompts: tuple[str, ...]
    repeats: int = 1

    @property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        return _content_id(self.name, {"prompts": self.prompts, "repeats": self.repeats})

    def first(self, count: int) -> TestSet:
        """The first `count` prompts, named so; the whole set if it is no larger."""
        if count >= len(self.prompts):
            return self
        return TestSet(f"{self.name}[:{count}]", self.prompts[:count], self.repeats)


@dataclass(frozen=True)
class ExtractionSet:
    """Harmful and harmless prompts a direction is extracted from.

    Attributes:
        name: file name without ending.
        harmful: prompts of that class.
        harmless: prompts of that class.
        harmful_val: further ones, for methods that choose among directions by their effect; may be
            empty.
        harmless_val: the same.
    """

    name: str
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    harmful_val: tuple[str, ...] = ()
    harmless_val: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        return _content_id(self.name, self.content())

    def content(self) -> dict[str, tuple[str, ...]]:
        """The lists of prompts by field."""
        content = {"harmful": self.harmful, "harmless": self.harmless}
        if self.harmful_val or self.harmless_val:
            content |= {"harmful_val": self.harmful_val, "harmless_val": self.harmless_val}
        return content

    def split(self) -> Split:
        """Prompts to make candidates from, and others to score them on.

        Without validation prompts of its own, the set's last prompts are set aside: 100 of 280 as
        the official COSMIC code has them. Different prompts only: near-copies are not noticed.
        """
        if self.harmful_val or self.harmless_val:
            return Split(self.harmful, self.harmless, self.harmful_val, self.harmless_val)
        parts = []
        for prompts in (self.harmful, self.harmless):
            n_train = len(prompts) - round(len(prompts) * 100 / 280)
            parts.append((prompts[:n_train], prompts[n_train:]))
        return Split(parts[0][0], parts[1][0], parts[0][1], parts[1][1])

    def unsplit(self) -> Split:
        """All prompts of a class, to make candidates from and to score them on."""
        harmful = (*self.harmful, *self.harmful_val)
        harmless = (*self.harmless, *self.harmless_val)
        return Split(harmful, harmless, harmful, harmless)


@dataclass(frozen=True)
class Split:
    """An extraction set in four parts."""

    harmful_train: tuple[str, ...]
    harmless_train: tuple[str, ...]
    harmful_val: tuple[str, ...]
    harmless_val: tuple[str, ...]

    @property
    def shared(self) -> tuple[str, ...]:
        """Prompts that are both in training and in validation."""
        val = {*self.harmful_val, *self.harmless_val}
        return tuple(text for text in (*self.harmful_train, *self.harmless_train) if text in val)


def load_test_set(name: str) -> TestSet:
    """A shipped test set by name, or a file of the user's.

    Files: `.json` as shipped (`{"prompts": [...], "repeats": 1}`), or `.txt` with a prompt a line.

    Raises:
        InputError: unknown name, unreadable file, no prompts, or a prompt given twice.
    """
    path, data = _read(name)
    prompts = _texts(path, data, "prompts")
    repeats = data.get("repeats", 1)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise InputError(f'{path}: field "repeats" must be a whole number from 1')
    return TestSet(_set_name(name), prompts, repeats)


def load_extraction_set(name: str) -> ExtractionSet:
    """A shipped extraction set by name, or a `.json` file with lists `harmful` and `harmless`.

    Lists `harmful_val` and `harmless_val` may be there too, both or neither.

    Raises:
        InputError: unknown name, unreadable file, an empty list, or a prompt in both classes.
    """
    path, data = _read(name)
    val = [field for field in ("harmful_val", "harmless_val") if field in data]
    if len(val) == 1:
        raise InputError(f'{path}: has "{val[0]}" alone; give both validation lists or neither')
    lists = {field: _texts(path, data, field) for field in ("harmful", "harmless", *val)}
    for kind in ("", "_val")[: 1 + len(val) // 2]:
        if shared := set(lists[f"harmful{kind}"]) & set(lists[f"harmless{kind}"]):
            raise InputError(
                f"{path}: {sorted(shared)[0]!r} is in both harmful{kind} and harmless{kind}"
            )
    return ExtractionSet(_set_name(name), **lists)


def shipped_sets() -> list[str]:
    """Names of the prompt sets that come with the package."""
    folder = resources.files("steersweep.prompts")
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))


def _set_name(name: str) -> str:
    return Path(name).stem if name.endswith((".json", ".txt")) else name


def _read(name: str) -> tuple[str, dict[str, Any]]:
    """Where a set was found, for messages, and its fields."""
    if not name.endswith((".json", ".txt")):
        if name not in shipped_sets():
            raise InputError(
                f"prompt set {name}: not one of {', '.join(shipped_sets())}, "
                f"nor the path of a .json or .txt file"
            )
        text = (resources.files("steersweep.prompts") / f"{name}.json").read_text("utf-8")
        return name, json.loads(text)
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read as a prompt set: {error}") from error
    if name.endswith(".txt"):
        return name, {"prompts": [line.strip() for line in text.splitlines() if line.strip()]}
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{name}: must be a JSON object with a list of prompts")
    return name, data


def _texts(path: str, data: dict[str, Any], field: str) -> tuple[str, ...]:
    texts = data.get(field)
    if not isinstance(texts, list) or not texts:
        raise InputError(f'{path}: field "{field}" must be a list with at least one prompt')
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{path}: "{field}" item {index + 1} must be a non-empty text')
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise InputError(f'{path}: "{field}" holds {twice!r} twice; each prompt counts once')
    return tuple(texts)


def _content_id(name: str, content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=True, sort_keys=True)
    return f"{name}@sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
