"""A small sweep and a small study, finished undisturbed, and how another is compared with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from torture.helpers.process import Ended, command, note_modules, warm_up
from torture.helpers.snapshot import Snapshot, moments_between, snapshot, text_that_varies

LIMIT_OF_A_RUN_S = 30

PLAN = """\
name: small
prompts: {test: benign-120, max: 3, extraction: {dim: extract-dim-5}}
decoding: {max_new_tokens: 12, rows: 12}
precision: fp32
strength: {relative: 0.35}
families:
  qwen:
    - {name: q3, model: "lab:qwen-3b", n_layers: 9, billions: 0.0004, gpu: local}
    - {name: q7, model: "lab:qwen-7b", n_layers: 7, billions: 0.0007, gpu: local}
family_sweep: {methods: [dim], models: [{model: q7, layers: [0.5]}]}
size_sweep: {methods: [dim]}
precision_sweep: {precisions: [fp32, bf16], methods: [dim], tiers: 1}
transfer_sweep: {methods: [dim], among: [q3, q7]}
thresholds: {works: 0.4, partial: 0.05}
prices: {local: 3600}
budget: {total: 10000}
"""
GATE = 'gates: {R1: ["Which families work?"]}\n'
RUN = ("run", "plan.yaml", "--out", "run", "--quiet", "--device", "cpu")
SWEEP = (
    *("sweep", "lab:qwen-7b", "--layers", "0.5", "--strengths", "0.35", "--max-prompts", "3"),
    *("--max-new-tokens", "12", "--rows", "12", "--out", "run", "--quiet", "--device", "cpu"),
)
READING: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "sweep": (("report", "run"), ("review", "run", "--summary", "--json")),
    "study": (
        ("status", "run", "--json"),
        ("decide", "run", "--json"),
        ("report", "run"),
        ("review", "run", "--summary", "--json"),
    ),
}
PAGE, GO_ON = "the page", "continued"  # what else of a run is read


@dataclass(frozen=True)
class Finished:
    """A run that nothing disturbed.

    Attributes:
        name: `sweep` or `study`.
        folder: holds `run` (the run folder) and `plan.yaml`.
        arguments: the command that made it and continues it.
        facts: what it holds.
        moments: names of JSON fields that differ between two undisturbed runs.
        varying: files of text that do.
        cache: the user's cache folder.
        read: what the reading commands print, by command, and the report's page.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    facts: Snapshot
    moments: frozenset[str]
    varying: frozenset[str]
    cache: Path
    read: dict[str, str] = field(default_factory=dict)

    def copy_to(self, folder: Path) -> Path:
        """A copy of everything below `folder`; returns the run folder in it."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return folder / "run"

    def begin_in(self, folder: Path) -> Path:
        """Only what the command needs, below `folder`; returns the run folder to be."""
        folder.mkdir(exist_ok=True)
        shutil.copy(self.folder / "plan.yaml", folder)
        return folder / "run"

    def go_on(self, folder: Path, before: Callable[[], None] = lambda: None) -> Ended:
        """The command that begins or continues the run, in `folder`."""
        return command(
            self.arguments, folder, cache=self.cache, limit_s=LIMIT_OF_A_RUN_S, before=before
        )

    def seen_in(self, folder: Path) -> Snapshot:
        """What the run folder below `folder` holds now."""
        return snapshot(folder / "run", self.moments)


@dataclass(frozen=True)
class Ground:
    """What all kinds of attack start from: finished runs, a direction and a cache folder."""

    sweep: Finished
    study: Finished
    signed: Finished
    direction: Path
    cache: Path

    def run(self, arguments: tuple[str, ...], folder: Path, limit_s: float = 10) -> Ended:
        """A command in `folder`."""
        return command(arguments, folder, cache=self.cache, limit_s=limit_s)


def make_ground(root: Path) -> Ground:
    """Run everything once undisturbed, twice where moments must be told from facts."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that commands start
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network
    _draw_no_pictures()
    cache = root / "cache"
    direction = _warm(root / "warm", cache)
    sweep = _finished("sweep", "sweep", root, SWEEP, cache)
    study = _finished("study", "study", root, RUN, cache)
    return Ground(sweep, study, _signed(root, study), direction, cache)


