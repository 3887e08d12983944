"""Results as types: the published schema is theirs, and what is wrong in a file is named."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonschema
import pytest

from helpers.results import edited, result, sample, samples, steered, unsteered
from steersweep import InputError
from steersweep.core import digests, typed
from steersweep.run import packed, result_files
from steersweep.run.cell import AgainstDim, AgainstUnsteered, Cell, SteeredCell
from steersweep.run.edit_settings import EditSettings
from steersweep.run.effect import Change
from steersweep.run.label import Label
from steersweep.run.packed import PackedSamples
from steersweep.run.price import (
    Accuracy,
    ChoicesEffect,
    DivergenceEffect,
    Effects,
    Loss,
    LossEffect,
    OwnEffect,
    RefusalEffect,
)
from steersweep.run.result import (
    AmongMethods,
    ByJudge,
    Controls,
    Extraction,
    JudgeError,
    Place,
    PrecisionFacts,
    Priced,
    Result,
    Reviewed,
)
from steersweep.run.result_files import (
    read_result_file,
    replace_result_file,
    write_result_file,
)
from steersweep.run.verdict import Thresholds

SCHEMA = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}
WHOLE = (EditSettings, Thresholds)  # written with what has its default, too
STEERING = {"layer_idx", "multiplier", "relative_strength", "direction_norm", "residual_norm",
            "direction_file"}  # fmt: skip


def whole() -> Result:
    """A result with every field there is."""
    pushed = steered(samples("coherent", "coherent", "garbled", "unjudged"))
    failed = replace(pushed.samples[3].judgement, error="the reply cannot be read")
    pushed = replace(
        pushed,
        samples=(*pushed.samples[:3], replace(pushed.samples[3], judgement=failed)),
        steering=replace(pushed.steering, reference=0.5),
        against_unsteered=AgainstUnsteered(0.5, None),
        against_dim=AgainstDim(0.9),
        rates=replace(pushed.rates, failure_modes={"loop": 1}),
        effects=every_effect(),
    )
    random = replace(pushed, key="def", label=Label(role="random"), against_unsteered=None)
    found = result([pushed], control=unsteered(samples("normal")))
    by_judge = ByJudge("works", "why", (0.5, 0.9), "clear")
    review = Reviewed(
        ("Ada",), 10, 10, 1, 0.9, 0.1, (0.0, 0.2), "clear", "works", replaces=by_judge
    )
    error = JudgeError((0.4, 0.9), ("works", "partial"), 231, "default@1")
    return replace(
        found,
        controls=Controls(found.controls.unsteered, random, (random,)),
        verdict=replace(found.verdict, judge_error=error, review=review),
        provenance={"steersweep": "1", "git_commit": None, "torch": "2", "transformers": "5",
                    "dtype": "float32", "seed": 42, "prompt_set": "x", "device": "cpu"},
        extraction=Extraction("extraction/cosmic.json", Place(3, -1), ("a note",), 1.0),
        notes=("another",),
        comparison=PrecisionFacts("int8", "fp32", None, "extraction/a.safetensors", {"dim": 1.0}),
        priced=Priced(("abc",), 1.5, AmongMethods("abc", "pca", Change(0.1, 0.0, 0.2))),
    )  # fmt: skip


def every_effect() -> Effects:
    """Effects with every field there is, a user's own among them."""
    share = Change(-0.5, -0.9, 0.1, 0.5)
    nats = Change(0.5, 0.25, 1.0)
    refused = RefusalEffect(rate=0.5, n=2, interval=(0.1, 0.9), change=share, file="a.json")
    right = Accuracy(accuracy=0.5, interval=(0.1, 0.9), change=share)
    return Effects(
        harmful_kept=refused,
        borderline=refused,
        divergence=DivergenceEffect(
            nats_per_token=0.5, n=2, interval=(0.25, 1.0), spread=0.1, file="d.json"
        ),
        text=LossEffect(
            nats_per_token=1.0,
            perplexity=2.718,
            change=nats,
            n=2,
            file="t.json",
            in_template=Loss(nats_per_token=1.0, perplexity=None, change=nats),
        ),
        choices=ChoicesEffect(
            accuracy=0.5,
            interval=(0.1, 0.9),
            change=share,
            n=2,
            file="c.json",
            by_length=right,
            in_template=right,
        ),
        others={
            "mine": OwnEffect(
                value=0.5, unit="share", n=2, interval=(0.1, 0.9), change=share, file="m.json"
            )
        },
    )


# -- the schema ------------------------------------------------------------------------------------


