"""What a layer sweep runs: settings, and the jobs and conditions they expand to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.core.registry import Source
from steersweep.core.setting_values import (
    MAX_NEW_TOKENS,
    MAX_ROWS,
    MAX_SEED,
    whole_number,
)
from steersweep.judging.judges import get_judge
from steersweep.methods.handed import Handed
from steersweep.methods.method import METHODS
from steersweep.model.find import find_model
from steersweep.model.rendering import SpecialTokens, as_special_tokens
from steersweep.model.source import ModelSource
from steersweep.model.template_options import TemplateOptions, parse_template_options
from steersweep.prompts.entries import MAX_PROMPTS
from steersweep.prompts.prompts import (
    ExtractionSet,
    TestSet,
    load_extraction_set,
    load_test_set,
)
from steersweep.prompts.system import read_system_prompt
from steersweep.run.condition import (
    MAX_CONDITIONS,
    Borrowed,
    Condition,
    LayerChoice,
    Strength,
)
from steersweep.run.decoding_settings import GREEDY, DecodingSettings
from steersweep.run.edit_settings import STANDARD, EditSettings
from steersweep.run.result_files import SWEEP
from steersweep.sweeps import defaults
from steersweep.sweeps.chosen import chosen_methods, chosen_strengths, listed_items
from steersweep.sweeps.effect_settings import left_out_notes
from steersweep.sweeps.expansion import LADDER, expand
from steersweep.sweeps.model_facts import Asked, ModelFacts, model_facts
from steersweep.work.asked_effects import NO_EFFECTS, AskedEffects
from steersweep.work.job import Job


@dataclass(frozen=True)
class SweepSettings:
    """Everything that defines a sweep. All of it is frozen into the run folder.

    Attributes:
        models: where each model comes from.
        methods: ways to find a direction.
        layers: where steering starts, as shares of the depth or indices.
        strengths: how strongly to steer.
        test: prompts to test on.
        extraction: prompts to extract directions from, by method.
        precision: `auto`, `fp32`, `bf16`, `fp16`, `int8`, `int4`, `int8-dynamic` or `fastest`.
        max_new_tokens: longest answer.
        judge: name of the judge.
        seed: of the random control direction and the fluency threshold's shuffles.
        rows: rows per generation batch.
        reference: in a comparison of precisions, the one that the others are compared with; its
            answers are what they are surprised by.
        borrowed: directions found elsewhere, to be tried too at every strength.
        smoke: make every check of the smoke test before a model runs; changes no result.
        accept_mismatch: go on whatever is found to be wrong with a model; changes no result.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        template_options: variables that chat templates are given, such as `enable_thinking`.
        system: the system prompt that goes before every prompt, or None.
        own_methods: by name, where the methods are that are a user's own, and directions from
            files that stand for methods.
        edit: what is done with directions, and where.
        results_name: what result files are called, before the time.
        window: strengths of which only those of each model's window are tried; see `Job`.
        effects: what is measured of every condition besides; changes no condition.
        decoding: how answers are decoded.
    """

    models: tuple[ModelSource, ...]
    methods: tuple[str, ...]
    layers: tuple[LayerChoice, ...]
    strengths: tuple[Strength, ...]
    test: TestSet
    extraction: Mapping[str, ExtractionSet]
    precision: str = defaults.PRECISION
    max_new_tokens: int = defaults.MAX_NEW_TOKENS
    judge: str = defaults.JUDGE
    seed: int = defaults.SEED
    rows: int = defaults.ROWS
    reference: str | None = None
    borrowed: tuple[Borrowed, ...] = ()
    smoke: bool = False
    accept_mismatch: bool = False
    special_tokens: SpecialTokens = defaults.SPECIAL_TOKENS
    template_options: TemplateOptions = field(default_factory=dict)
    system: str | None = None
    own_methods: Mapping[str, Source] = field(default_factory=dict)
    edit: EditSettings = STANDARD
    results_name: str = SWEEP
    window: tuple[Strength, ...] = ()
    effects: AskedEffects = NO_EFFECTS
    decoding: DecodingSettings = GREEDY

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the prompt files, each once."""
        found = [*self.test.notes]
        found += [note for prompts in self.extracted.values() for note in prompts.notes]
        found += [note for own in self._handed for note in own.notes]
        found += left_out_notes(self.effects)
        return tuple(dict.fromkeys(found))

    @property
    def extracted(self) -> dict[str, ExtractionSet]:
        """Prompts that results rest on, by method: affine ones of directions from files too."""
        handed = {own.name for own in self._handed if self.edit.operation != "affine"}
        return {name: found for name, found in self.extraction.items() if name not in handed}

    @property
    def _handed(self) -> list[Handed]:
        return [own for own in self.own_methods.values() if isinstance(own, Handed)]

    def check_fits(self, model_id: str, n_layers: int, d_model: int) -> None:
        """See that directions from files fit a model.

        Raises:
            InputError: one does not; names the file.
        """
        for own in self._handed:
            own.held.check_fits(model_id, n_layers, d_model)

    def plan(self) -> dict[str, Any]:
        """The settings as plain data, with prompt sets by name and content hash.

        Effects are none of them: they may be added to a run, which keeps them apart.
        """
        return {
            "kind": "sweep",
            "models": [
                source.model_id + (f"@{source.revision}" if source.revision else "")
                for source in self.models
            ],
            "methods": list(self.methods),
            "layers": [choice.text for choice in self.layers],
            "strengths": [{s.unit: s.value} for s in self.strengths],
            "test_prompts": self.test.id,
            "extraction_prompts": {name: found.id for name, found in self.extracted.items()},
            "precision": self.precision,
            "max_new_tokens": self.max_new_tokens,
            "judge": get_judge(self.judge).id,
            "seed": self.seed,
            "rows": self.rows,
            "special_tokens": self.special_tokens,
            **({"template_options": {**self.template_options}} if self.template_options else {}),
            **({} if self.system is None else {"system": self.system}),
            **frozen_code(self.own_methods),
            **({} if self.edit == STANDARD else {"edit": self.edit.as_json()}),
            **({} if self.decoding == GREEDY else {"decoding": self.decoding.as_json()}),
            **({"window": [s.value for s in self.window]} if self.window else {}),
            **({"results_name": self.results_name} if self.results_name != SWEEP else {}),
        }


