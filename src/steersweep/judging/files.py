"""Labelling a file of responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import json_problem, parse_json, read_text
from steersweep.judging.judge import Answer
from steersweep.judging.judges import get_judge
from steersweep.prompts.conversation import read_turns

MAX_BYTES = 128 * 2**20
MAX_TEXT = 2**20  # characters
_MAX_LINE = 16 * MAX_TEXT  # JSON may spell a character with twelve; and other fields


def judge_file(source: Path, target: Path, judge_name: str) -> dict[str, int]:
    """Add the fields of `Judgement` to every line of a file.

    Args:
        source: JSON lines, each an object with texts `prompt` and `response`; other fields are
            kept. A prompt may be a list of messages, and so may `messages` in its place: the last
            user turn is judged, with the answer after it where there is no `response`.
        target: where the labelled lines go, in UTF-8; written whole or not at all.
        judge_name: name of the judge.

    Replies of a judge's server are kept in the folder `TARGET.replies`, so that a labelling that
    was stopped goes on.

    Returns:
        How many responses have each quality, and where there are any, how many are unjudged.

    Raises:
        InputError: an unknown judge, an unreadable file, a line without the two fields, or a
            target that is a folder or the source itself.
    """
    try:
        judge = get_judge(judge_name, Path(f"{target}.replies"))
    except ValueError as error:
        raise InputError(f"{setting('judge')} {judge_name}: {error}") from error
    lines = read_text(source, max_bytes=MAX_BYTES).split("\n")
    _refuse_target(source, target)
    rows = [(n, _row(source, n, line)) for n, line in enumerate(lines, start=1) if line.strip()]
    counts = {"coherent": 0, "garbled": 0, "normal": 0}
    judged = judge.judge([_answer(source, n, row) for n, row in rows])
    lines = []
    for (_, row), judgement in zip(rows, judged, strict=True):
        counts[judgement.quality] = counts.get(judgement.quality, 0) + 1
        lines.append(json.dumps({**row, **typed.plain_fields(judgement)}, ensure_ascii=False))
    write_text(target, "".join(f"{line}\n" for line in lines))
    return counts


def _refuse_target(source: Path, target: Path) -> None:
    """Before anything is judged: a target that cannot be, or would take the source's place."""
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give a file to write")
    if target.exists():
        if not target.is_file():
            raise InputError(f"{target}: is no regular file; give another one to write")
        if target.samefile(source):
            raise InputError(f"{target}: is the file that is read; give another one to write")


def _row(source: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{source}, line {number}"
    if len(line) > _MAX_LINE:
        raise InputError(f"{where}: {len(line):,} characters; {_MAX_LINE:,} is the most")
    try:
        row = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {json_problem(error)}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be a JSON object")
    return row


def _answer(source: Path, number: int, row: dict[str, Any]) -> Answer:
    """What is judged of a line."""
    where = f"{source}, line {number}"
    prompt, response = row.get("prompt"), row.get("response")
    field = "prompt" if "prompt" in row or "messages" not in row else "messages"
    if isinstance(messages := row.get(field), list):
        turns, answers = read_turns(f'{where}: field "{field}"', messages)
        prompt = turns[-1].content
        if response is None and len(answers) == 1:
            response = answers[0].content
    if not isinstance(prompt, str):
        raise InputError(f'{where}: field "prompt" must be a text')
    if not isinstance(response, str):
        raise InputError(f'{where}: field "response" must be a text')
    for name, text in (("prompt", prompt), ("response", response)):
        if len(text) > MAX_TEXT:
            raise InputError(
                f'{where}: field "{name}" has {len(text):,} characters; {MAX_TEXT:,} is the most'
            )
    return Answer(prompt, response)
