"""Measures effects of steering for finished conditions of a model, and saves them as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from steersweep.core import provenance
from steersweep.core.errors import NumericalError
from steersweep.core.printing import first_line
from steersweep.effects.effect import EFFECTS, Given, OwnAnswers
from steersweep.judging.judges import get_judge
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit
from steersweep.run.effect import Measured
from steersweep.run.effect_files import save_effect, saved_effect
from steersweep.run.folder import RunFolder
from steersweep.run.records import Record
from steersweep.steer.edit import Edit
from steersweep.work.asked_effects import AskedEffects, Target, Wanted, wanted

OnShare = Callable[[float, str], None]


def measure_effects(
    chat: ChatModel,
    store: RunFolder,
    asked: AskedEffects,
    target: Target,
    rows: RowLimit,
    on_share: OnShare = lambda _share, _what: None,
) -> None:
    """Measure what a run folder lacks of the effects asked for; save each batch as it finishes.

    A batch takes less than a minute, by the rows that the run's answers were allowed. Which edits
    share one depends on the target alone, so that a run that goes on comes to the same numbers. A
    cell where numbers overflow has none, and says why.

    Args:
        chat: the model.
        store: the run folder.
        asked: which effects.
        target: of which conditions.
        rows: how many fit.
        on_share: told the share of all that is done, 0 to 1, and what goes on.

    Raises:
        InputError: an effect cannot be measured on what it is given.
        LostDirection: a direction is damaged or gone.
    """
    asked.load()
    measuring = _Measuring(chat, store, asked, target, rows, on_share)
    measuring.run()


class _Measuring:
    """One go at a target."""

    def __init__(
        self,
        chat: ChatModel,
        store: RunFolder,
        asked: AskedEffects,
        target: Target,
        rows: RowLimit,
        on_share: OnShare,
    ) -> None:
        self._chat = chat
        self._store = store
        self._reader = RunFolder(store.root, repairs=False)  # what is not its own it leaves alone
        self._asked = asked
        self._target = target
        self._rows = rows
        self._on_share = on_share
        condition = target.unsteered.condition
        self._facts = {
            **provenance.facts(chat.device),
            "dtype": str(chat.dtype).removeprefix("torch."),
        }
        self._given: Given = asked.given(
            own_answers=_own_answers(chat, target),
            judge=get_judge(condition.judge, store.paths.replies),
        )

    def run(self) -> None:
        names = self._asked.names
        for index, name in enumerate(names):
            edits = [*wanted(self._asked, name, self._target)]
            tokens = self._asked.tokens_of(name, len(self._target.unsteered.samples))
            size = _edits_at_once(tokens, self._target.unsteered)
            for first in range(0, len(edits), size):
                batch = edits[first : first + size]
                begin = (index + first / len(edits)) / len(names)
                share = len(batch) / len(edits) / len(names)
                if any(saved_effect(self._store, one.rests_on) is None for one in batch):
                    self._batch(name, batch, begin, share)
                self._on_share(begin + share, name)

    def _batch(self, name: str, batch: Sequence[Wanted], begin: float, share: float) -> None:
        started = time.monotonic()
        edits = [_edit_of(one.record, self._reader) for one in batch]
        found = self._measured(name, edits, lambda done: self._on_share(begin + share * done, name))
        seconds = (time.monotonic() - started) / len(batch)
        for one, (measured, why) in zip(batch, found, strict=True):
            save_effect(
                self._store,
                one.rests_on,
                measured,
                seconds=seconds,
                timestamp=provenance.utc_now(),
                provenance=self._facts,
                why=why,
            )

    def _measured(
        self, name: str, edits: Sequence[Edit | None], on_share: Callable[[float], None]
    ) -> list[tuple[tuple[Measured, ...], str]]:
        """What each edit comes to, and why not where numbers overflow."""
        effect = EFFECTS.get(name)
        try:
            found = self._rows.run(
                lambda most: effect.measure(
                    self._chat,
                    edits,
                    replace(self._given, max_rows=most, on_share=on_share),
                )
            )
        except NumericalError as error:
            if len(edits) == 1:
                return [((), first_line(error))]
            return [part for edit in edits for part in self._measured(name, [edit], on_share)]
        return [(measured, "") for measured in found]


def _edit_of(record: Record, store: RunFolder) -> Edit | None:
    """What a condition did, from what its record and its direction's file say."""
    steering = record.steering
    if steering is None:
        return None
    vector = torch.from_numpy(store.needed_vector(steering.direction_key).copy())
    # All that counts of a reference point is its component along the direction.
    reference = None if steering.reference is None else steering.reference * vector
    return Edit.of(
        record.condition.edit,
        vector,
        steering.layer_idx,
        multiplier=steering.multiplier,
        reference=reference,
    )


def _own_answers(chat: ChatModel, target: Target) -> OwnAnswers:
    """What the model answered without steering, as tokens; the first answer to each prompt."""
    test, opened = target.test, chat.opened_thought
    samples = target.unsteered.samples[:: test.each]
    return OwnAnswers(
        test.unique,
        chat.renderer.ids_of(test.asked[:: test.each], "test prompt"),
        [chat.token_ids(sample.response.removeprefix(opened)) for sample in samples],
        target.unsteered.condition.test_prompts,
    )


def _edits_at_once(tokens: int, unsteered: Record) -> int:
    """How many edits share a batch: about as many tokens as one of the run's answers had.

    Those took less than a minute to decode; see `rows_in_time`.

    Args:
        tokens: of one edit.
        unsteered: a condition of the run.
    """
    allowed = int(unsteered.provenance["rows"]) * unsteered.condition.max_new_tokens
    return max(1, allowed // tokens)
