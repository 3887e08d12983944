"""The directions of a job, and what its conditions do with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from steersweep.methods.extraction import extract_directions
from steersweep.methods.method import Given
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit
from steersweep.model.rendering import extraction_rendered
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.condition import Condition
from steersweep.run.direction import Direction, random_direction
from steersweep.run.folder import LostDirection, RunFolder
from steersweep.run.label import UNSTEERED, Label
from steersweep.run.records import Steering
from steersweep.steer.edit import Edit
from steersweep.work.expected import stage_name, stages_of_method
from steersweep.work.job import Job, found_by
from steersweep.work.preparation import Preparation
from steersweep.work.references import References
from steersweep.work.stages import Stages


class Directions:
    """What the conditions of a job add or remove; found when it is made.

    Args:
        chat: the model.
        job: whose methods, layers and conditions.
        store: the run folder, in which what was found is kept.
        prepared: what is kept of the job until it has ended.
        rows: of a batch.
        residual_norms: mean length of the residual stream at each layer, one for all methods:
            strengths mean the same whatever is added.
        stages: of the job.
        tell: told of the stage that runs.

    Attributes:
        seconds: that each method took.
    """

    def __init__(
        self,
        chat: ChatModel,
        job: Job,
        store: RunFolder,
        prepared: Preparation,
        rows: RowLimit,
        *,
        residual_norms: Sequence[float],
        stages: Stages,
        tell: Callable[[str], None],
    ) -> None:
        self._chat = chat
        self._job = job
        self._store = store
        self._prepared = prepared
        self._rows = rows
        self._norms = residual_norms
        self._stages = stages
        self._tell = tell
        # By method and layer; the layer is None where the method chose it.
        self._found: dict[tuple[Label, int | None], Direction] = {}
        self.seconds: dict[str, float] = {}
        for method, prompts in job.extraction.items():
            self._extract(method, prompts)
        for condition in job.conditions:
            if condition.direction is not None:
                self._borrow(condition, condition.direction)
        self._references = References(chat, job, rows)

    def __iter__(self) -> Iterator[tuple[Label, int | None]]:
        """Methods and layers that have a direction; the layer is None where the method chose it."""
        return iter(self._found)

    def of(self, condition: Condition) -> Direction | None:
        """The direction that a condition adds, or removes; None: it is not steered."""
        if condition.label == UNSTEERED:
            return None
        if not condition.is_control:
            return self._found[condition.label, condition.layer]
        return random_direction(self._compared(condition), condition.seed)

    def edit(self, condition: Condition) -> Edit | None:
        """What a condition does to the residual stream; None: nothing."""
        direction = self.of(condition)
        if direction is None or condition.strength is None:
            return None
        return Edit.of(
            condition.edit,
            direction.vector,
            direction.layer,
            multiplier=condition.strength.multiplier(self._norms[direction.layer]),
            reference=self._reference(condition, direction),
        )

    def steering(self, condition: Condition) -> Steering | None:
        """What a condition's record says of how it was steered; its direction is saved."""
        direction = self.of(condition)
        if direction is None or condition.strength is None:
            return None
        norm = self._norms[direction.layer]
        multiplier = condition.strength.multiplier(norm)
        reference = self._reference(condition, direction)
        return Steering(
            layer_idx=direction.layer,
            position=direction.position,
            site=direction.site,
            multiplier=multiplier,
            relative_strength=multiplier / norm,
            direction_norm=direction.raw_norm,
            residual_norm=norm,
            direction_file=self._direction_file(condition, direction),
            reference=None if reference is None else float(reference @ direction.vector),
        )

    def is_kept(self, condition: Condition, prompts: Sequence[str]) -> bool:
        """See that a finished condition's direction is in the run folder; it is saved if lost.

        False where what is found now is not what the record names: the record is set aside then.

        Args:
            condition: the finished one.
            prompts: that it was tested on.
        """
        direction = self.of(condition)
        found = self._store.finished(condition.key, prompts)
        if direction is None or found is None or found.direction is None:
            return found is not None
        named = found.direction
        if self._store.vector(Path(named).stem) is not None:
            return True
        if self._direction_file(condition, direction) == named:
            return True
        self._store.set_aside(self._store.paths.condition(condition.key), f"{named} is lost")
        return False

    def _extract(self, method: str, prompts: ExtractionSet) -> None:
        """Find a method's directions; what an earlier run computed is not computed again."""
        started = time.monotonic()
        stages = [stage_name(method, stage) for stage in stages_of_method(method)]

        def tell(stage: str, share: float) -> None:
            name = stage_name(method, stage)
            if name in stages and name != self._stages.current:
                self._stages.end()
                self._stages.begin(name)
            self._stages.at(share)
            self._tell(self._stages.current)

        self._stages.begin(stages[0])
        self._tell(stages[0])
        layers = sorted({c.layer for c in self._job.conditions if c.layer is not None})
        asked = found_by(method, self._job)
        rendered = str(
            asked[0].extraction_rendered
            if asked
            else extraction_rendered(self._chat.renderer, prompts)
        )
        own = self._job.own_methods.get(method)
        path = self._store.paths.scores(
            method,
            rendered,
            self._chat.fingerprint,
            self._chat.precision,
            None if own is None else own.code,
        )
        held = self._store.read_json(path)
        rests_on = [rendered, path.name]
        earlier = held or self._prepared.facts(method, rests_on)
        found = self._rows.run(
            lambda rows: extract_directions(
                self._chat,
                method,
                prompts,
                layers,
                given=Given(
                    state=earlier["state"] if earlier else None,
                    max_rows=rows,
                    tell=tell,
                    kept=lambda name, make: self._prepared.tensors(name, rests_on, make),
                    save=lambda state: self._prepared.keep_now_and_then(
                        method, rests_on, {"state": state}
                    ),
                ),
            )
        )
        self._stages.finish(*stages)
        chosen = found.chosen
        held = self._store.write_once(
            path,
            {
                "method": method,
                "prompts": prompts.id,
                "chosen": chosen and {"layer": chosen.layer, "position": chosen.position},
                "notes": list(found.notes),
                "seconds": time.monotonic() - started,
                "missing": {str(layer): why for layer, why in found.missing.items()},
                "state": found.state,
            },
        )
        self.seconds[method] = held["seconds"]
        places: list[tuple[int | None, Direction]] = [*found.at_layer.items()]
        if found.chosen is not None:
            places.append((None, found.chosen))
        for layer, direction in places:
            norm = self._norms[direction.layer]
            label = Label.parse(direction.method)
            self._found[label, layer] = replace(direction, residual_norm=norm)

    def _borrow(self, condition: Condition, key: str) -> None:
        """A direction found elsewhere, at this model's own layer and residual norm."""
        assert condition.layer is not None, "a borrowed direction is tried at a given layer"
        found = self._store.needed_direction(key)
        asked = condition.label.method, condition.extraction_prompts
        if (found.method, found.prompts) != asked or len(found.vector) != self._job.d_model:
            raise LostDirection(
                f"{self._store.paths.direction(key)}: is a direction of {found.method} from "
                f"{found.prompts} with {len(found.vector)} components, which {condition} did not "
                f"ask for"
            )
        norm = self._norms[condition.layer]
        self._found[condition.label, condition.layer] = replace(
            found, layer=condition.layer, residual_norm=norm
        )

    def _compared(self, condition: Condition) -> Direction:
        """The direction that a random one is compared with."""
        asked = condition.label.method
        methods = [*self._job.extraction] if asked is None else [asked]
        likes = [Label(method, chose_layer=condition.label.chose_layer) for method in methods]
        # Methods may have no direction at a layer where another has one.
        like = next((x for x in likes if (x, condition.layer) in self._found), likes[0])
        return self._found[like, condition.layer]

    def _reference(self, condition: Condition, direction: Direction) -> Tensor | None:
        """What an affine edit puts back, `[d_model]`; a random one puts back what its like does."""
        if condition.edit.operation != "affine":
            return None
        like = self._compared(condition) if condition.is_control else direction
        assert like.position is not None, "settings see to it"
        return self._references.at(condition.label.method, like.position, direction.layer)

    def _direction_file(self, condition: Condition, direction: Direction) -> str:
        if condition.direction is not None:
            return self._store.paths.name_of(self._store.paths.direction(condition.direction))
        return self._store.put_direction(direction)
