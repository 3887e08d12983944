"""Commands on a run folder: `report`, `review`, `track`."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.options import JsonOption, OfflineOption
from steersweep.cli.output import say, tell_note, tell_problems, tell_tracker, verdicts_of
from steersweep.core.errors import InputError

if TYPE_CHECKING:
    from steersweep.people.reviews import Item


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
    from steersweep.run.paths import RunPaths

    damaged = [
        problem for one in (folder, other) if one is not None for problem in tell_problems(one)
    ]
    if other is None:
        written = write_report(folder)
        page = written.path
        said = {
            "report": str(page),
            "figures": [str(path) for path in written.figures],
            "n_samples": written.n_samples,
            "samples_beside": written.beside,
        }
        paths = RunPaths(folder)
        lines = [f"Report:  {page}", f"Figures: {paths.figures} ({len(written.figures)})"]
        if written.beside:
            lines.append(f"Samples: {paths.samples}, to be kept beside the page")
    else:
        comparison = compare_runs(folder, other)
        page = write_comparison(comparison, out)
        said, lines = comparison.as_json(), [f"Page:    {page}"]
        if not as_json:
            print_comparison(comparison)
    if as_json:
        say(json.dumps(said | {"problems": damaged}, indent=1))
    else:
        say("\n".join(lines))
    if browser:
        webbrowser.open(page.resolve().as_uri())


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
    from steersweep.people.corrected import apply_to_files
    from steersweep.people.reviews import agreements, queue, read_reviews, results_in
    from steersweep.report.html import write_report
    from steersweep.report.terminal import agreement_lines, review_lines
    from steersweep.run.paths import RunPaths

    results = [result for _, found in results_in(folder) for result in found]
    items = queue(results, every=every)
    if items and not summary and not as_json:
        _serve_review(folder, items, port, blind=blind, browser=browser)
    results = apply_to_files(folder, tell_note)
    damaged = tell_problems(folder)
    if RunPaths(folder).report.exists():
        try:
            write_report(folder)
        except InputError as error:  # of the page alone: what labels say is shown all the same
            tell_note(str(error))
    found = agreements(items, read_reviews(folder))
    if as_json:
        verdicts = verdicts_of(results, RunPaths(folder).results)["results"]
        agreed = [asdict(agreement) for agreement in found]
        shown = {"agreement": agreed, "results": verdicts, "problems": damaged}
        say(json.dumps(shown, indent=1))
        return
    if not items:
        say("no condition works by the judge, so there is nothing to label")
    for line in (*agreement_lines(found), *review_lines(results)):
        say(line)


def _serve_review(
    folder: Path, items: list[Item], port: int, *, blind: bool, browser: bool
) -> None:
    """Serve the page until the user ends the command."""
    import signal
    import webbrowser

    from steersweep.people.page import ReviewServer, private_page

    server = ReviewServer(folder, items, port=port, blind=blind)
    say(f"{len(items)} samples to label at {server.url}", err=True)
    say("Whoever has this address can label. Ctrl+C when done", err=True)
    for ending in (signal.SIGINT, signal.SIGTERM):  # a background job ignores SIGINT otherwise
        signal.signal(ending, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        stack.callback(server.server_close)
        if browser:
            webbrowser.open(stack.enter_context(private_page(server.url)))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("", err=True)


def track(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="wandb or trackio.")] = "wandb",
    offline: OfflineOption = False,
) -> None:
    """Tell a tracker of a run that is there, and send what has not arrived.

    Example: `steersweep track study --to wandb`
    """
    from steersweep.run.folder import RunFolder
    from steersweep.tracking.tracker import open_tracker

    held = RunFolder.existing(folder).plan.get("tracking", {})
    tracker = open_tracker(to, folder, online=not offline, entity=held.get("entity"))
    if tracker is not None:
        tell_tracker(folder, tracker)
