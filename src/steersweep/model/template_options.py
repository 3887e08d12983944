"""Variables that a user gives to a model's chat template, such as `enable_thinking`.

They are part of how a prompt becomes tokens: `Renderer` puts them into every rendered prompt.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown

Value = bool | int | float | str | None
TemplateOptions = Mapping[str, Value]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None, "none": None}
_UNCLEAR = frozenset({"yes", "no", "on", "off", "y", "n"})
_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?")
# What a template is given anyway.
_GIVEN = frozenset(
    "messages add_generation_prompt tools documents raise_exception strftime_now "
    "continue_final_message chat_template conversation tokenize".split()
)
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def parse_template_options(text: str, setting: str) -> dict[str, Value]:
    """Options from a text such as `enable_thinking=false,reasoning_effort=low`.

    `true`, `false`, `null` and numbers are what they say, in any case of letters; everything else
    is a text, as is whatever stands in quotes.

    Args:
        text: the options, separated by commas; empty: none.
        setting: what messages call the setting.

    Raises:
        InputError: an entry that is no `NAME=VALUE`, a name that cannot be given, or a value of
            which it is not clear whether it is a text or a switch.
    """
    found: dict[str, Value] = {}
    for item in _items(text):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise InputError(f"{setting} {shown(item)}: write NAME=VALUE, as enable_thinking=false")
        if name in found:
            raise InputError(f"{setting}: {name} is given twice")
        found[name] = _value(value, f"{setting} {name}")
    return check_template_options(found, setting)


def check_template_options(options: Mapping[str, Any], setting: str) -> dict[str, Value]:
    """Options as they are, if a template may be given them.

    Raises:
        InputError: a name that is no name, or that templates are given anyway; a value that is no
            text, number, true, false or null.
    """
    for name, value in options.items():
        if not _NAME.fullmatch(name):
            raise InputError(f"{setting} {shown(name)}: not the name of a template's variable")
        if name in _GIVEN or name.endswith("_token"):
            raise InputError(f"{setting} {name}: templates are given this anyway; leave it out")
        plain = value is None or isinstance(value, bool | int | float | str)
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{setting} {name}: must be a text, a number, true, false or null")
        if isinstance(value, str) and value.lower() in ("true", "false"):
            # To a template every text but the empty one is true.
            raise InputError(f"{setting} {name}: is a text; write {value.lower()} without quotes")
    return dict(options)


def shown_options(options: TemplateOptions) -> str:
    """Options as a user writes them: `enable_thinking=false`."""
    return ", ".join(f"{name}={_written(value)}" for name, value in options.items())


def variables_of(template: str) -> list[str]:
    """The variables that a Jinja template reads, but for those that every template is given.

    Raises:
        jinja2.TemplateError: it is no template.
    """
    from jinja2 import meta
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols])
    # A statement of transformers' own, which only marks what stands within it.
    parsed = environment.parse(_GENERATION.sub("", template))
    return sorted(
        name
        for name in meta.find_undeclared_variables(parsed)
        if name not in _GIVEN and not name.endswith("_token")
    )


def _items(text: str) -> list[str]:
    """Parts between commas that are in no quotes."""
    if not text.strip():
        return []
    return re.findall(r"""(?:"[^"]*"|'[^']*'|[^,])+|(?<=,)(?=,)|(?<=,)$|^(?=,)""", text)


def _value(text: str, name: str) -> Value:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    lowered = text.lower()
    if lowered in _WORDS:
        return _WORDS[lowered]
    if lowered in _UNCLEAR:
        raise InputError(
            f"{name}={text}: write true or false, or '{text}' in quotes if the template wants "
            f"that text"
        )
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if not text:
        raise InputError(f"{name}: has no value; write '' for an empty text")
    return text


def _written(value: Value) -> str:
    if isinstance(value, str):
        return value if _value_is_plain(value) else repr(value)
    return json.dumps(value)


def _value_is_plain(text: str) -> bool:
    special = text.lower() in _WORDS or text.lower() in _UNCLEAR or _NUMBER.fullmatch(text)
    return bool(text) and not special and "," not in text
