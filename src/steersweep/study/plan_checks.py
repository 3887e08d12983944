"""What makes a plan's content a plan: its schema, and what a schema cannot say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.core.own import is_own
from steersweep.core.precision_labels import FASTEST
from steersweep.core.text_files import shown
from steersweep.effects.effect import EFFECTS
from steersweep.judging.judges import is_judge_name
from steersweep.methods.method import METHODS
from steersweep.run.condition import MAX_CONDITIONS, REMOVED
from steersweep.study.curves import PRECISION_MATTERS
from steersweep.study.phases.phase import FieldPath, Mention, Phase
from steersweep.study.phases.registry import all_phases
from steersweep.study.plan import FIND, Plan

MAX_ERRORS = 50  # looked at, to name the one that matters
_OF_A_MACHINE = ("auto", FASTEST)  # precisions that a sweep of its own can be asked for


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of a plan: what all have in common, and what each phase reads."""
    return _schema(tuple(all_phases()))


@cache
def _schema(phases: tuple[Phase, ...]) -> dict[str, Any]:
    text = (resources.files("steersweep.plans") / "plan.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    fields = schema["properties"]
    names = [phase.name for phase in phases]
    for phase in phases:
        fields.update(phase.fields)
        schema["required"] += [phase.name] * phase.required
    fields["gates"]["properties"] = {
        phase.gate: {"$ref": "#/$defs/questions"} for phase in phases if phase.gate
    }
    fields["dropped"]["items"]["properties"]["after"] = {
        "enum": [phase.name for phase in phases if phase.reconsiders]
    }
    fields["modal"]["properties"]["apps"]["propertyNames"] = {"enum": names}
    for holder, kind in (
        (fields["tracking"]["properties"]["projects"], "project"),
        (fields["budget"]["properties"]["phases"], "usd"),
        (fields["timeouts"], "count"),
    ):
        holder["properties"] = {name: {"$ref": f"#/$defs/{kind}"} for name in names}
    return schema


def wrong_by_schema(data: dict[str, Any]) -> tuple[list[Any], str] | None:
    """Where a plan's content departs from the schema, and how; the place that matters most."""
    import jsonschema

    errors = list(islice(_validator(tuple(all_phases())).iter_errors(data), MAX_ERRORS))
    if not errors:
        return None
    errors.sort(key=lambda error: (len(error.path), str(error.path)))
    worst = jsonschema.exceptions.best_match(errors) or errors[0]
    key = [worst.instance] if "propertyNames" in worst.absolute_schema_path else []
    return [*worst.absolute_path, *key], _said(worst)


@cache
def _validator(phases: tuple[Phase, ...]) -> Any:
    """The schema's validator, stricter and faster than the standard one.

    `10.0` is no integer, since what asks for one (a range, a tensor's shape) takes none; nan and
    infinity are no numbers; unique items are found in one pass.
    """
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    extend: Any = jsonschema.validators.extend
    strict = extend(base, {"uniqueItems": _unique}, type_checker=types)
    return strict(_schema(phases))


def _is_integer(_checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


def _unique(_validator: Any, wanted: bool, items: Any, _schema: Any) -> Iterator[Any]:
    import jsonschema

    seen = set()
    for item in items if wanted and isinstance(items, list) else ():
        if (text := json.dumps(item, sort_keys=True)) in seen:
            yield jsonschema.ValidationError(f"{text} is given twice")
        seen.add(text)


def _said(error: Any) -> str:
    """What a schema's error means, for people."""
    value, wanted = error.instance, error.validator_value
    for either in (error, error.parent):
        if either is not None and either.validator == "anyOf":
            return f"{shown(str(value))[1:-1]} is not {either.schema['description']}"
    if error.validator == "type" and isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number to compute with"
    if error.validator == "type" and wanted == "integer":
        shorter = (
            f"; write {int(value)}" if isinstance(value, float) and value == int(value) else ""
        )
        return f"{shown(str(value))[1:-1]} is not a whole number{shorter}"
    if error.validator == "pattern" and error.schema.get("description"):
        return f"{shown(value)} is not {error.schema['description']}"
    if error.validator == "enum" and "fp32" in wanted and value in _OF_A_MACHINE:
        return (
            f"{value} depends on the machine, and the models of a plan are compared: name what "
            f"they run in, one of {', '.join(wanted)} (a sweep of one model with precision "
            f"{FASTEST} says what is fastest on a CPU)"
        )
    return _short(error.message)


def _of_effects(plan: Plan) -> Iterator[tuple[FieldPath, str]]:
    for index, name in enumerate(plan.effects.measure):
        if name not in EFFECTS.names and not is_own(name):
            yield ["effects", "measure", index], f"no effect {shown(name)}; there are {EFFECTS}"
    for field in ("text", "choices"):
        if getattr(plan.effects, field) is not None and field not in plan.effects.measure:
            yield ["effects", field], f"is for the effect {field}, which is not among `measure`"


def contradictions(plan: Plan) -> Iterator[tuple[FieldPath, str]]:
    """What a schema cannot say: the place of each, and what is wrong there."""
    phases = [phase for phase in all_phases() if phase.name in plan.phases]
    mentions = [*_mentioned(plan), *(m for phase in phases for m in phase.mentions(plan))]
    yield from _missing(plan, mentions)
    for phase in phases:
        for name, why in phase.needs.items():
            if name not in plan.phases:
                yield [phase.name], f"needs {name}, {why}"
    for mention in _of(mentions, "conditions"):
        if mention.number > MAX_CONDITIONS:
            asked = f"asks for {mention.number:,} conditions"
            yield mention.path, f"{asked}; {MAX_CONDITIONS:,} is the most"
    removes = plan.edit.operation == "remove"
    for mention in _of(mentions, "strength"):
        if removes and mention.name != str(REMOVED):
            yield mention.path, "operation remove takes a direction out as a whole; give removed"
        if not removes and mention.name == str(REMOVED):
            wanted = "a multiplier or a relative strength"
            yield mention.path, f"removed goes with operation remove; give {wanted}"
    yield from _of_effects(plan)
    given = plan.prompts.extraction
    known = {*METHODS.names, *METHODS.own_of(given), *plan.own_methods}
    for mention in _of(mentions, "method"):
        if mention.name not in known:
            yield mention.path, f"no method {shown(mention.name)}; there are {METHODS}"
    used = {mention.name for mention in _of(mentions, "method")}
    for method in sorted(used - given.keys()):
        yield ["prompts", "extraction"], f"no prompts for method {method}, which a phase uses"
    if not is_judge_name(plan.judge):
        yield ["judge"], f"no judge {plan.judge}; see docs/judging.md"
    yield from _unpriced(plan)


def _missing(plan: Plan, mentions: list[Mention]) -> Iterator[tuple[FieldPath, str]]:
    """Models, layers and families that are named and not there."""
    for mention in _of(mentions, "model"):
        if mention.name not in plan.models:
            there = ", ".join(plan.models)
            yield mention.path, f"no model {mention.name} under families; there are {there}"
    for mention in _of(mentions, "layer"):
        model = plan.models.get(mention.name)
        if model is not None and mention.number >= model.n_layers:
            yield mention.path, f"{model.name} has layers 0 to {model.n_layers - 1}"
    families = {model.family for model in plan.models.values()}
    for mention in _of(mentions, "family"):
        if mention.name not in families:
            yield mention.path, f"no family {mention.name} under families"


def _of(mentions: list[Mention], kind: str) -> Iterator[Mention]:
    return (mention for mention in mentions if mention.kind == kind)


def _mentioned(plan: Plan) -> Iterator[Mention]:
    """What the plan names outside its phases."""
    yield Mention("strength", ["strength"], FIND if plan.window else str(plan.strength))
    for name in plan.prompts.extraction:
        yield Mention("method", ["prompts", "extraction", name], name)
    for i, row in enumerate(plan.dropped):
        if not row.family and row.when == PRECISION_MATTERS:
            continue
        yield Mention("family", ["dropped", i, "family"], row.family)
    for i, cut in enumerate(plan.cuts):
        families = cut.do == "drop-failed-families"
        for j, name in enumerate(cut.what):
            yield Mention("family" if families else "model", ["cuts", i, "what", j], name)


def _unpriced(plan: Plan) -> Iterator[tuple[FieldPath, str]]:
    """Kinds of GPU without a price."""
    priced = {LOCAL: 0, **gpu_catalog(), **plan.prices}
    named: list[tuple[FieldPath, str]] = []
    for gpu, to in plan.fallback_gpus.items():
        named += [(["fallback_gpu", gpu], gpu), (["fallback_gpu", gpu], to)]
    named += [(["concurrency", gpu], gpu) for gpu in plan.at_once]
    named += [(["families", model.family], model.gpu) for model in plan.models.values()]
    for path, gpu in named:
        if gpu not in priced:
            yield path, f"no price for GPU {gpu}; there are {', '.join(priced)}"


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:200] + " ..."
