"""Multiple-choice questions from files: the shipped ones, the user's own, copies of benchmarks.

Copies of ARC, MMLU and HellaSwag are read as they are, and put to the model as
lm-evaluation-harness puts them (its `arc_easy`, `mmlu_continuation` and `hellaswag`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import parse_json, shown
from steersweep.effects.files import (
    ENDINGS,
    Item,
    Wanted,
    is_item_file,
    read_items,
    refuse_doubled,
    shipped,
)
from steersweep.effects.questions import Question, QuestionSet
from steersweep.prompts.characters import as_seen

QUESTIONS = "questions-240"

# A question stands between "Question:" and "Answer:"; a prompt goes on in its answers as it is.
_QUESTION_FIELDS = ("question", "question_stem")
_PROMPT_FIELDS = ("prompt", "query", "ctx")
# A question goes on in these: where they are filled it is not whole alone.
_CONTEXT_FIELDS = ("context", "passage", "article", "input")
_CHOICES_FIELDS = ("choices", "options", "endings")
_ANSWER_FIELDS = ("answer", "answerkey", "label", "answer_idx", "answer_index", "target", "correct")
# Choices in columns of their own: `A`, `option_b`, `choice3`, `ending0`.
_CHOICE_COLUMN = re.compile(r"(|option|choice|answer|ending)[ _-]?([a-j]|[0-9])")
# Of these lm-evaluation-harness makes what stands before HellaSwag's endings.
_HELLASWAG = ("activity_label", "ctx_a", "ctx_b")
_MOST_CHOICES = 26
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

_WANTED = Wanted(
    "questions",
    (*_QUESTION_FIELDS, *_PROMPT_FIELDS),
    f'rename it to "question" (known: {", ".join((*_QUESTION_FIELDS, *_PROMPT_FIELDS))})',
)


@dataclass(frozen=True)
class _Choices:
    """The choices of a question as the file has them.

    Attributes:
        fields: where each stands.
        texts: the choices; not yet known to be texts.
        labels: what the file calls them; None if it has no names for them.
    """

    fields: list[str]
    texts: list[Any]
    labels: list[str] | None


def load_questions(name: str) -> QuestionSet:
    """The shipped questions by name, or a file of the user's.

    Files: JSON lines, a JSON list, a table with a header, or parquet, with fields `question` (or
    `prompt`), `choices` and `answer`; see docs/effects.md.

    Raises:
        InputError: unknown name, unreadable file, or a question that is empty, given twice, has
            fewer than two choices, or no right one; names file, line and field.
    """
    if name == QUESTIONS:
        return QuestionSet(name, tuple(_question(item) for item in shipped(name)))
    if not is_item_file(name):
        raise InputError(
            f"questions {name}: neither {QUESTIONS}, nor a file that ends in {', '.join(ENDINGS)}"
        )
    items = read_items(name, _WANTED)
    questions = [_question(item) for item in items]
    looks = [
        (as_seen(question.question), frozenset(map(as_seen, question.choices)))
        for question in questions
    ]
    places = [item.place for item in items]
    refuse_doubled(name, "question", zip(places, looks, strict=True))
    return QuestionSet(Path(name).stem, tuple(questions))


def _question(item: Item) -> Question:
    if isinstance(stem := item.fields.get("question"), dict):  # ARC as its authors publish it
        fields = {str(key).lower(): value for key, value in stem.items()}
        fields["question"] = fields.pop("stem", None)
        item = Item(item.where, item.place, {**item.fields, **fields})
    found = _choices(item)
    choices = [item.text(*pair) for pair in zip(found.fields, found.texts, strict=True)]
    if all(name in item.fields for name in _HELLASWAG):
        asked = _hellaswag_context(item)
        choices = [_unbracketed(text) for text in found.texts]
        for field, text in zip(found.fields, choices, strict=True):
            item.text(field, text)
    else:
        asked = _asked(item)
    answer = _answer(item, choices, found.labels)
    if choices.count(choices[answer]) > 1:
        raise item.bad(
            found.fields[answer], f"the right choice, {shown(choices[answer])}, is there twice"
        )
    return Question(asked, tuple(choices), answer)


def _asked(item: Item) -> str:
    """All that stands before an answer."""
    names = item.filled((*_QUESTION_FIELDS, *_PROMPT_FIELDS))
    if len(names) > 1:
        raise InputError(
            f"{item.where}: the question may stand in {_listed(names)}; rename those that do not "
            f"hold it"
        )
    if not names:
        raise item.bad(next(n for n in _WANTED.fields if n in item.fields), "is empty")
    name = names[0]
    text = item.text(name, item.fields[name])
    if more := item.filled(_CONTEXT_FIELDS):
        raise item.bad(
            more[0],
            f'is filled, so "{name}" is not the whole question; write both as one "prompt"',
        )
    return f"Question: {text}\nAnswer:" if name in _QUESTION_FIELDS else text


def _choices(item: Item) -> _Choices:
    names = item.filled(_CHOICES_FIELDS)
    columns = _choice_columns(item)
    if len(names) + len(columns) > 1:
        where = [*names, *(next(iter(of_kind.values())) for of_kind in columns)]
        raise InputError(
            f"{item.where}: choices may stand in {_listed(where)}; rename those that do not hold "
            f"them"
        )
    if not names and not columns:
        raise InputError(
            f'{item.where}: no choices; they stand in a list "choices", or in columns A, B, C, ... '
            f"(it has {_listed([*item.fields][:12])})"
        )
    found = _from_columns(item, columns[0]) if columns else _from_list(item, names[0])
    if not 2 <= len(found.texts) <= _MOST_CHOICES:
        number = f"{len(found.texts)} choice{'s' * (len(found.texts) != 1)}"
        raise item.bad(
            (names or [*columns[0].values()])[0],
            f"has {number}; a question has 2 to {_MOST_CHOICES}",
        )
    return found


def _choice_columns(item: Item) -> list[dict[str, str]]:
    """Names of choices' columns by label, for each way to name them of which there are two."""
    kinds: dict[str, dict[str, str]] = {}
    for name in item.fields:
        if found := _CHOICE_COLUMN.fullmatch(name):
            kinds.setdefault(f"{found[1]} {found[2].isdigit()}", {})[found[2]] = name
    return [dict(sorted(kind.items())) for kind in kinds.values() if len(kind) > 1]


