"""Reading prompt sets: the shipped ones by name, the user's own by path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.prompts.conversation import Prompt, Turns
from steersweep.prompts.entries import Entry, entries_of
from steersweep.prompts.files import (
    ENDINGS,
    Content,
    is_prompt_file,
    read_prompt_file,
    split_column,
)
from steersweep.prompts.hub import HUB, data_set_name, read_data_set
from steersweep.prompts.lists import WANTED, by_class, cleaned, refuse_shared

DIM_EXTRACTION_SET = "extract-dim-5"
COSMIC_EXTRACTION_SET = "extract-cosmic-50"
HARMFUL_SET = "harmful-kept-128"
BORDERLINE_SET = "borderline-120"
MAX_REPEATS = 10_000


@dataclass(frozen=True)
class TestSet:
    """Prompts a steered model is tested on.

    Attributes:
        name: file name without ending.
        prompts: prompts, in order; transcripts of those that have several turns.
        repeats: how often a study asks each prompt. Greedy answers to a repeat are
            identical, so each prompt is generated once; `repeats` only enters `n_samples`.
        notes: what the user should know of the file that they were read from.
        conversations: the turns of prompts that have several, by the prompt.
        categories: what prompts are about, by the prompt, as far as the file says.
        each: how often each prompt stands among `prompts`, one after the other: as often as it is
            answered, where answers are sampled. Otherwise they are unique.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str
    prompts: tuple[str, ...]
    repeats: int = 1
    notes: tuple[str, ...] = field(default=(), compare=False)
    conversations: Mapping[str, Turns] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict, compare=False)
    each: int = 1

    @cached_property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        content: dict[str, Any] = {"prompts": self.prompts, "repeats": self.repeats}
        if turns := [text for text in self.prompts if text in self.conversations]:
            content["conversations"] = turns
        return _content_id(self.name, content)

    @property
    def asked(self) -> tuple[Prompt, ...]:
        """What a model is asked, in order: texts, or conversations that end with one."""
        return tuple(self.conversations.get(text, text) for text in self.prompts)

    @property
    def unique(self) -> tuple[str, ...]:
        """The different prompts."""
        return self.prompts[:: self.each]

    def answered(self, times: int) -> TestSet:
        """The same prompts, each to be answered so many times, with samples instead of repeats."""
        prompts = tuple(text for text in self.unique for _ in range(times))
        return replace(self, prompts=prompts, each=times, repeats=1)

    def question(self, prompt: str) -> str:
        """What a judge takes for a prompt: its last user turn."""
        turns = self.conversations.get(prompt)
        return turns[-1].content if turns else prompt

    def first(self, count: int) -> TestSet:
        """The first `count` prompts, named so; the whole set if it is no larger."""
        if count >= len(self.prompts):
            return self
        return replace(self, name=f"{self.name}[:{count}]", prompts=self.prompts[:count])

    def part(self, start: int, stop: int) -> TestSet:
        """The different prompts from `start` to before `stop`, each once, named so."""
        name = f"{self.name}[{start}:{stop}]"
        return replace(self, name=name, prompts=self.unique[start:stop], each=1)


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
        notes: what the user should know of the file that they were read from.
    """

    name: str
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    harmful_val: tuple[str, ...] = ()
    harmless_val: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
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
    """A shipped test set by name, a file of the user's, or a data set of the hub.

    Files: a prompt a line (`.txt`), a JSON list or an object as shipped (`{"prompts": [...],
    "repeats": 1}`), JSON lines, or a table with a header (`.csv`, `.tsv`, `.parquet`); a column is
    named as `FILE:COLUMN`. Data sets: `hf:OWNER/NAME:SPLIT:COLUMN`. See docs/prompts.md.

    Raises:
        InputError: unknown name, unreadable file, or no prompts.
    """
    path, content, column = _read(name)
    repeats = 1
    if isinstance(content, dict):
        listed = "prompts"
        if column is not None and isinstance(content.get(column), list):
            listed, column = column, None
        elif "prompts" not in content and "harmful" in content:
            raise InputError(
                f'{path}: an extraction set; a test set has a list "prompts" (or name one of its '
                f"lists after the file, as FILE:harmful)"
            )
        repeats = content.get("repeats", 1)
        content = _entries(path, content, listed, column)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= MAX_REPEATS:
        raise InputError(f'{path}: field "repeats" must be a whole number from 1 to {MAX_REPEATS}')
    prompts = cleaned(path, content)
    return TestSet(
        _set_name(name),
        prompts.texts,
        repeats,
        prompts.notes,
        prompts.conversations,
        prompts.categories,
    )


def load_extraction_set(name: str) -> ExtractionSet:
    """A shipped extraction set by name, or a file of the user's with prompts of both classes.

    Files: a `.json` object with lists `harmful` and `harmless`, and maybe `harmful_val` and
    `harmless_val`, both or neither; or JSON lines or a table with a `label` of `harmful` or
    `harmless` beside every prompt; see docs/prompts.md.

    Raises:
        InputError: unknown name, unreadable file, an empty list, or a prompt in both classes.
    """
    path, content, column = _read(name)
    if isinstance(content, list):
        lists = by_class(path, content)
    elif "harmful" not in content and "harmless" not in content:
        raise InputError(f"{path}: {WANTED}")
    else:
        val = [field for field in ("harmful_val", "harmless_val") if field in content]
        if len(val) == 1:
            raise InputError(f'{path}: has "{val[0]}" alone; give both validation lists or neither')
        fields = ("harmful", "harmless", *val)
        for field, value in content.items():
            if field not in fields and isinstance(value, list):
                raise InputError(
                    f"{path}: field {shown(field)}: no list of prompts has this name; there are "
                    f"harmful, harmless, harmful_val and harmless_val"
                )
        lists = {field: _entries(path, content, field, column) for field in fields}
    prompts = {field: cleaned(path, entries) for field, entries in lists.items()}
    for found in prompts.values():
        for text in found.conversations:
            raise InputError(
                f"{path}: {shown(text)} has several turns; directions are found with prompts of "
                f"one user turn"
            )
    refuse_shared(path, prompts, "harmful", "harmless")
    if "harmful_val" in prompts:
        refuse_shared(path, prompts, "harmful_val", "harmless_val")
    notes = tuple(note for found in prompts.values() for note in found.notes)
    texts = {field: found.texts for field, found in prompts.items()}
    return ExtractionSet(_set_name(name), **texts, notes=notes)


def shipped_sets() -> list[str]:
    """Names of the prompt sets that come with the package."""
    folder = resources.files("steersweep.prompts")
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))


def check_set_name(name: str) -> None:
    """See that a set is a shipped one, or called as files and data sets of the hub are.

    Raises:
        InputError: it is none of these.
    """
    known = name in shipped_sets() or name.startswith(HUB)
    if not known and not is_prompt_file(split_column(name)[0]):
        raise InputError(
            f"prompt set {name}: not one of {', '.join(shipped_sets())}, nor a file that ends in "
            f"{', '.join(ENDINGS)}, nor a data set, {HUB}OWNER/NAME"
        )


def _set_name(name: str) -> str:
    if name.startswith(HUB):
        return data_set_name(name)
    path, column = split_column(name)
    if not is_prompt_file(path):
        return name
    return Path(path).stem + ("" if column is None else f":{column}")


def _read(name: str) -> tuple[str, Content, str | None]:
    """Where a set was found, for messages; what the file holds; the column that was asked for."""
    if name in shipped_sets():
        text = (resources.files("steersweep.prompts") / f"{name}.json").read_text("utf-8")
        content: dict[str, Any] = json.loads(text)
        return name, content, None
    if name.startswith(HUB):
        return name, read_data_set(name), None
    check_set_name(name)
    path, column = split_column(name)
    return path, read_prompt_file(path, column), column


def _entries(
    path: str, content: Mapping[str, Any], field: str, column: str | None = None
) -> list[Entry]:
    values = content.get(field)
    if not isinstance(values, list) or not values:
        named = ", ".join(map(shown, [*content][:12]))
        hint = "; one is named as FILE:NAME" if field == "prompts" else ""
        has = "" if field in content else f" (it has {named}{hint})"
        raise InputError(f'{path}: field "{field}" must be a list with at least one prompt{has}')
    return entries_of(path, values, lambda index: f'"{field}" item {index + 1}', column)


def _content_id(name: str, content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=True, sort_keys=True)
    return f"{name}@sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
