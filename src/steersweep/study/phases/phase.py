"""What a phase of a study is. Nothing here needs torch or a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from steersweep.core.errors import SteersweepError
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.sweeps import Cuts, Step, Sweep

if TYPE_CHECKING:
    from steersweep.study.running import Running

FieldPath = list[str | int]  # of a field of the plan: keys and places in lists


@dataclass(frozen=True)
class Mention:
    """Something that a plan names and that must be there, or a number with a bound.

    Attributes:
        kind: `model`, `family` or `method` of that name; `layer`: an index within the model of that
            name; `strength`, whose text is the name; `conditions`: how many a field leads to at
            most, controls aside.
        path: the field that names it.
        name: of the model, family or method; the strength as text.
        number: the layer, or the conditions.
    """

    kind: Literal["model", "family", "method", "layer", "strength", "conditions"]
    path: FieldPath
    name: str = ""
    number: int = 0


def methods_mentioned(path: FieldPath, methods: Iterable[str]) -> Iterator[Mention]:
    """The methods of a list `methods` at a place of the plan."""
    for index, method in enumerate(methods):
        yield Mention("method", [*path, "methods", index], method)


@dataclass(frozen=True)
class Expected:
    """A sweep that a plan leads to, seen ahead of time.

    Attributes:
        sweep: what would run.
        when: what it depends on, such as `if partial`; empty where it runs for sure.
    """

    sweep: Sweep
    when: str = ""


@dataclass
class Ahead:
    """What is known before a study runs.

    Attributes:
        plan: the plan.
        cuts: cuts that apply.
        cost: what a sweep costs: USD, then seconds.
        before: what earlier phases would run at most.
    """

    plan: Plan
    cuts: Cuts
    cost: Callable[[Sweep], tuple[float, float]]
    before: list[Expected] = field(default_factory=list)


class Phase(Protocol):
    """One phase of a study. A class that inherits from this has what is optional here.

    Attributes:
        name: of the phase: its field of the plan, and what people type.
        number: what people may type instead, and what result files say.
        title: heading of what it found.
        gate: the gate after it; None: none.
        fields: JSON Schema of each field of the plan that it reads, the first by its own name.
            `$ref` may name what `plans/plan.schema.json` defines.
        steps: the kinds of sweeps it has.
        required: whether every plan has it.
        needs: phases that a plan with this one must have, and why: `whose results it ...`.
        borrowed_elsewhere: whether a report's table of the phase leaves out borrowed directions,
            since a figure or the lines of its decision show them.
        reconsiders: whether models that the plan dropped are thought of again after it.
    """

    name: str
    number: str
    title: str
    gate: str | None = None
    fields: Mapping[str, Any]
    steps: tuple[Step, ...]
    required: bool = False
    needs: Mapping[str, str] = {}
    borrowed_elsewhere: bool = False
    reconsiders: bool = False

    def read(self, data: Mapping[str, Any]) -> object:
        """Its section of a plan that follows the schema, as a frozen dataclass of its own."""
        ...

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """Every model, family, method and layer that its section names, and its size."""
        ...

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """Every step and model that it may run, whatever comes out, with the job's timeout."""
        ...

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """What it runs at most; sweeps that depend on nothing are what it runs at least."""
        ...

    def run(self, study: Running) -> Mapping[str, Any]:
        """Run its sweeps and decide; returns the decision: plain data, and dataclasses as rows.

        Raises:
            SteersweepError: nothing of it could run, or a hard stop was reached.
        """
        ...

    def obstacle(self, study: Running, decision: Mapping[str, Any]) -> SteersweepError | None:
        """Why the study must not go on after this decision; None: it may."""
        return None

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """Its section of `FINDINGS_LOG.md`: lines of Markdown, notes and failures aside."""
        ...

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """What was decided, line by line, for a terminal; notes and failures aside."""
        ...
