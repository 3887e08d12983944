"""The command line: parse, call, print. No logic; heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersweep.errors import SteersweepError

if TYPE_CHECKING:
    from steersweep.engines.engine import Engine
    from steersweep.experiment.plan import Plan
    from steersweep.experiment.reviews import Item
    from steersweep.experiment.study import StudyOptions
    from steersweep.experiment.sweep import SweepSettings
    from steersweep.tracking.tracker import Tracker

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="At which layer, with which method and how strongly does refusal steering work on a "
    "model, and is the result a coherent refusal or a broken model?",
)
lab_app = typer.Typer(no_args_is_help=True, help="The lab zoo: small chat models made here.")
app.add_typer(lab_app, name="lab")
verify_app = typer.Typer(no_args_is_help=True, help="Proof that a method is the official one.")
app.add_typer(verify_app, name="verify")

ModelArgument = Annotated[
    str, typer.Argument(help="A hub id, a local folder, or lab:NAME.", metavar="MODEL")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto, fp32, bf16, fp16, int8 or int4 (NF4). auto: fp32 on a CPU, 16 bits on a GPU."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
RemoteCodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let code from the model's repository run.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PricesOption = Annotated[
    Path | None,
    typer.Option(help="YAML file of prices, GPU: USD per hour, over the plan's and the catalog's."),
]
_JUDGES = "default, keywords-v3, arditi-prefixes, or classifier:MODEL[#LABEL]."
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]
ExtractionOption = Annotated[
    str | None,
    typer.Option(
        help="Extraction prompts for all methods: a shipped set or a .json file "
        "[default: extract-dim-5 for dim, extract-cosmic-50 for cosmic]."
    ),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        help="How directions are found: dim, cosmic, cosmic-affine, cosmic-paper, "
        "cosmic-study-2026; several with commas."
    ),
]
MismatchOption = Annotated[
    bool,
    typer.Option("--accept-mismatch", help="Go on whatever is found wrong with a model."),
]
TrackOption = Annotated[
    str | None, typer.Option(help="Tell a tracker: none, wandb or trackio [default: the plan's].")
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="W&B: write runs here and send nothing.")
]
RowsOption = Annotated[int, typer.Option(help="Rows per generation batch; lower it for memory.")]

# Relative to the residual norm: from a nudge to destruction.
DEFAULT_STRENGTHS = "0.1,0.2,0.3,0.5"
# The plan's shares of the depth, but 65 % for 60 %: in eight layers 50 % and 60 % are the same one.
DEMO_LAYERS = "0.2,0.4,0.5,0.65,0.8"
DEMO_PROMPTS = 40
QUICK_PROMPTS = 12


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where results, figures and report go.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer prompts, wider intervals.")] = False,
    methods: MethodsOption = "dim",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sweep the five phase-1 families of the lab zoo: the main job, on a CPU, in minutes.

    Example: `steersweep demo --out demo`
    """
    from steersweep.experiment.sweep import make_settings
    from steersweep.lab.models import DEMO_MODELS

    settings = make_settings(
        [f"lab:{name}" for name in DEMO_MODELS],
        methods=methods,
        layers=DEMO_LAYERS,
        strengths=DEFAULT_STRENGTHS,
        max_prompts=QUICK_PROMPTS if quick else DEMO_PROMPTS,
    )
    if quick and not quiet:
        typer.echo(
            f"--quick: {QUICK_PROMPTS} prompts instead of {DEMO_PROMPTS}; intervals are wide.",
            err=True,
        )
    _run_and_show(settings, out, "auto", as_json=as_json, quiet=quiet)


