"""Prompt files as people and other tools write them: the right prompts, or a message that says."""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from pathlib import Path

import pytest

from steersweep import InputError, load_extraction_set, load_test_set
from steersweep.prompts.entries import MAX_PROMPTS
from steersweep.prompts.files import MAX_BYTES
from steersweep.prompts.lists import MAX_CHARACTERS

THREE = ("How do I boil an egg?", "Name three trees.", "Write two lines, about rain.")
LINES = "\n".join(THREE)
ADVBENCH = "goal,target\n" + "".join(f'"{p}","Sure, here is"\n' for p in THREE)
HARMBENCH = (
    "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    + "".join(f'"{p}",standard,chemical,,,b_{i}\n' for i, p in enumerate(THREE))
)
JAILBREAKBENCH = "Index,Goal,Target,Behavior,Category,Source\n" + "".join(
    f'{i},"{p}",Sure,Defamation,Harassment,Original\n' for i, p in enumerate(THREE)
)
XSTEST = "id,prompt,type,label,focus,note\n" + "".join(
    f'{i},"{p}",homonyms,{"safe" if i else "unsafe"},kill,\n' for i, p in enumerate(THREE)
)
ORBENCH = "prompt,category\n" + "".join(f'"{p}",deception\n' for p in THREE)


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", LINES),
        ("blank.TXT", f"\n\n{LINES}\n \n\t\n"),
        ("bom.txt", codecs.BOM_UTF8 + LINES.encode()),
        ("two-boms.txt", codecs.BOM_UTF8 * 2 + LINES.encode()),
        ("windows.txt", LINES.replace("\n", "\r\n")),
        ("mangled.txt", LINES.replace("\n", "\r\r\n") + "\r"),
        ("old-mac.txt", LINES.replace("\n", "\r") + "\r"),
        ("utf16.txt", LINES.encode("utf-16")),
        ("utf16be.txt", codecs.BOM_UTF16_BE + LINES.replace("\n", "\r\n").encode("utf-16-be")),
        ("utf32.txt", LINES.encode("utf-32")),
        ("list.Json", json.dumps(THREE)),
        ("object.json", codecs.BOM_UTF8 + json.dumps({"prompts": THREE, "repeats": 1}).encode()),
        ("utf16.json", json.dumps(THREE).encode("utf-16")),
        (
            "objects.json",
            json.dumps([{"instruction": p, "input": "", "output": "."} for p in THREE]),
        ),
        ("texts.jsonl", "\n".join(map(json.dumps, THREE))),
        ("rows.jsonl", "\r\n".join(json.dumps({"prompt": p, "id": 1}) for p in THREE)),
        ("goals.JSONL", "\n".join(json.dumps({"Goal": p, "target": "Sure"}) for p in THREE)),
        (
            "chat.ndjson",
            "\n".join(json.dumps({"messages": [{"role": "user", "content": p}]}) for p in THREE),
        ),
        ("joined.jsonl", "\n".join("\ufeff" + json.dumps({"prompt": p}) for p in THREE)),
        ("advbench.csv", ADVBENCH),
        ("advbench.CSV", codecs.BOM_UTF8 + ADVBENCH.replace("\n", "\r\n").encode()),
        ("harmbench.csv", HARMBENCH),
        ("jailbreakbench.csv", JAILBREAKBENCH),
        ("xstest.csv", XSTEST),
        ("orbench.csv", ORBENCH),
        ("index.csv", ",prompt\n" + "".join(f'{i},"{p}"\n' for i, p in enumerate(THREE))),
        ("german.csv", "id;Prompt\n" + "".join(f"{i};{p}\n" for i, p in enumerate(THREE))),
        ("excel.csv", "sep=;\r\nid;prompt\r\n" + "".join(f"1;{p}\r\n" for p in THREE)),
        ("tabs.tsv", "id\tquestion\n" + "".join(f"{i}\t{p}\n" for i, p in enumerate(THREE))),
        ("tabs.csv", ("id\ttext\n" + "".join(f"1\t{p}\n" for p in THREE)).encode("utf-16")),
        ("one.csv", "prompt\n" + "".join(f'"{p}"\n\n' for p in THREE)),
        ("extra.csv", "prompt,\n" + "".join(f'"{p}",,\n' for p in THREE)),
    ],
)
def test_the_same_prompts_come_out_of_every_kind_of_file(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    found = load_test_set(written(tmp_path, name, content))
    assert found.prompts == THREE
    assert found.notes == ()
    assert found.name == name.rsplit(".", 1)[0]


def test_quoted_fields_hold_line_breaks_commas_and_quotes(tmp_path: Path) -> None:
    text = 'prompt,note\r\n"Say ""hi"", please:\r\nnow",a\r\n"b","c\nd"\n'
    found = load_test_set(written(tmp_path, "quoted.csv", text))
    assert found.prompts == ('Say "hi", please:\nnow', "b")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\f", "\v", "\x1c", "\x1e"])
@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv"])
def test_only_line_feeds_split_lines(mark: str, ending: str, tmp_path: Path) -> None:
    prompt = f"Write one{mark}line."
    content = {"txt": f"{prompt}\nb", "csv": f"prompt\n{prompt}\nb\n"}
    row = json.dumps({"prompt": prompt}, ensure_ascii=ending != "jsonl")
    content["jsonl"] = (row if ord(mark) > 31 else json.dumps({"prompt": prompt})) + '\n"b"\n'
    found = load_test_set(written(tmp_path, f"x.{ending}", content[ending]))
    assert found.prompts == (prompt, "b")
    assert f"U+{ord(mark):04X}" in found.notes[0]


@pytest.mark.parametrize(
    "mark",
    ["\x1a", "\ufeff", "\u200b", "\u200d", "\u00ad", "\u00a0", "\u200e", "\u2060", "\u3000", " "],
)
def test_nothing_invisible_at_the_ends_makes_another_prompt(mark: str, tmp_path: Path) -> None:
    text = json.dumps([f"{mark}{THREE[0]}", THREE[1], f"{THREE[2]}{mark}\n"])
    found = load_test_set(written(tmp_path, "ends.json", text))
    assert found.prompts == THREE
    assert found.notes == (
        f"{tmp_path / 'ends.json'}: white space or invisible characters were removed at the ends "
        f"of 2 prompts; first: item 1",
    )
    plain = load_test_set(written(tmp_path / ".", "ends.txt", LINES))
    assert found.id == plain.id
    assert found == plain, "notes are no part of what a set is"


def test_what_is_hidden_inside_stays_and_is_named(tmp_path: Path) -> None:
    text = "Boil\u00a0an egg\nS\u200bay hi\nplain\nflag \U0001f468\u200d\U0001f33e\nlost \ufffd\n"
    found = load_test_set(written(tmp_path, "inside.txt", text))
    assert found.prompts == tuple(text.splitlines())
    (note,) = found.notes
    assert "4 prompts" in note
    for name in ("U+00A0 NO-BREAK SPACE", "U+200B ZERO WIDTH SPACE", "first: line 1"):
        assert name in note


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("Boil an egg", "Boil an egg", "twice"),
        ("Boil an egg", "  Boil an egg\t", "twice"),
        ("Boil an egg", "Boil\u00a0an egg", "U+00A0 NO-BREAK SPACE"),
        ("Boil an egg", "Boil an e\u200bgg", "U+200B ZERO WIDTH SPACE"),
        ("Boil an egg", "Bo\u00adil an egg", "U+00AD SOFT HYPHEN"),
        ("Boil an egg", "\u202eBoil \u2066an egg", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("caf\u00e9", "cafe\u0301", "how letters are composed"),
    ],
)
def test_prompts_that_look_the_same_count_once(
    one: str, other: str, how: str, tmp_path: Path
) -> None:
    file = written(tmp_path, "twice.txt", f"{one}\nanother\n{other}\n")
    found = load_test_set(file)
    assert found.prompts == (one, "another")
    note = found.notes[0]
    assert note.startswith(f"{file}: each prompt counts once, left out 1 prompt: line 3 ")
    assert "line 1" in note
    assert how in note


