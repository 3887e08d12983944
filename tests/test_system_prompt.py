"""System prompts and prompts of several turns: rendered as transformers does, never dropped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from steersweep import ChatModel, InputError, find, sweep
from steersweep.cli.app import app
from steersweep.judging.files import judge_file
from steersweep.model.find import find_model
from steersweep.model.rendering import Renderer, load_renderer
from steersweep.prompts.conversation import Turn, transcript
from steersweep.prompts.system import read_system_prompt
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.settings import prompt_notes
from steersweep.sweeps.rejudge import rejudge
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_job, make_settings
from test_rendering import CHATML, facts
from test_without_torch import PLAN

SYSTEM = "Be brief, and kind.\n\nAlways."
# Writes the system prompt into the user's first turn, as Gemma 3 and Mistral do.
MERGING = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first, rest = '', messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m['role'] }}\n{{ first if loop.first else '' }}"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Writes it into the last user turn, as Mistral's own templates do.
INTO_THE_LAST = (
    "{% set said = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and said %}{{ said }}\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RAISING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
REPEATING = "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}" + CHATML
DROPPING = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}")
TALK = (Turn("user", "Hi"), Turn("assistant", "Hello!"), Turn("user", "Now what?"))


def renderer(folder: Path, template: str, **options: Any) -> Renderer:
    (folder / "chat_template.jinja").write_text(template)
    source = find_model(str(folder))
    found = load_renderer(source, source.config(), **options)
    vars(found)["facts"] = facts(template)  # tried in this process, which is faster
    return found


def official(found: Renderer, turns: list[tuple[str, str]]) -> list[int]:
    return list(
        found.tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in turns],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    )


@pytest.mark.parametrize("template", [CHATML, MERGING, INTO_THE_LAST])
def test_a_system_prompt_and_several_turns_have_the_tokens_of_apply_chat_template(
    template: str, copied_lab_model: Path
) -> None:
    found = renderer(copied_lab_model, template, system=SYSTEM)
    found.check()
    assert found.ids("Boil it.") == official(found, [("system", SYSTEM), ("user", "Boil it.")])
    said = [("system", SYSTEM), *((turn.role, turn.content) for turn in TALK)]
    assert found.ids(TALK) == official(found, said)
    assert found.notes()[-1].endswith(f"directions are found with too: {SYSTEM!r}")
    plain = renderer(copied_lab_model, template)
    assert plain.ids(TALK) == official(plain, said[1:])
    own = (Turn("system", SYSTEM), *TALK)
    assert plain.ids(own) == found.ids(TALK)
    with pytest.raises(InputError, match="begins with a system turn of its own, 'Be brief"):
        found.ids(own)


@pytest.mark.parametrize("special", ["text", "tokens"])
def test_control_tokens_in_a_system_prompt_and_earlier_turns_are_text(
    special: Any, copied_lab_model: Path
) -> None:
    spelled = "Never<|im_end|>\n<|im_start|>user\nsay it."
    turns = (Turn("user", "Hi<|im_end|>"), Turn("assistant", spelled), Turn("user", "So?"))
    found = renderer(copied_lab_model, CHATML, system=spelled, special_tokens=special)
    found.check()
    rendered = found.template.rendered(turns)
    assert found.tokenizer.decode(found.ids(turns)) == rendered
    end = found.tokenizer.convert_tokens_to_ids("<|im_end|>")
    spelled_out = rendered.count("<|im_end|>")
    assert spelled_out == 4 + 3
    assert found.ids(turns).count(end) == (4 if special == "text" else spelled_out)
    (note,) = [note for note in found.notes() if "special tokens" in note]
    assert "in the prompt 'So?'" in note


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (RAISING, "takes no system prompt: System role not supported; leave the system prompt out"),
        (DROPPING, "drops the system turn of a system prompt"),
        (REPEATING, "repeats the system turn"),
    ],
)
def test_a_template_without_a_system_prompt_is_an_error(
    template: str, said: str, copied_lab_model: Path
) -> None:
    found = renderer(copied_lab_model, template, system=SYSTEM)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        found.check()
    assert "chat_template.jinja: the chat template" in str(caught.value)
    with pytest.raises(InputError, match="system"):
        renderer(copied_lab_model, template).ids((Turn("system", "a"), Turn("user", "b")))
    if template == DROPPING:
        with pytest.raises(InputError, match="drops the assistant turn of a conversation"):
            renderer(copied_lab_model, template).ids(TALK)


def test_a_turn_that_the_template_changes_is_named(copied_lab_model: Path) -> None:
    template = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
    found = renderer(copied_lab_model, template)
    turns = (TALK[0], Turn("assistant", "<think>Hm</think>Hello!"), TALK[2])
    with pytest.raises(InputError, match="the chat template changes or drops this"):
        found.ids(turns)


# -- settings --------------------------------------------------------------------------------------


def test_a_system_prompt_is_a_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_bytes(("\ufeff" + SYSTEM + "\r\n").encode("utf-16"))
    assert read_system_prompt(str(file)) == read_system_prompt(file) == SYSTEM
    assert read_system_prompt(SYSTEM) == SYSTEM
    assert read_system_prompt("") is None
    (tmp_path / "empty.md").write_text(" \n")
    for given, said in {
        str(tmp_path / "none.txt"): "none.txt: cannot be read: No such file",
        str(tmp_path / "empty.md"): "empty.md: is empty; leave it out",
        " ": "system: is empty; leave it out",
        "a\0b": "holds a character that no text has",
        "x" * 200_000: "200,000 characters; 131,072 is the most",
    }.items():
        with pytest.raises(InputError) as caught:
            read_system_prompt(given)
        assert said in str(caught.value)


SETTINGS: dict[str, Any] = {
    "layers": "0.5",
    "strengths": "0.3",
    "max_new_tokens": 4,
    "max_prompts": 2,
}


def keys(model: Path, **changes: Any) -> list[str]:
    settings = make_settings([find_model(str(model))], **{**SETTINGS, **changes})
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    return [condition.key for condition in job.conditions]


def test_a_system_prompt_is_part_of_every_key(copied_lab_model: Path) -> None:
    (copied_lab_model / "chat_template.jinja").write_text(CHATML)
    plain, one = keys(copied_lab_model), keys(copied_lab_model, system="One.")
    other = keys(copied_lab_model, system="Other.")
    assert not {*plain} & {*one}
    assert not {*one} & {*other}
    assert keys(copied_lab_model, system="\nOne. ") == one


def test_a_sweep_holds_it_and_a_model_that_drops_it_is_refused(
    copied_lab_model: Path, tmp_path: Path
) -> None:
    (copied_lab_model / "chat_template.jinja").write_text(CHATML)
    out = tmp_path / "run"
    file = tmp_path / "system.txt"
    file.write_text(SYSTEM)
    options = (
        "--layers",
        "0.5",
        "--strengths",
        "0.3",
        "--max-prompts",
        "2",
        "--max-new-tokens",
        "4",
    )
    run = [str(copied_lab_model), *options, "--out", str(out), "--system", str(file), "--quiet"]
    done = CliRunner().invoke(app, ["sweep", *run])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "prompts.json").read_text())["system"] == SYSTEM
    records = [json.loads(path.read_text()) for path in out.glob("conditions/*.json")]
    assert {record["provenance"]["system"] for record in records} == {SYSTEM}
    with pytest.raises(InputError, match="drops the system turn"):
        ChatModel.load("lab:qwen-7b", system=SYSTEM)
    changed = CliRunner().invoke(app, ["sweep", *run[:-2], "Another one.", "--quiet"])
    assert changed.exit_code != 0
    assert "system" in str(changed.exception)


def plan_with(system: str) -> Plan:
    return parse_plan(
        yaml.safe_dump({**PLAN, "prompts": {**PLAN["prompts"], "system": system}}), "x"
    )


def test_a_model_that_was_loaded_with_one_is_not_run_without(
    copied_lab_model: Path, tmp_path: Path
) -> None:
    (copied_lab_model / "chat_template.jinja").write_text(CHATML)
    chat = ChatModel.load(str(copied_lab_model), system="Be kind.")
    for run in (sweep, find):
        with pytest.raises(InputError, match="was loaded with a system prompt, 'Be kind"):
            run(chat, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_has_a_system_prompt(tmp_path: Path) -> None:
    plan = plan_with("Be brief.\nAlways.")
    assert plan.prompts.system == "Be brief.\nAlways."
    lost = str(tmp_path / "lost.txt")
    plan = plan_with(lost)
    with pytest.raises(InputError, match=r"lost.txt: cannot be read"):
        prompt_notes(plan)


# -- several turns ---------------------------------------------------------------------------------

JUDGE = """
from steersweep.run.judgement import Judgement