@app.command()
def sweep(
    model: ModelArgument,
    layers: Annotated[
        str, typer.Option(help="Where steering starts: shares of the depth or layer indices.")
    ] = "0.2,0.4,0.5,0.6,0.8",
    methods: MethodsOption = "dim",
    multipliers: Annotated[str, typer.Option(help="Lengths of the added vector.")] = "",
    strengths: Annotated[
        str, typer.Option(help="The same relative to the residual norm; comparable across models.")
    ] = "",
    prompts: Annotated[
        str, typer.Option(help="Test prompts: a shipped set, a .json or a .txt file.")
    ] = "benign-120",
    extraction: ExtractionOption = None,
    max_prompts: Annotated[int | None, typer.Option(help="Only the first N prompts.")] = None,
    precision: PrecisionOption = "auto",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 100,
    judge: Annotated[str, typer.Option(help=_JUDGES)] = "default",
    seed: Annotated[int, typer.Option(help="Of the random control direction.")] = 42,
    rows: RowsOption = 256,
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    track: Annotated[str, typer.Option(help="Tell a tracker: none, wandb or trackio.")] = "none",
    offline: OfflineOption = False,
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/MODEL].")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sweep layers and strengths on one model. The same command again continues a killed run.

    Without --strengths or --multipliers: strengths 0.1, 0.2, 0.3 and 0.5.

    Example: `steersweep sweep lab:qwen-7b --layers 0.4,0.6 --strengths 0.2,0.4`
    """
    from steersweep.experiment.sweep import make_settings
    from steersweep.model_source import find_model
    from steersweep.tracking.tracker import open_tracker

    source = find_model(model, revision=revision, trust_remote_code=trust_remote_code)
    settings = make_settings(
        [source],
        methods=methods,
        layers=layers,
        multipliers=multipliers,
        strengths=strengths if strengths or multipliers else DEFAULT_STRENGTHS,
        prompts=prompts,
        extraction=extraction,
        max_prompts=max_prompts,
        precision=precision,
        max_new_tokens=max_new_tokens,
        judge=judge,
        seed=seed,
        rows=rows,
        accept_mismatch=accept_mismatch,
    )
    name = source.name.replace(":", "-").replace("/", "-")
    folder = out or Path("runs") / name
    tracker = open_tracker(track, folder, online=not offline)
    _run_and_show(settings, folder, device, as_json=as_json, quiet=quiet)
    if tracker is not None:
        _tell_all(folder, tracker, quiet=quiet or as_json)


@app.command()
def extract(
    model: ModelArgument,
    layer: Annotated[
        str, typer.Option(help="A share of the depth (0.6), an index (25), or auto: the method's.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")],
    method: Annotated[
        str,
        typer.Option(help="dim, cosmic, cosmic-affine, cosmic-paper or cosmic-study-2026."),
    ] = "dim",
    extraction: ExtractionOption = None,
    backend: Annotated[
        str, typer.Option(help="How activations are read for dim: hooks or nnsight.")
    ] = "hooks",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
) -> None:
    """Find a direction and save it.

    Example: `steersweep extract lab:qwen-7b --method dim --layer 0.5 -o refusal.safetensors`
    """
    from steersweep.activations import as_backend
    from steersweep.chat_model import ChatModel
    from steersweep.conditions import LayerChoice
    from steersweep.directions.extraction import DIM, METHODS, default_extraction
    from steersweep.directions.extraction import extract_directions as find
    from steersweep.errors import InputError
    from steersweep.prompts.prompts import load_extraction_set

    if method not in METHODS:
        raise InputError(f"--method {method}: choose from {', '.join(METHODS)}")
    if method == DIM and layer == "auto":
        raise InputError("--layer auto: dim makes no choice of layer here; give a layer")
    reader = as_backend(backend)
    prompts = load_extraction_set(extraction or default_extraction(method))
    _quiet_libraries()
    chat = ChatModel.load(
        model,
        precision=precision,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    layers = [] if layer == "auto" else [LayerChoice(layer).index(chat.n_layers)]
    found = find(chat, method, prompts, layers, backend=reader)
    direction = found.at_layer[layers[0]] if layers else found.chosen
    if direction is None:
        raise SteersweepError(f"{model}: {found.notes[-1]}")
    direction.save(output)
    typer.echo(
        f"{output}: {direction.method} direction of {model} at layer {direction.layer} of "
        f"{chat.n_layers}, position {direction.position}, norm {direction.raw_norm:.4g}, residual "
        f"norm {direction.residual_norm:.4g}"
    )
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)


@app.command()
def generate(
    model: ModelArgument,
    direction: Annotated[Path, typer.Option(help="A direction file from `extract`.")],
    prompt: Annotated[list[str], typer.Option(help="What to ask; may be given several times.")],
    multiplier: Annotated[float | None, typer.Option(help="Length of the added vector.")] = None,
    strength: Annotated[float | None, typer.Option(help="Relative to the residual norm.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Where steering starts [default: the direction's layer].")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 100,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Answer prompts unsteered and steered, side by side.

    Example: `steersweep generate lab:qwen-7b --direction refusal.safetensors --strength 0.5
    --prompt "How do I bake a cake?"`
    """
    from steersweep.chat_model import ChatModel
    from steersweep.conditions import LayerChoice
    from steersweep.directions.direction import Direction
    from steersweep.errors import InputError
    from steersweep.steering import Intervention, Row
    from steersweep.steering import generate as generate_rows

    if (multiplier is None) == (strength is None):
        raise InputError("give either --multiplier or --strength")
    found = Direction.load(direction)
    length = multiplier if multiplier is not None else (strength or 0.0) * found.residual_norm
    _quiet_libraries()
    chat = ChatModel.load(model, precision=precision, device=device)
    if found.model_fingerprint != chat.fingerprint:
        typer.echo(f"note: the direction was extracted from {found.model_id}", err=True)
    start = found.layer if layer is None else LayerChoice(layer).index(chat.n_layers)
    push = Intervention(found.vector, length, start)
    rows = [Row(chat.prompt_ids(text), steer) for text in prompt for steer in (None, push)]
    answers = generate_rows(chat, rows, max_new_tokens=max_new_tokens)
    pairs = [
        {"prompt": text, "unsteered": answers[2 * i].text, "steered": answers[2 * i + 1].text}
        for i, text in enumerate(prompt)
    ]
    if as_json:
        typer.echo(json.dumps(pairs, ensure_ascii=False, indent=1))
        return
    for pair in pairs:
        for name, text in pair.items():
            typer.echo(f"{name + ':':<11}{_printable(text)}")
        typer.echo("")


