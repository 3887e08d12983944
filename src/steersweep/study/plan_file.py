"""Plan files: a study as YAML, checked strictly; an error names file, line and field."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.catalog.models import instead_of_fp16
from steersweep.core.errors import InputError, setting
from steersweep.core.plain_yaml import MAX_BYTES, parse_yaml
from steersweep.core.text_files import read_text, shown
from steersweep.model.template_options import check_template_options
from steersweep.prompts.prompts import check_set_name
from steersweep.run.edit_settings import EditSettings
from steersweep.run.label import check_source
from steersweep.run.verdict import Thresholds
from steersweep.study.own_methods import AtPlace, with_names
from steersweep.study.phases.registry import all_phases
from steersweep.study.plan import (
    FIND,
    Budget,
    Cut,
    Decoding,
    Dropped,
    ModalNames,
    Plan,
    PlannedEffects,
    PlannedModel,
    Prompts,
    TrackingSettings,
    strength_of,
)
from steersweep.study.plan_base import FIELD, based_on
from steersweep.study.plan_checks import contradictions, wrong_by_schema
from steersweep.sweeps import defaults

DEFAULT_FLAT_WITHIN = 0.10
MAX_BASES = 8  # plans that are based on one another


def load_plan(name: str) -> Plan:
    """A shipped plan by name, or a `.yaml` file.

    Raises:
        InputError: unknown name, unreadable file, or content that is no plan; the message names
            file, line and field.
    """
    return _load(name, ())


def _load(name: str, extended_by: tuple[str, ...]) -> Plan:
    if name in shipped_plans():
        return _parse(_shipped(name), name, extended_by)
    if not name.lower().endswith((".yaml", ".yml")):
        raise InputError(f"plan {name}: not one of {', '.join(shipped_plans())}, nor a .yaml file")
    return _parse(read_text(name, max_bytes=MAX_BYTES), name, extended_by)


def shipped_plans() -> list[str]:
    """Names of the plans that come with the package."""
    folder = resources.files("steersweep.plans")
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def shipped_on(base: str) -> list[str]:
    """Names of the shipped plans that are based on a plan of that name."""
    return [
        name for name in shipped_plans() if parse_yaml(_shipped(name), name).data.get(FIELD) == base
    ]


def _shipped(name: str) -> str:
    return (resources.files("steersweep.plans") / f"{name}.yaml").read_text("utf-8")


def parse_plan(text: str, where: str) -> Plan:
    """A plan from YAML text; `where` names it in messages.

    A plan that it is based on (`extends`) is a shipped one or a file, found from the folder of
    `where`; `written` has both put together.

    Raises:
        InputError: see `load_plan`.
    """
    return _parse(text, where, ())


def _parse(text: str, where: str, extended_by: tuple[str, ...]) -> Plan:
    parsed = parse_yaml(text, where)
    data = parsed.data
    if not isinstance(data, dict):
        raise InputError(f"{where}: a plan is a mapping of settings")
    own, base = data, data.get(FIELD)

    def refuse(path: Sequence[Any], message: str) -> InputError:
        field = ".".join(shown(str(part))[1:-1] for part in path) or "the plan"
        line = f"line {parsed.line_of(path)}"
        if base is not None and path and path[0] not in own:
            line = f"with what {shown(str(base))[1:-1]} has"
        return InputError(f"{where}: {line}: {field}: {message}")

    if base is not None:
        if not isinstance(base, str):
            raise refuse([FIELD], "give the name of a shipped plan, or a .yaml file")
        data = based_on(_base(base, where, extended_by, refuse).written, own)
        del data[FIELD]
    wrong = wrong_by_schema(data)
    if wrong is not None:
        raise refuse(*wrong)
    try:
        data = with_names(data)
    except AtPlace as error:
        raise refuse(error.path, str(error)) from error
    _check_sets(data["prompts"], refuse)
    taken: set[str] = set()
    for family, rows in data["families"].items():
        for index, row in enumerate(rows):
            place = ("families", family, index, "name")
            if row["name"] in taken:
                raise refuse(place, f"{row['name']} is given twice")
            taken.add(row["name"])
            try:
                check_source(row["name"])  # in labels of directions that other models borrow
            except InputError as error:
                raise refuse(place, str(error)) from error
            _check_options(row, ("families", family, index), refuse)
    _check_options(data["prompts"], ("prompts",), refuse)
    if data["thresholds"]["partial"] > data["thresholds"]["works"]:
        raise refuse(["thresholds", "partial"], "above works")
    plan = _typed(data)
    for path, message in contradictions(plan):
        raise refuse(path, message)
    return plan


def _check_sets(prompts: Mapping[str, Any], refuse: Any) -> None:
    """Refuse what no prompt set can be called."""
    named: dict[tuple[str, ...], str] = {("prompts", "test"): prompts["test"]}
    for method, name in prompts["extraction"].items():
        named["prompts", "extraction", method] = name
    for path, name in named.items():
        try:
            check_set_name(name)
        except InputError as error:
            raise refuse(path, str(error)) from error


def _base(base: str, where: str, extended_by: tuple[str, ...], refuse: Any) -> Plan:
    """The plan that another is based on."""
    chain = (*extended_by, str(Path(where).resolve()))
    if base not in shipped_plans():
        named, base = base, str(Path(where).parent / base)
        if str(Path(base).resolve()) in chain:
            raise refuse([FIELD], f"{shown(named)[1:-1]} is based on this plan")
    if len(chain) > MAX_BASES:
        raise refuse([FIELD], f"more than {MAX_BASES} plans are based on one another")
    try:
        return _load(base, chain)
    except InputError as error:
        raise refuse([FIELD], str(error)) from error


def _check_options(holder: Mapping[str, Any], path: tuple[Any, ...], refuse: Any) -> None:
    try:
        check_template_options(holder.get("template_options", {}), "template option")
    except InputError as error:
        raise refuse((*path, "template_options"), str(error)) from error


def _typed(data: dict[str, Any]) -> Plan:
    """A plan of data that the schema allows."""
    prompts, modal = data["prompts"], data.get("modal", {})
    rates, budget = data["thresholds"], data.get("budget", {})
    return Plan(
        name=data["name"],
        models={
            row["name"]: _model(
                row, str(family), data["precision"], prompts.get("template_options", {})
            )
            for family, rows in data["families"].items()
            for row in rows
        },
        prompts=Prompts(
            prompts["test"],
            prompts["extraction"],
            prompts.get("max"),
            prompts.get("special_tokens", "text"),
            prompts.get("system", ""),
        ),
        precision=data["precision"],
        strength=strength_of(data["strength"]),
        window=data["strength"] == FIND,
        edit=EditSettings.read(data.get("edit", {})),
        thresholds=Thresholds(float(rates["works"]), float(rates["partial"])),
        flat_within=rates.get("flat_within", DEFAULT_FLAT_WITHIN),
        sections={phase.name: phase.read(data) for phase in all_phases() if phase.name in data},
        decoding=Decoding(**data.get("decoding", {})),
        effects=_effects(data.get("effects", {})),
        judge=data.get("judge", defaults.JUDGE),
        seed=data.get("seed", defaults.SEED),
        prices=data.get("prices", {}),
        prices_as_of=str(data.get("prices_as_of", "")),
        fallback_gpus=data.get("fallback_gpu", {}),
        at_once=data.get("concurrency", {}),
        timeouts=data.get("timeouts", {}),
        modal=ModalNames(
            modal.get("apps", {}), modal.get("names", {}), tuple(modal.get("secrets", ()))
        ),
        gates={gate: tuple(asked) for gate, asked in data.get("gates", {}).items()},
        dropped=tuple(Dropped(**row) for row in data.get("dropped", [])),
        budget=Budget(budget.get("total"), budget.get("phases", {})),
        cuts=tuple(
            Cut(cut["do"], tuple(cut.get("what", ())), cut.get("prompts"))
            for cut in data.get("cuts", [])
        ),
        tracking=TrackingSettings(**data.get("tracking", {})),
        own_methods=data.get("own_methods", {}),
        written=data,
    )


def _effects(data: Mapping[str, Any]) -> PlannedEffects:
    """What a plan says of effects."""
    return PlannedEffects(**{**data, "measure": tuple(data.get("measure", ()))})


def _model(
    row: Mapping[str, Any], family: str, precision: str, for_all: Mapping[str, Any]
) -> PlannedModel:
    """A model of a plan; where it names no precision, the plan's, if the model can run in it."""
    if precision == "fp16":
        precision = instead_of_fp16(row["model"]) or precision
    return PlannedModel(
        row["name"],
        row["model"],
        row.get("revision"),
        family,
        int(row["n_layers"]),
        float(row["billions"]),
        row["gpu"],
        row.get("precision", precision),
        {**for_all, **row.get("template_options", {})},
    )


