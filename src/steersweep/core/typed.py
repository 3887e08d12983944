"""Dataclasses from plain data, as JSON has it, and plain data from them.

A field stands under its own name, or the one that `named` gives; the fields of one that is `FLAT`
stand among the others. Values of the classes that `ready` names are taken as they are. What has its
default is not written. A class with `from_json` and `as_json` of its own is read and written by
these, one with `parse` from its text.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from steersweep.core.errors import InputError

T = TypeVar("T")
_Read = Callable[[Any], Any]

FLAT: Mapping[str, Any] = types.MappingProxyType({"flat": True})
_SIMPLE: Mapping[Any, tuple[frozenset[type], str]] = {
    str: (frozenset({str}), "a text"),
    int: (frozenset({int}), "a whole number"),
    float: (frozenset({int, float}), "a number"),
    bool: (frozenset({bool}), "true or false"),
}


def named(name: str) -> Mapping[str, Any]:
    """Metadata of a field that stands under another name."""
    return {"json": name}


def ready(*kinds: type) -> Mapping[str, Any]:
    """Metadata of a field that may hold values of these classes, which are taken as they are."""
    return {"ready": kinds}


class WrongField(ValueError):
    """A value is not what its field holds.

    Args:
        problem: what is wrong with it.
        place: names and indices that lead to it.

    Attributes:
        problem: see above.
        place: see above.
    """

    def __init__(self, problem: str, *place: str | int) -> None:
        self.problem, self.place = problem, place
        super().__init__(problem, *place)

    def within(self, part: str | int) -> WrongField:
        """The same, seen from one step further out."""
        return WrongField(self.problem, part, *self.place)

    def __str__(self) -> str:
        if not self.place:
            return self.problem
        return f"{'.'.join(map(str, self.place))}: {self.problem}"


# -- reading -------------------------------------------------------------------------------------


def read(kind: type[T], value: Any) -> T:
    """A value of a type from plain data.

    Args:
        kind: `str`, `int`, `float`, `bool`, a dataclass, ...
        value: as `json.loads` gives it.

    Raises:
        WrongField: it is none; a field is missing, is not known, or holds another type.
    """
    hint: Any = kind
    found: T = _reader(hint)(value)
    return found


def read_fields(kind: type[T], value: Any) -> T:
    """A dataclass by its fields, whatever `from_json` it has.

    Raises:
        WrongField: see `read`.
    """
    hint: Any = kind
    found: T = _reader_of_fields(hint)(value)
    return found


@cache
def _reader(hint: Any) -> _Read:
    """What reads values of a type."""
    if hint in (Any, object):
        return lambda value: value
    if hint in _SIMPLE:
        return partial(_simple, *_SIMPLE[hint])
    if (origin := get_origin(hint)) is not None:
        return _reader_of_parts(origin, get_args(hint))
    if own := getattr(hint, "from_json", None):
        return partial(_by, own)
    if own := getattr(hint, "parse", None):
        return partial(_parsed, own)
    return _reader_of_fields(hint)


def _reader_of_parts(origin: Any, args: Sequence[Any]) -> _Read:
    if origin is Literal:
        return partial(_choice, args)
    if origin in (Union, types.UnionType):
        return _optional(args)
    if origin in (dict, Mapping):
        return partial(_mapping, _reader(args[1]))
    if origin is tuple and args[-1] is not Ellipsis:
        return partial(_tuple, [_reader(part) for part in args])
    return partial(_list, list if origin is list else tuple, _reader(args[0]))


def _simple(allowed: frozenset[type], what: str, value: Any) -> Any:
    if type(value) not in allowed:
        raise WrongField(f"must be {what}")
    return value


def _choice(choices: Sequence[Any], value: Any) -> Any:
    if type(value) is not str or value not in choices:
        raise WrongField(f"must be one of {', '.join(map(str, choices))}")
    return value


def _optional(args: Sequence[Any]) -> _Read:
    (inner,) = [arg for arg in args if arg is not types.NoneType]
    if inner in _SIMPLE:
        allowed, what = _SIMPLE[inner]
        return partial(_simple, allowed | {types.NoneType}, f"{what} or null")
    reader = _reader(inner)
    return lambda value: None if value is None else reader(value)


def _list(make: Callable[[Sequence[Any]], Any], reader: _Read, value: Any) -> Any:
    if type(value) is not list:
        raise WrongField("must be a list")
    found: list[Any] = []
    try:
        found.extend(map(reader, value))
    except WrongField as error:
        raise error.within(len(found)) from None
    return make(found)


def _tuple(readers: Sequence[_Read], value: Any) -> Any:
    if type(value) is not list or len(value) != len(readers):
        raise WrongField(f"must be a list of {len(readers)}")
    return tuple(
        _within(index, reader, part)
        for index, (reader, part) in enumerate(zip(readers, value, strict=True))
    )


def _mapping(reader: _Read, value: Any) -> Any:
    if type(value) is not dict:
        raise WrongField("must be an object")
    return {name: _within(name, reader, held) for name, held in value.items()}


def _by(own: Callable[[Any], Any], value: Any) -> Any:
    if type(value) is not dict:
        raise WrongField("must be an object")
    return own(value)


def _parsed(parse: Callable[[str], Any], value: Any) -> Any:
    _simple(*_SIMPLE[str], value)
    try:
        return parse(value)
    except InputError as error:
        raise WrongField(str(error)) from error


def _within(part: str | int, reader: _Read, value: Any) -> Any:
    try:
        return reader(value)
    except WrongField as error:
        raise error.within(part) from None


@cache
def _reader_of_fields(kind: Any) -> _Read:
    hints = get_type_hints(kind)
    flat = [(f.name, hints[f.name]) for f in fields(kind) if f.metadata.get("flat")]
    own = [
        (f.name, _name(f), _as_it_is(f, hints[f.name]), _reader(hints[f.name]), f.default)
        for f in fields(kind)
        if not f.metadata.get("flat")
    ]
    parts = [(name, _names(_inner(hint)), _reader(_inner(hint))) for name, hint in flat]
    optional = {name for name, hint in flat if hint is not _inner(hint)}
    known = frozenset(_names(kind))
    make = _maker(kind)

    def reader(value: Any) -> Any:
        if type(value) is not dict:
            raise WrongField("must be an object")
        if not known.issuperset(value):
            raise WrongField("is not known", next(name for name in value if name not in known))
        found = {}
        for name, written, simple, read_one, default in own:
            if written in value:
                held = value[written]
                if type(held) in simple:  # most are, and it saves a call
                    found[name] = held
                    continue
                try:
                    found[name] = read_one(held)
                except WrongField as error:
                    raise error.within(written) from None
            elif default is MISSING:
                raise WrongField("is missing", written)
            else:
                found[name] = default
        for name, names, read_one in parts:
            part = {one: value[one] for one in names if one in value}
            found[name] = read_one(part) if part or name not in optional else None
        return make(found)

    return reader


def _maker(kind: Any) -> Callable[[dict[str, Any]], Any]:
    """What makes a dataclass of all its fields."""

    def checked(found: dict[str, Any]) -> Any:
        try:
            return kind(**found)
        except InputError as error:
            raise WrongField(str(error)) from error

    def unchecked(found: dict[str, Any]) -> Any:
        # A frozen one's `__init__` sets each field by a call; files have 100,000 samples and more.
        made = kind.__new__(kind)
        vars(made).update(found)
        return made

    return checked if hasattr(kind, "__post_init__") else unchecked


def _as_it_is(field: Any, hint: Any) -> frozenset[type]:
    """Types whose every value a field may hold, as it is; none where it depends on the value."""
    allowed, _ = _SIMPLE.get(_inner(hint), (frozenset[type](), ""))
    optional = {types.NoneType} if allowed and hint is not _inner(hint) else set()
    return allowed | optional | {*field.metadata.get("ready", ())}


def _name(field: Any) -> str:
    return str(field.metadata.get("json", field.name))


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Under which names the fields of a dataclass stand, those of flat ones among them."""
    hints = get_type_hints(kind)
    found: list[str] = []
    for field in fields(kind):
        flat = field.metadata.get("flat")
        found += _names(_inner(hints[field.name])) if flat else [_name(field)]
    return tuple(found)


