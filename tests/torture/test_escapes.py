"""Terminal escapes and other control characters in every name that comes from outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from torture.helpers.cases import Case, Torture, Verdict
from torture.helpers.models import good
from torture.helpers.runs import PLAN, Ground
from torture.helpers.verdicts import of_input

MARKS = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://example.org\x1b\\x\x1b]8;;\x1b\\",
    "c1": "\x9b2J",
    "back": "ab\x08\x08cd",
    "return": "safe\rfake",
    "turned": "\u202etxt.exe",
    "isolated": "\u2066x",
    "nul": "a\x00b",
    "delete": "a\x7fb",
    "markup": "[bold red]x[/nothing]",
}

Attack = Callable[[Ground, Path, str], Sequence[tuple[str, ...]]]
"""Puts a text somewhere into a folder; returns the commands that may print it."""


def _in_results(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    """In every text of a sweep's results, as a run from somebody else would have it."""
    run = ground.sweep.copy_to(folder)
    for file in run.glob("results/*.json"):
        results = json.loads(file.read_text("utf-8"))
        for result in results:
            for name in ("model", "model_id", "family", "method", "gpu"):
                result[name] = f"{result[name]}{mark}"
        file.write_text(json.dumps(results), "utf-8")
    return [("report", "run"), ("review", "run", "--summary"), ("report", "run", "run")]


def _in_decisions(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    run = ground.signed.copy_to(folder)
    for file in run.glob("decisions/*.json"):
        text = file.read_text("utf-8")
        file.write_text(text.replace('"q7"', json.dumps(f"q7{mark}")), "utf-8")
    return [("decide", "run"), ("status", "run")]


def _in_gates(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    ground.signed.copy_to(folder)
    sign = ("approve", "run", "R1", "--reject", "--by", f"Ada{mark}", "--note", f"no{mark}")
    if "\0" in mark:  # no command line can hold it
        sign = (*sign[:5], "Ada", "--note", "no")
    return [sign, ("status", "run"), ("run", "plan.yaml", "--out", "run", "--quiet")]


def _in_reviews(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    run = ground.signed.copy_to(folder)
    file = run / "reviews.jsonl"
    lines = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    for line in lines:
        line["reviewer"] = f"Ada{mark}"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return [("review", "run", "--summary")]


def _in_failures(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    run = ground.signed.copy_to(folder)
    for file in run.glob("phases/*-failures.json"):
        file.write_text(json.dumps({f"job{mark}": f"why{mark}"}), "utf-8")
    return [("status", "run"), ("decide", "run")]


def _in_plan(_ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    plan = yaml.safe_load(PLAN)
    plan["description"] = plan["name"] = f"small{mark}"
    plan["families"][f"qwen{mark}"] = plan["families"].pop("qwen")
    plan["gates"] = {"R1": [f"Which?{mark}"]}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), "utf-8")
    return [("plan", "plan.yaml"), ("run", "plan.yaml", "--out", "run", "--quiet")]


def _in_question(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    ground.study.copy_to(folder)
    plan = yaml.safe_load(PLAN) | {"gates": {"R1": [f"Which families?{mark}"]}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), "utf-8")
    return [("run", "plan.yaml", "--out", "run", "--quiet"), ("status", "run")]


def _in_model_folder(_ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    if "\0" in mark:
        return []
    name = f"model{mark.replace('/', '-')}"
    good(folder).rename(folder / name)
    sweep = ("sweep", f"./{name}", "--layers", "0.5", "--strengths", "0.35", "--max-prompts", "2")
    return [("smoke", f"./{name}"), (*sweep, "--max-new-tokens", "4", "--out", "run", "--quiet")]


def _in_template(_ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    text = mark.replace("'", "").replace("\\", "")
    template = f"{{{{ raise_exception('never {text}') }}}}"
    (good(folder) / "chat_template.jinja").write_text(template, "utf-8")
    return [("smoke", "model"), ("extract", "model", "--layer", "1", "-o", "d.safetensors")]


def _in_direction(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(ground.direction, framework="pt") as file:
        facts = {**file.metadata(), "model_id": json.dumps(f"x{mark}"), f"fact{mark}": "1"}
        vector = file.get_tensor("direction")
    save_file({"direction": vector}, folder / "d.safetensors", metadata=facts)
    generate = ("generate", "lab:qwen-3b", "--direction", "d.safetensors", "--strength", "0.3")
    return [(*generate, "--prompt", "Hello", "--max-new-tokens", "4")]


def _in_prompts(_ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    name = f"p{mark.replace('/', '-')}.json"
    if "\0" in mark:
        name = "p.json"
    (folder / name).write_text(json.dumps(["Name a river.", f"{mark}", f"{mark}"]), "utf-8")
    sweep = ("sweep", "lab:qwen-3b", "--layers", "0.5", "--strengths", "0.35", "--prompts", name)
    return [(*sweep, "--max-new-tokens", "4", "--out", "run", "--quiet")]


def _in_names_of_files(ground: Ground, folder: Path, mark: str) -> Sequence[tuple[str, ...]]:
    run = ground.signed.copy_to(folder)
    if "\0" not in mark:
        name = mark.replace("/", "-")
        (run / "conditions" / f"{name}.json.damaged").write_text("")
        (run / "results" / f"v3_phase9{name}.json").write_text("[]")
    return [("status", "run"), ("report", "run"), ("review", "run", "--summary")]


PLACES: dict[str, Attack] = {
    "results": _in_results,
    "decisions": _in_decisions,
    "gates": _in_gates,
    "reviews": _in_reviews,
    "failures": _in_failures,
    "plan": _in_plan,
    "question": _in_question,
    "model-folder": _in_model_folder,
    "template": _in_template,
    "direction": _in_direction,
    "prompts": _in_prompts,
    "file-names": _in_names_of_files,
}


def escape_case(ground: Ground, place: str, name: str) -> Case:
    def attack(folder: Path) -> Verdict:
        verdict = Verdict("ok")
        for arguments in PLACES[place](ground, folder, MARKS[name]):
            done = ground.run(arguments, folder, 30)
            if "\r" in done.text:
                return Verdict("escape", f"a carriage return from {arguments[0]}")
            verdict = of_input(done, folder, refused=None)
            if verdict.name != "ok":
                return verdict
        return verdict

    return Case(f"escape-{place}-{name}", attack)


def test_escapes(torture: Torture, ground: Ground) -> None:
    cases = [escape_case(ground, place, name) for place in PLACES for name in MARKS]
    torture.attack("escapes in names", cases, small=36)
