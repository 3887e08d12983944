"""Plan files: a study as YAML, checked strictly; an error names file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.core.errors import InputError
from steersweep.core.plain_yaml import MAX_BYTES, parse_yaml
from steersweep.core.text_files import read_text, shown
from steersweep.judging.judge import DEFAULT_JUDGE, is_judge_name
from steersweep.methods.method import METHODS
from steersweep.model.template_options import TemplateOptions, check_template_options
from steersweep.run.condition import MAX_CONDITIONS, REMOVED, LayerChoice, Strength
from steersweep.run.edit_settings import EditSettings
from steersweep.run.label import check_source
from steersweep.study.own_methods import AtPlace, method_lists, with_names
from steersweep.sweep.verdict import Thresholds

PHASES = ("verification", "family_sweep", "size_sweep", "precision_sweep", "transfer_sweep")
GATES = {"R0": "verification", "R1": "family_sweep", "R2": "size_sweep", "R3": "precision_sweep"}
DEFAULT_FLAT_WITHIN = 0.10
MAX_ERRORS = 50  # looked at, to name the one that matters


@dataclass(frozen=True)
class PlannedModel:
    """A model of the plan.

    Attributes:
        name: short name, unique in the plan.
        model: hub id, local folder or `lab:NAME`.
        revision: hub revision, or None.
        family: its family.
        n_layers: decoder layers as the plan says; when it runs, the model's config decides.
        billions: parameters, in billions.
        gpu: kind of GPU it is planned on.
        template_options: variables that its chat template is given: the plan's, then its own.
    """

    name: str
    model: str
    revision: str | None
    family: str
    n_layers: int
    billions: float
    gpu: str
    template_options: TemplateOptions = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A checked plan. `data` is the file's content; everything else reads it.

    Attributes:
        data: the plan as plain data, valid under `plan.schema.json`.
        models: all models by name, in the plan's order: families, then sizes from small to large.
    """

    data: Mapping[str, Any]
    models: Mapping[str, PlannedModel]

    @property
    def name(self) -> str:
        """Name of the plan."""
        return str(self.data["name"])

    @property
    def strength(self) -> Strength:
        """The standard strength."""
        return strength_of(self.data["strength"])

    @property
    def edit(self) -> EditSettings:
        """What is done with directions, and where."""
        return EditSettings.read(self.data.get("edit", {}))

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases this plan has, in order."""
        return tuple(phase for phase in PHASES if phase in self.data)

    def family(self, name: str) -> list[PlannedModel]:
        """Models of a family, small to large."""
        return [model for model in self.models.values() if model.family == name]

    def questions(self, gate: str) -> list[str]:
        """What a gate asks; a gate without questions is no gate."""
        return list(self.data.get("gates", {}).get(gate, []))

    def gate_after(self, phase: str) -> str | None:
        """The gate after a phase, None where the plan asks nothing."""
        after = (gate for gate, of in GATES.items() if of == phase and self.questions(gate))
        return next(after, None)

    def project(self, phase: str) -> str:
        """Tracker project of a phase."""
        projects = self.data.get("tracking", {}).get("projects", {})
        return str(projects.get(phase, f"{self.name}-{phase.replace('_', '-')}"))

    def price(self, gpu: str) -> float:
        """USD per hour of a kind of GPU.

        Raises:
            InputError: neither the plan nor the catalog knows it.
        """
        prices = self.data.get("prices", {})
        if gpu in prices:
            return float(prices[gpu])
        if gpu == LOCAL:
            return 0.0
        if gpu in gpu_catalog():
            return float(gpu_catalog()[gpu]["usd_per_hour"])
        raise InputError(f"plan {self.name}: no price for GPU {gpu}; give one under prices")

    def concurrency(self, gpu: str) -> int | None:
        """Jobs of a kind of GPU that may run at the same time; None: as many as there is room."""
        limit = self.data.get("concurrency", {}).get(gpu)
        return None if limit is None else int(limit)

    def fallback_gpu(self, gpu: str) -> str | None:
        """Where a job goes that does not fit a kind of GPU, or None."""
        larger = self.data.get("fallback_gpu", {}).get(gpu)
        return None if larger is None else str(larger)

    @property
    def thresholds(self) -> Thresholds:
        """What verdicts are decided by."""
        held = self.data["thresholds"]
        return Thresholds(float(held["works"]), float(held["partial"]))

    @property
    def flat_within(self) -> float:
        """How far apart the rates of a flat size curve may lie, as a fraction."""
        return float(self.data["thresholds"].get("flat_within", DEFAULT_FLAT_WITHIN))


def load_plan(name: str) -> Plan:
    """A shipped plan by name, or a `.yaml` file.

    Raises:
        InputError: unknown name, unreadable file, or content that is no plan; the message names
            file, line and field.
    """
    if name in shipped_plans():
        text = (resources.files("steersweep.plans") / f"{name}.yaml").read_text("utf-8")
        return parse_plan(text, name)
    if not name.lower().endswith((".yaml", ".yml")):
        raise InputError(f"plan {name}: not one of {', '.join(shipped_plans())}, nor a .yaml file")
    return parse_plan(read_text(name, max_bytes=MAX_BYTES), name)


def shipped_plans() -> list[str]:
    """Names of the plans that come with the package."""
    folder = resources.files("steersweep.plans")
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def parse_plan(text: str, where: str) -> Plan:
    """A plan from YAML text; `where` names it in messages.

    Raises:
        InputError: see `load_plan`.
    """
    import jsonschema

    parsed = parse_yaml(text, where)
    data = parsed.data
    if not isinstance(data, dict):
        raise InputError(f"{where}: a plan is a mapping of settings")

    def refuse(path: Sequence[Any], message: str) -> InputError:
        field = ".".join(shown(str(part))[1:-1] for part in path) or "the plan"
        return InputError(f"{where}: line {parsed.line_of(path)}: {field}: {message}")

    errors = list(islice(_validator().iter_errors(data), MAX_ERRORS))
    errors.sort(key=lambda error: (len(error.path), str(error.path)))
    if errors:
        worst = jsonschema.exceptions.best_match(errors) or errors[0]
        key = [worst.instance] if "propertyNames" in worst.absolute_schema_path else []
        raise refuse([*worst.absolute_path, *key], _said(worst))
    try:
        data = with_names(data)
    except AtPlace as error:
        raise refuse(error.path, str(error)) from error
    models: dict[str, PlannedModel] = {}
    for_all = data["prompts"].get("template_options", {})
    for family, rows in data["families"].items():
        for index, row in enumerate(rows):
            place = ("families", family, index, "name")
            if row["name"] in models:
                raise refuse(place, f"{row['name']} is given twice")
            try:
                check_source(row["name"])  # in labels of directions that other models borrow
            except InputError as error:
                raise refuse(place, str(error)) from error
            models[row["name"]] = PlannedModel(
                row["name"],
                row["model"],
                row.get("revision"),
                str(family),
                int(row["n_layers"]),
                float(row["billions"]),
                row["gpu"],
                {**for_all, **row.get("template_options", {})},
            )
    for path, given in _template_options(data):
        try:
            check_template_options(given, "template option")
        except InputError as error:
            raise refuse(path, str(error)) from error
    plan = Plan(data, models)
    for path, message in _contradictions(plan):
        raise refuse(path, message)
    return plan


def with_prices(plan: Plan, file: Path) -> Plan:
    """The plan with prices from a YAML file, `GPU: USD per hour`, over its own and the catalog's.

    Raises:
        InputError: unreadable, no such mapping, or a GPU that neither plan nor catalog knows.
    """
    given = parse_yaml(read_text(file, max_bytes=MAX_BYTES), str(file)).data
    if not isinstance(given, dict):
        raise InputError(f"{file}: must be a mapping such as `A10G: 1.10`")
    held = plan.data.get("prices", {})
    known = [LOCAL, *gpu_catalog(), *held]
    for gpu, price in given.items():
        if gpu not in known:
            raise InputError(f"{file}: {gpu}: no such GPU; there are {', '.join(known)}")
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise InputError(f"{file}: {gpu}: {price!r} is no price in USD per hour")
    return Plan({**plan.data, "prices": {**held, **given}}, plan.models)


def layer_choice(value: float) -> LayerChoice:
    """A layer as a plan gives it: a share below 1, or an index."""
    return LayerChoice(str(value) if isinstance(value, int) else format(Decimal(repr(value)), "f"))


def strength_of(entry: Mapping[str, float] | str) -> Strength:
    """A strength as a plan gives it: `{multiplier: 15}`, `{relative: 0.3}` or `removed`."""
    if isinstance(entry, str):
        return REMOVED
    ((unit, value),) = entry.items()
    return Strength("multiplier" if unit == "multiplier" else "relative", float(value))


@cache
def _validator() -> Any:
    """The schema's validator, stricter and faster than the standard one.

    `10.0` is no integer, since what asks for one (a range, a tensor's shape) takes none; nan and
    infinity are no numbers; unique items are found in one pass.
    """
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    extend: Any = jsonschema.validators.extend
    strict = extend(base, {"uniqueItems": _unique}, type_checker=types)
    text = (resources.files("steersweep.plans") / "plan.schema.json").read_text("utf-8")
    return strict(json.loads(text))


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
    return _short(error.message)


def _contradictions(plan: Plan) -> Iterator[tuple[list[Any], str]]:
    """What a schema cannot say."""
    data = plan.data
    for path, name in _model_names(data):
        if name not in plan.models:
            yield path, f"no model {name} under families; there are {', '.join(plan.models)}"
    for path, name, layer in _model_layers(data):
        model = plan.models.get(name)
        if model is not None and isinstance(layer, int) and layer >= model.n_layers:
            yield path, f"{name} has layers 0 to {model.n_layers - 1}"
    for path, family in _family_names(data):
        if family not in data["families"]:
            yield path, f"no family {family} under families"
    if data["thresholds"]["partial"] > data["thresholds"]["works"]:
        yield ["thresholds", "partial"], "above works"
    if "precision_sweep" in data and "size_sweep" not in data:
        yield ["precision_sweep"], "needs size_sweep, whose results it chooses models by"
    yield from _unlike_strengths(plan)
    for path, count in _sizes(data):
        if count > MAX_CONDITIONS:
            yield path, f"asks for {count:,} conditions; {MAX_CONDITIONS:,} is the most"
    yield from _unusable_methods(data)
    if not is_judge_name(data.get("judge", DEFAULT_JUDGE)):
        yield ["judge"], f"no judge {data['judge']}; see docs/judging.md"
    yield from _unpriced(plan)


def _unlike_strengths(plan: Plan) -> Iterator[tuple[list[Any], str]]:
    """Strengths that do not go with the operation."""
    data = plan.data
    places: list[tuple[list[Any], Any]] = [(["strength"], data["strength"])]
    for phase in ("follow_up", "fallback"):
        given = data.get(phase, {}).get("strengths", [])
        places += [([phase, "strengths", index], entry) for index, entry in enumerate(given)]
    removes = plan.edit.operation == "remove"
    for path, entry in places:
        if removes and strength_of(entry) != REMOVED:
            yield path, "operation remove takes a direction out as a whole; give removed"
        if not removes and strength_of(entry) == REMOVED:
            yield (
                path,
                f"removed belongs to operation remove; give operation {plan.edit.operation} a "
                f"multiplier or a relative strength",
            )


def _unusable_methods(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """Methods that there are not, and those without prompts."""
    given = data["prompts"]["extraction"]
    places = [*_method_names(data), *((["prompts", "extraction", name], name) for name in given)]
    known = {*METHODS.names, *METHODS.own_of(given), *data.get("own_methods", {})}
    for path, method in places:
        if method not in known:
            yield path, f"no method {shown(method)}; there are {METHODS}"
    for method in sorted({method for _, method in _method_names(data)} - given.keys()):
        yield ["prompts", "extraction"], f"no prompts for method {method}, which a phase uses"


def _template_options(
    data: Mapping[str, Any],
) -> Iterator[tuple[list[Any], Mapping[str, Any]]]:
    """Every place that gives chat templates variables, and those."""
    yield ["prompts", "template_options"], data["prompts"].get("template_options", {})
    for family, rows in data["families"].items():
        for index, row in enumerate(rows):
            place = ["families", family, index, "template_options"]
            yield place, row.get("template_options", {})


def _sizes(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], int]]:
    """At most how many conditions each part of the plan leads to, without controls."""
    phase = data["family_sweep"]
    models = sum(len(rows) for rows in data["families"].values())
    methods = len(phase["methods"])
    yield ["family_sweep"], methods * sum(len(row["layers"]) for row in phase["models"])
    for name, swept in (("follow_up", len(phase["models"])), ("fallback", 1)):
        if name in data:
            cells = len(data[name]["layers"]) * len(data[name]["strengths"])
            yield [name], methods * swept * cells
    if sizes := data.get("size_sweep"):
        yield ["size_sweep"], models * len(sizes["methods"])
        if check := sizes.get("validation"):
            yield (
                ["size_sweep", "validation"],
                models * len(check["layers"]) * len(check["methods"]),
            )
    if sweep := data.get("precision_sweep"):
        chosen = sweep["tiers"] + len(sweep.get("also", []))
        yield ["precision_sweep"], chosen * len(sweep["precisions"]) * len(sweep["methods"])
    if sweep := data.get("transfer_sweep"):
        yield ["transfer_sweep"], len(sweep["among"]) ** 2 * len(sweep["methods"])


def _unpriced(plan: Plan) -> Iterator[tuple[list[Any], str]]:
    """Kinds of GPU without a price."""
    data = plan.data
    priced = {LOCAL: 0, **gpu_catalog(), **data.get("prices", {})}
    named = [(["fallback_gpu", gpu], gpu) for gpu in data.get("fallback_gpu", {})]
    named += [(["fallback_gpu", gpu], to) for gpu, to in data.get("fallback_gpu", {}).items()]
    named += [(["concurrency", gpu], gpu) for gpu in data.get("concurrency", {})]
    named += [(["families", model.family], model.gpu) for model in plan.models.values()]
    for path, gpu in named:
        if gpu not in priced:
            yield path, f"no price for GPU {gpu}; there are {', '.join(priced)}"


def _model_names(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """Every place that names a model, and the name."""
    for i, row in enumerate(data["family_sweep"]["models"]):
        yield ["family_sweep", "models", i, "model"], row["model"]
    for family, row in data["family_sweep"].get("confirmed", {}).items():
        yield ["family_sweep", "confirmed", family, "model"], row["model"]
    for phase in ("verification", "fallback"):
        if phase in data:
            yield [phase, "model"], data[phase]["model"]
    for i, name in enumerate(data.get("precision_sweep", {}).get("also", [])):
        yield ["precision_sweep", "also", i], name
    for i, name in enumerate(data.get("transfer_sweep", {}).get("among", [])):
        yield ["transfer_sweep", "among", i], name
    for i, cut in enumerate(data.get("cuts", [])):
        if cut["do"] == "drop-models":
            for j, name in enumerate(cut["what"]):
                yield ["cuts", i, "what", j], name


def _model_layers(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], str, float]]:
    """Every layer given for one model: its place, the model's name, the layer."""
    for i, row in enumerate(data["family_sweep"]["models"]):
        for j, layer in enumerate(row["layers"]):
            yield ["family_sweep", "models", i, "layers", j], row["model"], layer
    for family, row in data["family_sweep"].get("confirmed", {}).items():
        yield ["family_sweep", "confirmed", family, "layer"], row["model"], row["layer"]
    if check := data.get("verification"):
        yield ["verification", "layer"], check["model"], check["layer"]
    if fallback := data.get("fallback"):
        for j, layer in enumerate(fallback["layers"]):
            yield ["fallback", "layers", j], fallback["model"], layer


def _family_names(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """Every place that names a family, and the name."""
    for family in data["family_sweep"].get("confirmed", {}):
        yield ["family_sweep", "confirmed", family], family
    for i, row in enumerate(data.get("dropped", [])):
        yield ["dropped", i, "family"], row["family"]
    validated = data.get("size_sweep", {}).get("validation", {}).get("families", [])
    for i, family in enumerate(validated):
        yield ["size_sweep", "validation", "families", i], family
    for i, cut in enumerate(data.get("cuts", [])):
        if cut["do"] == "drop-failed-families":
            for j, family in enumerate(cut["what"]):
                yield ["cuts", i, "what", j], family


def _method_names(data: Mapping[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """Every place where a phase names a method, and the name."""
    for path, part in method_lists(data):
        for index, method in enumerate(part["methods"]):
            yield [*path, "methods", index], method


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:200] + " ..."