def make_settings(
    models: Sequence[str | ModelSource],
    *,
    methods: str | None = None,
    directions: Sequence[str | Path] = (),
    layers: str = defaults.listed(defaults.LAYERS),
    multipliers: str = "",
    strengths: str = "",
    prompts: str = defaults.PROMPTS,
    extraction: str | None = None,
    max_prompts: int | None = None,
    precision: str = defaults.PRECISION,
    max_new_tokens: int = defaults.MAX_NEW_TOKENS,
    judge: str = defaults.JUDGE,
    seed: int = defaults.SEED,
    rows: int = defaults.ROWS,
    accept_mismatch: bool = False,
    special_tokens: str = defaults.SPECIAL_TOKENS,
    template_options: str = "",
    system: str | Path = "",
    operation: str = defaults.OPERATION,
    site: str = defaults.SITE,
    span: str = defaults.SPAN,
    positions: str = defaults.POSITIONS,
    effects: AskedEffects = NO_EFFECTS,
    stop_loops: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repeats: int | None = None,
) -> SweepSettings:
    """Settings from the texts a user types; lists are separated by commas.

    Without `methods` DIM is tried, or only `directions`, the files whose directions are tried like
    those of methods. Without `extraction` each method has the shipped prompts made for it.
    `template_options` are read by `parse_template_options`, `system` by `read_system_prompt`. With
    a temperature answers are sampled, each prompt `repeats` times (None: as the prompts say).

    Raises:
        InputError: an option that cannot be read; the message names it.
    """
    edit = EditSettings.read(
        {"operation": operation, "site": site, "span": span, "positions": positions}
    )
    chosen = chosen_methods(methods, directions, edit)
    both = chosen_strengths(edit, multipliers, strengths)
    whole_number(setting("max_new_tokens"), max_new_tokens, 1, MAX_NEW_TOKENS)
    whole_number(setting("rows"), rows, 1, MAX_ROWS)
    whole_number(setting("seed"), seed, 0, MAX_SEED)
    asked = tuple(LayerChoice(text) for text in listed_items(setting("layers"), layers))
    if (cells := len(asked) * len(both) * (len(chosen) + 1)) > MAX_CONDITIONS:
        raise InputError(
            f"layers, strengths, multipliers and methods: {cells:,} conditions; "
            f"{MAX_CONDITIONS:,} is the most"
        )
    try:
        get_judge(judge)
    except ValueError as error:
        raise InputError(f"{setting('judge')} {judge}: {error}") from error
    test = load_test_set(prompts)
    if max_prompts is not None:
        whole_number(setting("max_prompts"), max_prompts, 1, MAX_PROMPTS)
        test = test.first(max_prompts)
    decoding = DecodingSettings.chosen(
        stop_loops=stop_loops,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repeats=repeats,
        repeats_of_prompts=test.repeats,
    )
    if decoding.samples:
        test = test.answered(decoding.repeats)
    return SweepSettings(
        models=tuple(
            model if isinstance(model, ModelSource) else find_model(model) for model in models
        ),
        methods=chosen,
        layers=asked,
        strengths=tuple(both),
        test=test,
        extraction={
            method: load_extraction_set(extraction or METHODS.get(method).default_prompts)
            for method in chosen
        },
        precision=precision,
        max_new_tokens=max_new_tokens,
        judge=judge,
        seed=seed,
        rows=rows,
        accept_mismatch=accept_mismatch,
        special_tokens=as_special_tokens(special_tokens),
        template_options=parse_template_options(template_options, "template options"),
        system=read_system_prompt(system),
        own_methods=METHODS.own_of(chosen),
        edit=edit,
        window=LADDER if strengths == defaults.FIND else (),
        effects=effects,
        decoding=decoding,
    )


