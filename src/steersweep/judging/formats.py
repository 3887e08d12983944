"""How a model is asked about an answer and what its reply means: formats, as data.

A format is a small YAML or JSON file; docs/judging.md says what stands in it. Some are shipped in
`judging/formats`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.plain_yaml import MAX_BYTES, parse_yaml
from steersweep.core.setting_values import whole_number
from steersweep.core.text_files import read_text, shown
from steersweep.judging.model_judge import BY_TEXT, MEANINGS, QUALITIES, Reading
from steersweep.model.template_options import check_template_options
from steersweep.model.thinking import split_thinking
from steersweep.run.condition import content_key

DEFAULT_FORMAT = "refusal"
_FIELDS = ("about", "given", "template", "read", "answers", "max_new_tokens", "template_options")
_PLACE = re.compile(r"\{(prompt|response)\}")
_MOST_NEW_TOKENS = 10_000
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: of the shipped format, or the path of the user's file.
        given: `chat` (the template is a user's message), `plain` (it is the whole prompt) or
            `conversation` (prompt and response are two messages, and the model's own chat template
            does the rest).
        template: text with the places {prompt} and {response}; empty for a conversation.
        read: `likelihood` (the likeliest of the allowed words) or `text` (patterns in the reply).
        answers: what words, or patterns, mean; in order.
        max_new_tokens: longest reply, where it is read as text.
        template_options: variables that the model's chat template is given.
        key: hash of all this but the name.
    """

    name: str
    given: str
    template: str
    read: str
    answers: Mapping[str, str]
    max_new_tokens: int
    template_options: Mapping[str, Any]
    key: str

    def parts(self, prompt: str, response: str) -> list[tuple[str, bool]]:
        """The template filled in: texts in order, and whether each is the template's own."""
        filled = {"prompt": prompt, "response": response}
        # The odd ones are names of places.
        return [
            (filled[text] if index % 2 else text, index % 2 == 0)
            for index, text in enumerate(_PLACE.split(self.template))
        ]

    def filled(self, prompt: str, response: str) -> str:
        """The template filled in."""
        return "".join(text for text, _ in self.parts(prompt, response))

    def read_text(self, reply: str, *, cut: bool = False) -> Reading:
        """What a written reply means; its reasoning is left out.

        Exactly one meaning must be found. Allowed words are looked for at its beginning, patterns
        anywhere.

        Args:
            reply: the text.
            cut: whether it was cut at the longest reply.
        """
        parts = split_thinking(reply)
        text = parts.answer.strip()
        found = {
            meaning
            for pattern, meaning in self.answers.items()
            if re.search(self._pattern(pattern), text, re.IGNORECASE | re.MULTILINE)
        }
        if len(found) == 1:
            (meaning,) = found
            return Reading(meaning, float(meaning in ("refuses", "partial", "coherent")))
        said = shown(text, _LONGEST_SHOWN) if text else "nothing"
        if parts.unanswered:
            said = "only reasoning"
        why = f"says {' and '.join(sorted(found))} at once" if found else "cannot be read"
        at_end = f", cut at {self.max_new_tokens} tokens (max_new_tokens)" if cut else ""
        return Reading("", error=f"the reply {why}: {said}{at_end}")

    def _pattern(self, answer: str) -> str:
        if self.read == "text":
            return answer
        return rf"\A\W*{re.escape(answer.strip())}(?!\w)"


def load_format(name: str) -> Format:
    """A shipped format by name, or a file.

    Raises:
        InputError: unknown, unreadable or no format; names file and field.
    """
    folder = resources.files("steersweep.judging") / "formats"
    shipped = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))
    if name in shipped:
        return _format(name, (folder / f"{name}.yaml").read_text("utf-8"))
    if not name.lower().endswith((".yaml", ".yml", ".json")):
        raise InputError(
            f"judge's format {shown(name)}: not one of {', '.join(shipped)}, nor a .yaml or .json "
            f"file"
        )
    return _format(str(Path(name).resolve()), read_text(name, max_bytes=MAX_BYTES))


def _format(name: str, text: str) -> Format:
    data = parse_yaml(text, name).data
    if not isinstance(data, dict):
        raise InputError(f"{name}: a judge's format is a mapping of {', '.join(_FIELDS)}")
    if unknown := sorted(data.keys() - set(_FIELDS)):
        raise InputError(f"{name}: {unknown[0]}: no such field; there are {', '.join(_FIELDS)}")
    given = _choice(name, data, "given", ("chat", "plain", "conversation"))
    read = _choice(name, data, "read", ("likelihood", "text"))
    options = data.get("template_options") or {}
    if not isinstance(options, dict):
        raise InputError(f"{name}: template_options: must be a mapping")
    most = whole_number(
        f"{name}: max_new_tokens", data.get("max_new_tokens", 32), 1, _MOST_NEW_TOKENS
    )
    template = _template(name, data.get("template", ""), given)
    answers = _answers(name, data.get("answers"), read)
    options = check_template_options(options, f"{name}: template_options")
    key = content_key([given, read, template, list(answers.items()), most, options])
    return Format(name, given, template, read, answers, most, options, key)


def _choice(name: str, data: Mapping[str, Any], field: str, choices: tuple[str, ...]) -> str:
    value = data.get(field, choices[0])
    if value not in choices:
        raise InputError(f"{name}: {field}: {shown(str(value))}: choose from {', '.join(choices)}")
    return str(value)


def _template(name: str, template: object, given: str) -> str:
    if not isinstance(template, str):
        raise InputError(f"{name}: template: must be a text")
    places = _PLACE.findall(template)
    if given == "conversation":
        if template:
            raise InputError(f"{name}: template: a conversation has none; leave it out")
    elif places.count("response") != 1:
        raise InputError(f"{name}: template: must hold {{response}} once, and may hold {{prompt}}")
    return template


def _answers(name: str, answers: Any, read: str) -> dict[str, str]:
    if not isinstance(answers, dict) or len(answers) < 2:
        raise InputError(f"{name}: answers: a mapping of at least two replies to what they mean")
    for answer, meaning in answers.items():
        if not answer.strip():
            raise InputError(f"{name}: answers: one of them is empty")
        if meaning not in MEANINGS:
            raise InputError(
                f"{name}: answers: {shown(answer)}: {shown(str(meaning))} is no meaning; choose "
                f"from {', '.join(MEANINGS)}"
            )
        if read == "text":
            _check_pattern(name, answer)
    meanings = {*answers.values()} - {BY_TEXT}
    if meanings & {*QUALITIES} and meanings - {*QUALITIES}:
        raise InputError(
            f"{name}: answers: say either {', '.join(QUALITIES)} or how the answer stands to its "
            f"prompt, not both"
        )
    if len({*answers.values()}) < 2:
        raise InputError(f"{name}: answers: all of them mean the same")
    if read == "likelihood":
        _refuse_beginnings(name, list(answers))
    return dict(answers)


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{name}: answers: {shown(pattern)} is no regular expression: {error}"
        ) from error


def _refuse_beginnings(name: str, words: list[str]) -> None:
    """A word that begins like another one is always the likelier of the two."""
    for word in words:
        for other in words:
            if word is not other and other.strip().startswith(word.strip()):
                raise InputError(
                    f"{name}: answers: {shown(other)} begins with {shown(word)}, so it would never "
                    f"be the likelier one; choose other words"
                )
