"""Every file imports only downwards, lazily imported modules included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/steersweep"

# From the bottom up. Folders on one line do not import one another.
LAYERS = [
    ["core"],
    ["run", "prompts", "catalog", "plans", "search", "lab/models.py"],
    ["budget"],
    ["model"],
    ["steer"],
    ["judging", "methods"],
    ["effects", "smoke", "lab"],
    ["work"],
    ["engines"],
    ["people"],
    ["sweeps"],
    ["verification"],
    ["study"],
    ["report", "tracking"],
    ["library"],
    ["interop"],
    ["cli"],
]
# Files that stand lower than their folder: tables and pure functions, without imports of their own
# layer. `experiment` holds only the name of `verdict` that outsiders rely on.
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
TOP = ("__init__.py", "experiment")


def place_of(path: Path) -> str:
    """The folder of a file in the picture, or the file itself where it stands lower."""
    name = path.relative_to(SOURCE).as_posix()
    return name if name in HEIGHT else name.split("/")[0]


@cache
def imports(path: Path) -> list[tuple[int, Path]]:
    """Line and file of everything of this package that a file imports, within functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            file = SOURCE.joinpath(*parts).with_suffix(".py") if parts else SOURCE / "__init__.py"
            if package == "steersweep" and parts and file.is_file():
                found.append((node.lineno, file))
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if place_of(path) not in TOP]


def test_every_folder_has_a_place_in_the_picture() -> None:
    assert {place_of(path) for path in FILES} <= HEIGHT.keys()


@pytest.mark.parametrize("place", sorted({place_of(path) for path in FILES}))
def test_imports_go_down(place: str) -> None:
    upwards = [
        f"{path.relative_to(SOURCE)}:{line} imports {other.relative_to(SOURCE)}"
        for path in FILES
        if place_of(path) == place
        for line, other in imports(path)
        if place_of(other) != place and HEIGHT[place_of(other)] >= HEIGHT[place]
    ]
    assert upwards == []


def test_no_files_import_one_another_in_a_circle() -> None:
    below = {path: {other for _, other in imports(path)} for path in FILES}
    while leaves := {path for path, others in below.items() if not others & below.keys()}:
        below = {path: others for path, others in below.items() if path not in leaves}
    assert sorted(str(path.relative_to(SOURCE)) for path in below) == []
