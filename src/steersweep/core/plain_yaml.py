"""YAML as plain data: bounded, without what YAML reads otherwise than people write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from steersweep.core.errors import InputError
from steersweep.core.text_files import lone_surrogate, shown

MAX_BYTES = 256 * 2**10
MAX_VALUES = 10_000  # with aliases written out; the shipped plans have about 500
MAX_DEPTH = 40
_TOO_MANY = f"more than {MAX_VALUES:,} values, with aliases written out"
# The safe loader, in C where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_MAX_DIGITS = 18
_FLOAT = re.compile(
    r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?|[-+]?\.(inf|nan)", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


@dataclass(frozen=True)
class PlainYaml:
    """A YAML document.

    Attributes:
        data: its content: texts, numbers, booleans, None, lists, and dictionaries with text keys.
        root: the same as nodes, which know their lines.
    """

    data: Any
    root: Any

    def line_of(self, path: Sequence[Any]) -> int:
        """Line of the deepest part of `path` that the file has; a path is keys and indices."""
        node, line = self.root, 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                match = [(key, value) for key, value in node.value if key.value == str(part)]
                if not match:
                    break
                # The last one: what a merged mapping gave stands before.
                line, node = match[-1][0].start_mark.line + 1, match[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


def parse_yaml(text: str, where: str) -> PlainYaml:
    """The one document in `text`; `where` names it in messages.

    Raises:
        InputError: not YAML; a key given twice or that is no text; aliases that multiply or go
            round; numbers in other than decimal digits; dates, binary data and tags; control
            characters. Names the line.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{where}: longer than {MAX_BYTES:,} characters")
    try:
        _bounded(text, where)
        root = yaml.compose(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise InputError(f"{where}:{line} not valid YAML: {problem}") from error
    if root is None:
        return PlainYaml(None, root)
    _Checker(where).check(root)
    try:
        data = _LOADER("").construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or error
        raise InputError(f"{where}: not plain data: {problem}") from error
    return PlainYaml(data, root)


def _bounded(text: str, where: str) -> None:
    """Refuse too many or too deeply nested nodes before they are built, which recurses in C."""
    depth = count = 0
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.NodeEvent):
            count += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            line = event.start_mark.line + 1
            problem = "nested too deeply" if depth > MAX_DEPTH else _TOO_MANY
            raise InputError(f"{where}: line {line}: {problem}")


class _Checker:
    """Looks at every node once; sizes count an alias as often as it is used."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def check(self, node: Any, path: tuple[str, ...] = ()) -> int:
        """Values below and with a node; raises `InputError` for what is not plain."""
        if id(node) in self._open:
            raise self._bad(node, path, "an alias of what it stands in")
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        self._open.add(id(node))
        size = 1
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, path)
        else:
            self._keys(node, path)
            for name, child in _children(node):
                size += self.check(child, (*path, name))
                if size > MAX_VALUES:
                    raise self._bad(node, path, _TOO_MANY)
        self._open.discard(id(node))
        self._sizes[id(node)] = size
        return size

    def _keys(self, node: Any, path: tuple[str, ...]) -> None:
        wanted = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _TAG + wanted:
            raise self._bad(node, path, f"tag {shown(node.tag)}: use plain values")
        seen = set()
        for key, _ in node.value if wanted == "map" else ():
            if not isinstance(key, yaml.ScalarNode):
                raise self._bad(key, path, "a key must be a text")
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                message = f"key {shown(key.value)} would be read as no text; write it in quotes"
                raise self._bad(key, path, message)
            self._scalar(key, path)
            if key.value in seen:
                raise self._bad(key, path, f"field {shown(key.value)[1:-1]} is given twice")
            seen.add(key.value)

    def _scalar(self, node: Any, path: tuple[str, ...]) -> None:
        kind, value = node.tag.removeprefix(_TAG), node.value
        problem = None
        if kind == "int" and not _INT.fullmatch(value):
            problem = f"{shown(value)} is no whole number in plain decimal digits"
        elif kind == "int" and len(value) > _MAX_DIGITS:
            problem = f"{shown(value, 30)[1:-1]} is too large a number"
        elif kind == "float" and not _FLOAT.fullmatch(value):
            problem = f"{shown(value)} is no number in plain decimal digits"
        elif kind == "timestamp":
            problem = f"{shown(value)} would be read as a date; write it in quotes"
        elif kind not in ("int", "float", "str", "bool", "null", "merge"):
            problem = f"tag {shown(node.tag)}: use plain values"
        elif control := _CONTROL.search(value):
            problem = f"holds the control character U+{ord(control[0]):04X}"
        elif half := lone_surrogate(value):
            problem = f"holds {half}, half a character without its other half"
        if problem:
            raise self._bad(node, path, problem)

    def _bad(self, node: Any, path: tuple[str, ...], message: str) -> InputError:
        field = "".join(f"{shown(name)[1:-1]}." for name in path)[:-1]
        line = node.start_mark.line + 1
        return InputError(f"{self._where}: line {line}: {field + ': ' if field else ''}{message}")


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value) for key, value in node.value)
    else:
        yield from ((str(index), item) for index, item in enumerate(node.value))
