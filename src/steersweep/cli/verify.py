"""Commands that compare with others' numbers: `verify cosmic`, `verify architectures`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.options import JUDGES, JsonOption, PrecisionOption, QuietOption
from steersweep.cli.output import quiet_libraries, say
from steersweep.core.errors import InputError
from steersweep.sweeps import defaults


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
    prompts: Annotated[str, typer.Option(help="Test prompts.")] = defaults.PROMPTS,
    max_prompts: Annotated[int, typer.Option(help="Only the first N prompts.")] = 40,
    precision: PrecisionOption = defaults.PRECISION,
    judge: Annotated[str, typer.Option(help=f"How answers are judged: {JUDGES}")] = (
        defaults.JUDGE
    ),
    seed: Annotated[int, typer.Option(help="Of the random control direction.")] = defaults.SEED,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = defaults.MAX_NEW_TOKENS,
    out: Annotated[Path, typer.Option(help="Where report and results go.")] = Path("verification"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare COSMIC and DIM with the official code's own numbers; exit 1 if they differ.

    Example: `steersweep verify cosmic --model lab:qwen-7b --layer 4 --strength 0.5 --expect 0.6`
    """
    from steersweep.core import typed
    from steersweep.core.setting_values import whole_number
    from steersweep.methods.official import built_in_fixtures
    from steersweep.prompts.entries import MAX_PROMPTS
    from steersweep.report.live import live_view
    from steersweep.report.terminal import print_checks
    from steersweep.run.paths import RunPaths
    from steersweep.sweeps.settings import make_settings
    from steersweep.verification.verify import Reproduction
    from steersweep.verification.verify import verify_cosmic as verify

    if strength is not None and multiplier is not None:
        raise InputError("give --strength or --multiplier, not both")
    for setting, number in (("--strength", strength), ("--multiplier", multiplier)):
        if number is not None and not 0 < number < float("inf"):
            raise InputError(f"{setting} {number}: must be a finite number above 0")
    whole_number("--max-prompts", max_prompts, 1, MAX_PROMPTS)
    if not 0 <= expect <= 1:
        raise InputError(f"--expect {expect}: a rate from 0 to 1")
    if strength is None and multiplier is None:
        strength = 0.3
    asked = model and Reproduction(
        make_settings(
            [model],
            methods="cosmic",
            layers="0.5" if layer == "auto" else layer,
            multipliers="" if multiplier is None else str(multiplier),
            strengths="" if strength is None else str(strength),
            prompts=prompts,
            max_prompts=max_prompts,
            precision=precision,
            judge=judge,
            seed=seed,
            max_new_tokens=max_new_tokens,
        ),
        expect,
        chosen=layer == "auto",
    )
    quiet_libraries()

    def on_fixture(name: str) -> None:
        if not quiet:
            say(f"comparing with {name} ...", err=True)

    with live_view(quiet=quiet) as view:
        result, path = verify(
            fixtures or built_in_fixtures(),
            out,
            reproduction=asked or None,
            on_fixture=on_fixture,
            on_progress=view.on_progress,
        )
    if as_json:
        say(json.dumps(typed.plain(result), indent=1))
    else:
        print_checks(result)
        say(f"\nReport:  {RunPaths(out).verification}\nResults: {path}")
    if not result.passed:
        raise typer.Exit(1)


def verify_architectures(
    only: Annotated[
        str | None, typer.Option(help="Some of them, by name: `llama,mamba` [default: all].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the table there, as Markdown.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try tiny models of many architectures against plain transformers; exit 1 if one is wrong.

    For a new release of transformers: each is right, refused by name, or wrong.

    Example: `steersweep verify architectures --only llama,qwen3_next --out table.md`
    """
    from dataclasses import asdict

    from steersweep.core.atomic import write_text
    from steersweep.verification.architectures import (
        ArchitectureResult,
        as_table,
        versions,
    )
    from steersweep.verification.architectures import verify_architectures as verify

    quiet_libraries()

    def on_result(result: ArchitectureResult) -> None:
        if not quiet:
            said = ", ".join(f"{name} {found.verdict}" for name, found in result.checks.items())
            say(f"{result.name}: {said}", err=True)

    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    results = verify(names, on_result)
    table = as_table(results)
    if out is not None:
        write_text(out, f"{versions()}\n\n{table}")
    if as_json:
        say(json.dumps([asdict(result) for result in results], indent=1))
    else:
        say(f"{versions()}\n\n{table}")
    if any(result.wrong for result in results):
        raise typer.Exit(1)