def with_models(plan: Plan, places: Mapping[str, str]) -> Plan:
    """The plan with some of its models found elsewhere, in folders or GGUF files.

    Args:
        plan: the plan.
        places: by the plan's name of a model, where it is, or another hub id.

    Raises:
        InputError: the plan has no model of that name.
    """
    for name in places:
        if name not in plan.models:
            there = ", ".join(plan.models)
            raise InputError(f"{setting('models')} {shown(name)}: no such model; there are {there}")
    written = copy.deepcopy(dict(plan.written))
    for row in chain.from_iterable(written["families"].values()):
        if row["name"] in places:
            row["model"] = places[row["name"]]
            row.pop("revision", None)  # of the place that the plan has
    return _typed(written)


def with_prices(plan: Plan, file: Path) -> Plan:
    """The plan with prices from a YAML file, `GPU: USD per hour`, over its own and the catalog's.

    A file called `catalog`: the catalog's prices instead of the plan's.

    Raises:
        InputError: unreadable, no such mapping, or a GPU that neither plan nor catalog knows.
    """
    if str(file) == "catalog":
        kept = {gpu: price for gpu, price in plan.prices.items() if gpu not in gpu_catalog()}
        return _priced(plan, kept, plan.prices_as_of)
    given = parse_yaml(read_text(file, max_bytes=MAX_BYTES), str(file)).data
    if not isinstance(given, dict):
        raise InputError(f"{file}: must be a mapping such as `A10G: 1.10`")
    known = [LOCAL, *gpu_catalog(), *plan.prices]
    for gpu, price in given.items():
        if gpu not in known:
            raise InputError(f"{file}: {gpu}: no such GPU; there are {', '.join(known)}")
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise InputError(f"{file}: {gpu}: {price!r} is no price in USD per hour")
    return _priced(plan, {**plan.prices, **given}, f"{plan.prices_as_of} {file}".strip())


def _priced(plan: Plan, prices: Mapping[str, float], as_of: str) -> Plan:
    written = {**plan.written, "prices": dict(prices), "prices_as_of": as_of}
    return replace(plan, prices=prices, prices_as_of=as_of, written=written)
