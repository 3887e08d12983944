"""Hostile values of options and arguments, for every command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torture.helpers.cases import Case, Torture
from torture.helpers.hostile import hostile
from torture.helpers.runs import PLAN, Ground

Add = Callable[..., None]

SWEEP = ("sweep", "lab:qwen-3b", "--max-prompts", "2", "--max-new-tokens", "4", "--quiet")
PLACE = ("--layers", "0.5", "--strengths", "0.3")
EXTRACT = ("extract", "lab:qwen-3b", "-o", "d.safetensors")
GENERATE = ("generate", "lab:qwen-7b", "--direction", "d.safetensors", "--max-new-tokens", "4")
HUGE = "9" * 20
LONG = "9" * 10_000
ODD = ("nan", "inf", "-inf", "1e999", "-0", "0x10", "१", "1_0", " ", "", "\x1b[2J", HUGE, LONG)


@dataclass
class Lines:
    """Command lines by name: the line, whether it must be refused, and what names the fault."""

    found: dict[str, tuple[Sequence[str], bool | None, Sequence[str]]] = field(default_factory=dict)

    def add(
        self, option: str, before: Sequence[str], *values: str, refused: bool | None = True
    ) -> None:
        """`before` with an option of each value."""
        words = option.strip("-").replace("-", " ")
        for value in values:
            line = (*before, option, value)
            names = (option, words, words.rstrip("s"), *(_shown(value) if value.strip() else ()))
            self.found[f"{before[0]} {option}={ascii(value)[1:-1][:24]}"] = line, refused, names

    def whole(self, name: str, *line: str) -> None:
        """A line that must be refused."""
        self.found[name] = line, True, ()


def _shown(value: str) -> tuple[str, str]:
    """A value as it is, and with its control characters escaped."""
    return value, ascii(value)[1:-1]


def sweeps(add: Add) -> None:
    layers = [*SWEEP, "--strengths", "0.3"]
    add("--layers", layers, "2.5", "9", "-1", "1.0", "1/0", "a", "0.5,,0.4", "0.5;0.4")
    add("--layers", layers, "0..5", "1e-1", "0.5\x1b[2J", ",", "auto", "nan", "inf", HUGE, LONG)
    add("--layers", layers, " 0.5 ", "००.5", "1/2", "0.5,0.5", "1_0", refused=None)
    strengths = [*SWEEP, "--layers", "0.5"]
    add("--strengths", strengths, "-1", "0", "a", ",", "0.3,", *ODD[:4], "\x1b[2J", "0.3 0.4")
    add("--strengths", strengths, "1e300", "1e-320", HUGE, refused=None)
    add("--multipliers", strengths, "-1", "0", "a", *ODD[:4])
    add("--multipliers", strengths, "1e300", "1e38", refused=None)
    base = [*SWEEP[:2], "--max-new-tokens", "4", "--quiet", *PLACE]
    add("--max-prompts", base, "0", "-1", "2.5", "a", *ODD[:4], "", " ", "\x1b[2J", LONG)
    tokens = ["sweep", "lab:qwen-3b", "--max-prompts", "2", "--quiet", *PLACE]
    add("--max-new-tokens", tokens, "0", "-1", "2.5", "a", HUGE, LONG, "")
    add("--max-new-tokens", tokens, "1000000", refused=None)
    swept = [*SWEEP, *PLACE]
    add("--rows", swept, "0", "-1", "10.5", "a", LONG, "")
    add("--rows", swept, HUGE, refused=None)
    add("--seed", swept, "a", "2.5", "", LONG, "nan")
    add("--seed", swept, HUGE, "-1", "-" + HUGE, refused=None)
    add("--methods", swept, "magic", "dim,", "", "dim\x1b[2J", "DIM", "os.path:join", "../x.py:A")
    add("--precision", swept, "fp8", "FP32", "", "int4\x1b[2J", "auto,fp32")
    add("--device", swept, "gpu9", "cuda:99", "", "meta", "cuda:-1", "\x1b[2J")
    add("--judge", swept, "magic", "", "classifier:", "classifier:/nowhere", "default\x1b[2J")
    add("--prompts", swept, "nothing", "", "..", "/", "/dev/null", "~", "x\x1b[2J.txt", "a" * 5_000)
    add("--extraction", swept, "nothing", "", "..", "/dev/null", "x\x1b[2J.json", "a" * 5_000)
    add("--out", swept, "/proc/x", "small.yaml", "a" * 5_000, "/dev/null", "small.yaml/x", "")
    add("--out", swept, "\x1b[2Jx", refused=None)
    add("--track", swept, "magic", "", "wandb\x1b[2J")


def one_model(add: Add) -> None:
    add("--layer", EXTRACT, "2.5", "9", "-1", "1.0", "auto", "a", "", "nan", "\x1b[2J", HUGE, LONG)
    place = [*EXTRACT, "--layer", "0.5"]
    add("--method", place, "magic", "", "dim,dim", "dim\x1b[2J")
    add("--backend", place, "magic", "", "hooks\x1b[2J")
    add("--extraction", place, "nothing", "", "/dev/null")
    add("--device", place, "gpu9", "cuda:99")
    target = ["extract", "lab:qwen-3b", "--layer", "0.5"]
    add("-o", target, "/proc/x", "folder", "a" * 5_000 + ".safetensors", "small.yaml/x", "")
    asked = [*GENERATE, "--prompt", "Hello"]
    add("--strength", asked, "nan", "inf", "-inf", "1e999", "a", "", "\x1b[2J")
    add("--strength", asked, "1e300", "-1", "0", refused=None)
    add("--multiplier", asked, "nan", "inf", "a", "")
    steered = [*asked, "--strength", "0.3"]
    add("--layer", steered, "2.5", "99", "-1", "a", "", "nan", LONG)
    add("--precision", steered, "fp8", "")
    add("--prompt", [*GENERATE, "--strength", "0.3"], "", "word " * 20_000)
    add("--prompt", [*GENERATE, "--strength", "0.3"], "\x1b[2J", "a\udce9b", "\u202e", refused=None)


def studies(add: Add) -> None:
    add("--phase", ["plan", "small.yaml"], "9", "-1", "0.5", "", "a\x1b[2J")
    add("--apply-cuts", ["plan", "small.yaml"], "9", "-1", "0.5", "", "a", HUGE)
    add("--prices", ["plan", "small.yaml"], "nowhere", "folder", "", "/dev/null", "small.yaml")
    run = ["run", "small.yaml", "--quiet", "--out", "run"]
    add("--phase", run, "9", "-1", "", "a\x1b[2J")
    add("--budget", run, "nan", "-1", "a", "", "-inf")
    add("--apply-cuts", run, "9", "-1", "0.5", HUGE)
    add("--engine", run, "magic", "", "local\x1b[2J")
    add("--ray-address", run, "x")
    add("--track", run, "magic", "")
    add("--device", run, "gpu9", "cuda:99")
    checks = ["smoke", "small.yaml", "--all", "--quiet"]
    add("--engine", checks, "magic", "", "local\x1b[2J")
    add("--out", checks, "/proc/x", "small.yaml", "a" * 5_000, "/dev/null", "small.yaml/x", "")
    add("--budget", checks, "nan", "-1", "a", "", "-inf")
    add("--precision", checks, "fp8", "FP32", "", "int4\x1b[2J")
    add("--device", checks, "gpu9", "cuda:99")
    add("--ray-address", checks, "x")
    add("--judge", ["judge", "texts.jsonl", "out.jsonl"], "magic", "", "classifier:", "x\x1b[2J")


def whole_lines(lines: Lines) -> None:
    for command in ("status", "decide", "report", "review", "track", "fetch"):
        for value in ("nowhere", "", "small.yaml", "folder", "a\x1b[2Jb", "a" * 5_000, "/dev/null"):
            lines.whole(f"{command} {ascii(value)[1:-1][:24]}", command, value)
    for value in ("", " ", "\n"):
        lines.whole(f"approve --by={value!a}", "approve", "folder", "R1", "--by", value)
    for gate in ("R9", "", "r1", "\x1b[2J", "../R1"):
        lines.whole(f"approve {gate!a}", "approve", "folder", gate, "--by", "A")
    for port in ("-1", "70000", "a", "1.5", ""):
        lines.whole(f"review --port={port}", "review", "folder", "--port", port)
    rest = {"extract": ("--layer", "1", "-o", "d"), "generate": (*GENERATE[2:4], "--prompt", "a")}
    for command in ("sweep", "smoke", "extract", "generate"):
        for name in ("lab:", "lab:nothing", "lab:../x", "", " ", "a/b/c", "/dev/null", "x\x1b[2J"):
            line = (command, name, *rest.get(command, ()))
            lines.whole(f"{command} model={ascii(name)[1:-1]}", *line)
    for name in ("", "nothing", "../x", "\x1b[2J"):
        lines.whole(f"lab path {name!a}", "lab", "path", name)
        lines.whole(f"plan {name!a}", "plan", name)
        lines.whole(f"run {name!a}", "run", name, "--out", "run")
    for line in (
        ("nothing",),
        ("--nothing",),
        ("sweep",),
        ("plan", "v3", "--json=1"),
        ("\x1b[2J",),
    ):
        lines.whole(f"line {' '.join(map(ascii, line))}", *line)


def _prepare(ground: Ground, folder: Path) -> None:
    (folder / "small.yaml").write_text(PLAN)
    (folder / "texts.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (folder / "folder").mkdir()
    (folder / "d.safetensors").write_bytes(ground.direction.read_bytes())


def option_cases(ground: Ground) -> list[Case]:
    lines = Lines()
    for group in (sweeps, one_model, studies):
        group(lines.add)
    whole_lines(lines)
    return [
        hostile(
            ground,
            f"option {name}",
            lambda folder: _prepare(ground, folder),
            line,
            refused=refused,
            names=names,
            limit_s=20 if refused is None else 10,
        )
        for name, (line, refused, names) in lines.found.items()
    ]


def test_options(torture: Torture, ground: Ground) -> None:
    torture.attack("options", option_cases(ground), small=60)