def resolved(node: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the schema with what it refers to, and all parts of `allOf`, in one."""
    found: dict[str, Any] = {key: value for key, value in node.items() if key != "$ref"}
    if "$ref" in node:
        found = resolved(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]) | found
    for part in map(resolved, found.pop("allOf", ())):
        held, more = found.get("properties", {}), part.get("properties", {})
        required = [*found.get("required", ()), *part.get("required", ())]
        names = {name: held.get(name, {}) | more.get(name, {}) for name in {**held, **more}}
        found |= part | {"properties": names, "required": required}
    return found


def kinds(node: Mapping[str, Any]) -> set[str]:
    """JSON types of the values that a part of the schema allows."""
    node = resolved(node)
    if "oneOf" in node:
        return {kind for part in node["oneOf"] for kind in kinds(part)}
    if "enum" in node:
        return {TYPES[type(value)] for value in node["enum"]}
    said = node["type"]
    return {said} if isinstance(said, str) else set(said)


def inside(node: Mapping[str, Any]) -> dict[str, Any]:
    """The object that a part of the schema describes, where it may be null too."""
    node = resolved(node)
    parts = [part for part in node.get("oneOf", ()) if part != {"type": "null"}]
    return inside(parts[0]) if parts else node


def arms(hint: Any) -> list[Any]:
    return [*get_args(hint)] if get_origin(hint) in (Union, types.UnionType) else [hint]


def kinds_of(hint: Any) -> set[str]:
    """JSON types of a type's values."""
    found = set()
    for arm in arms(hint):
        origin = get_origin(arm)
        if arm in TYPES:
            found.add(TYPES[arm])
        elif origin is Literal or arm is Label:
            found.add("string")
        else:
            found.add("array" if origin in (list, tuple, Sequence) else "object")
    return found


def written(kind: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name, type, and whether it is always there, of each field of a dataclass in a file."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if not field.metadata.get("flat"):
            is_there = field.default is MISSING or kind in WHOLE
            if field.default is None:  # and so never written
                (hint,) = (arm for arm in arms(hint) if arm is not types.NoneType)
            yield field.metadata.get("json", field.name), hint, is_there
            continue
        is_there = types.NoneType not in arms(hint)
        (inner,) = (arm for arm in arms(hint) if arm is not types.NoneType)
        for name, part, needed in written(inner):
            nullable = kind is Cell and name in STEERING  # null without a steering
            yield name, part | None if nullable else part, nullable or (needed and is_there)


def check(kind: Any, node: Mapping[str, Any], place: str) -> None:
    """A dataclass and its part of the schema have the same fields, of the same types."""
    node = inside(node)
    names = {name: (hint, needed) for name, hint, needed in written(kind)}
    wanted = {name for name, (_, needed) in names.items() if needed}
    described = {*node["properties"]}
    if kind is Cell:  # the schema describes a steered condition's further fields there too
        described &= {*names}
    assert described == {*names}, place
    assert {*node["required"]} == wanted, place
    for name, (hint, _) in names.items():
        part, here = node["properties"][name], f"{place}.{name}"
        assert kinds_of(hint) == kinds(part), here
        for arm in arms(hint):
            element = get_args(arm)[0] if get_origin(arm) in (tuple, Sequence) else arm
            if get_origin(arm) is Literal:
                assert {*get_args(arm)} == {*resolved(part)["enum"]}, here
            elif is_dataclass(element) and element is not Label:
                inner = inside(part)
                check(element, inner["items"] if element is not arm else inner, here)


def test_the_schema_is_that_of_the_types() -> None:
    check(Result, SCHEMA["$defs"]["result"], "result")


def test_a_result_follows_the_schema() -> None:
    held = typed.plain(whole())
    jsonschema.Draft202012Validator(SCHEMA).validate([held])
    assert typed.read(Result, held) == whole()


# -- files -----------------------------------------------------------------------------------------


def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where everything in plain data is."""
    parts: Any = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    for name, part in parts:
        yield (*place, name)
        yield from places(part, (*place, name))


def at(value: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        value = value[part]
    return value


def wrong(held: Any) -> tuple[str | int, ...]:
    """Where a result that cannot be read is wrong."""
    with pytest.raises(typed.WrongField) as caught:
        typed.read(Result, held)
    return caught.value.place


def test_whatever_is_wrong_in_a_result_is_named_by_its_place() -> None:
    held = typed.plain(whole())
    # Any name may stand there.
    free = ("provenance", "failure_modes", "extraction_seconds", "others")
    tried = 0
    for place in [*places(held)]:
        no_steering = place[:2] == ("controls", "unsteered") and place[-1] in STEERING
        if (place[0] == "provenance" and len(place) > 1) or no_steering:
            continue  # any value may stand there; here, a steering that lacks the rest
        around, name = at(held, place[:-1]), place[-1]
        value, around[name] = around[name], lambda: 0  # of no type
        assert wrong(held) == place
        around[name] = value
        if isinstance(name, str) and not {*place[-2:-1]} & {*free}:
            around[f"{name}_"] = None
            assert wrong(held) == (*place[:-1], f"{name}_")
            del around[f"{name}_"]
        tried += 1
    assert tried > 200
    assert typed.read(Result, held) == whole()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("method",), "dim@", "method: .*no name of a model"),
        (("controls", "random_directions", 0, "samples", 1, "refusal"), 1,
         r"controls\.random_directions\.0\.samples\.1\.refusal: must be true or false"),
        (("conditions", 0, "strength", "unit"), "metres", r"conditions\.0\.strength\.unit: .*mult"),
        (("conditions", 0, "coherent_refusal_ci"), [0.5], r"conditions\.0\.cohe.*: must be a list"),
        (("verdict", "thresholds", "works"), 2.0, r"verdict\.thresholds: .*must be fractions"),
        (("verdict", "best", "key"), "gone", r"verdict\.best\.key: is none of the conditions"),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_field_is_named_with_it(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str
) -> None:
    path = write_result_file(tmp_path, "sweep", [whole()])
    assert read_result_file(path) == [whole()]
    with edited(path) as results:
        at(results[0], place[:-1])[place[-1]] = value
    with pytest.raises(InputError, match=rf"{path.name}: 0\.{message}") as caught:
        read_result_file(path)
    assert "If another version wrote it" in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    held = typed.plain(whole())
    del held["conditions"][0]["residual_norm"]
    with pytest.raises(typed.WrongField, match=r"conditions\.0\.residual_norm: is missing"):
        typed.read(Result, held)
    assert isinstance(typed.read(Result, typed.plain(whole())).conditions[0], SteeredCell)


# -- very many samples -----------------------------------------------------------------------------


def many_samples() -> list[Result]:
    """Results whose texts look like the lines that samples begin and end in."""
    texts = ['"samples": [\n', "\n    ]\n     {", '"}', "\udc80", "é\u2028", ""]
    answers = [sample(f"prompt {n}", "coherent", text) for n, text in enumerate(texts)]
    cells = [steered(answers[: n + 1], key=f"key{n}", layer=n) for n in range(6)]
    return [whole(), result(cells, control=unsteered(answers)), result(cells[2:])]


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_samples_that_stay_in_a_large_file_are_those_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    path = write_result_file(tmp_path, "sweep", many_samples())
    expected = read_result_file(path)
    monkeypatch.setattr(result_files, "_LARGE", 1)
    monkeypatch.setattr(packed, "_CHUNK", chunk)
    found = read_result_file(path)
    assert all(isinstance(cell.samples, PackedSamples) for cell in found[1].conditions)
    assert [len(cell.samples) for cell in found[1].conditions] == [1, 2, 3, 4, 5, 6]
    assert found == expected
    held = path.read_bytes()
    # Written over the file that the samples stand in.
    assert replace_result_file(path, found).read_bytes() == held
    assert found == expected


def test_packed_samples_are_written_as_others_are(tmp_path: Path) -> None:
    plain = many_samples()
    held = write_result_file(tmp_path, "sweep", plain).read_bytes()
    packed_ones = [
        replace(
            one,
            conditions=tuple(
                replace(cell, samples=PackedSamples.of(cell.samples)) for cell in one.conditions
            ),
        )
        for one in plain
    ]
    assert packed_ones == plain
    assert write_result_file(tmp_path, "sweep", packed_ones).read_bytes() == held
    cell = packed_ones[1].conditions[5]
    assert (cell.samples[-1], cell.samples[1:3]) == (
        plain[1].conditions[5].samples[-1],
        plain[1].conditions[5].samples[1:3],
    )


def test_damage_to_a_large_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_result_file(tmp_path, "sweep", many_samples())
    expected = read_result_file(path)
    held = path.read_bytes()
    monkeypatch.setattr(result_files, "_LARGE", 1)
    monkeypatch.setattr(digests, "_CHUNK", 100)
    path.write_bytes(held + b"\n \n")  # as an editor leaves it
    assert read_result_file(path) == expected
    changed = bytes([held[500] ^ 1])
    for data in (held[:-3], held[:500] + changed + held[501:], held * 2, b"[" * 500, b"x" * 5000):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"{path.name}: is damaged"):
            read_result_file(path)