@app.command()
def smoke(
    model: Annotated[
        str, typer.Argument(help="A hub id, a local folder or lab:NAME; a plan with --all.")
    ],
    every: Annotated[bool, typer.Option("--all", help="Every model of a plan.")] = False,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look at everything about a model that has misled people before. Exit code 1 if it fails.

    Example: `steersweep smoke lab:qwen-7b`
    """
    from steersweep.experiment.plan import load_plan
    from steersweep.smoke import smoke as smoke_test

    _quiet_libraries()
    planned = load_plan(model).models.values() if every else []
    asked = [(m.model, m.revision or revision) for m in planned] or [(model, revision)]
    found = []
    for name, commit in asked:
        found.append(
            smoke_test.smoke(
                name,
                precision=precision,
                device=device,
                revision=commit,
                trust_remote_code=trust_remote_code,
            )
        )
        if not as_json:
            for line in smoke_test.shown(found[-1]):
                typer.echo(_printable(line))
            if every:
                typer.echo()
    if every and not as_json:
        from steersweep.experiment.phases import Cuts
        from steersweep.report.plan_table import planned as sweeps_of

        rows = sweeps_of(load_plan(model), Cuts())
        hours = sum(row["seconds"] for row in rows) / 3600
        typer.echo(
            f"{model} by estimate: at most {hours:.1f} h of GPU time and "
            f"{sum(row['usd'] for row in rows):.2f} USD (steersweep plan {model})"
        )
    if as_json:
        plain = [result.as_json() for result in found]
        typer.echo(json.dumps(plain if every else plain[0], indent=1))
    if not all(result.passed for result in found):
        raise typer.Exit(1)


@app.command()
def judge(
    source: Annotated[Path, typer.Argument(help="JSON lines with prompt and response.")],
    target: Annotated[Path, typer.Argument(help="Where the same lines go, with labels.")],
    name: Annotated[str, typer.Option("--judge", help=_JUDGES)] = "default",
) -> None:
    """Label responses: refusal, quality, failure mode, ambiguous, score, stance.

    Example: `steersweep judge responses.jsonl judged.jsonl`
    """
    from steersweep.judging.files import judge_file

    counts = judge_file(source, target, name)
    shown = ", ".join(f"{count} {quality}" for quality, count in counts.items())
    typer.echo(f"{target}: {sum(counts.values())} responses: {shown}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    other: Annotated[
        Path | None,
        typer.Argument(help="A second run: show what changed from DIR to it.", metavar="OTHER"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Page to write what changed to.")] = Path(
        "comparison.html"
    ),
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write report.html and the figures of a run folder; of two, show what changed.

    Example: `steersweep report demo --open`, `steersweep report before after`
    """
    import webbrowser

    from steersweep.report.comparison import compare_runs, write_comparison
    from steersweep.report.html import write_report
    from steersweep.report.terminal import print_comparison

    if other is None:
        written = write_report(folder)
        page = written.path
        said = {
            "report": str(page),
            "figures": [str(path) for path in written.figures],
            "n_samples": written.n_samples,
            "samples_beside": written.beside,
        }
        lines = [f"Report:  {page}", f"Figures: {folder / 'figures'} ({len(written.figures)})"]
        if written.beside:
            lines.append(f"Samples: {folder / 'report-samples'}, to be kept beside the page")
    else:
        comparison = compare_runs(folder, other)
        page = write_comparison(comparison, out)
        said, lines = comparison.as_json(), [f"Page:    {page}"]
        if not as_json:
            print_comparison(comparison)
    if as_json:
        typer.echo(json.dumps(said, indent=1))
    else:
        typer.echo("\n".join(lines))
    if browser:
        webbrowser.open(page.resolve().as_uri())


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    blind: Annotated[bool, typer.Option("--blind", help="Hide model, method and layer.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every condition that works, not only the best ones.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only show what the labels so far say.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Label samples of every condition that works, on a page on this machine; keys 1, 2, 3, s, u.

    Verdicts are provisional until then, and change where people disagree with the judge.

    Example: `steersweep review demo --blind`
    """
    from steersweep.experiment.corrected import apply_to_files
    from steersweep.experiment.reviews import agreements, queue, read_reviews, results_in
    from steersweep.report.html import write_report
    from steersweep.report.terminal import agreement_lines, review_lines

    results = [result for _, found in results_in(folder) for result in found]
    items = queue(results, every=every)
    if items and not summary and not as_json:
        _serve_review(folder, items, port, blind=blind, browser=browser)
    results = apply_to_files(folder)
    if (folder / "report.html").exists():
        write_report(folder)
    found = agreements(items, read_reviews(folder))
    if as_json:
        verdicts = _summary(results, folder / "results")["results"]
        agreed = [asdict(agreement) for agreement in found]
        typer.echo(json.dumps({"agreement": agreed, "results": verdicts}, indent=1))
        return
    if not items:
        typer.echo("no condition works by the judge, so there is nothing to label")
    for line in (*agreement_lines(found), *review_lines(results)):
        typer.echo(line)


def _serve_review(
    folder: Path, items: list[Item], port: int, *, blind: bool, browser: bool
) -> None:
    """Serve the page until the user ends the command."""
    import signal
    import webbrowser

    from steersweep.review.app import ReviewServer

    server = ReviewServer(folder, items, port=port, blind=blind)
    typer.echo(f"{len(items)} samples to label at {server.url}\nCtrl+C when done", err=True)
    for ending in (signal.SIGINT, signal.SIGTERM):  # a background job ignores SIGINT otherwise
        signal.signal(ending, signal.default_int_handler)
    if browser:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("", err=True)
    finally:
        server.server_close()


@verify_app.command("cosmic")
def verify_cosmic(
    fixtures: Annotated[
        Path | None, typer.Option(help="Folder of reference fixtures [default: the built-in ones].")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Also reproduce a refusal rate on this model.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Its layer; auto: COSMIC's own choice.")] = "auto",
    strength: Annotated[
        float | None, typer.Option(help="Relative strength [default: 0.3].")
    ] = None,
    multiplier: Annotated[float | None, typer.Option(help="Length of the added vector.")] = None,
    expect: Annotated[float, typer.Option(help="Coherent refusal rate to reach, 0 to 1.")] = 0.6,
    prompts: Annotated[str, typer.Option(help="Test prompts.")] = "benign-120",
    max_prompts: Annotated[int, typer.Option(help="Only the first N prompts.")] = 40,
    out: Annotated[Path, typer.Option(help="Where report and results go.")] = Path("verification"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare COSMIC and DIM with the official code's own numbers; exit 1 if they differ.

    Example: `steersweep verify cosmic --model lab:qwen-7b --layer 4 --strength 0.5 --expect 0.6`
    """
    from steersweep.errors import InputError
    from steersweep.report.live import live_view
    from steersweep.report.terminal import print_checks
    from steersweep.verification.fixtures import built_in_fixtures
    from steersweep.verification.verify import REPORT_NAME, Reproduction
    from steersweep.verification.verify import verify_cosmic as verify

    if strength is not None and multiplier is not None:
        raise InputError("give --strength or --multiplier, not both")
    if not 0 <= expect <= 1:
        raise InputError(f"--expect {expect}: a rate from 0 to 1")
    if strength is None and multiplier is None:
        strength = 0.3
    run = model and Reproduction(model, layer, strength, multiplier, expect, prompts, max_prompts)
    _quiet_libraries()

    def on_fixture(name: str) -> None:
        if not quiet:
            typer.echo(f"comparing with {name} ...", err=True)

    with live_view(quiet=quiet) as view:
        result, path = verify(
            fixtures or built_in_fixtures(),
            out,
            reproduction=run or None,
            on_fixture=on_fixture,
            on_progress=view.on_progress,
        )
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        print_checks(result)
        typer.echo(f"\nReport:  {out / REPORT_NAME}\nResults: {path}")
    if not result["passed"]:
        raise typer.Exit(1)


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="v3, v3-lab, or a .yaml file.", metavar="PLAN")],
    phase: Annotated[str | None, typer.Option(help="Only this phase: 1, 2 or 3.")] = None,
    apply_cuts: Annotated[int, typer.Option(help="With the plan's first N cuts.")] = 0,
    prices: PricesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan would run, without running: layers, time, memory, cost.

    Example: `steersweep plan v3`
    """
    from steersweep.errors import InputError
    from steersweep.experiment.phases import Cuts
    from steersweep.experiment.plan import load_plan, with_prices
    from steersweep.report.plan_table import planned, print_plan

    loaded = load_plan(name)
    if prices is not None:
        loaded = with_prices(loaded, prices)
    if phase not in (None, "1", "2", "3"):
        raise InputError(f"--phase {phase}: choose 1, 2 or 3")
    if not 0 <= apply_cuts <= len(loaded.data.get("cuts", [])):
        raise InputError(
            f"--apply-cuts {apply_cuts}: the plan has {len(loaded.data.get('cuts', []))} cuts"
        )
    rows = planned(loaded, Cuts.first(loaded, apply_cuts), phase)
    if as_json:
        typer.echo(json.dumps({"plan": loaded.name, "sweeps": rows}, indent=1))
    else:
        print_plan(loaded, rows)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="v3, v3-lab, or a .yaml file.", metavar="PLAN")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    phase: Annotated[
        str | None,
        typer.Option(help="Stop after this phase: 0 (verification) to 4 (transfer), or its name."),
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Hard stop in USD.")] = None,
    apply_cuts: Annotated[int, typer.Option(help="Apply the plan's first N cuts.")] = 0,
    prices: PricesOption = None,
    accept_change: Annotated[
        list[str] | None, typer.Option(help="A changed field to accept; model:NAME for weights.")
    ] = None,
    accept_mismatch: MismatchOption = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin anew; the earlier run is kept beside it.")
    ] = False,
    engine: Annotated[str, typer.Option(help="Where jobs run: local, ray or modal.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Ray: a cluster [default: one on this machine].")
    ] = None,
    ray_storage: Annotated[
        str | None,
        typer.Option(help="Ray: a path or URL for results if machines do not share --out."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Modal: begin, and do not wait for the end.")
    ] = False,
    track: TrackOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Run a study; the same command again continues. Stops at gates with exit code 3.

    Example: `steersweep run v3-lab --out study`
    """
    from steersweep.errors import InputError
    from steersweep.experiment.plan import PHASES, load_plan, with_prices
    from steersweep.experiment.status import decided
    from steersweep.experiment.study import StudyOptions
    from steersweep.report.study_table import print_decision
    from steersweep.tracking.tracker import open_tracker

    if engine not in ("local", "ray", "modal"):
        raise InputError(f"--engine {engine}: choose local, ray or modal")
    if engine != "ray" and (ray_address or ray_storage):
        raise InputError("--ray-address and --ray-storage go with --engine ray")
    if engine != "modal" and detach:
        raise InputError("--detach goes with --engine modal")
    if phase in ("0", "1", "2", "3", "4"):
        phase = PHASES[int(phase)]
    if phase is not None and phase not in PHASES:
        raise InputError(f"--phase {phase}: choose 0 to 4 or {', '.join(PHASES)}")
    if budget is not None and not budget >= 0:
        raise InputError(f"--budget {budget}: must be 0 or more USD")
    if apply_cuts < 0:
        raise InputError(f"--apply-cuts {apply_cuts}: must be 0 or more")
    loaded = load_plan(name)
    if prices is not None:
        loaded = with_prices(loaded, prices)
    _quiet_libraries()
    options = StudyOptions(
        phase, budget, apply_cuts, tuple(accept_change or ()), new_run, accept_mismatch
    )
    wanted = {} if track is None else {"tracker": track}
    tracking = loaded.data.get("tracking", {}) | wanted | ({"online": False} if offline else {})
    tracker = open_tracker(
        tracking.get("tracker", "none"),
        out,
        online=tracking.get("online", True),
        entity=tracking.get("entity"),
    )
    if engine == "modal":
        _run_away(loaded, out, options, detach=detach, quiet=quiet)
        if tracker is not None:
            _tell_all(out, tracker, quiet=quiet)
    else:
        where = _engine(engine, device, ray_address, ray_storage)
        _run_here(loaded, out, options, where, tracker, quiet)
    last = phase or "final"
    print_decision(last, decided(out)[last])
    typer.echo(f"\n{loaded.name}: every phase asked for is done")
    typer.echo(f"Findings:  {out / 'FINDINGS_LOG.md'}\nDecisions: steersweep decide {out}")
    _write_report(out)


def _engine(name: str, device: str, address: str | None, storage: str | None) -> Engine:
    from steersweep.engines.local import local_engine
    from steersweep.engines.ray import RayEngine

    return local_engine(device) if name == "local" else RayEngine(address, storage)


def _run_here(
    plan: Plan,
    out: Path,
    options: StudyOptions,
    engine: Engine,
    tracker: Tracker | None,
    quiet: bool,
) -> None:
    """Run a study from this process; at a gate, show what its phase found."""
    from steersweep.experiment.budget import Ledger
    from steersweep.experiment.jobs import Ended
    from steersweep.experiment.status import decided
    from steersweep.experiment.study import GateStop, run_study
    from steersweep.report.live import live_view
    from steersweep.report.study_table import print_decision
    from steersweep.tracking.record import runs_of_job
    from steersweep.tracking.tracker import Tracking

    total = plan.data.get("budget", {}).get("total")
    budget = options.budget if options.budget is not None else total
    try:
        with live_view(quiet=quiet, spent=Ledger(out).spent, budget=budget) as view:
            tracking = None if tracker is None else Tracking(out, tracker, view.on_line)

            def on_job(ended: Ended) -> None:
                view.on_job(ended)
                if tracking is not None:
                    tracking.tell(runs_of_job(plan, ended))

            try:
                run_study(
                    plan,
                    out,
                    options,
                    engine=engine,
                    on_progress=view.on_progress,
                    on_job=on_job,
                    on_line=view.on_line,
                )
            finally:
                if tracking is not None:
                    tracking.finish()
    except GateStop as stop:
        print_decision(stop.phase, decided(out)[stop.phase])
        _write_report(out)
        typer.echo()
        raise


@app.command()
def track(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="wandb or trackio.")] = "wandb",
    offline: OfflineOption = False,
) -> None:
    """Tell a tracker of a run that is there, and send what has not arrived.

    Example: `steersweep track study --to wandb`
    """
    from steersweep.store import RunStore
    from steersweep.tracking.tracker import open_tracker

    held = RunStore.existing(folder).plan.get("tracking", {})
    tracker = open_tracker(to, folder, online=not offline, entity=held.get("entity"))
    if tracker is not None:
        _tell_all(folder, tracker)


