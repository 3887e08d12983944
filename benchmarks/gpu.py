"""Everything that only a GPU can show, in one command and one file to send.

    python benchmarks/gpu.py --out FILE.md [--minutes 25] [--parts tests,limits] [--models FOLDER]

What ran is written to the file part by part, so that nothing is lost when time or the machine ends.
A part that time does not allow is said to be untested. `--models`: a folder with real models, as
folders or GGUF files, to sweep as well; shapes have random weights.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from machine import named

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A command to run.

    Attributes:
        name: what `--parts` calls it.
        command: after the Python that runs this.
        minutes: it takes about as long on an H100, and is stopped after three times that.
    """

    name: str
    command: tuple[str, ...]
    minutes: float


def script(name: str, *arguments: str) -> tuple[str, ...]:
    """A benchmark of this folder."""
    return (str(HERE / f"{name}.py"), *arguments)


def parts(models: Path | None, work: Path) -> Iterator[Part]:
    """What there is to run, the most telling first."""
    yield Part(
        "tests", ("-m", "pytest", "-q", "-m", "gpu", "--durations=5", "tests/test_gpu.py"), 2
    )
    yield Part("limits", script("limits", "--runs", "3", "--parts", "decoding,extraction"), 0.7)
    small = ("--shape", "qwen2.5-0.5b", "--folder", str(work / "0.5b"))
    yield Part(
        "limits-0.5b",
        script("limits", *small, "--runs", "2", "--parts", "decoding,interventions,extraction"),
        1,
    )
    yield Part("estimates", script("cost_curves", "--device", "cuda", "--runs", "2", "--jobs"), 2)
    yield Part("cosmic", script("cosmic_speed", "--runs", "2"), 1)
    yield Part(
        "sweep", script("sweep_speed", "--ways", "study,batched", "--study-share", "0.08"), 1.5
    )
    many = ("--strengths", "5", "--prompts", "40", "--tokens", "60", "--study-share", "0.05")
    ways = ("--ways", "study,batched", "--runs", "3")
    yield Part("sweep-0.5b", script("sweep_speed", *small, *ways, *many), 2)
    big = ("--shape", "qwen2.5-7b", "--folder", str(work / "7b"))
    yield Part("phase1-7b", script("phase1", *big), 1.2)
    steps = ("--runs", "2", "--parts", "decoding")
    yield Part("limits-7b", script("limits", *big, *steps), 0.5)
    few = ("--runs", "1", "--parts", "decoding", "--rows", "1,64,256")
    for bits in ("int8", "int4"):
        yield Part(f"limits-7b-{bits}", script("limits", *big, *few, "--precision", bits), 1)
    wide = ("--shape", "gemma-2-9b", "--folder", str(work / "9b"))
    yield Part("limits-9b", script("limits", *wide, *steps), 1)
    for model in sorted(models.iterdir()) if models else ():
        if model.suffix == ".gguf" or (model / "config.json").exists():
            yield Part(f"real-{model.stem}", script("phase1", "--model", str(model)), 2)


def main() -> None:
    """Run the parts that time allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to send")
    parser.add_argument("--minutes", type=float, default=25, help="for all of it")
    parser.add_argument("--parts", help="only these, with commas")
    parser.add_argument("--models", type=Path, help="a folder of real models to sweep as well")
    parser.add_argument("--work", type=Path, default=Path("/tmp/steersweep-gpu"))
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = asked.parts.split(",") if asked.parts else None
    ends = time.monotonic() + 60 * asked.minutes
    asked.out.write_text(
        f"# steersweep on {named(device)}\n\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n"
    )
    for part in parts(asked.models, asked.work):
        if wanted is not None and part.name not in wanted:
            continue
        left = ends - time.monotonic()
        if left < 60 * part.minutes:
            said = f"untested: {left / 60:.1f} minutes were left, it takes about {part.minutes:g}"
        else:
            said = ran(part, min(left, 180 * part.minutes))
        with asked.out.open("a") as file:
            file.write(f"\n## {part.name}\n\n{said}\n")
        print(f"\n## {part.name}\n\n{said}", flush=True)


def ran(part: Part, seconds: float) -> str:
    """What a part printed, with its time and how it ended."""
    command = [sys.executable, *part.command]
    started = time.monotonic()
    # A session of its own: what a part starts must not outlast it, nor hold its output open.
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
        start_new_session=True,
    )
    try:
        out, errors = running.communicate(timeout=seconds)
        ended = f"exit code {running.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        out, errors = running.communicate()
        ended = "stopped: out of time"
    took = time.monotonic() - started
    shown = " ".join(part.command).replace(f"{HERE.parent}/", "")
    said = f"`python {shown}`: {took:.0f} s, {ended}\n\n{out.strip()}"
    return said if ended == "exit code 0" else f"{said}\n\n```\n{errors.strip()[-4000:]}\n```"


if __name__ == "__main__":
    main()