def _from_columns(item: Item, columns: Mapping[str, str]) -> _Choices:
    """Empty columns at the end are choices that this question does not have."""
    labels, names = [*columns], [*columns.values()]
    first = labels[0] if labels[0] in "01" else "a"
    if labels != [chr(ord(first) + i) for i in range(len(labels))]:
        raise InputError(
            f"{item.where}: one of the columns with choices is missing; there are {_listed(names)}"
        )
    texts = [item.fields[name] for name in names]
    while texts and texts[-1] in (None, ""):
        texts.pop()
    return _Choices(names[: len(texts)], texts, labels[: len(texts)])


def _from_list(item: Item, field: str) -> _Choices:
    value = item.fields[field]
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise item.bad(
                field,
                f"{shown(value, 40)} is no JSON list; write one, use columns A, B, C, ..., or save "
                f"the file as JSON lines or parquet",
            ) from error
    labels: Any = None
    if isinstance(value, dict) and "text" in value:
        value, labels = value["text"], value.get("label")
    elif isinstance(value, dict):  # {"A": ..., "B": ...}
        value, labels = [*value.values()], [*value]
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value, labels = [one.get("text") for one in value], [one.get("label") for one in value]
    if not isinstance(value, list):
        raise item.bad(field, f"must be a list of choices, not {value!r:.40}")
    if labels is not None and not _are_labels(labels, len(value)):
        raise item.bad(field, "every choice must have a label of its own, a text")
    return _Choices([f"{field}, choice {i + 1}" for i in range(len(value))], value, labels)


def _are_labels(labels: Any, number: int) -> bool:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return False
    return len({label.strip().lower() for label in labels} - {""}) == len(labels) == number


def _answer(item: Item, choices: Sequence[str], labels: Sequence[str] | None) -> int:
    """Index of the right choice; where several fields say it, all must say the same."""
    known = [name for name in _ANSWER_FIELDS if name in item.fields]
    if not known:
        raise InputError(
            f'{item.where}: nothing says which choice is right; name it "answer" (it has '
            f"{_listed([*item.fields][:12])})"
        )
    said = {name: _index(item, name, choices, labels) for name in known}
    if len({*said.values()}) > 1:
        raise InputError(
            f"{item.where}: {_listed(known)} do not say the same; rename those that do not say "
            f"which choice is right"
        )
    return said[known[0]]


def _index(item: Item, field: str, choices: Sequence[str], labels: Sequence[str] | None) -> int:
    value = item.fields[field]
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise item.bad(field, f"must be a label, a number or a text, not {value!r:.40}")
    word = str(value).strip()
    if not word:
        raise item.bad(
            field, "is empty, so no choice is right; use a part of the data with answers"
        )
    if labels is not None:
        at_label = [i for i, label in enumerate(labels) if label.strip().lower() == word.lower()]
        if at_label:
            return at_label[0]
    meant = {i for i, choice in enumerate(choices) if isinstance(value, str) and choice == word}
    if labels is None:
        letters = _LETTERS[: len(choices)]
        meant |= {i for i, letter in enumerate(letters) if word.lower() in (letter, str(i))}
    if len(meant) == 1:
        return meant.pop()
    if meant:
        raise item.bad(
            field,
            f"{shown(word)} may be the text of one choice and the number or letter of another; "
            f"write the number as a number, or a letter",
        )
    last = len(choices) - 1
    by = f"0 to {last}, A to {_LETTERS[last].upper()}" if labels is None else _listed(labels)
    raise item.bad(
        field,
        f"{shown(word)} is none of the {len(choices)} choices: give {by}, or the text of one"
        + (" (numbers count from 0)" if word == str(len(choices)) else ""),
    )


def _hellaswag_context(item: Item) -> str:
    """What stands before the endings; the sentence that they end may not have begun."""
    for name in item.filled(_HELLASWAG):
        item.text(name, item.fields[name])
    subject, before, begun = (item.fields[name] or "" for name in _HELLASWAG)
    asked = _unbracketed(f"{subject}: {before} {begun.capitalize()}")
    item.text("ctx", asked)
    return asked


def _unbracketed(text: str) -> str:
    """Without what is left in HellaSwag's texts of the pages they are from."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 40) for name in names)