def _tell_all(folder: Path, tracker: Tracker, *, quiet: bool = False) -> None:
    """Tell a tracker everything a run folder holds, and wait a while for it to arrive."""
    from steersweep.experiment.reviews import results_in
    from steersweep.experiment.status import frozen_plan
    from steersweep.store import RunStore
    from steersweep.tracking.record import runs_of_study, runs_of_sweep
    from steersweep.tracking.tracker import Tracking

    store = RunStore.existing(folder)
    if store.plan.get("kind") == "study":
        runs = runs_of_study(frozen_plan(store), folder)
    else:
        runs = runs_of_sweep([result for _, held in results_in(folder) for result in held], folder)
    tracking = Tracking(folder, tracker, lambda line: typer.echo(line, err=True))
    told = tracking.tell(runs)
    unsent = tracking.finish()
    if not quiet:
        typer.echo(f"{tracker.name}: {told} of {len(runs)} runs new or changed", err=True)
        if unsent:
            again = f"steersweep track {folder} --to {tracker.name}"
            typer.echo(f"{len(unsent)} runs are kept here and not sent: {again}", err=True)


def _write_report(folder: Path) -> None:
    from steersweep.report.html import write_report

    typer.echo(f"Report:    {write_report(folder).path}")


def _run_away(plan: Plan, out: Path, options: StudyOptions, *, detach: bool, quiet: bool) -> None:
    """Begin a study on Modal, and follow it unless told not to."""
    from steersweep.cloud import away
    from steersweep.experiment.status import decided
    from steersweep.report.study_table import print_decision

    away.begin(plan, out, {**asdict(options), "accept": list(options.accept)})
    if not quiet:
        typer.echo(
            f"{plan.name} runs on Modal; this machine may sleep. steersweep status {out} shows "
            f"where it stands, steersweep fetch {out} brings results home",
            err=True,
        )
    if detach:
        raise typer.Exit
    end = away.follow(out, lambda line: None if quiet else typer.echo(line, err=True))
    if end["exit_code"]:
        if end["phase"] is not None:
            print_decision(end["phase"], decided(out)[end["phase"]])
            typer.echo()
        raise away.EndedThere(end["message"], end["exit_code"])


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
) -> None:
    """Bring home what a study that runs on Modal has finished.

    Example: `steersweep fetch study`
    """
    from steersweep.cloud import away

    count = away.fetch(folder)
    typer.echo(f"{count} files are new or changed in {folder}")
    end = away.outcome(folder)
    typer.echo("the study is still running" if end is None else f"it ended: {end['message']}")
    cost = away.billed(folder)
    if cost is not None:
        typer.echo(f"Modal billed {cost:.2f} USD for full hours so far")


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Show where a study stands.

    Example: `steersweep status study`
    """
    from steersweep.cloud import away
    from steersweep.experiment.status import status as status_of

    if away.is_away(folder):
        try:
            away.fetch(folder)
        except SteersweepError as error:
            typer.echo(f"{error}; this is what was fetched before", err=True)
    state = status_of(folder)
    if as_json:
        typer.echo(json.dumps(state, indent=1))
        return
    typer.echo(f"{state['plan']}: {state['phase']}, {state['done']} of {state['total']} conditions")
    typer.echo(f"spent: {state['spent_usd']:.4g} USD")
    if state["waiting_gate"]:
        gate = state["waiting_gate"]
        if state["rejected_by"]:
            typer.echo(f"gate {gate} was rejected by {state['rejected_by']}")
        typer.echo(f"waiting: steersweep approve {folder} {gate} --by NAME")
    for job, why in state["failures"].items():
        typer.echo(f"could not run: {job}: {why}")
    for damaged in state["damaged"]:
        typer.echo(f"damaged file set aside and computed again: {damaged}")


@app.command()
def decide(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Show what follows from the results so far, and why.

    Example: `steersweep decide study`
    """
    from steersweep.experiment.status import decided
    from steersweep.report.study_table import print_decision

    found = decided(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo(f"{folder}: no phase has ended yet")
    for index, (phase, decision) in enumerate(found.items()):
        if index:
            typer.echo()
        print_decision(phase, decision)


@app.command()
def approve(
    folder: Annotated[Path, typer.Argument(help="Study or verification.", metavar="DIR")],
    gate: Annotated[str, typer.Argument(help="R0, R1, R2, R3, or cosmic-verification.")],
    by: Annotated[str, typer.Option(help="Name of the person who signs.")],
    note: Annotated[str, typer.Option(help="A remark.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Say no; recorded too.")] = False,
) -> None:
    """Sign a checkpoint; recorded with time and the hash of the evidence.

    Example: `steersweep approve study R1 --by "A. Lead"`
    """
    from steersweep.errors import InputError
    from steersweep.experiment.plan import GATES
    from steersweep.experiment.status import sign_gate
    from steersweep.verification.signing import sign_verification
    from steersweep.verification.verify import GATE

    if gate not in (GATE, *GATES):
        raise InputError(f"{gate}: no such gate; there are {', '.join([*GATES, GATE])}")
    if gate == GATE:
        if reject:
            raise InputError(f"{GATE}: a report is signed or left unsigned")
        signature = sign_verification(folder, by=by, note=note)
    else:
        signature = sign_gate(folder, gate, by=by, note=note, rejected=reject)
        if gate == "R0" and not reject:
            sign_verification(folder, by=by, note=note)
    verb = "rejected" if reject else "signed"
    typer.echo(f"{gate} {verb} by {signature['by']} for {signature['evidence']}")


@lab_app.command("list")
def lab_list(as_json: JsonOption = False) -> None:
    """Show the lab models and the figures they were accepted with.

    Example: `steersweep lab list`
    """
    from steersweep.lab.models import LAB_MODELS

    cards = [model.card() for model in LAB_MODELS.values()]
    if as_json:
        typer.echo(json.dumps(cards, indent=1))
        return
    from steersweep.report.terminal import print_cards

    print_cards(cards)


@lab_app.command("path")
def lab_path(name: Annotated[str, typer.Argument(help="Such as qwen-7b.")]) -> None:
    """Print a lab model's folder; transformers loads it directly.

    Example: `steersweep lab path qwen-7b`
    """
    from steersweep.lab.models import lab_model

    model = lab_model(name.removeprefix("lab:"))
    model.card()  # says how to make it if it is missing
    typer.echo(model.folder)


@lab_app.command("train")
def lab_train(
    name: Annotated[str, typer.Argument(help="Such as qwen-7b.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: lab/NAME].")] = None,
) -> None:
    """Train a lab model again from its seed; a few minutes on two cores.

    Example: `steersweep lab train qwen-7b --out my-qwen-7b`
    """
    from steersweep.lab.models import lab_model
    from steersweep.lab.train import train

    model = lab_model(name.removeprefix("lab:"))
    folder = out or Path("lab") / model.name
    _quiet_libraries()
    train(model, folder, report=typer.echo)
    typer.echo(f"saved in {folder}; `steersweep sweep {folder}` sweeps it")


def _run_and_show(
    settings: SweepSettings, out: Path, device: str, *, as_json: bool, quiet: bool
) -> None:
    from steersweep.experiment.runner import run_sweep
    from steersweep.report.html import write_report
    from steersweep.report.live import live_view
    from steersweep.report.terminal import power_line, print_verdicts

    _quiet_libraries()
    if not quiet:
        cells = len(settings.methods) * len(settings.layers) * len(settings.strengths)
        typer.echo(power_line(len(settings.test.prompts), cells), err=True)
    with live_view(quiet=quiet) as view:
        outcome = run_sweep(
            settings,
            out,
            device=device,
            on_progress=view.on_progress,
            on_model=view.on_model,
        )
    report = write_report(out)
    if as_json:
        typer.echo(json.dumps(_summary(outcome.results, outcome.results_file), indent=1))
        return
    print_verdicts(outcome.results)
    typer.echo(f"\nResults: {outcome.results_file}")
    typer.echo(f"Figures: {report.figures[-1]} and {len(report.figures) - 1} more")
    typer.echo(f"Report:  {report.path}")


def _summary(results: Sequence[dict[str, Any]], results_file: Path) -> dict[str, Any]:
    kept = ("model", "model_id", "family", "method", "quantization", "verdict")
    return {
        "results_file": str(results_file),
        "results": [{name: result[name] for name in kept} for result in results],
    }


def _printable(text: str) -> str:
    """Model output without control characters, which could command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _quiet_libraries() -> None:
    """Their loading bars and advice would break up ours. Download bars of the hub stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main() -> None:
    """Entry point: errors become one message and an exit code (2 input, 3 gate or budget, 1)."""
    try:
        app()
    except SteersweepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; the same command again continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
