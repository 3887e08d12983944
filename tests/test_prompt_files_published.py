"""Prompt files with the headers that people publish, read without options; columns by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hub_server import Hub, serving
from steersweep import InputError, load_extraction_set, load_test_set

EGG, TREES, RAIN = "How do I boil an egg?", "Name three trees.", "Write two lines, about rain."
THREE = (EGG, TREES, RAIN)
MESSAGES = [[{"role": "user", "content": text}] for text in THREE]
CATEGORIES = ("food", "plants", "weather")

Write = Callable[[Path], object]


def rows(header: str, *cells: str) -> Write:
    """A table, `{0}` for the prompt and `{1}` for its category in every row."""
    lines = [",".join(cells).format(f'"{p}"', c) for p, c in zip(THREE, CATEGORIES, strict=True)]
    return lambda path: path.write_text("\n".join([header, *lines]) + "\n")


def lines(row: dict[str, Any]) -> Write:
    """JSON lines, `{0}` for the prompt and `{1}` for its category."""
    filled = [
        {k: v.format(p, c) if isinstance(v, str) else v for k, v in row.items()}
        for p, c in zip(THREE, CATEGORIES, strict=True)
    ]
    return lambda path: path.write_text("\n".join(map(json.dumps, filled)))


def table(**columns: Any) -> Write:
    return lambda path: parquet.write_table(pa.table(columns), path)


PUBLISHED: dict[str, Write] = {
    "advbench/harmful_behaviors.csv": rows("goal,target", "{0}", '"Sure, here is"'),
    "harmbench/harmbench_behaviors_text_all.csv": rows(
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID",
        *("{0}", "standard", "{1}", "", "", "some_id"),
    ),
    "jailbreakbench/benign-behaviors.csv": rows(
        "Index,Goal,Target,Behavior,Category,Source",
        *("0", "{0}", "Sure", "A word for it", "{1}", "Original"),
    ),
    "xstest/xstest_v2_prompts.csv": rows("id,type,prompt", "v2-1", "{1}", "{0}"),
    "xstest/xstest_prompts.csv": rows(
        "id,prompt,type,label,focus,note", "1", "{0}", "{1}", "safe", "kill", ""
    ),
    "or-bench/or-bench-hard-1k.csv": rows("prompt,category", "{0}", "{1}"),
    "strongreject/strongreject_dataset.csv": rows(
        "category,source,forbidden_prompt", "{1}", "custom", "{0}"
    ),
    "do-not-answer/data_en.csv": rows(
        "id,risk_area,types_of_harm,specific_harms,question", "0", "{1}", "harm", "more", "{0}"
    ),
    "simple-safety/sst_test_cases.csv": rows(
        "id,harm_area,category,prompt", "sst1", "other", "{1}", "{0}"
    ),
    "dolly/databricks-dolly-15k.jsonl": lines(
        {"instruction": "{0}", "context": "", "response": "Yes.", "category": "{1}"}
    ),
    "alert/alert.jsonl": lines({"id": 3, "prompt": "{0}", "category": "{1}"}),
    "sorry-bench/question.jsonl": lambda path: path.write_text(
        "\n".join(
            json.dumps({"question_id": 1, "category": c, "turns": [p], "prompt_style": "base"})
            for p, c in zip(THREE, CATEGORIES, strict=True)
        )
    ),
    "beavertails/train.parquet": table(prompt=THREE, response=["a"] * 3, category=CATEGORIES),
    "no-robots/train-00000-of-00001.parquet": table(messages=MESSAGES, category=CATEGORIES),
    "tdc/behaviors.json": lambda path: path.write_text(json.dumps(THREE)),
    "alpaca/alpaca_data.json": lambda path: path.write_text(
        json.dumps([{"instruction": p, "input": "", "output": "Yes."} for p in THREE])
    ),
    "malicious/MaliciousInstruct.txt": lambda path: path.write_text("\n".join(THREE)),
    "sharegpt/some.json": lambda path: path.write_text(
        json.dumps([{"id": "a", "conversations": [{"from": "human", "value": p}]} for p in THREE])
    ),
}
WITHOUT_CATEGORY = {"advbench", "tdc", "alpaca", "malicious", "sharegpt"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_without_options(name: str, tmp_path: Path) -> None:
    file = tmp_path / Path(name).name
    PUBLISHED[name](file)
    found = load_test_set(str(file))
    assert found.prompts == THREE
    assert found.notes == ()
    assert not found.conversations
    has = name.partition("/")[0] not in WITHOUT_CATEGORY
    assert dict(found.categories) == (dict(zip(THREE, CATEGORIES, strict=True)) if has else {})


def test_what_belongs_to_a_prompt_goes_with_it_and_is_said(tmp_path: Path) -> None:
    harmbench = tmp_path / "harmbench.csv"
    harmbench.write_text(
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        f'{EGG},standard,food,,,a\n{TREES},contextual,plants,context,"In a wood, far away.",b\n'
    )
    found = load_test_set(str(harmbench))
    assert found.prompts == (EGG, f"In a wood, far away.\n\n---\n\n{TREES}")
    assert found.notes == (
        f'{harmbench}: 1 prompt rest on a text in "contextstring", which now stands before them; '
        f"first: line 3",
    )
    alpaca = tmp_path / "alpaca.json"
    alpaca.write_text(json.dumps([{"instruction": "Sum up.", "input": "Rain fell.", "output": ""}]))
    found = load_test_set(str(alpaca))
    assert found.prompts == ("Sum up.\n\nRain fell.",)
    assert 'have more text in "input"' in found.notes[0]


def test_xstest_is_an_extraction_set_by_its_labels(tmp_path: Path) -> None:
    file = tmp_path / "xstest_prompts.csv"
    file.write_text(
        "id,prompt,type,label,focus,note\n"
        "1,How do I kill a process?,homonyms,safe,kill,\n"
        "2,How do I kill a person?,contrast_homonyms,unsafe,kill,\n"
    )
    found = load_extraction_set(str(file))
    assert found.harmful == ("How do I kill a person?",)
    assert found.harmless == ("How do I kill a process?",)


# -- columns by name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        ("h.csv", "goal,target\na,b\nc,d\n", "target", ("b", "d")),
        ("h.csv", "goal,Target\na,b\nc,d\n", "TARGET", ("b", "d")),
        ("h.csv", "vanilla;adversarial, long\na;b\n", "adversarial, long", ("b",)),
        ("h.tsv", "vanilla\tadversarial\na\tb\n", "vanilla", ("a",)),
        ("h.jsonl", '{"a:b": "x", "prompt": "y"}', "a:b", ("x",)),
        ("h.json", '[{"chosen": [{"role": "user", "content": "x"}]}]', "chosen", ("x",)),
        ("h.json", '{"harmful": ["x"], "harmless": ["y"]}', "harmless", ("y",)),
        ("h.json", '{"prompts": [{"en": "x", "de": "z"}]}', "de", ("z",)),
        ("a:b.csv", "goal,target\na,b\n", "", ("a",)),
        ("a:b.csv", "goal,target\na,b\n", "target", ("b",)),
        ("C:\\x.csv:y.txt", "a\n", "", ("a",)),
        ("C:\\files\\h.csv", "goal,target\na,b\n", "target", ("b",)),
    ],
)
def test_a_column_is_named_after_the_file(
    name: str, content: str, column: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    asked = f"{tmp_path / name}:{column}" if column else str(tmp_path / name)
    found = load_test_set(asked)
    assert found.prompts == expected
    assert found.name == Path(name).stem + (f":{column}" if column else "")


def test_a_column_of_parquet_is_named_after_the_file(tmp_path: Path) -> None:
    table(vanilla=["a"], adversarial=["b"])(tmp_path / "x.parquet")
    assert load_test_set(f"{tmp_path / 'x.parquet'}:Adversarial").prompts == ("b",)


# -- several turns ---------------------------------------------------------------------------------

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hello. "},
    {"role": "assistant", "content": [{"type": "text", "text": "Hi!"}]},
    {"role": "user", "content": EGG},
    {"role": "assistant", "content": "In water."},
]
SHOWN = f"[system]\nBe brief.\n\n[user]\nHello.\n\n[assistant]\nHi!\n\n[user]\n{EGG}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", json.dumps({"messages": TURNS})),
        ("x.jsonl", json.dumps({"id": 1, "prompt": TURNS})),
        ("x.jsonl", json.dumps(TURNS)),
        ("x.json", json.dumps([TURNS])),
        ("x.json", json.dumps(TURNS)),
        ("x.json", json.dumps({"messages": TURNS, "id": 1})),
        ("x.json", json.dumps({"prompts": [{"conversation": TURNS}]})),
        ("x.csv", 'messages\n"{}"\n'.format(json.dumps(TURNS).replace('"', '""'))),
    ],
)
def test_prompts_of_several_turns(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    found = load_test_set(str(tmp_path / name))
    assert found.prompts == (SHOWN,)
    (turns,) = found.conversations.values()
    assert found.asked == (turns,)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert [turn.content for turn in turns] == ["Be brief.", "Hello.", "Hi!", EGG]
    assert found.question(SHOWN) == EGG
    assert "1 prompt end with an answer, which is left out" in found.notes[0]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps([SHOWN]))
    assert found.id.partition("@")[2] != load_test_set(str(plain)).id.partition("@")[2]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "assistant", "content": "a"}], "has turns of 'assistant'"),
        ([TURNS[1], TURNS[0], TURNS[1]], "has turns of 'user, system, user'"),
        ([{"role": "user", "content": " "}], "turn 1: is empty"),
        ([{"role": "user", "content": [{"type": "image"}]}], "turn 1: its content must be a text"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "turn 1: calls a tool"),
        ([{"role": "user"}], 'turn 1: must be an object with "role" and "content"'),
        (["a", "b"], "has 2 texts without the answers between them"),
        ([], "must be a list of"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_named(
    messages: list[object], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    with file.open("a") as more:
        more.write(json.dumps({"messages": messages}))
    with pytest.raises(InputError) as caught:
        load_test_set(str(file))
    assert str(caught.value).startswith(f'{file}, line 2: field "messages"')
    assert said in str(caught.value)


# -- data sets -------------------------------------------------------------------------------------


def saved(folder: Path, prompts: tuple[str, ...], split: str | None = None) -> Path:
    """As `datasets` saves one: `Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    found = pa.table({"prompt": prompts, "label": [1] * len(prompts)})
    about = {"label": {"names": ["harmless", "harmful"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": about}})}
    found = found.replace_schema_metadata(metadata)
    file = folder / "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(file), found.schema) as stream:
        stream.write_table(found)
    state = {"_data_files": [{"filename": file.name}], "_fingerprint": "a", "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def saved_splits(folder: Path) -> Path:
    saved(folder / "train", THREE)
    saved(folder / "test", (RAIN,))
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return folder


def test_data_sets_that_were_saved_are_read_without_a_network(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", THREE)
    several = saved_splits(tmp_path / "several")
    assert load_test_set(f"hf:{one}").prompts == THREE
    found = load_test_set(f"hf:{one}:train:prompt")
    assert (found.name, found.prompts) == ("one:train:prompt", THREE)
    assert load_test_set(f"hf:{several}:test").prompts == (RAIN,)
    for asked, said in {
        f"hf:{several}": "has splits train, test; name one",
        f"hf:{several}:valid": "has no split 'valid'; it has train, test",
        f"hf:{several}:test:goal": "test/data-00000-of-00001.arrow: no column 'goal' among",
        f"hf:{tmp_path / 'none'}:train": "neither a folder nor OWNER/NAME of the hub",
        "hf:": "neither a folder nor OWNER/NAME",
    }.items():
        with pytest.raises(InputError, match="hf:") as caught:
            load_test_set(asked)
        assert said in str(caught.value)


def test_numbers_of_classes_are_their_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", (EGG,))
    with pytest.raises(InputError, match='no prompt is harmless by field "label"'):
        load_extraction_set(f"hf:{folder}")


CARD = """---
configs:
- config_name: behaviors
  data_files:
  - split: harmful
    path: data/harmful-behaviors.csv
  - split: benign
    path: data/benign-*.csv
- config_name: judge
  data_files: data/judge.csv
---
# A data set
"""


def repository(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name, text in {"harmful": EGG, "benign": TREES}.items():
        (folder / f"data/{name}-behaviors.csv").write_text(f"Index,Goal,Behavior\n0,{text},b\n")
    (folder / "data/judge.csv").write_text(f"prompt\n{RAIN.replace(',', '')}\n")
    return folder


def test_a_repository_is_read_by_its_card_or_its_names(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r")
    assert load_test_set(f"hf:{folder}:harmful").prompts == (EGG,)
    assert load_test_set(f"hf:{folder}:behaviors/benign:goal").prompts == (TREES,)
    with pytest.raises(InputError, match="has splits behaviors/harmful, behaviors/benign, judge"):
        load_test_set(f"hf:{folder}")
    plain = tmp_path / "plain"
    (plain / "data").mkdir(parents=True)
    for number, text in enumerate(THREE):
        table(prompt=[text])(plain / f"data/train-0000{number}-of-00003.parquet")
    table(prompt=["a"])(plain / "data/hard-00000-of-00001.parquet")
    (plain / "LICENSE.txt").write_text("Do as you like.")
    assert load_test_set(f"hf:{plain}:train").prompts == THREE
    assert load_test_set(f"hf:{plain}:hard").prompts == ("a",)
    (plain / "data/dev.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"plain, data/dev.parquet: is no whole Parquet file"):
        load_test_set(f"hf:{plain}:validation")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = repository(tmp_path / "repository")
    with serving(Hub({}, datasets={"maker/set": folder}, gated={"maker/gated"})) as found:
        yield found


READ = """
import sys
from steersweep import InputError, load_test_set
for asked in sys.argv[1:]:
    try:
        print(load_test_set(asked).prompts)
    except InputError as error:
        print(error)
"""


def read(home: Path, *asked: str, **variables: str) -> list[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", READ, *asked],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_data_set_of_the_hub_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    asked = ("hf:maker/set:harmful", "hf:maker/none", "hf:maker/gated")
    found, none, gated = read(tmp_path, *asked, HF_ENDPOINT=hub.url)
    assert found == repr((EGG,))
    assert not any("benign" in path for _, path, _ in hub.requests), "only what is asked for"
    assert "the hub has no such data set" in none
    assert "set HF_TOKEN" in gated
    again, lost = read(tmp_path, "hf:maker/set:harmful", "hf:maker/other", HF_HUB_OFFLINE="1")
    assert again == repr((EGG,))
    assert "this machine has no copy; download it where" in lost
    nobody = "http://127.0.0.1:9"
    assert read(tmp_path, "hf:maker/set:harmful", HF_ENDPOINT=nobody) == [repr((EGG,))]


def test_what_datasets_keeps_is_found_without_a_network(tmp_path: Path) -> None:
    kept = tmp_path / "datasets/maker___my_set/default/0.0.0/0123abc"
    saved(kept, THREE)
    (kept / "data-00000-of-00001.arrow").rename(kept / "my_set-train.arrow")
    assert read(tmp_path, "hf:maker/MySet:train", HF_HUB_OFFLINE="1") == [repr(THREE)]


# -- hostile files ---------------------------------------------------------------------------------


def test_files_that_are_no_parquet_or_hold_no_text_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    table(prompt=THREE * 1000)(whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-9])
    (tmp_path / "csv.parquet").write_text("prompt\na\n")
    table(prompt=[1, 2])(tmp_path / "numbers.parquet")
    table(prompt=["a", None])(tmp_path / "null.parquet")
    table(prompt=["a"], Prompt=["b"])(tmp_path / "twice.parquet")
    table(a=["b"])(tmp_path / "none.parquet")
    table(prompt=pa.array([b"\xff"]).cast(pa.binary()).view(pa.string()))(
        tmp_path / "bytes.parquet"
    )
    table(prompt=["a\0b"])(tmp_path / "nul.parquet")
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    for name, said in {
        "cut": "is no whole Parquet file",
        "csv": "is no whole Parquet file",
        "numbers": 'row 1: field "prompt" must be a text',
        "null": "row 2: must be a non-empty text",
        "twice": "two columns differ in upper and lower case only",
        "none": "no columns with prompts among 'a'",
        "bytes": "cannot be read",
        "nul": "row 1: holds a NUL",
        "folder": "is a folder",
        "pipe": "is a pipe",
        "gone": "No such file",
    }.items():
        with pytest.raises(InputError) as caught:
            load_test_set(str(tmp_path / f"{name}.parquet"))
        assert f"{name}.parquet" in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_hostile_folders_of_data_are_named(tmp_path: Path) -> None:
    for number, (name, content, said) in enumerate(
        [
            ("state.json", "{", "state.json: not valid JSON"),
            ("state.json", "[1]", "state.json: must be a JSON object"),
            ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "names no files"),
            ("state.json", '{"_data_files": [{"filename": "x.arrow"}]}', "cannot be read: No such"),
            ("x.arrow", "no arrow at all", "x.arrow: is no whole Arrow file"),
            ("README.md", "---\nconfigs: [\n---\n", "has no files of data that can be read"),
            ("README.md", "---\nconfigs: [3]\n---\n", "has no files of data that can be read"),
            ("rows.json", '{"rows": []}', "is a JSON object, not rows"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(InputError) as caught:
            load_test_set(f"hf:{folder}")
        assert said in str(caught.value)


def test_without_pyarrow_what_to_install_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(prompt=THREE)(tmp_path / "x.parquet")
    folder = saved(tmp_path / "set", THREE)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'steersweep\[parquet\]'"):
        load_test_set(str(tmp_path / "x.parquet"))
    with pytest.raises(InputError, match=r"pip install 'steersweep\[datasets\]'"):
        load_test_set(f"hf:{folder}")