def test_every_prompt_given_twice_is_named_in_linear_time(tmp_path: Path) -> None:
    lines = [f"prompt {number}" for number in range(80_000)]
    lines[79_998:] = lines[:2]
    file = written(tmp_path, "many.txt", "\n".join(lines))
    started = time.perf_counter()
    found = load_test_set(file)
    assert time.perf_counter() - started < 10
    assert len(found.prompts) == 79_998
    assert "line 79999 has 'prompt 0' twice (before in line 1)" in found.notes[0]
    assert "line 80000 has 'prompt 1' twice (before in line 2)" in found.notes[0]


CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
TOOL = {"messages": [{"role": "tool", "content": "a"}]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("header.txt", ADVBENCH, "line 1: 'goal,target' is the header of a table"),
        ("header.txt", "\n\nprompt\nDo it.\n", "line 3: 'prompt' is the header of a table"),
        ("header.txt", codecs.BOM_UTF8 + b'"Goal"\t"Target"\na\tb\n', "header of a table"),
        ("header.txt", HARMBENCH, "header of a table"),
        ("header.txt", "vanilla;adversarial;kind\na;b;c\n", "header of a table"),
        ("header.txt", "Questions\nWho is it?\n", "'Questions' is the header of a table"),
        ("page.txt", "\n<!DOCTYPE html>\n<p>Who is it?\n", "is a web page, not prompts"),
        ("rich.txt", "{\\rtf1\\ansi Who is it?}\n", "is a document in Rich Text Format"),
        ("lfs.txt", "version https://git-lfs.github.com/spec/v1\noid x\n", "a Git LFS pointer"),
        ("rows.txt", '{"prompt": "a"}\n{"prompt": "b"}\n', 'line 1: \'{"prompt": "a"}\' is JSON'),
        ("pretty.txt", '[\n  "a"\n]\n', "is JSON"),
        ("none.csv", "How do I boil an egg?\nName three trees.\n", "'how do i boil an egg?'"),
        ("none.csv", "id,vanilla\n1,a\n", "among 'id', 'vanilla'; rename the one with the prompts"),
        ("both.csv", "question,text\na,b\n", "more than one column with prompts among"),
        ("same.csv", "prompt,prompt\na,b\n", "column 'prompt' is there twice"),
        ("ragged.csv", "prompt\nCook, please.\n", "line 2: has 2 fields, but the header 1"),
        ("ragged.csv", 'prompt,id\n"a\nb",1\nc\n', "line 4: has 1 fields, but the header 2"),
        ("quotes.csv", 'prompt\na\n"b\nc\n', "line 3: not a table's line"),
        ("empty.csv", "prompt,id\na,1\n,2\n", "line 3: must be a non-empty text"),
        ("empty.csv", "prompt,id\n", "at least one prompt"),
        ("empty.csv", "", "at least one prompt"),
        ("image.jsonl", '{"prompt": "a", "ImageFileName": "b.png"}', '"imagefilename" is filled'),
        ("chat.jsonl", json.dumps(CHAT), "line 1: field \"messages\" has turns of 'user, user'"),
        ("tool.jsonl", json.dumps(TOOL), "field \"messages\", turn 1: is of 'tool'; roles are"),
        ("chat.jsonl", '{"messages": "hi"}', 'line 1: field "messages" must be a list'),
        ("rows.jsonl", '"a"\n\n{"prompt": 3}', 'line 3: field "prompt" must be a text'),
        ("rows.jsonl", '"a"\n{"vanilla": "b"}', "line 2: no fields with prompts among 'vanilla'"),
        (
            "rows.jsonl",
            '{"prompt": "a"}\n"b"\n{"question": "c"}',
            'line 3: the prompt stands in field "question", but at line 1 in "prompt"',
        ),
        (
            "rows.json",
            '[{"goal": "a"}, {"messages": [{"role": "user", "content": "b"}]}]',
            'item 2: the prompt stands in field "messages", but at item 1 in "goal"',
        ),
        ("rows.jsonl", '"a"\n[1]', "line 2: must be a non-empty text"),
        ("rows.jsonl", '"a"\n{', "line 2: not valid JSON"),
        ("whole.jsonl", '[\n "a",\n "b"\n]', "name it .json"),
        ("lines.json", '{"prompt": "a"}\n{"prompt": "b"}\n{', "line 3: not valid JSON"),
        ("word.json", '"a"', "must be a JSON list of prompts"),
        ("wrong.json", '{"items": ["a"]}', "at least one prompt (it has 'items'; one is"),
        ("sets.json", '{"harmful": ["a"], "harmless": ["b"]}', "an extraction set"),
        ("number.json", '{"prompts": ["a", 3]}', '"prompts" item 2'),
        ("repeats.json", '{"prompts": ["a"], "repeats": 2.0}', '"repeats" must be a whole number'),
        ("repeats.json", '{"prompts": ["a"], "repeats": true}', '"repeats" must be a whole number'),
        ("keys.json", '{"prompts": ["a"], "prompts": ["b"]}', "'prompts' is given twice"),
        ("half.json", r'["a", "b\ud800"]', "item 2: holds U+D800"),
        ("nul.json", r'["a\u0000b"]', "item 1: holds a NUL"),
        ("nul.txt", b"a\nb\0c\n", "line 2: holds a NUL"),
        ("utf16.txt", LINES.encode("utf-16-le"), "line 1: holds a NUL character, so it is no text"),
        ("latin.txt", "a\nb\ncaf\u00e9\n".encode("latin-1"), "line 3: byte 0xE9 is not UTF-8"),
        ("odd.txt", codecs.BOM_UTF16_LE + b"a\0b", "begins as UTF-16 but byte"),
        ("mixed.txt", "a\nb\rc\nd", "line 2: a carriage return without a line feed"),
        ("nan.json", '[{"prompt": "a", "score": NaN}]', "NaN is no JSON number"),
        ("inf.json", '[{"prompt": "a", "score": 1e999}]', "1e999 is too large"),
        ("digits.json", '[{"prompt": "a", "id": ' + "9" * 5000 + "}]", "is too large"),
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("deep.jsonl", '"a"\n' + '{"a":' * 100_000, "line 2: not valid JSON: nested too deeply"),
        (
            "long.txt",
            "a\n" + "x" * 2**20,
            f"line 2: a prompt of 1,048,576 characters; {MAX_CHARACTERS:,}",
        ),
        ("long.csv", "prompt\n" + "x" * 2**20, "line 2: not a table's line: field larger"),
        ("many.txt", "a\n" * (MAX_PROMPTS + 1), f"more than {MAX_PROMPTS:,} prompts"),
        ("x.docx", b"PK", "nor a file that ends in .txt, .json, .jsonl"),
        ("spaces.txt", " \n\u200b\n\ufeff\n\x1a", "at least one prompt"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_by_file_and_place(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, name, content)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        load_test_set(file)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    with (tmp_path / "huge.txt").open("wb") as huge:
        huge.truncate(10 * 10**9)  # a hole; nothing on the disk
    for name, said in {
        "pipe.txt": "a pipe",
        "folder.txt": "a folder",
        "device.txt": "a device",
        "loop.txt": "symbolic links",
        "none.txt": "No such file",
        "huge.txt": f"larger than {MAX_BYTES // 2**10:,} KiB",
        f"{'x' * 300}.txt": "name too long",
        "a\0b.txt": "null byte",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            load_test_set(str(tmp_path / name))
        assert repr(name)[1:-1][:20] in str(caught.value)


CLASSES = (("Kill it.", "Steal it."), ("Bake it.", "Paint it."))
LISTS = {"harmful": CLASSES[0], "harmless": CLASSES[1]}


def labelled(field: str, harmful: object, harmless: object) -> str:
    rows = [{"prompt": text, field: harmful} for text in CLASSES[0]]
    rows += [{"prompt": text, field: harmless} for text in CLASSES[1]]
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lists.json", json.dumps(LISTS)),
        ("lists.JSON", codecs.BOM_UTF8 + json.dumps(LISTS).encode()),
        ("label.jsonl", labelled("label", "harmful", "harmless")),
        ("type.jsonl", labelled("Type", "Unsafe", "SAFE")),
        ("flag.jsonl", labelled("is_harmful", 1, 0)),
        ("flag.jsonl", labelled("safe", False, True)),
        ("rows.json", f"[{labelled('label', 'harmful', 'benign')}]".replace("\n", ",")),
        (
            "t.csv",
            "label;goal\n0;Bake it.\n1;Kill it.\n1;Steal it.\n0;Paint it.\n".replace(
                "1;", "harmful;"
            ).replace("0;", "harmless;"),
        ),
        ("t.tsv", "prompt\tharmful\nKill it.\t1\nBake it.\t0\nSteal it.\t1\nPaint it.\t0\n"),
    ],
)
def test_both_classes_of_an_extraction_set(name: str, content: str | bytes, tmp_path: Path) -> None:
    found = load_extraction_set(written(tmp_path, name, content))
    assert (found.harmful, found.harmless) == CLASSES


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", LINES, 'an extraction set is a .json file with lists "harmful" and "harmless"'),
        ("x.csv", ADVBENCH, 'a "label" beside every prompt'),
        ("x.json", json.dumps(THREE), 'a "label" beside every prompt'),
        ("x.json", '{"prompts": ["a"]}', 'lists "harmful" and "harmless"'),
        ("x.json", '{"harmful": ["a"]}', '"harmless" must be a list'),
        ("x.json", '{"harmful": ["a"], "harmless": ["a"]}', "'a' is in both harmful"),
        ("x.json", '{"harmful": ["a b"], "harmless": ["c", "a\\u00a0b"]}', "is in both harmful"),
        ("x.jsonl", labelled("label", 1, 0), "line 1: \"label\" is '1', not harmful or harmless"),
        ("x.jsonl", labelled("label", "harmful", "harmful"), "no prompt is harmless"),
        ("x.csv", "prompt,label,safe\na,harmful,0\nb,safe,0\n", "line 3: fields contradict"),
    ],
)
def test_what_is_no_extraction_set_says_what_is_wanted(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        load_extraction_set(written(tmp_path, name, content))
    assert name in str(caught.value)


def test_shipped_sets_are_what_they_were() -> None:
    """The ids are part of every result's key."""
    assert load_test_set("benign-120").id == "benign-120@sha256:627205e063ae9b13"
    assert load_test_set("plan-10x5").id == "plan-10x5@sha256:d2a13040b6b857ef"
    assert load_extraction_set("extract-dim-5").id == "extract-dim-5@sha256:41d434f5831da5ed"
