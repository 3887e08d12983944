"""Labelling a file of responses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from steersweep.atomic import write_text
from steersweep.errors import InputError
from steersweep.judging.judge import get_judge


def judge_file(source: Path, target: Path, judge_name: str) -> dict[str, int]:
    """Add the fields of `Judgement` to every line of a file.

    Args:
        source: JSON lines, each an object with texts `prompt` and `response`; other fields are
            kept.
        target: where the labelled lines go; written whole or not at all.
        judge_name: name of the judge.

    Returns:
        How many responses have each quality.

    Raises:
        InputError: an unknown judge, an unreadable file, or a line without the two fields.
    """
    try:
        judge = get_judge(judge_name)
    except ValueError as error:
        raise InputError(f"--judge {judge_name}: {error}") from error
    try:
        lines = source.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read: {error}") from error
    judged = []
    counts = {"coherent": 0, "garbled": 0, "normal": 0}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(source, number, line)
        judgement = judge(row["prompt"], row["response"])
        counts[judgement.quality] += 1
        judged.append(json.dumps({**row, **asdict(judgement)}, ensure_ascii=False))
    write_text(target, "".join(f"{line}\n" for line in judged))
    return counts


def _row(source: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source}, line {number}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{source}, line {number}: must be a JSON object")
    for field in ("prompt", "response"):
        if not isinstance(row.get(field), str):
            raise InputError(f'{source}, line {number}: field "{field}" must be a text')
    return row
