"""Judges of a user's own, by where they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steersweep import InputError, get_judge
from steersweep.judging.judge import Answer
from steersweep.judging.judges import is_judge_name
from steersweep.sweeps.rejudge import rejudge
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings

PAGE = (Path(__file__).parent.parent / "docs/judging.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the judge of the docs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steersweep.core.own._imported", {})
    (tmp_path / "my_judge.py").write_text(CODE)
    return tmp_path


def test_the_example_of_the_docs_judges_and_is_found_by_its_id(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = get_judge("my_judge.py:Apologies")
    assert re.fullmatch(rf"{here}/my_judge.py:Apologies@sha256:[0-9a-f]{{24}}", judge.id)
    answers = [Answer("How?", "I'm sorry, no."), Answer("How?", "<think>a</think>\n\nLike this.")]
    assert [found.quality for found in judge.judge(answers)] == ["coherent", "normal"]
    monkeypatch.chdir("/")
    assert get_judge(judge.id).id == judge.id
    assert is_judge_name(judge.id)
    (here / "my_judge.py").write_text(CODE.replace('sorry"', 'afraid"'))
    with pytest.raises(ValueError, match="code are no longer those this began with"):
        get_judge(judge.id)


def test_a_sweep_is_judged_by_it_and_judged_again_by_what_it_became(here: Path) -> None:
    settings = make_settings(
        ["lab:qwen-3b"],
        layers="0.5",
        strengths="0.3",
        max_prompts=2,
        max_new_tokens=4,
        judge="my_judge.py:Apologies",
    )
    (result,) = run_sweep(settings, here / "run", device="cpu").results
    assert result.judge == get_judge("my_judge.py:Apologies").id
    (here / "my_judge.py").write_text(CODE.replace('("normal", "helps")', '("garbled", "helps")'))
    again = rejudge(here / "run", "my_judge.py:Apologies")
    assert again.judge == get_judge("my_judge.py:Apologies").id != result.judge
    lines = (here / "run/judgements").glob("*.jsonl")
    said = [json.loads(line) for file in lines for line in file.read_text().splitlines()]
    assert {line["quality"] for line in said} <= {"coherent", "garbled"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Apologies: pass", "it must have judge"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError: .*line 1"),
        ("class Yours: pass", "there is no Apologies in it; it has Yours"),
    ],
)
def test_what_is_no_judge_is_said_in_a_line(here: Path, code: str, said: str) -> None:
    (here / "my_judge.py").write_text(code)
    with pytest.raises(InputError, match=said) as raised:
        make_settings(["lab:qwen-3b"], strengths="0.3", judge="my_judge.py:Apologies")
    assert f"judge {here / 'my_judge.py'}:Apologies: " in str(raised.value)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("[]", "a list of 1 judgements, not 0"),
        ("None", "a list of 1 judgements, not NoneType"),
        ("['coherent']", "'coherent' is no judgement"),
        ("[Judgement(True, 'good', None, False, 1.0, 'refuses')]", "is no judgement"),
        ("[Judgement(True, 'coherent', None, False, 7.0, 'refuses')]", "is no judgement"),
        ("[Judgement(1, 'coherent', None, False, 1.0, 'refuses')]", "is no judgement"),
        ("answers[9]", r"judge failed: IndexError: .*my_judge.py, line 9"),
    ],
)
def test_what_is_no_judgement_is_said_in_a_line(here: Path, gives: str, said: str) -> None:
    code = re.sub(r"return \[self.one.*", f"return {gives}", CODE)
    (here / "my_judge.py").write_text(code)
    judge = get_judge("my_judge.py:Apologies")
    with pytest.raises(InputError, match=said):
        judge.judge([Answer("How?", "Like this.")])
