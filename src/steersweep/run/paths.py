"""Where everything of a run folder is: no other module spells the name of a file in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from steersweep.core.printing import safe_name
from steersweep.run.condition import content_key

# Folders that a run makes; a file in place of one would stop it.
FOLDERS = (
    "conditions",
    "decisions",
    "directions",
    "effects",
    "extraction",
    "logs",
    "phases",
    "results",
)
# Those whose files jobs write, on whichever machine they run; such a file never changes.
_OF_JOBS = ("conditions", "directions", "effects", "extraction", "logs")
_DAMAGED = ".damaged"


class RunPaths:
    """The files of a run folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def name_of(self, path: Path) -> str:
        """A file's path relative to the run folder, as results, digests and messages have it."""
        return path.relative_to(self.root).as_posix()

    def named(self, name: str) -> Path:
        """The file of a name that results or records have."""
        return self.root / name

    def json_names(self) -> Iterator[str]:
        """Names of all JSON files of the run, as they are sorted in each folder; of no results."""
        yield from _json_in(self.root)
        for folder in FOLDERS:
            if folder != self.results.name:
                yield from (f"{folder}/{name}" for name in _json_in(self.root / folder))

    # -- what was asked for, and when ------------------------------------------------------------

    @property
    def plan(self) -> Path:
        """The frozen settings."""
        return self.root / "plan.yaml"

    @property
    def run(self) -> Path:
        """When the run began, and on what."""
        return self.root / "run.json"

    @property
    def prompts(self) -> Path:
        """The exact prompts of a sweep."""
        return self.root / "prompts.json"

    @property
    def models(self) -> Path:
        """Fingerprints of a study's models."""
        return self.root / "models.json"

    @property
    def cuts(self) -> Path:
        """How many of the plan's cuts were applied."""
        return self.root / "cuts.json"

    @property
    def effects(self) -> Path:
        """Which effects were asked for, and on what."""
        return self.root / "effects.json"

    @property
    def changes(self) -> Path:
        """Settings that were changed between continuations."""
        return self.root / "changes.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the one process that runs here."""
        return self.root / ".lock"

    # -- what jobs write -------------------------------------------------------------------------

    def condition(self, key: str) -> Path:
        """The record of a finished condition."""
        return self.named(self.name_of_condition(key))

    def name_of_condition(self, key: str) -> str:
        """Its name; where all conditions are looked at, a `Path` of each takes the longest."""
        return f"conditions/{key}.json"

    @property
    def finished(self) -> Path:
        """Which records were found right, by their digests; made again where it is lost."""
        return self.root / ".finished.json"

    def direction(self, key: str) -> Path:
        """A direction, named by its content key."""
        return self.root / "directions" / f"{key}.safetensors"

    def effect(self, name: str, key: str) -> Path:
        """What an effect is under an edit; `key`: of all that it rests on."""
        return self.root / "effects" / f"{safe_name(name)}-{key}.json"

    def scores(
        self,
        method: str,
        rendered: str,
        model_fingerprint: str,
        precision: str,
        code: str | None = None,
    ) -> Path:
        """What a method found and the scores it chose by; named by all they rest on.

        `rendered` is a condition's `extraction_rendered`, `code` its `method_code`.
        """
        own = [] if code is None else [code]
        key = content_key([method, rendered, model_fingerprint, precision, *own])
        return self.root / "extraction" / f"{safe_name(method)}-{key}.json"

    def checks(self, model_fingerprint: str, precision: str, rests_on: object) -> Path:
        """What checks saw of a model in a precision; `rests_on`: what else they depend on."""
        begin = self._checks_begin(model_fingerprint, precision)
        return self.root / "extraction" / f"{begin}{content_key(rests_on)}.json"

    def lost_checks(self, model_fingerprint: str, precision: str) -> list[Path]:
        """Checks of a model that were set aside as damaged and have not been made again."""
        begin = self._checks_begin(model_fingerprint, precision)
        aside = (self.root / "extraction").glob(f"{begin}*{_DAMAGED}")
        lost = {path.with_name(re.sub(rf"(\.\d+)?\{_DAMAGED}$", "", path.name)) for path in aside}
        return sorted(path for path in lost if not path.exists())

    def _checks_begin(self, model_fingerprint: str, precision: str) -> str:
        return f"checks-{content_key([model_fingerprint, precision])[:12]}-"

    def overflow(self, model_fingerprint: str) -> Path:
        """That a model overflowed in fp16, and so runs in bf16 here."""
        return self.root / "extraction" / f"overflow-{content_key(model_fingerprint)}.json"

    def comparison(self, rests_on: object) -> Path:
        """What a precision is compared with the reference by."""
        return self.root / "extraction" / f"comparison-{content_key(rests_on)}.json"

    def kept(self, job: str, key: str, ending: str) -> Path:
        """Something that a job has prepared so far; gone when the job has ended."""
        return self.root / "extraction" / f"kept-{job}-{key}.{ending}"

    def all_kept(self, job: str) -> list[Path]:
        """Everything that a job has prepared so far."""
        return sorted((self.root / "extraction").glob(f"kept-{job}-*"))

    def activations(self, rests_on: object) -> Path:
        """Activations that directions of precisions are compared by."""
        return self.root / "extraction" / f"activations-{content_key(rests_on)}.safetensors"

    def traceback(self, job: str) -> Path:
        """Where a job that failed unexpectedly says where."""
        return self.root / "logs" / f"{safe_name(job.replace(' ', '-'))}.txt"

    # -- results and what follows from them ------------------------------------------------------

    @property
    def results(self) -> Path:
        """The folder of result files."""
        return self.root / "results"

    def result(self, stem: str) -> Path:
        """A result file; `stem` ends in the time it was finished."""
        return self.results / f"{stem}.json"

    @property
    def of_results(self) -> Path:
        """What the results of a sweep rest on."""
        return self.root / ".results.json"

    @property
    def of_report(self) -> Path:
        """What the report shows, and the digests of its files."""
        return self.root / ".report.json"

    def phase(self, phase: str) -> Path:
        """Which conditions a phase consists of."""
        return self.root / "phases" / f"{phase}.json"

    def failures(self, phase: str) -> Path:
        """Jobs of a phase that could not run, and why."""
        return self.root / "phases" / f"{phase}-failures.json"

    def decision(self, phase: str) -> Path:
        """What a phase decided; the evidence of its gate."""
        return self.root / "decisions" / f"{phase}.json"

    @property
    def smoke(self) -> Path:
        """What the checks of a plan's models found."""
        return self.root / "smoke.json"

    @property
    def findings(self) -> Path:
        """The log of what each phase found."""
        return self.root / "FINDINGS_LOG.md"

    @property
    def verification(self) -> Path:
        """The report of a COSMIC verification, to be signed."""
        return self.root / "COSMIC_VERIFICATION.md"

    def reproduction(self, name: str) -> Path:
        """The run folder, inside this one, of a verification's reproduction run."""
        return self.root / "reproduction" / name

    def window(self, key: str) -> Path:
        """Where texts of a model begin to break, for a sweep without strengths of its own."""
        return self.root / "extraction" / f"window-{key}.json"

    @property
    def search(self) -> Path:
        """What a search for the best cell went through."""
        return self.root / "search.json"

    @property
    def search_pace(self) -> Path:
        """How fast a search with a bound in minutes was when it began."""
        return self.root / "search_pace.json"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.root / "report.html"

    @property
    def samples(self) -> Path:
        """Where samples lie that are too many for the page."""
        return self.root / "report-samples"

    @property
    def figures(self) -> Path:
        """The figures of the page, as files."""
        return self.root / "figures"

    def table(self, what: str, ending: str) -> Path:
        """Results as a table for other tools."""
        return self.root / f"{what}.{ending}"

    @property
    def inspect_logs(self) -> Path:
        """Results as logs of Inspect."""
        return self.root / "inspect"

    def judgements(self, judge: str) -> Path:
        """What another judge says of the run's answers."""
        return self.root / "judgements" / f"{safe_name(judge)}.jsonl"

    @property
    def replies(self) -> Path:
        """What judges' servers replied."""
        return self.root / "judgements" / "replies"

    # -- money and people ------------------------------------------------------------------------

    @property
    def ledger(self) -> Path:
        """What was reserved and spent."""
        return self.root / "ledger.jsonl"

    @property
    def gates(self) -> Path:
        """Signatures of gates."""
        return self.root / "gates.jsonl"

    @property
    def reviews(self) -> Path:
        """Labels that people gave."""
        return self.root / "reviews.jsonl"

    # -- elsewhere -------------------------------------------------------------------------------

    @property
    def engine(self) -> Path:
        """Where a study is that runs elsewhere."""
        return self.root / "engine.json"

    @property
    def is_away(self) -> bool:
        """Whether the run is one that runs elsewhere."""
        return self.engine.is_file()

    @property
    def fetched(self) -> Path:
        """Which files were brought home, and of when."""
        return self.root / ".fetched.json"

    @property
    def calls(self) -> Path:
        """Calls of functions on Modal that may still run."""
        return self.root / "modal-calls.json"

    @property
    def messages(self) -> Path:
        """What a study says that runs elsewhere."""
        return self.root / "log.txt"

    @property
    def tracking(self) -> Path:
        """The folder of what trackers are told."""
        return self.root / "tracking"

    @property
    def wandb(self) -> Path:
        """What W&B keeps of the run, and stages to be sent."""
        return self.tracking / "wandb"

    @property
    def wandb_runs(self) -> Path:
        """Runs, each a folder, as W&B writes them."""
        return self.wandb / "wandb"

    def tracked_result(self, run_id: str) -> Path:
        """The results of one run of a tracker, without samples."""
        return self.tracking / "results" / f"{run_id}.json"

    @property
    def finished_jobs(self) -> Path:
        """Results of jobs of a study that runs elsewhere, for trackers here."""
        return self.tracking / "jobs"

    def finished_job(self, kind: str, job: str) -> Path:
        """Results of one of them; `kind` as of the phase's result file."""
        return self.finished_jobs / f"{kind}_{safe_name(job.replace(' ', '-'))}.json"

    @property
    def tracking_state(self) -> Path:
        """What each tracker knows."""
        return self.tracking / "state.json"


def _json_in(folder: Path) -> list[str]:
    """Names of JSON files in a folder; none where it is not there, or may not be looked into."""
    if not folder.is_dir():
        return []
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except PermissionError:
        return []


def is_of_jobs(name: PurePath) -> bool:
    """Whether a path relative to a run folder is one that jobs write, whole and not damaged."""
    whole = name.suffix in (".json", ".safetensors", ".txt") and not name.name.startswith(".")
    return whole and len(name.parts) > 1 and name.parts[-2] in _OF_JOBS


def free_damaged_name(path: Path) -> Path:
    """Where a damaged file goes: `NAME.damaged`, or the next free name."""
    aside, count = path.with_name(f"{path.name}{_DAMAGED}"), 1
    while aside.exists() or aside.is_symlink():
        count += 1
        aside = path.with_name(f"{path.name}.{count}{_DAMAGED}")
    return aside


def was_set_aside(path: Path) -> bool:
    """Whether a damaged file of this name lies beside it."""
    return path.with_name(f"{path.name}{_DAMAGED}").exists()


def damaged_files(root: Path) -> list[str]:
    """Names of all files of a run folder that were set aside."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob(f"*{_DAMAGED}"))