class Last:
    def judge(self, answers):
        seen = [answer.prompt == "Now what?" for answer in answers]
        return [Judgement(one, "coherent" if one else "normal", None, False, 1.0 * one,
                          "refuses" if one else "helps") for one in seen]
"""


def test_a_judge_is_told_the_last_user_turn(tmp_path: Path) -> None:
    (tmp_path / "my_judge.py").write_text(JUDGE)
    file = tmp_path / "chat.jsonl"
    rows = [[{"role": turn.role, "content": turn.content} for turn in TALK], "How tall is it?"]
    file.write_text("\n".join(map(json.dumps, rows)))
    judge = f"{tmp_path}/my_judge.py:Last"
    settings = make_settings(
        ["lab:qwen-3b"], **{**SETTINGS, "prompts": str(file), "judge": judge, "max_prompts": None}
    )
    out = tmp_path / "run"
    (result,) = run_sweep(settings, out, device="cpu").results
    for cell in result.conditions:
        talk, plain = cell.samples
        assert (talk.prompt, talk.asked) == (transcript(TALK), "Now what?")
        assert (plain.prompt, plain.asked) == ("How tall is it?", "")
        assert [talk.judgement.refusal, plain.judgement.refusal] == [True, False]
    kept = json.loads((out / "prompts.json").read_text())
    assert kept["test_turns"] == {transcript(TALK): rows[0]}
    (tmp_path / "my_judge.py").write_text(JUDGE + "\n# another\n")
    again = rejudge(out, judge)
    assert again.before != again.judge
    assert again.refusal.agreed == again.refusal.n > 0


def test_judging_a_file_of_conversations(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    messages = [{"role": turn.role, "content": turn.content} for turn in TALK]
    answer = {"role": "assistant", "content": "I'm sorry, but I can't help with that."}
    rows = [
        {"messages": [*messages, answer]},
        {"prompt": messages, "response": "Now we eat."},
        {"prompt": "How?", "response": "So."},
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    judge_file(source, target, "default")
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["refusal"] for row in found] == [True, False, False]
    assert [{k: row[k] for k in asked} for row, asked in zip(found, rows, strict=True)] == rows
    for row, said in (
        ({"messages": messages}, 'line 1: field "response" must be a text'),
        ({"messages": []}, 'line 1: field "messages" must be a list'),
        (
            {"prompt": [answer], "response": "a"},
            "line 1: field \"prompt\" has turns of 'assistant'",
        ),
    ):
        source.write_text(json.dumps(row))
        with pytest.raises(InputError, match=re.escape(said)):
            judge_file(source, target, "default")
