"""Plan files: a study as YAML, checked strictly; an error names file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.conditions import LayerChoice, Strength
from steersweep.errors import InputError
from steersweep.judging.judge import DEFAULT_JUDGE, is_judge_name

# The safe loader, in C where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

PHASES = ("verification", "family_sweep", "size_sweep", "precision_sweep", "transfer_sweep")
GATES = {"R0": "verification", "R1": "family_sweep", "R2": "size_sweep", "R3": "precision_sweep"}
DEFAULT_FLAT_WITHIN = 0.10


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
    """

    name: str
    model: str
    revision: str | None
    family: str
    n_layers: int
    billions: float
    gpu: str


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
    def phases(self) -> tuple[str, ...]:
        """The phases this plan has, in order."""
        return tuple(phase for phase in PHASES if phase in self.data)

    def family(self, name: str) -> list[PlannedModel]:
        """Models of a family, small to large."""
        return [model for model in self.models.values() if model.family == name]

    def questions(self, gate: str) -> list[str]:
        """What a gate asks; a gate without questions is no gate."""
        return list(self.data.get("gates", {}).get(gate, []))

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
    def thresholds(self) -> Mapping[str, float]:
        """`works`, `partial` and `flat_within`, as fractions."""
        return {"flat_within": DEFAULT_FLAT_WITHIN, **self.data["thresholds"]}


def load_plan(name: str) -> Plan:
    """A shipped plan by name, or a `.yaml` file.

    Raises:
        InputError: unknown name, unreadable file, or content that is no plan; the message names
            file, line and field.
    """
    if name in shipped_plans():
        text = (resources.files("steersweep.plans") / f"{name}.yaml").read_text("utf-8")
        return parse_plan(text, name)
    if not name.endswith((".yaml", ".yml")):
        raise InputError(f"plan {name}: not one of {', '.join(shipped_plans())}, nor a .yaml file")
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as a plan: {error}") from error
    return parse_plan(text, name)


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

    try:
        root = yaml.compose(text, Loader=_LOADER)
        data = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise InputError(f"{where}:{line} not valid YAML: {problem}") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: a plan is a mapping of settings")
    doubled = next(_doubled_keys(root), None)
    if doubled is not None:
        raise InputError(f"{where}: line {doubled[0]}: field {doubled[1]} is given twice")

    def refuse(path: Sequence[Any], message: str) -> InputError:
        field = ".".join(map(str, path)) or "the plan"
        return InputError(f"{where}: line {_line_of(root, path)}: {field}: {message}")

    try:
        errors = sorted(_validator().iter_errors(data), key=lambda e: (len(e.path), str(e.path)))
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply for a plan") from error
    if errors:
        worst = jsonschema.exceptions.best_match(errors) or errors[0]
        raise refuse(list(worst.absolute_path), _short(worst.message))
    for place, number in _numbers(data):
        if not math.isfinite(number):
            raise refuse(place, f"{number} is not a number to compute with")
    models: dict[str, PlannedModel] = {}
    for family, rows in data["families"].items():
        for index, row in enumerate(rows):
            if row["name"] in models:
                place = ("families", family, index, "name")
                raise refuse(place, f"{row['name']} is given twice")
            models[row["name"]] = PlannedModel(
                row["name"],
                row["model"],
                row.get("revision"),
                str(family),
                int(row["n_layers"]),
                float(row["billions"]),
                row["gpu"],
            )
    plan = Plan(data, models)
    for path, message in _contradictions(plan):
        raise refuse(path, message)
    return plan


def with_prices(plan: Plan, file: Path) -> Plan:
    """The plan with prices from a YAML file, `GPU: USD per hour`, over its own and the catalog's.

    Raises:
        InputError: unreadable, no such mapping, or a GPU that neither plan nor catalog knows.
    """
    try:
        given = yaml.load(file.read_text("utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"--prices {file}: cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"--prices {file}: must be a mapping such as `A10G: 1.10`")
    held = plan.data.get("prices", {})
    known = [LOCAL, *gpu_catalog(), *held]
    for gpu, price in given.items():
        if gpu not in known:
            raise InputError(f"--prices {file}: {gpu}: no such GPU; there are {', '.join(known)}")
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise InputError(f"--prices {file}: {gpu}: {price!r} is no price in USD per hour")
    return Plan({**plan.data, "prices": {**held, **given}}, plan.models)


def layer_choice(value: float) -> LayerChoice:
    """A layer as a plan gives it: a share below 1, or an index."""
    return LayerChoice(str(value) if isinstance(value, int) else format(value, "f"))


def strength_of(entry: Mapping[str, float]) -> Strength:
    """A strength as a plan gives it: `{multiplier: 15}` or `{relative: 0.3}`."""
    ((unit, value),) = entry.items()
    return Strength("multiplier" if unit == "multiplier" else "relative", float(value))


@cache
def _validator() -> Any:
    import jsonschema

    text = (resources.files("steersweep.plans") / "plan.schema.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


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
    used = {method for phase in _phases_with_methods(data) for method in phase["methods"]}
    for method in sorted(used - data["prompts"]["extraction"].keys()):
        yield ["prompts", "extraction"], f"no prompts for method {method}, which a phase uses"
    if not is_judge_name(data.get("judge", DEFAULT_JUDGE)):
        yield ["judge"], f"no judge {data['judge']}; see docs/judging.md"
    yield from _unpriced(plan)


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


def _phases_with_methods(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for phase in PHASES[1:]:
        if phase in data:
            yield data[phase]
    if validation := data.get("size_sweep", {}).get("validation"):
        yield validation


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, (*path, index))
    elif isinstance(value, float):
        yield path, value


def _doubled_keys(node: Any) -> Iterator[tuple[int, str]]:
    """Line and name of mapping keys given twice, which YAML would silently overwrite."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:  # an alias
            continue
        seen.add(id(current))
        if isinstance(current, yaml.MappingNode):
            names = set()
            for key, value in current.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name is not None and name in names:
                    yield key.start_mark.line + 1, name
                names.add(name)
                waiting.append(value)
        elif isinstance(current, yaml.SequenceNode):
            waiting += current.value


def _line_of(node: Any, path: Sequence[Any]) -> int:
    """Line of the deepest part of `path` that the file has."""
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            match = [(key, value) for key, value in node.value if key.value == str(part)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:200] + " ..."
