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
    """Harmful and harmless prompts a direction is extracted from."""

    name: str
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        return _content_id(self.name, {"harmful": self.harmful, "harmless": self.harmless})


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

    Raises:
        InputError: unknown name, unreadable file, an empty list, or a prompt in both classes.
    """
    path, data = _read(name)
    harmful, harmless = _texts(path, data, "harmful"), _texts(path, data, "harmless")
    if shared := set(harmful) & set(harmless):
        raise InputError(f"{path}: {sorted(shared)[0]!r} is in both harmful and harmless")
    return ExtractionSet(_set_name(name), harmful, harmless)


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
