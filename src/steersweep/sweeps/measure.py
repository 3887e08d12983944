"""Effects of a run that is finished: measured without generating its answers again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.budget.estimate import EFFECTS, LOADING
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.text_files import shown
from steersweep.model.find import find_model
from steersweep.model.rendering import as_special_tokens, test_rendered
from steersweep.model.source import ModelSource, hub_commit
from steersweep.people.corrected import apply_reviews
from steersweep.people.reviews import read_reviews, results_in
from steersweep.prompts.conversation import Turn, Turns
from steersweep.prompts.prompts import TestSet, load_test_set
from steersweep.run.cell import Cell
from steersweep.run.folder import LostDirection, RunFolder
from steersweep.run.lock import run_lock
from steersweep.run.records import Record
from steersweep.run.result import Result
from steersweep.run.result_files import replace_result_file
from steersweep.sweeps.priced import with_effects
from steersweep.work.asked_effects import AskedEffects, Target, missing_effects, note_asked
from steersweep.work.expected import machine_of
from steersweep.work.job import OnProgress, Progress
from steersweep.work.stages import Stages, share_done

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel

_LOADING_S = 5.0
_TEXT_TOKENS = 256  # of a row, for the memory that it takes
_NOT_YET = 0.999


@dataclass(frozen=True)
class Measure:
    """How effects of a finished run are measured.

    Attributes:
        effects: which.
        models: by a model's name or id in the run, where it is now.
        device: `auto` or a torch device.
        trust_remote_code: whether code that came with a model may run.
        accept_mismatch: go on whatever the checks find to be wrong with a model.
    """

    effects: AskedEffects
    models: Mapping[str, ModelSource]
    device: str = "auto"
    trust_remote_code: bool = False
    accept_mismatch: bool = False


@dataclass(frozen=True)
class _Group:
    """A model of a run in a precision, with conditions on the same prompts."""

    model: str
    target: Target

    @property
    def loads(self) -> tuple[str, str, str]:
        """What has to be the same for one loaded model to do."""
        unsteered = self.target.unsteered
        condition = unsteered.condition
        rendered = [unsteered.provenance.get(name) for name in ("template_options", "system")]
        return condition.model_fingerprint, condition.precision, repr(rendered)


def measure_run(
    folder: Path,
    asked: Measure,
    *,
    on_progress: OnProgress = lambda _progress: None,
    on_model: Callable[[int, int], None] = lambda _index, _count: None,
    on_note: Callable[[str], None] = lambda _note: None,
) -> list[Result]:
    """Measure effects of the conditions in a run's results; the results with them.

    What is there is not measured again, and nothing of the run changes but its result files.

    Args:
        folder: of a sweep, search or study.
        asked: which effects, and how.
        on_progress: receives progress within a model.
        on_model: called with the index of the model about to be measured, and their number.
        on_note: told what is damaged and made again.

    Raises:
        InputError: no run there, none with results, one that runs elsewhere or is running; a model
            that cannot be found, or is another one now.
        SteersweepError: a condition or direction is damaged or gone; it is left as it is.
    """
    reader = RunFolder.existing(folder)
    if reader.paths.is_away:
        raise InputError(f"{folder}: runs elsewhere; fetch it when it has finished, and try again")
    results_in(folder)
    with run_lock(folder):
        store = RunFolder(folder, on_note=on_note)
        groups = _groups(RunFolder.existing(folder))
        first = groups[0].target.unsteered.condition
        special_tokens = groups[0].target.special_tokens
        note_asked(store, asked.effects, first.judge, special_tokens)
        together: dict[tuple[str, str, str], list[_Group]] = {}
        for group in groups:
            if missing_effects(store, asked.effects, group.target):
                together.setdefault(group.loads, []).append(group)
        for index, held in enumerate(together.values()):
            on_model(index, len(together))
            try:
                _Measuring(store, asked, held, on_progress).run()
            except LostDirection as error:
                raise SteersweepError(
                    f"{error}. What was measured is kept; here the same command is the sweep's or "
                    f"the study's"
                ) from error
        return _written(store)


def _groups(store: RunFolder) -> list[_Group]:
    """The conditions in results, by their unsteered control."""
    special_tokens = _special_tokens(store.plan)
    found: dict[str, tuple[str, Record, dict[str, Record]]] = {}
    for _, results in results_in(store.root):
        for result in results:
            unsteered = result.controls.unsteered
            if unsteered is None:
                continue
            base = _record(store, unsteered)
            _, _, records = found.setdefault(base.key, (result.model, base, {}))
            for cell in (*result.conditions, *result.controls.random_directions):
                records[cell.key] = _record(store, cell)
    if not found:
        raise InputError(f"{store.root}: no results with an unsteered control to compare with")
    conversations = _conversations(store)

    def tested(base: Record) -> TestSet:
        prompts = tuple(sample.prompt for sample in base.samples)
        each = len(prompts) // base.rates.n_unique
        name = base.condition.test_prompts
        return TestSet(name, prompts, conversations=conversations, each=each)

    return [
        _Group(model, Target(base, [*records.values()], tested(base), special_tokens))
        for model, base, records in found.values()
    ]


def _conversations(store: RunFolder) -> Mapping[str, Turns]:
    """The turns of test prompts that have several, by the prompt."""
    held = store.read_json(store.paths.prompts)
    if held is not None:
        turns = held.get("test_turns", {})
        return {text: tuple(Turn(**turn) for turn in said) for text, said in turns.items()}
    try:
        return load_test_set(store.plan["prompts"]["test"]).conversations
    except InputError:  # gone or changed: if there were any, prompts will not be those of the run
        return {}


def _special_tokens(plan: Mapping[str, Any]) -> str:
    """The setting, as sweeps and studies hold it."""
    held = plan.get("special_tokens") or plan.get("prompts", {}).get("special_tokens")
    return str(held or "text")


def _record(store: RunFolder, cell: Cell) -> Record:
    record = store.get(cell.key)
    if record is None:
        path = store.paths.condition(cell.key)
        raise SteersweepError(
            f"{path}: is {f'damaged ({why})' if (why := store.why_damaged(path)) else 'gone'}; run "
            f"the same sweep or study again to make it again"
        )
    return record


class _Measuring:
    """One loaded model."""

    def __init__(
        self, store: RunFolder, asked: Measure, groups: list[_Group], on_progress: OnProgress
    ) -> None:
        self._store = store
        self._asked = asked
        self._groups = groups
        self._on_progress = on_progress
        self._stages = Stages({LOADING: _LOADING_S, EFFECTS: 0.0}, apart=frozenset({LOADING}))
        self._done = 0
        self._total = sum(len(group.target.records) for group in groups)

    def run(self) -> None:
        """Load the model, and measure what is missing."""
        from steersweep.model.memory import RowLimit, model_shape
        from steersweep.smoke.required import check_for_run
        from steersweep.work.measuring import measure_effects

        effects = self._asked.effects
        self._stages.begin(LOADING)
        self._tell(LOADING)
        chat = self._load()
        for note in check_for_run(
            chat,
            self._store,
            every=False,
            accept_mismatch=self._asked.accept_mismatch,
            on_check=lambda _name, _share: None,
        ):
            self._tell("checks", warning=note)
        self._stages.end()
        shape = model_shape(chat.model.config, chat.model)
        machine = machine_of(chat.device.type)
        tokens = sum(
            effects.tokens(len(group.target.unsteered.samples)) * len(group.target.records)
            for group in self._groups
        )
        seconds = machine.scored(shape, chat.precision, tokens)
        self._stages.expect({LOADING: _LOADING_S, EFFECTS: seconds})
        self._stages.begin(EFFECTS)
        for group in self._groups:
            target = group.target
            _check_prompts(chat, target)
            row = shape.row(chat.precision, _TEXT_TOKENS, effects.sizes.answer_tokens)
            rows = RowLimit(
                int(target.unsteered.provenance["rows"]),
                row,
                str(chat.device),
                f"{group.model} on {chat.device}",
            )
            share = len(target.records) / self._total
            before = self._done / self._total

            def on_share(
                done: float, what: str, before: float = before, share: float = share
            ) -> None:
                self._stages.at(before + share * done)
                self._tell(what)

            measure_effects(chat, self._store, effects, target, rows, on_share)
            self._done += len(target.records)
        self._stages.end()
        self._tell("finished", ended=True)

    def _load(self) -> ChatModel:
        from steersweep.model.chat_model import ChatModel
        from steersweep.model.device import resolve_device

        group = self._groups[0]
        record = group.target.unsteered
        condition = record.condition
        source = self._source(group)
        chat = ChatModel.load(
            source,
            precision=condition.precision,
            device=source.device(resolve_device(self._asked.device)),
            date=(self._store.begun() or record.timestamp)[:10],
            special_tokens=as_special_tokens(group.target.special_tokens),
            template_options=record.provenance.get("template_options", {}),
            system=record.provenance.get("system"),
        )
        if chat.fingerprint != condition.model_fingerprint:
            raise InputError(
                f"{group.model}: the weights in {source.location} are not those of this run "
                f"(fingerprint {condition.model_fingerprint} then, {chat.fingerprint} now); say "
                f"where they are with {setting('models')} {group.model}=PLACE"
            )
        return chat

    def _source(self, group: _Group) -> ModelSource:
        condition = group.target.unsteered.condition
        for name in (group.model, condition.model_id):
            if name in self._asked.models:
                return self._asked.models[name]
        try:
            return find_model(
                condition.model_id,
                revision=hub_commit(condition.model_fingerprint),
                trust_remote_code=self._asked.trust_remote_code,
            )
        except InputError as error:
            raise InputError(
                f"{error}. If it is elsewhere now, say so with {setting('models')} "
                f"{group.model}=PLACE"
            ) from error

    def _tell(self, note: str, *, warning: str = "", ended: bool = False) -> None:
        now = self._stages.now()
        fraction = 1.0 if ended else min(_NOT_YET, share_done(now))
        model = self._groups[0].model
        self._on_progress(
            Progress(model, self._done, self._total, fraction, note, warning=warning, stages=now)
        )


def _check_prompts(chat: ChatModel, target: Target) -> None:
    """See that prompts become the tokens that the run had."""
    if test_rendered(chat.renderer, target.test) != target.unsteered.condition.test_rendered:
        raise InputError(
            f"{chat.source.model_id}: prompts do not become the tokens that this run had; "
            f"tokenizer, template or libraries differ. Install the versions that the run began with"
        )


def check_models(folder: Path, models: Iterable[str]) -> None:
    """See that a run has models of these names or ids.

    Raises:
        InputError: it has not; the message names those it has.
    """
    there = {
        name
        for _, results in results_in(folder)
        for result in results
        for name in (result.model, result.model_id)
    }
    for name in models:
        if name not in there:
            raise InputError(
                f"{setting('models')} {shown(name)}: no such model in the run; there are "
                f"{', '.join(sorted(there))}"
            )


def _written(store: RunFolder) -> list[Result]:
    """Every result with its effects, written where that changes it."""
    reviews = read_reviews(store.root)
    found = []
    for path, results in results_in(store.root):
        together: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            together.setdefault((result.model, result.quantization), []).append(result)
        measured = {
            (one.model, one.quantization, one.method): one
            for held in together.values()
            for one in with_effects(held, store)
        }
        after = [
            apply_reviews(measured[r.model, r.quantization, r.method], reviews) for r in results
        ]
        if after != results:
            replace_result_file(path, after)
        found += after
    return found