def _warm(folder: Path, cache: Path) -> Path:
    """Have a process import whatever commands import, and import the same here."""
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "texts.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    model = ("lab:qwen-7b", "--device", "cpu")
    extract = ("extract", *model, "--layer", "0.5", "-o", "direction.safetensors")
    generate = ("generate", *model, "--direction", "direction.safetensors", "--strength", "0.3")
    every: list[tuple[str, ...]] = [RUN, *READING["study"], ("plan", "plan.yaml"), extract]
    every += [(*generate, "--prompt", "a"), ("smoke", *model), ("judge", "texts.jsonl", "judged")]
    for number, arguments in enumerate(every):
        modules = folder / f"modules-{number}"

        def note(modules: Path = modules) -> None:
            leave = os._exit

            def noted(code: int) -> None:
                note_modules(modules)
                leave(code)

            os._exit = noted

        done = command(arguments, folder, cache=cache, limit_s=120, before=note)
        assert done.code == 0, f"{arguments}: {done.text}"
        warm_up(modules)
    return folder / "direction.safetensors"


def _finished(
    name: str, kind: str, root: Path, arguments: tuple[str, ...], cache: Path
) -> Finished:
    runs = []
    for number in (1, 2):
        folder = root / f"{name}-{number}"
        folder.mkdir()
        (folder / "plan.yaml").write_text(PLAN)
        done = command(arguments, folder, cache=cache, limit_s=120)
        assert done.code == 0, done.text
        runs.append(folder)
    moments = moments_between(runs[0] / "run", runs[1] / "run")
    facts, other = (snapshot(folder / "run", moments) for folder in runs)
    varying = text_that_varies(facts, other)
    made = Finished(kind, runs[0], arguments, facts, moments, varying, cache)
    made.read.update(read_everything(made, root / f"{name}-read"))
    return made


def _signed(root: Path, study: Finished) -> Finished:
    """The study with a gate that was signed, labels of a person, and an accepted change."""
    folder = root / "signed"
    run = study.copy_to(folder)
    (folder / "plan.yaml").write_text(PLAN + GATE)
    stopped = study.go_on(folder)
    assert stopped.code == 3, stopped.text
    sign = ("approve", "run", "R1", "--by", "Ada", "--note", "looks right")
    assert command(sign, folder, cache=study.cache).code == 0
    _label(run)
    done = study.go_on(folder)
    if done.code == 3:  # labels changed a decision
        assert command(sign, folder, cache=study.cache).code == 0
        done = study.go_on(folder)
    assert done.code == 0, done.text
    made = Finished(
        "study",
        folder,
        RUN,
        snapshot(run, study.moments),
        study.moments,
        study.varying,
        study.cache,
    )
    made.read.update(read_everything(made, root / "signed-read"))
    return made


def _label(run: Path) -> None:
    from steersweep.people.reviews import add_review, queue, results_in

    items = queue([result for _, found in results_in(run) for result in found])
    assert items, "the small study must have something that works"
    for item in items:
        add_review(run, item.id, item.judged, "Ada")


def read_everything(run: Finished, folder: Path) -> dict[str, str]:
    """What each reading command says of a copy of the run, and the page that `report` writes."""
    run.copy_to(folder)
    found: dict[str, str] = {}
    for arguments in READING[run.name]:
        done = command(arguments, folder, cache=run.cache)
        assert done.code == 0, done.text
        found[" ".join(arguments)] = done.text
        if arguments[0] == "report":
            found[PAGE] = (folder / "run" / "report.html").read_text("utf-8")
    found[GO_ON] = run.go_on(folder).text
    shutil.rmtree(folder)
    return found


def _draw_no_pictures() -> None:
    """Figures are laid out but not rendered: that is most of a case's time, and no number."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    picture = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>'

    def savefig(_figure: Figure, where: Any, **_options: Any) -> None:
        if isinstance(where, str | os.PathLike):
            Path(where).write_text(picture)
        else:
            where.write(picture.encode() if isinstance(where, BytesIO) else picture)

    Figure.savefig = savefig
