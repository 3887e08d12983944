"""Results as tables for other tools: nothing lost, columns as documented."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from steersweep.library.results import SweepResults
from steersweep.library.tables import FORMATS, write_table
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from test_cli import refused, run

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = make_settings(
        ["lab:qwen-3b"], layers="0.5", strengths="0.3,1.5", max_prompts=4, max_new_tokens=16
    )
    run_sweep(settings, folder)
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [*csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("what", ["conditions", "answers"])
@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_holds_every_row(what: str, format_: str, swept: Path, tmp_path: Path) -> None:
    out = tmp_path / f"table.{format_}"
    said = run(
        "export", str(swept), "--to", format_, "--what", what, "--out", str(out), cwd=tmp_path
    )
    results = SweepResults.of(swept)
    rows = [*(results.rows() if what == "conditions" else results.answers())]
    assert said.stdout.strip() == f"{out}: {len(rows)} {what}"
    assert len(rows) == (5 if what == "conditions" else 20)
    found = read(out)
    if format_ == "csv":  # all is text there, and what is not is empty
        rows = [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for row in rows
        ]
    assert found == rows
    assert [*found[0]] == [*rows[0]]


def test_the_columns_are_those_that_the_docs_name(swept: Path) -> None:
    results = SweepResults.of(swept)
    text = (DOCS / "results.md").read_text("utf-8").partition("## Tables")[2].partition("\n## ")[0]
    for what, rows in (("conditions", results.rows()), ("answers", results.answers())):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{what}` |"))
        assert re.findall(r"`(\w+)`", line)[1:] == [*next(iter(rows))]


def test_texts_of_every_kind_come_back(tmp_path: Path) -> None:
    texts = ['=1+1, "quoted"', "two\nlines\r\n", "", "\u2028 \x00 \U0001f600", "汉字", "-"]
    rows = [{"response": text, "nll": None, "failure_mode": None} for text in texts]
    for format_ in FORMATS:
        path = tmp_path / f"texts.{format_}"
        assert write_table(rows, path, format_) == len(rows)
        assert [row["response"] for row in read(path)] == texts
    half = [{"response": "broken \ud83d", "nll": None, "failure_mode": None}]
    for format_ in FORMATS:
        write_table(half, tmp_path / f"half.{format_}", format_)
        assert read(tmp_path / f"half.{format_}")[0]["response"] == "broken ?"


def test_a_column_that_is_empty_here_has_its_type(tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = [{"nll": None, "layer_idx": None, "failure_mode": None}]
    write_table(rows, tmp_path / "empty.parquet", "parquet")
    schema = parquet.read_table(tmp_path / "empty.parquet").schema
    assert [str(schema.field(name).type) for name in rows[0]] == ["double", "int64", "string"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "xlsx"], "--to xlsx: choose from csv, jsonl, parquet"),
        (["--what", "cells"], "--what cells: choose from conditions, answers"),
        (["--out", "."], "--out .: is a folder; give a file"),
    ],
)
def test_what_cannot_be_exported_is_named(options: list[str], said: str, swept: Path) -> None:
    assert said in refused("export", str(swept), *options, cwd=swept)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    assert "no steersweep run" in refused("export", str(tmp_path), cwd=tmp_path)
