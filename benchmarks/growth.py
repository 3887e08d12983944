"""How a sweep grows with its conditions: seconds, memory and files per thousand, and what follows.

    python benchmarks/growth.py [--conditions 10000] [--prompts 100] [--keep DIR]

The model is a random Qwen2 of 10 layers, 16 wide, whose answers have a few tokens: what is timed is
what steersweep does around the model. Every command runs in a process of its own, and memory is
the most that process held. Once more with `--keep` of a folder that holds the run, only what comes
after the sweep is timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LAYERS = 10
PROMPT_WORDS = "bake clean draw fold grow knit mend paint plant sew write tune".split()
PLACES = "at home,in a week,with a friend,for a child,on a train,before lunch,in winter,alone"


def main() -> None:
    """Run what was asked for; without a part, all of it, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conditions", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=3)
    parser.add_argument("--every", type=int, default=1000, help="conditions of a line")
    parser.add_argument("--keep", type=Path, help="where model and run stay")
    parser.add_argument("--part", choices=PARTS, help="this alone, in this process")
    asked = parser.parse_args()
    if asked.part:
        return PARTS[asked.part](asked)
    import torch

    from machine import named

    print(f"{named(torch.device('cpu'))}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    with tempfile.TemporaryDirectory() as made:
        asked.keep = asked.keep or Path(made)
        _prepare(asked)
        for part in PARTS:
            print(f"\n{part}", flush=True)
            seconds, processor, memory = _timed(
                [sys.executable, __file__, *_options(asked), "--part", part]
            )
            print(f"{part}: {seconds:.1f} s, {processor:.1f} s of processor, {memory:.0f} MB")
    return None


def _options(asked: argparse.Namespace) -> list[str]:
    names = ("conditions", "prompts", "tokens", "every", "keep")
    return [part for name in names for part in (f"--{name}", str(getattr(asked, name)))]


def _timed(command: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor and megabytes at most of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.perf_counter() - started
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _prepare(asked: argparse.Namespace) -> None:
    """The model and the prompts, if they are not there."""
    from transformers import Qwen2Config

    from shapes import save

    if not (asked.keep / "model" / "config.json").exists():
        config = Qwen2Config(
            vocab_size=1024,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
        save(config, asked.keep / "model")
    texts = [f"How do I {verb} {place}?" for place in PLACES.split(",") for verb in PROMPT_WORDS]
    more = [f"{text} Number {n}." for n in range(asked.prompts // len(texts) + 1) for text in texts]
    prompts = asked.keep / f"prompts-{asked.prompts}.json"
    prompts.write_text(json.dumps([*texts, *more][: asked.prompts]))


def _arguments(asked: argparse.Namespace) -> dict[str, str | int]:
    """Settings of the sweep."""
    strengths = -(-asked.conditions // (2 * LAYERS))  # random controls are conditions too
    return {
        "layers": ",".join(map(str, range(LAYERS))),
        "strengths": ",".join(f"{0.01 * (n + 1):g}" for n in range(strengths)),
        "prompts": str(asked.keep / f"prompts-{asked.prompts}.json"),
        "max_new_tokens": asked.tokens,
        "precision": "fp32",
    }


def _folder(asked: argparse.Namespace) -> Path:
    run: Path = asked.keep / f"run-{asked.conditions}x{asked.prompts}"
    return run


def _sweep(asked: argparse.Namespace) -> None:
    """The sweep, with a line for each thousand conditions."""
    from steersweep.sweeps.run import run_sweep
    from steersweep.sweeps.settings import make_settings
    from steersweep.work.job import Progress

    folder = _folder(asked)
    arguments: dict[str, object] = {**_arguments(asked)}
    make: Callable[..., object] = make_settings
    settings = make([str(asked.keep / "model")], **arguments)
    print("| conditions | s | of processor | ms each, of processor | MB held |")
    print("|---|---|---|---|---|")
    last = [0, time.perf_counter(), time.process_time()]

    def on_progress(progress: Progress) -> None:
        if progress.done - last[0] >= asked.every or progress.note == "finished":
            now, used = time.perf_counter(), time.process_time()
            spent, worked = now - last[1], used - last[2]
            each = 1000 * worked / max(1, progress.done - last[0])
            shown = f"{spent:.1f} | {worked:.1f} | {each:.2f} | {_held():.0f}"
            print(f"| {progress.done} | {shown} |", flush=True)
            last[:] = [progress.done, now, used]

    run: Callable[..., object] = run_sweep
    run(settings, folder, device="cpu", on_progress=on_progress)
    print(f"results written after {time.perf_counter() - last[1]:.1f} s, {_held():.0f} MB held")
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    conditions = sum(path.parent.name == "conditions" for path in files)
    print(f"{len(files)} files ({conditions} conditions), {size / 1e6:.0f} MB")


def _held() -> float:
    """Megabytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _resume(asked: argparse.Namespace) -> None:
    """The same sweep again in a process of its own, with nothing left to do."""
    _sweep(asked)


def _command(asked: argparse.Namespace) -> None:
    """The command again, with its report."""
    options = [
        part
        for name, value in _arguments(asked).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    _steersweep("sweep", str(asked.keep / "model"), *options, "--out", str(_folder(asked)))


def _report(asked: argparse.Namespace) -> None:
    _steersweep("report", str(_folder(asked)))


def _look(asked: argparse.Namespace) -> None:
    """What `steersweep status` does of a study's files: every one is looked through."""
    from steersweep.run.folder import RunFolder

    RunFolder.existing(_folder(asked)).look_through()


def _steersweep(*arguments: str) -> None:
    from steersweep.cli.app import app

    app(arguments, standalone_mode=False)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "sweep": _sweep,
    "resume": _resume,
    "command": _command,
    "report": _report,
    "look": _look,
}


if __name__ == "__main__":
    main()
