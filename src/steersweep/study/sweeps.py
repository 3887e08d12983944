"""One model's part of a phase: what it runs, what it is called, and what cuts leave out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from steersweep.run.condition import Borrowed, LayerChoice, Strength
from steersweep.run.label import Label
from steersweep.run.result import Result
from steersweep.search.window import MOST
from steersweep.study.plan import Plan, PlannedModel


@dataclass(frozen=True)
class Step:
    """A kind of sweep within a phase, and what everything of it is called.

    The templates are filled in with `model`, `family`, `method` and `precision`.

    Attributes:
        phase: name of the phase.
        number: of the phase, as in result files.
        name: of the step, such as `follow-up`.
        results: beginning of a result file's name, before the time.
        run: what trackers call a run. Steps that go on with one another's runs share it.
        function: what Modal's function for a model is called.
        is_main: whether the phase is this step first of all.
        is_cut: whether cuts of prompts are for it too.
    """

    phase: str
    number: str
    name: str
    results: str
    run: str
    function: str
    is_main: bool = True
    is_cut: bool = True

    def run_name(self, model: str, precision: str, method: str) -> str:
        """What trackers call a run.

        A method's own choice of layer and borrowed directions belong to the method's run.
        """
        name = Label.parse(method).method
        return self.run.format(model=model, precision=precision, method=name)

    def __str__(self) -> str:
        return self.number if self.is_main else f"{self.number} {self.name}"


@dataclass(frozen=True)
class Sweep:
    """One model's part of a phase.

    Attributes:
        step: what it is for.
        model: the model.
        methods: ways to find a direction.
        layers: where steering starts.
        strengths: how strongly to steer.
        window: strengths of which only those of the model's window are tried; see `Job`.
        precision: what the model runs in.
        timeout_s: the plan's limit for the job, or None.
        reference: with which precision this one is compared; see `SweepSettings`.
        borrowed: directions found elsewhere, to be tried too.
    """

    step: Step
    model: PlannedModel
    methods: tuple[str, ...]
    layers: tuple[LayerChoice, ...]
    strengths: tuple[Strength, ...]
    precision: str
    timeout_s: int | None = None
    reference: str | None = None
    borrowed: tuple[Borrowed, ...] = ()
    window: tuple[Strength, ...] = ()

    @property
    def n_conditions(self) -> int:
        """Conditions it expands to, controls and methods' own choices included; at most."""
        from steersweep.sweeps.expansion import expand

        cells = expand(self.methods, self.layers, self.at_most, self.borrowed, self.model.n_layers)
        return sum(1 for _ in cells)

    @property
    def at_most(self) -> tuple[Strength, ...]:
        """As many strengths as it may try."""
        others = tuple(strength for strength in self.strengths if strength not in self.window)
        return (*others, *self.window[:MOST])

    @property
    def run_names(self) -> tuple[str, ...]:
        """What trackers call its runs."""
        names = [
            self.step.run_name(self.model.name, self.precision, method) for method in self.methods
        ]
        return tuple(dict.fromkeys(names))

    def borrowing(self, sources: Mapping[str, Iterable[Result]]) -> Sweep:
        """This sweep with each source's own directions, to be tried at this sweep's first layer.

        Args:
            sources: results of the models or precisions that found them, by what to call those.
        """
        layer = self.layers[0].index(self.model.n_layers)
        borrowed = [
            Borrowed(
                Label(result.label.method, source=source),
                layer,
                result.conditions[0].steering.direction_key,
                str(result.conditions[0].extraction_prompts),
            )
            for source, results in sources.items()
            for result in results
            if result.label.is_swept
        ]
        return replace(self, borrowed=tuple(borrowed))

    def expecting(self, sources: Iterable[str]) -> Sweep:
        """This sweep as it would be if every source lent its directions, before any has run."""
        layer = self.layers[0].index(self.model.n_layers)
        borrowed = [
            Borrowed(Label(method, source=source), layer, "", "")
            for source in sources
            for method in self.methods
        ]
        return replace(self, borrowed=tuple(borrowed))

    def __str__(self) -> str:
        return f"{self.model.name} {self.step.name} {self.precision}"


@dataclass(frozen=True)
class Cuts:
    """Cuts of the plan that were applied.

    Attributes:
        families: dropped after phase 1 if they failed there.
        models: dropped from phase 2 on.
        prompts: number of unique test prompts, or None.
    """

    families: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    prompts: int | None = None

    @classmethod
    def first(cls, plan: Plan, count: int) -> Cuts:
        """The first `count` cuts of the plan's order."""
        cuts = cls()
        for cut in plan.cuts[:count]:
            if cut.do == "drop-failed-families":
                cuts = replace(cuts, families=cuts.families | {*cut.what})
            elif cut.do == "drop-models":
                cuts = replace(cuts, models=cuts.models | {*cut.what})
            else:
                cuts = replace(cuts, prompts=cut.prompts)
        return cuts