def _inner(hint: Any) -> Any:
    """The type, without `None` beside it."""
    held = [arg for arg in get_args(hint) if arg is not types.NoneType]
    return held[0] if get_origin(hint) in (Union, types.UnionType) else hint


# -- writing -------------------------------------------------------------------------------------


def plain(value: Any, later: tuple[type, ...] = ()) -> Any:
    """A value as `json.dumps` takes it; those of the classes `later` stay as they are."""
    if later and isinstance(value, later):
        return value
    if own := getattr(value, "as_json", None):
        return own()
    if is_dataclass(value) and not isinstance(value, type):
        return str(value) if hasattr(value, "parse") else plain_fields(value, later=later)
    if isinstance(value, Mapping):
        return {name: plain(held, later) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, later) for part in value]
    return value


def plain_fields(
    value: Any, *, whole: bool = False, later: tuple[type, ...] = ()
) -> dict[str, Any]:
    """A dataclass by its fields, whatever `as_json` it has.

    Args:
        value: the dataclass.
        whole: with defaults too.
        later: classes whose values stay as they are.
    """
    found: dict[str, Any] = {}
    kind: Any = type(value)
    for name, written, is_flat, default in _written(kind):
        held = getattr(value, name)
        if default is not MISSING and held == default and not whole:
            continue
        if is_flat:
            found |= {} if held is None else plain(held, later)
        else:
            found[written] = held if type(held) in _AS_THEY_ARE else plain(held, later)
    return found


_AS_THEY_ARE = frozenset({str, int, float, bool, types.NoneType})


@cache
def _written(kind: Any) -> tuple[tuple[str, str, bool, Any], ...]:
    return tuple((f.name, _name(f), "flat" in f.metadata, f.default) for f in fields(kind))
