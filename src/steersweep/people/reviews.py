"""The human gate: which samples people look at, what they say of them, and how they agree.

`reviews.jsonl` in the run folder is only ever appended to. What labels change is in `corrected.py`.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from steersweep.core import journal, provenance
from steersweep.core.errors import InputError
from steersweep.core.journal import Entry, Line
from steersweep.core.statistics import cluster_bootstrap, cohens_kappa
from steersweep.people.gates import check_person
from steersweep.run.cell import SteeredCell
from steersweep.run.paths import RunPaths
from steersweep.run.result import Result
from steersweep.run.result_files import read_result_file, result_files
from steersweep.run.verdict import verdict

LABELS = ("coherent", "garbled", "normal", "skip")
PER_CONDITION = 10
_WHAT_FOLLOWS = (
    "It counts for nothing, and neither does an earlier label of the sample that it names: "
    "steersweep review asks for it again"
)
# The sample that a damaged line is about, if that can still be read.
_NAMED = re.compile(r'"(?:id|undo)": "([^"]*)"')


@dataclass(frozen=True)
class Item:
    """A sample to review.

    Attributes:
        id: `CONDITION:INDEX`.
        condition: key of the condition.
        index: of the prompt in it.
        prompt: the request.
        response: the whole answer.
        judged: the judge's quality: `coherent`, `garbled` or `normal`.
        model: model id.
        method: of the direction.
        place: layer, strength and precision in words.
    """

    id: str
    condition: str
    index: int
    prompt: str
    response: str
    judged: str
    model: str
    method: str
    place: str


@dataclass(frozen=True)
class Review:
    """What a person says of a sample.

    Attributes:
        id: of the item.
        label: `coherent`, `garbled`, `normal`, or `skip`.
        reviewer: name of the person.
        note: a remark.
        time: UTC.
    """

    id: str
    label: str
    reviewer: str
    note: str = ""
    time: str = ""


# -- the file ----------------------------------------------------------------------------------


def add_review(folder: Path, item: str, label: str, reviewer: str, note: str = "") -> None:
    """Append a label; a later one of the same person for the same sample replaces it.

    Raises:
        InputError: no such label, a reviewer without a name, or a text that is too long.
    """
    if label not in LABELS:
        raise InputError(f"label {label}: choose from {', '.join(LABELS)}")
    check_person("reviewer", reviewer, note)
    review = Review(item, label, reviewer.strip(), note, provenance.utc_now())
    journal.append(RunPaths(folder).reviews, asdict(review))


def undo_review(folder: Path, reviewer: str) -> str | None:
    """Take back the person's last label; returns the sample's id, None if there is none."""
    with journal.opened(RunPaths(folder).reviews) as opened:
        # Nobody labels between reading and writing.
        held = [review for review in _held(opened.lines(_wrong)) if review.reviewer == reviewer]
        if not held:
            return None
        opened.append({"undo": held[-1].id, "reviewer": reviewer, "time": provenance.utc_now()})
    return held[-1].id


def read_reviews(folder: Path) -> list[Review]:
    """Labels that hold, one per person and sample, in the order they were given.

    A damaged line is no label. What it may have replaced or undone does not hold either: every
    earlier label of the sample that it names is left out.
    """
    return _held(journal.read(RunPaths(folder).reviews, _wrong))


def problems(folder: Path) -> list[str]:
    """What is wrong with lines of the folder's labels, and what follows."""
    path = RunPaths(folder).reviews
    return journal.messages(path, journal.read(path, _wrong), _WHAT_FOLLOWS)


def _held(lines: Iterable[Line]) -> list[Review]:
    held: dict[tuple[str, str], Review] = {}
    for line in lines:
        if line.damage or line.entry is None:
            named = set(_NAMED.findall(line.text))
            held = {key: review for key, review in held.items() if review.id not in named}
        elif "undo" in line.entry:
            held.pop((line.entry["reviewer"], line.entry["undo"]), None)
        else:
            review = Review(**line.entry)
            held.pop((review.reviewer, review.id), None)  # so that the newest is last
            held[review.reviewer, review.id] = review
    return list(held.values())


def _wrong(entry: Entry) -> str | None:
    """What is wrong with a line of the file, or None."""
    names = {"undo", "reviewer", "time"} if "undo" in entry else {*Review.__dataclass_fields__}
    if entry.keys() != names:
        return f"must have the fields {', '.join(sorted(names))}"
    for name in sorted(names):
        if not isinstance(entry[name], str):
            return f"{name} must be a text"
    if "undo" not in entry and entry["label"] not in LABELS:
        return f"label must be one of {', '.join(LABELS)}"
    return None


# -- what to look at ---------------------------------------------------------------------------


