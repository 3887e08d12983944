"""Runs a plan from phase to phase: sweeps, decisions, gates, budget. The same call continues.

The run folder is the only state. Every step looks there for what is done, so a kill at any moment
loses at most the running batch, and a finished study run again does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.budget.ledger import Limits
from steersweep.core import provenance
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.printing import in_a_line, safe_name
from steersweep.engines.engine import Engine
from steersweep.engines.local import local_engine
from steersweep.judging.judge import DEFAULT_JUDGE, get_judge
from steersweep.methods.method import METHODS
from steersweep.people import gates
from steersweep.people.problems import problems
from steersweep.prompts.prompts import load_extraction_set, load_test_set
from steersweep.run.condition import RESULT_VERSION, LayerChoice, Strength
from steersweep.run.folder import RunFolder
from steersweep.run.lock import run_lock
from steersweep.run.result_files import FAMILY_SWEEP, write_result_file
from steersweep.study import analysis, decisions, phases
from steersweep.study.decisions import FamilyDecision, Outcome, SizeChoice
from steersweep.study.findings import append_findings
from steersweep.study.jobs import Jobs, OnJob
from steersweep.study.phases import Cuts, Sweep
from steersweep.study.plan import Plan, layer_choice, strength_of
from steersweep.sweep.results import Result
from steersweep.sweep.settings import frozen_code
from steersweep.work.job import OnProgress

# Changing these changes no result of a finished condition.
FREE_FIELDS = (
    "description",
    "prices",
    "fallback_gpu",
    "concurrency",
    "modal",
    "budget",
    "cuts",
    "gates",
    "dropped",
    "tracking",
)


class GateStop(SteersweepError):
    """A person must decide before the study goes on; `phase` holds the evidence."""

    exit_code = 3

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


@dataclass(frozen=True)
class StudyOptions:
    """How to run a study, apart from the plan.

    Attributes:
        until: the last phase to run, or None for all.
        budget: total stop in USD instead of the plan's.
        apply_cuts: how many of the plan's cuts to apply; never fewer than applied before.
        accept: changed fields of the plan, or `model:NAME` for changed weights, to accept.
        new_run: begin anew; what is in the folder is kept beside it.
        accept_mismatch: go on whatever the smoke test finds wrong with a model.
    """

    until: str | None = None
    budget: float | None = None
    apply_cuts: int = 0
    accept: Collection[str] = ()
    new_run: bool = False
    accept_mismatch: bool = False


def run_study(
    plan: Plan,
    out: Path,
    options: StudyOptions | None = None,
    *,
    engine: Engine | None = None,
    on_progress: OnProgress = lambda _progress: None,
    on_job: OnJob = lambda _ended: None,
    on_line: Callable[[str], None] = lambda _line: None,
    on_note: Callable[[str], None] | None = None,
) -> RunFolder:
    """Run every phase up to its gate, as far as signatures and budget allow.

    Args:
        plan: what to run.
        out: the run folder, new or of the same plan.
        options: how.
        engine: where jobs run; None: this machine.
        on_progress: told of progress within a job.
        on_job: told of each job that is done, those of earlier runs included.
        on_line: told what a person should read.
        on_note: told what results mislead without; None: as `on_line`.

    Raises:
        GateStop: a gate waits for a signature, or was rejected (exit code 3).
        BudgetStop: the next job could pass a stop, or the running one reached it (exit code 3).
        InputError: settings, models or weights differ from the run's.
        SteersweepError: the COSMIC verification failed, or no job of a phase could run.
    """
    options = options or StudyOptions()
    if options.new_run and out.exists():
        with run_lock(out):  # nobody runs there
            aside = out.with_name(f"{out.name}-before-{provenance.utc_now().replace(':', '')}")
        out.rename(aside)
        on_line(f"the earlier run is kept in {aside}")
    with run_lock(out):
        store = RunFolder.open(
            out,
            _frozen(plan),
            on_note=on_note or on_line,
            may_differ=FREE_FIELDS,
            accept=options.accept,
            way_out=(
                f"Use {setting('accept')} FIELD to go on with it, or "
                f"{setting('new_run')} to begin anew"
            ),
        )
        engine = engine or local_engine()
        engine.open(out)
        try:
            for problem in problems(out):
                (on_note or on_line)(problem)
            _Study(plan, store, options, engine, on_progress, on_job, on_line).run()
        finally:
            engine.close()
    return store


def _frozen(plan: Plan) -> dict[str, Any]:
    """The plan, with the content of its prompt sets, and versions of the judge and of results."""
    sets = {
        "test": load_test_set(plan.data["prompts"]["test"]).id,
        **{
            method: load_extraction_set(name).id
            for method, name in plan.data["prompts"]["extraction"].items()
        },
    }
    judge = plan.data.get("judge", DEFAULT_JUDGE)
    try:
        judge_id = get_judge(judge).id
    except ValueError as error:
        raise InputError(f"plan {plan.name}: judge {judge}: {error}") from error
    return {
        "kind": "study",
        **plan.data,
        "prompt_sets": sets,
        "judge_id": judge_id,
        "result_version": RESULT_VERSION,
        **frozen_code(METHODS.own_of(plan.data["prompts"]["extraction"])),
    }


class _Study:
    def __init__(
        self,
        plan: Plan,
        store: RunFolder,
        options: StudyOptions,
        engine: Engine,
        on_progress: OnProgress,
        on_job: OnJob,
        on_line: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self.store = store
        self.options = options
        self.say = on_line
        budget = plan.data.get("budget", {})
        total = options.budget if options.budget is not None else budget.get("total", float("inf"))
        begun = store.begun() or provenance.utc_now()
        run = store.write_once(store.paths.run, {"created": begun})
        self.created = str(run["created"])
        self.cuts = self._apply_cuts()
        self.jobs = Jobs(
            plan,
            store,
            self.cuts,
            Limits(total, budget.get("phases")),
            engine,
            created=self.created,
            accept=options.accept,
            accept_mismatch=options.accept_mismatch,
            on_progress=on_progress,
            on_job=on_job,
            on_line=on_line,
        )

    def run(self) -> None:
        """Phase after phase; each ends at its gate."""
        steps: dict[str, Callable[[], None]] = {
            "verification": self._verification,
            "family_sweep": self._families,
            "size_sweep": self._sizes,
            "precision_sweep": self._precisions,
            "transfer_sweep": self._transfers,
        }
        for phase in self.plan.phases:
            self.say(f"phase {phase}")
            steps[phase]()
            append_findings(self.store, phase, self._decision(phase))
            if phase == self.options.until:
                return
            self._pass_gate(phase)
        self._final()

    # -- phases ----------------------------------------------------------------------------------

    def _verification(self) -> None:
        """The blocker: numbers against the official code, and the reproduction run."""
        held = self.store.read_json(self.store.paths.decision("verification"))
        if held is None or not held["passed"]:
            held = self._verify()
            self.store.write_json(self.store.paths.decision("verification"), held)
        if not held["passed"]:
            raise SteersweepError(
                f"the COSMIC verification failed; see {self.store.paths.verification}. "
                f"Phase 1 does not start without it"
            )

    def _verify(self) -> dict[str, Any]:
        from steersweep.methods.official import built_in_fixtures
        from steersweep.verification.verify import Reproduction, verify_cosmic

        check = self.plan.data["verification"]
        model = self.plan.models[check["model"]]
        strength = strength_of(check["strength"])
        relative = strength.unit == "relative"
        reproduction = Reproduction(
            model.model,
            layer_choice(check["layer"]).text,
            strength.value if relative else None,
            None if relative else strength.value,
            check["expect"],
            self.plan.data["prompts"]["test"],
            len(phases.test_set(self.plan, self.cuts).prompts),
            model.template_options,
        )
        sweep = Sweep(
            "0",
            "verification",
            model,
            ("cosmic",),
            (layer_choice(check["layer"]),),
            (strength,),
            self.plan.data["precision"],
        )
        result, path = verify_cosmic(
            built_in_fixtures(),
            self.store.root,
            reproduction=reproduction,
            on_fixture=lambda name: self.say(f"comparing COSMIC with {name}"),
            device=self.jobs.device(sweep),
            run=lambda job, store, _progress: self.jobs.run_apart(
                "verification", sweep, job, store
            ),
        )
        return {
            "phase": "verification",
            "passed": result["passed"],
            "results_file": self.store.paths.name_of(path),
            "quantities": result["quantities"],
            "reproduction": result["reproduction"],
        }

    def _families(self) -> None:
        """Phase 1, its follow-up and its fallback."""
        plan = self.plan
        sweeps = phases.family_sweeps(plan)
        results = self.jobs.run("family_sweep", sweeps)
        decided = self._decide_families(results, [])
        follow_up = phases.follow_up_sweeps(plan, decided)
        followed = [sweep.model.family for sweep in follow_up]
        if follow_up:
            sweeps += follow_up
            results = self.jobs.run("family_sweep", sweeps)
            decided = self._decide_families(results, followed)
        fallback: list[Sweep] = []
        if decisions.all_failed(decided):
            fallback = phases.fallback_sweeps(plan)
        if fallback:
            sweeps += fallback
            results = self.jobs.run("family_sweep", sweeps)
            families = [sweep.model.family for sweep in fallback]
            decided = self._decide_families(results, [*followed, *families])
        self._write_results(FAMILY_SWEEP, results)
        notes = []
        if fallback:
            notes.append("every family failed; the fallback swept more layers and strengths")
        swept = {decision.family for decision in decided}
        confirmed = [found for found in self._confirmed() if found.family not in swept]
        if decisions.all_failed(decided):
            names = ", ".join(d.family for d in confirmed) or "no family"
            notes.append(f"steering works in {names} only: a negative result for the others")
        best = {d.family: d.coherent for d in decided if d.coherent is not None}
        notes += decisions.triggers(
            plan.data.get("dropped", []), "family_sweep", shapes={}, coherent=best
        )
        self._write_decision(
            "family_sweep",
            {
                "families": [_plain(decision) for decision in [*decided, *confirmed]],
                "outcomes": [_plain(outcome) for outcome in self._outcomes(results)],
                "methods": analysis.compare_methods(results),
                "layer_cosines": analysis.layer_cosines(results, self.store),
                "followed_up": followed,
                "notes": notes,
            },
        )

    def _sizes(self) -> None:
        """Phase 2: layer validation, then every size at one layer."""
        plan = self.plan
        families = [_family_decision(entry) for entry in self._decision("family_sweep")["families"]]
        validations = phases.validation_sweeps(plan, families, self.cuts)
        found = self.jobs.run("size_sweep", validations)
        by_family: dict[str, list[Result]] = {}
        for result in found:
            by_family.setdefault(self._family_of(result), []).append(result)
        for family, results in by_family.items():
            self._write_results(f"v3_phase2_layer_validation_{safe_name(family)}", results)
        validated = {
            outcome.model: LayerChoice(str(outcome.layer_idx)) for outcome in self._outcomes(found)
        }
        sweeps = phases.size_sweeps(plan, families, validated, self.cuts)
        results = self.jobs.run("size_sweep", sweeps)
        by_family = {}
        for result in results:
            by_family.setdefault(self._family_of(result), []).append(result)
        for family, members in by_family.items():
            self._write_results(f"v3_phase2_size_sweep_{safe_name(family)}", members)
        outcomes = self._outcomes(results)
        curves = analysis.size_curves(outcomes, list(plan.models), plan.flat_within)
        precision = plan.data.get("precision_sweep", {})
        choices = decisions.choose_for_precision(
            outcomes,
            list(plan.models),
            tiers=precision.get("tiers", 3),
            also=precision.get("also", ()),
        )
        notes = [] if choices else ["no model works at its layer; phase 3 has nothing to run"]
        shapes = {
            curve["family"]: (curve["shape"], curve["largest_is_best"])
            for curve in curves
            if curve["method"] == "dim"
        }
        notes += decisions.triggers(
            plan.data.get("dropped", []), "size_sweep", shapes=shapes, coherent={}
        )
        self._write_decision(
            "size_sweep",
            {
                "validated_layers": {name: choice.text for name, choice in validated.items()},
                "outcomes": [_plain(outcome) for outcome in outcomes],
                "curves": curves,
                "methods": analysis.compare_methods(results),
                "phase3": [_plain(choice) for choice in choices],
                "notes": notes,
            },
        )

    def _precisions(self) -> None:
        """Phase 3: the chosen models in every precision that can run here."""
        choices = [_size_choice(entry) for entry in self._decision("size_sweep")["phase3"]]
        sweeps = phases.precision_sweeps(self.plan, choices)
        phase = self.plan.data["precision_sweep"]
        # The others borrow the reference's directions, so it runs first.
        first = [sweep for sweep in sweeps if sweep.precision == sweep.reference]
        found = self._by_model(self.jobs.run("precision_sweep", first, all_may_fail=True))
        sweeps = [
            sweep
            if sweep in first
            else self._with_borrowed(
                sweep, {str(sweep.reference): found.get(sweep.model.model, [])}
            )
            for sweep in sweeps
        ]
        results = self.jobs.run("precision_sweep", sweeps)
        if results:
            self._write_results("v3_phase3_quant_sweep", results)
        self._write_decision(
            "precision_sweep",
            {
                "outcomes": [_plain(outcome) for outcome in self._outcomes(results)],
                "precisions": analysis.precision_comparison(
                    results, self.store, phase.get("preserved_from", 0.9)
                ),
                "notes": [],
            },
        )

    def _transfers(self) -> None:
        """The follow-up: directions of other models of the same width."""
        held = [
            Outcome(**{**entry, "strength": Strength(**entry["strength"])})
            for phase in ("family_sweep", "size_sweep")
            for entry in (self.store.read_json(self.store.paths.decision(phase)) or {}).get(
                "outcomes", []
            )
        ]
        own = phases.transfer_sweeps(self.plan, held)
        found = self._by_model(self.jobs.run("transfer_sweep", own, all_may_fail=True))
        widths = {name: results[0]["d_model"] for name, results in found.items()}
        sweeps = [
            self._with_borrowed(
                sweep,
                {
                    other.model.name: found[other.model.model]
                    for other in own
                    if other is not sweep
                    and other.model.model in found
                    and widths[other.model.model] == widths.get(sweep.model.model)
                },
            )
            for sweep in own
        ]
        results = self.jobs.run("transfer_sweep", sweeps)
        if results:
            self._write_results("v3_phase4_transfer", results)
        names = {model.model: model.name for model in self.plan.models.values()}
        alone = [sweep.model.name for sweep in sweeps if not sweep.borrowed]
        self._write_decision(
            "transfer_sweep",
            {
                "outcomes": [_plain(outcome) for outcome in self._outcomes(results)],
                "transfers": analysis.transfers(results, names, self.store),
                "notes": [f"{name}: no other model here has its width" for name in alone],
            },
        )

    def _by_model(self, results: Iterable[Result]) -> dict[str, list[Result]]:
        found: dict[str, list[Result]] = {}
        for result in results:
            found.setdefault(result["model_id"], []).append(result)
        return found

    def _with_borrowed(self, sweep: Sweep, sources: Mapping[str, Sequence[Result]]) -> Sweep:
        """A sweep that tries what each source found, at its own layer."""
        layer = sweep.layers[0].index(sweep.model.n_layers)
        borrowed = [
            borrowed
            for source, results in sources.items()
            for borrowed in phases.borrowed_of(results, source, layer)
        ]
        return replace(sweep, borrowed=tuple(borrowed))

    def _final(self) -> None:
        """Best depth per family and size, and what every phase found, in one file."""
        held = {
            phase: self.store.read_json(self.store.paths.decision(phase)) or {}
            for phase in self.plan.phases
        }
        depths = {
            (outcome["model"], outcome["method"]): {
                "family": outcome["family"],
                "model": outcome["model"],
                "method": outcome["method"],
                "depth": round(outcome["layer_idx"] / outcome["n_layers"], 4),
                "coherent": outcome["coherent"],
            }
            for phase in ("family_sweep", "size_sweep")
            for outcome in held.get(phase, {}).get("outcomes", [])
        }
        final = {
            "phase": "final",
            "best_depths": list(depths.values()),
            "curves": held.get("size_sweep", {}).get("curves", []),
            "precisions": held.get("precision_sweep", {}).get("precisions", []),
            "notes": [note for found in held.values() for note in found.get("notes", [])],
        }
        self.store.write_json(self.store.paths.decision("final"), final)
        append_findings(self.store, "final", final)

    # -- decisions and gates -----------------------------------------------------------------------

    def _write_results(self, kind: str, results: Sequence[Result]) -> None:
        write_result_file(self.store.root, kind, results)

    def _outcomes(self, results: Iterable[Result]) -> list[Outcome]:
        names = {model.model: model.name for model in self.plan.models.values()}
        found = decisions.outcomes_of(results, names)
        return [replace(o, family=self.plan.models[o.model].family) for o in found]

    def _family_of(self, result: Result) -> str:
        by_id = {model.model: model.family for model in self.plan.models.values()}
        return by_id[result["model_id"]]

    def _decide_families(
        self, results: Iterable[Result], followed_up: Iterable[str]
    ) -> list[FamilyDecision]:
        return decisions.decide_families(self._outcomes(results), followed_up=followed_up)

    def _confirmed(self) -> list[FamilyDecision]:
        found = []
        for family, row in self.plan.data["family_sweep"].get("confirmed", {}).items():
            model = self.plan.models[row["model"]]
            choice = layer_choice(row["layer"])
            layer = choice.index(model.n_layers)
            found.append(
                FamilyDecision(
                    family=family,
                    model=model.name,
                    action="continue",
                    method="dim",
                    layer_idx=layer,
                    layer_share=decisions.share_text(
                        layer, choice.share(model.n_layers), model.n_layers
                    ),
                    n_layers=model.n_layers,
                    strength=self.plan.strength,
                    coherent=None,
                    diverged=False,
                    reason="confirmed before the study",
                )
            )
        return found

    def _decision(self, phase: str) -> dict[str, Any]:
        held = self._decided(phase)
        if not held:
            raise SteersweepError(f"{phase} has not been decided in {self.store.root}")
        return held

    def _decided(self, phase: str) -> dict[str, Any]:
        """What a phase decided; empty where it has not ended."""
        return self.store.read_json(self.store.paths.decision(phase)) or {}

    def _write_decision(self, phase: str, content: Mapping[str, Any]) -> None:
        failures = self.store.read_json(self.store.paths.failures(phase)) or {}
        self.store.write_json(
            self.store.paths.decision(phase), {"phase": phase, **content, "failures": failures}
        )

    def _pass_gate(self, phase: str) -> None:
        gate = self.plan.gate_after(phase)
        if gate is None:
            return
        evidence = self.store.paths.decision(phase)
        signature = gates.signature_of(self.store.root, gate, evidence)
        if signature is None:
            questions = " ".join(self.plan.questions(gate))
            raise GateStop(
                f"gate {gate} waits for a person after {phase}. {questions} Evidence: "
                f"{evidence}, {self.store.paths.findings.name}. Then: steersweep approve "
                f"{self.store.root} {gate} --by NAME, and the same run command again",
                phase,
            )
        if signature.get("rejected"):
            raise GateStop(
                f"gate {gate} was rejected by {in_a_line(signature['by'])} "
                f"({in_a_line(signature['note']) or 'no note'}); sign it again to go on, or start "
                f"another run",
                phase,
            )

    def _apply_cuts(self) -> Cuts:
        held = self._cuts_so_far()
        count = max(self.options.apply_cuts, held["applied"])
        available = len(self.plan.data.get("cuts", []))
        if count > available:
            raise InputError(f"{setting('apply_cuts')} {count}: the plan has {available} cuts")
        if count != held["applied"]:
            self.store.write_json(self.store.paths.cuts, {"applied": count})
        return Cuts.first(self.plan, count)

    def _cuts_so_far(self) -> dict[str, Any]:
        """What earlier runs cut. No other file says it, so a damaged one stops the study."""
        path = self.store.paths.cuts
        reader = RunFolder(self.store.root, repairs=self.options.apply_cuts > 0)
        held = reader.read_json(path)
        if held is None and reader.why_damaged(path) and not self.options.apply_cuts:
            raise InputError(
                f"{path}: is damaged ({reader.why_damaged(path)}), and nothing "
                f"else says how many cuts were applied. Give their number with "
                f"{setting('apply_cuts')}, or remove the file if there were none"
            )
        return held or {"applied": 0}


def _plain(value: Any) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(value).items()}


def _family_decision(entry: Mapping[str, Any]) -> FamilyDecision:
    return FamilyDecision(**{**entry, "strength": Strength(**entry["strength"])})


def _size_choice(entry: Mapping[str, Any]) -> SizeChoice:
    return SizeChoice(**{**entry, "strength": Strength(**entry["strength"])})