def frozen_code(own_methods: Mapping[str, Source]) -> dict[str, dict[str, str]]:
    """The hash of the code of each method that is a user's own, as a run's settings hold it."""
    codes = {name: own.code for name, own in own_methods.items()}
    return {"own_methods": codes} if codes else {}


def make_job(settings: SweepSettings, source: ModelSource, device: str, date: str) -> Job:
    """The job of one model on a torch device, of this machine or another.

    Reads its config and tokenizer, and every byte of a folder's weights, the first time; see
    `model_facts`.

    Args:
        settings: of the sweep.
        source: the model.
        device: where it will run.
        date: what day chat templates are told it is, `2026-11-25`: the run's first.

    Raises:
        InputError: the model cannot be found, a layer lies outside it, a prompt cannot be put to it
            or leaves no room for an answer.
    """
    source = source.pinned()
    device = source.device(device)
    facts = model_facts(
        source,
        Asked(
            device=device,
            date=date,
            precision=settings.precision,
            max_new_tokens=settings.max_new_tokens,
            special_tokens=settings.special_tokens,
            template_options=settings.template_options,
            system=settings.system,
            test=settings.test,
            extraction=settings.extracted,
        ),
    )
    settings.check_fits(source.model_id, facts.n_layers, facts.d_model)
    return Job(
        source=source,
        family=facts.family,
        n_layers=facts.n_layers,
        d_model=facts.d_model,
        precision=facts.precision,
        device=device,
        conditions=tuple(_conditions(settings, source, facts)),
        extraction=settings.extraction,
        test=settings.test,
        max_rows=settings.rows,
        reference=source.label_of(settings.reference),
        smoke=settings.smoke,
        accept_mismatch=settings.accept_mismatch,
        date=date,
        special_tokens=settings.special_tokens,
        notes=facts.notes,
        template_options=settings.template_options,
        system=settings.system,
        own_methods=settings.own_methods,
        edit=settings.edit,
        window=settings.window,
        effects=settings.effects,
    )


def _conditions(
    settings: SweepSettings, source: ModelSource, facts: ModelFacts
) -> Iterator[Condition]:
    fingerprint = source.fingerprint()
    n_layers, rendered = facts.n_layers, facts.extraction
    judge = get_judge(settings.judge).id

    for cell in expand(
        settings.methods, settings.layers, settings.strengths, settings.borrowed, n_layers
    ):
        # What is put back in an affine edit rests on harmless prompts whatever the direction.
        prompts_of = cell.prompts_of if cell.prompts_of in rendered else None
        if prompts_of is None and cell.strength and settings.edit.operation == "affine":
            named = cell.label.method
            prompts_of = named if named in rendered else next(iter(rendered))
        prompts = None if prompts_of is None else settings.extraction[prompts_of].id
        own = settings.own_methods.get(cell.prompts_of or "")
        yield Condition(
            model_id=source.model_id,
            model_fingerprint=fingerprint,
            precision=facts.precision,
            label=cell.label,
            layer=None if cell.layer is None else cell.layer.index(n_layers),
            layer_pct=None if cell.layer is None else cell.layer.share(n_layers),
            strength=cell.strength,
            direction=None if cell.borrowed is None else cell.borrowed.direction,
            extraction_prompts=prompts if cell.borrowed is None else cell.borrowed.prompts,
            extraction_rendered=None if prompts_of is None else rendered[prompts_of],
            test_prompts=settings.test.id,
            test_rendered=facts.test,
            max_new_tokens=settings.max_new_tokens,
            judge=judge,
            seed=settings.seed,
            method_code=None if own is None else own.code,
            edit=STANDARD if cell.strength is None else settings.edit,
            decoding=settings.decoding,
        )
