"""Every name in a run folder is spelled in `run/paths.py` and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from steersweep.run.paths import FOLDERS, RunPaths

SOURCE = Path(__file__).parents[1] / "src/steersweep"
HOME = SOURCE / "run/paths.py"


@cache
def names() -> tuple[set[str], set[str]]:
    """Names of files and of folders that lie in a run folder, as their own module spells them."""
    spelled = {text for _, text in texts(ast.parse(HOME.read_text("utf-8")))}
    files = {
        name for name in spelled if re.fullmatch(r"\.lock|[\w.-]+\.(jsonl?|yaml|md|html|txt)", name)
    }
    folders = {name for name in spelled - files if re.fullmatch(r"[a-z]+(-[a-z]+)?", name)}
    assert {"plan.yaml", "ledger.jsonl", ".lock", "report.html", "FINDINGS_LOG.md"} <= files
    assert {*FOLDERS, "figures", "judgements", "tracking"} <= folders
    return files, folders


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts of a module with their lines, but for docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def joined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts that stand right of a `/`, as in `folder / "results"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield from ((node.lineno, text) for _, text in texts(node.right))


def spelled(tree: ast.AST) -> list[str]:
    """Where a module spells a file of a run folder, or joins or begins a path with a folder."""
    files, folders = names()
    begins = tuple(f"{folder}/" for folder in folders)
    found = {
        (line, text)
        for line, text in texts(tree)
        if text in files or (text.startswith(begins) and " " not in text)
    }
    found |= {(line, text) for line, text in joined(tree) if text in folders}
    return [f"line {line}: {text}" for line, text in sorted(found)]


@pytest.mark.parametrize(
    "line",
    [
        'PLAN = "plan.yaml"',
        'path = folder / "results" / name',
        'path = folder / "figures"',
        'name = f"conditions/{key}.json"',
        'lock = root / ".lock"',
        'page = "FINDINGS_LOG.md"',
    ],
)
def test_the_check_sees_names_joined_paths_and_names_put_together(line: str) -> None:
    assert spelled(ast.parse(line))
    assert not spelled(ast.parse('"""Writes `plan.yaml`."""\nresults = found["results"]'))


def test_no_other_module_spells_a_path_of_the_run_folder() -> None:
    datasets = SOURCE / "prompts/hub.py"  # a data set saved by `datasets` has a state.json too
    others = [path for path in sorted(SOURCE.rglob("*.py")) if path not in (HOME, datasets)]
    found = {path.relative_to(SOURCE): spelled(ast.parse(path.read_text())) for path in others}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_every_path_lies_in_the_folder() -> None:
    root = Path("run")
    paths = RunPaths(root)
    found = [value for name in dir(RunPaths) if isinstance(value := getattr(paths, name), Path)]
    assert len({*found}) == len(found) >= 20
    assert all(root in path.parents for path in found)
    assert paths.name_of(paths.condition("k")) == "conditions/k.json"
    assert paths.named(paths.name_of(paths.direction("k"))) == paths.direction("k")