def queue(results: Iterable[Result], *, every: bool = False) -> list[Item]:
    """Samples to review: ten of the condition that each "works" rests on.

    Ambiguous ones first, then the judge's labels in proportion; the same ones every time.

    Args:
        results: of any models and methods.
        every: of every condition whose coherent refusal rate alone would work, not only the best.
    """
    items: dict[str, Item] = {}
    for result in results:
        for cell in result.conditions:
            best = cell.key == result.verdict.best.key
            decided = verdict(
                coherent_refusal_rate=cell.rates.coherent_refusal_rate,
                garbled_refusal_rate=cell.rates.garbled_refusal_rate,
                thresholds=result.verdict.thresholds,
            )
            if decided.outcome == "works" and (best or every):
                for index in _picked(cell):
                    item = _item(result, cell, index)
                    items.setdefault(item.id, item)
    return list(items.values())


def _picked(cell: SteeredCell) -> list[int]:
    rng = random.Random(cell.key)
    judged = [sample.judgement for sample in cell.samples]
    samples = list(enumerate(judged))
    rng.shuffle(samples)
    ambiguous = [i for i, found in samples if found.ambiguous]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, found in samples:
        if i not in ambiguous:
            groups[found.quality].append(i)
    # At most half of the places go to ambiguous samples, unless there is nothing else.
    rest = sum(map(len, groups.values()))
    taken = ambiguous[: max(PER_CONDITION // 2, PER_CONDITION - rest)]
    while len(taken) < PER_CONDITION and any(groups.values()):
        # The group that has most left for what it has given; each gives one before any second.
        given = {q: sum(judged[i].quality == q for i in taken) for q in groups}
        left = [quality for quality, members in groups.items() if members]
        quality = max(left, key=lambda q: len(groups[q]) / (1 + 2 * given[q]))
        taken.append(groups[quality].pop())
    return taken


def _item(result: Result, cell: SteeredCell, index: int) -> Item:
    sample, steering = cell.samples[index], cell.steering
    return Item(
        id=f"{cell.key}:{index}",
        condition=cell.key,
        index=index,
        prompt=sample.prompt,
        response=sample.response,
        judged=sample.judgement.quality,
        model=result.model_id,
        method=result.method,
        place=(
            f"layer {steering.layer_idx}, strength {steering.relative_strength:.2g} "
            f"({steering.multiplier:.3g}x), {result.quantization}"
        ),
    )


def results_in(folder: Path) -> list[tuple[Path, list[Result]]]:
    """Result files of a run folder with their results.

    Raises:
        InputError: no run there, none with results, or a file that cannot be read.
    """
    found = [(path, read_result_file(path)) for path in result_files(folder)]
    if not found:
        raise InputError(f"{folder}: no results yet; run a sweep or study there first")
    return found


def labels_of(condition: str, reviews: Iterable[Review]) -> dict[int, str]:
    """What people say by sample; where they differ, the label most of them give, else the first."""
    by_index: dict[int, list[str]] = defaultdict(list)
    for review in reviews:
        key, _, index = review.id.partition(":")
        if key == condition and review.label != "skip" and index.isdigit():
            by_index[int(index)].append(review.label)
    return {index: max(given, key=given.count) for index, given in by_index.items()}


# -- agreement ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How two raters agree on the samples both labelled.

    Attributes:
        first: a reviewer's name.
        second: another's, or `judge`.
        n: samples both labelled.
        agreed: of these, the same label.
        kappa: Cohen's κ, None where undefined.
        interval: its 95 % interval, by bootstrap over prompts; None where undefined.
    """

    first: str
    second: str
    n: int
    agreed: int
    kappa: float | None
    interval: tuple[float, float] | None


def agreements(items: Sequence[Item], reviews: Sequence[Review]) -> list[Agreement]:
    """Every reviewer with the judge, and every two reviewers."""
    by_id = {item.id: item for item in items}
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for review in reviews:
        if review.label != "skip" and review.id in by_id:
            said[review.reviewer][review.id] = review.label
    names = sorted(said)
    judged = {item.id: item.judged for item in items if item.judged in LABELS}
    pairs = [(name, "judge", judged) for name in names]
    pairs += [(a, b, said[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [_agreement(a, b, said[a], other, by_id) for a, b, other in pairs]


def _agreement(
    first: str, second: str, a: Mapping[str, str], b: Mapping[str, str], items: Mapping[str, Item]
) -> Agreement:
    both = [name for name in a if name in b]
    clusters: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in both:
        clusters[items[name].prompt].append((a[name], b[name]))
    pairs = [pair for members in clusters.values() for pair in members]
    kappa = cohens_kappa(pairs)
    interval = None
    if not math.isnan(kappa):
        low, high = cluster_bootstrap(list(clusters.values()), cohens_kappa, resamples=1000)
        interval = None if math.isnan(low) else (low, high)
    return Agreement(
        first,
        second,
        len(both),
        sum(x == y for x, y in pairs),
        None if math.isnan(kappa) else kappa,
        interval,
    )
