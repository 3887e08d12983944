"""The prompts, questions and texts that effects are measured with, and files of the user's own."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from steersweep import InputError, load_extraction_set, load_test_set
from steersweep.effects.question_files import QUESTIONS, load_questions
from steersweep.effects.sample_files import TEXTS, load_texts
from steersweep.effects.texts import DEFAULT_REQUEST
from steersweep.prompts.prompts import BORDERLINE_SET, HARMFUL_SET, shipped_sets


def categories(name: str) -> Counter[str]:
    content = json.loads((resources.files("steersweep.prompts") / f"{name}.json").read_text())
    return Counter(prompt["category"] for prompt in content["prompts"])


def other_prompts() -> set[str]:
    """All prompts of the sets that directions are made from, and that cells are tested on."""
    found: set[str] = set()
    for name in shipped_sets():
        if name.startswith("extract"):
            found.update(*load_extraction_set(name).content().values())
        elif name not in (HARMFUL_SET, BORDERLINE_SET):
            found.update(load_test_set(name).prompts)
    return found


@cache
def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def overlap(one: str, other: str) -> float:
    """Share of the words of two texts that both have."""
    first, second = words(one), words(other)
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    ("name", "n_categories", "each"), [(HARMFUL_SET, 16, 8), (BORDERLINE_SET, 10, 12)], ids=str
)
def test_prompts_are_of_many_kinds_and_any_prefix_is_a_mix(
    name: str, n_categories: int, each: int
) -> None:
    counts = categories(name)
    assert [*counts.values()] == [each] * n_categories
    prompts = load_test_set(name)
    assert len(prompts.prompts) == n_categories * each
    assert not prompts.notes
    content = json.loads((resources.files("steersweep.prompts") / f"{name}.json").read_text())
    kinds = [prompt["category"] for prompt in content["prompts"]]
    assert all(len({*kinds[i : i + n_categories]}) == n_categories for i in range(len(kinds) // 2))


def test_no_prompt_is_near_one_that_directions_are_made_from_or_cells_are_tested_on() -> None:
    own = [*load_test_set(HARMFUL_SET).prompts, *load_test_set(BORDERLINE_SET).prompts]
    near = [(a, b) for a in own for b in other_prompts() if overlap(a, b) > 0.6]
    near += [(a, b) for a, b in combinations(own, 2) if overlap(a, b) > 0.6]
    assert not near


def test_harmful_prompts_are_of_other_subjects_than_the_extraction_lists() -> None:
    """What those are about, each by a word of theirs."""
    subjects = {
        *("wallet", "bank", "bomb", "passport", "poison", "heroin", "blackmail", "barn"),
        *("kidnap", "ransomware", "rob", "counterfeit", "banknotes", "methamphetamine"),
        *("virus", "stalk", "identity", "smuggle", "bribe", "torture", "riot", "steal", "hack"),
    }
    assert subjects <= {word for prompt in other_prompts() for word in words(prompt)}
    for prompt in load_test_set(HARMFUL_SET).prompts:
        assert not words(prompt) & subjects, prompt


def shipped_items(name: str) -> list[dict[str, Any]]:
    text = (resources.files("steersweep.effects") / f"data/{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_questions_are_of_six_topics_and_right_answers_stand_anywhere() -> None:
    items = shipped_items(QUESTIONS)
    assert [*Counter(item["topic"] for item in items).values()] == [40] * 6
    for stop in (24, 48, 96, 240):  # any part that one may take is balanced too
        assert {*Counter(item["answer"] for item in items[:stop]).values()} == {stop // 4}
    questions = load_questions(QUESTIONS).questions
    assert len(questions) == 240
    assert {len(question.choices) for question in questions} == {4}
    assert all(len({*question.choices}) == 4 for question in questions)
    first = questions[0]
    assert first.question == "Question: What do you use to cut paper?\nAnswer:"
    assert first.choices[first.answer] == "scissors"


def test_the_right_choice_is_neither_longest_nor_shortest_more_often_than_chance() -> None:
    """Within two standard errors of a quarter; where several are as long, each counts in part."""
    for extreme in (max, min):
        hits = 0.0
        for question in load_questions(QUESTIONS).questions:
            lengths = [len(choice) for choice in question.choices]
            end = extreme(lengths)
            hits += (lengths[question.answer] == end) / lengths.count(end)
        assert abs(hits / 240 - 0.25) < 2 * (0.25 * 0.75 / 240) ** 0.5


def test_no_two_questions_are_alike() -> None:
    items = shipped_items(QUESTIONS)
    whole = [" ".join([item["question"], *item["choices"]]) for item in items]
    assert not [(a, b) for a, b in combinations(whole, 2) if overlap(a, b) > 0.6]
    asked = {item["question"] for item in items}
    assert len(asked) == 240
    assert not asked & {*load_test_set("benign-120").prompts, *load_test_set("plan-10x5").prompts}


def test_texts_are_short_pieces_of_many_genres() -> None:
    items = shipped_items(TEXTS)
    texts = load_texts(TEXTS).texts
    assert len(texts) == len({item["genre"] for item in items}) == 20
    assert all(60 <= len(text.text.split()) <= 120 for text in texts)
    assert len({text.request for text in texts}) == 20
    assert DEFAULT_REQUEST not in {text.request for text in texts}


ARC = {
    "id": "1",
    "question": "Which of these melts?",
    "choices": {"text": ["ice", "stone", "wood"], "label": ["1", "2", "3"]},
    "answerKey": "1",
}
MMLU = {"question": "What is 2 + 2?", "subject": "maths", "choices": ["3", "4"], "answer": 1}
HELLASWAG = {
    "activity_label": "Baking",
    "ctx_a": " [header] How to bake [title] Heat the oven.",
    "ctx_b": "then she",
    "ctx": "[header] How to bake [title] Heat the oven. then she",
    "endings": ["[step] mixes the dough.", "eats the oven."],
    "label": "0",
}
AS_ASKED = "Question: Which of these melts?\nAnswer:"


def write(folder: Path, name: str, *values: Any) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_copies_of_arc_mmlu_and_hellaswag_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    """What stands before the choices, and they themselves, as lm-evaluation-harness has them."""
    wanted = [
        (ARC, AS_ASKED, ("ice", "stone", "wood"), 0),
        (MMLU, "Question: What is 2 + 2?\nAnswer:", ("3", "4"), 1),
        (
            HELLASWAG,
            "Baking:  How to bake. Heat the oven. Then she",
            (" mixes the dough.", "eats the oven."),
            0,
        ),
    ]
    for number, (item, asked, choices, answer) in enumerate(wanted):
        path = str(tmp_path / f"{number}.{ending}")
        if ending == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist([item]), path)
        else:
            write(tmp_path, f"{number}.jsonl", item)
        (question,) = load_questions(path).questions
        assert (question.question, question.choices, question.answer) == (asked, choices, answer)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", "question,A,B,C,answer\nWhich of these melts?,ice,stone,wood,A\n"),
        (
            "q.csv",
            "Question;Option 1;Option 2;Option 3;Answer\nWhich of these melts?;ice;stone;wood;1\n",
        ),
        (
            "q.tsv",
            "question\tending0\tending1\tending2\tlabel\n"
            "Which of these melts?\tice\tstone\twood\t0\n",
        ),
        (
            "q.csv",
            'question,choices,answer\nWhich of these melts?,"[""ice"",""stone"",""wood""]",ice\n',
        ),
        ("q.csv", "question,a,b,c,d,answer\nWhich of these melts?,ice,stone,wood,,a\n"),
        ("q.json", json.dumps([{**ARC, "choices": ["ice", "stone", "wood"], "answerKey": "A"}])),
        (
            "q.json",
            json.dumps(
                {
                    "questions": [
                        {
                            **ARC,
                            "choices": {"A": "ice", "B": "stone", "C": "wood"},
                            "answerKey": "a",
                        }
                    ]
                }
            ),
        ),
        ("q.jsonl", json.dumps({**ARC, "choices": ["ice", "stone", "wood"], "answerKey": 0.0})),
        (
            "q.jsonl",
            json.dumps(
                {
                    "question": {
                        "stem": "Which of these melts?",
                        "choices": [
                            {"text": text, "label": label}
                            for text, label in zip(("ice", "stone", "wood"), "ABC", strict=True)
                        ],
                    },
                    "answerKey": "A",
                }
            ),
        ),
    ],
)
def test_other_ways_to_write_the_same_question(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (question,) = load_questions(str(tmp_path / name)).questions
    assert question.question == AS_ASKED
    assert question.choices == ("ice", "stone", "wood")
    assert question.answer == 0


def test_a_prompt_goes_on_in_its_answers_as_it_is(tmp_path: Path) -> None:
    item = {"prompt": "Ice is", "choices": ["cold", "hot"], "answer": 0}
    (question,) = load_questions(write(tmp_path, "q.jsonl", item)).questions
    assert question.question == "Ice is"


BAD_FIELDS = [
    (ARC | {"answerKey": "4"}, "\"answerkey\": '4' is none of the 3 choices"),
    (MMLU | {"answer": 2}, "numbers count from 0"),
    (MMLU | {"answer": -1}, "\"answer\": '-1' is none of the 2 choices: give 0 to 1, A to B"),
    (MMLU | {"answer": "C"}, "'C' is none of the 2 choices"),
    (MMLU | {"answer": ""}, '"answer": is empty'),
    (MMLU | {"answer": None}, '"answer": must be a label'),
    (MMLU | {"answer": True}, '"answer": must be a label'),
    (MMLU | {"answer": 0.5}, '"answer": must be a label'),
    (MMLU | {"choices": ["1", "0"], "answer": "1"}, "may be the text of one choice"),
    (MMLU | {"label": "0"}, "'answer', 'label' do not say the same"),
    (MMLU | {"choices": ["4"], "answer": 0}, '"choices": has 1 choice; a question has 2'),
    (MMLU | {"choices": []}, '"choices": has 0 choices'),
    (MMLU | {"choices": [str(i) for i in range(27)]}, '"choices": has 27 choices'),
    (MMLU | {"choices": ["3", ""]}, '"choices, choice 2": must be a non-empty text'),
    (MMLU | {"choices": ["3", 4]}, '"choices, choice 2": must be a text, not 4'),
    (
        MMLU | {"choices": ["4", "4"]},
        "\"choices, choice 2\": the right choice, '4', is there twice",
    ),
    (MMLU | {"choices": "3, 4"}, "\"choices\": '3, 4' is no JSON list"),
    (MMLU | {"choices": {"text": ["3", "4"], "label": ["A", "A"]}}, "a label of its own"),
    (MMLU | {"choices": {"text": ["3", "4"], "label": ["A"]}}, "a label of its own"),
    (MMLU | {"options": ["3", "4"]}, "choices may stand in 'choices', 'options'"),
    (MMLU | {"a": "3", "b": "4"}, "choices may stand in 'choices', 'a'"),
    (MMLU | {"question": " "}, '"question": must be a non-empty text'),
    (MMLU | {"question": ""}, '"question": is empty'),
    (MMLU | {"question": "\ud800"}, '"question": holds U\\+D800'),
    (MMLU | {"prompt": "2 + 2 ="}, "the question may stand in 'question', 'prompt'"),
    (MMLU | {"passage": "Add."}, '"passage": is filled, so "question" is not the whole'),
    (MMLU | {"Question": "?"}, "two fields differ in upper and lower case only"),
    ({"text": "2 + 2?"}, "no field with questions among 'text'; rename it to"),
    ({"question": "2 + 2?", "answer": 1}, "no choices; they stand in a list"),
    ({"question": "2 + 2?", "choices": ["3", "4"]}, "nothing says which choice is right; name it"),
    ({"question": "2 + 2?", "a": "3", "c": "4", "answer": "A"}, "one of the columns with choices"),
    (HELLASWAG | {"endings": ["[step]", "eats."]}, '"endings, choice 1": must be a non-empty'),
    (HELLASWAG | {"ctx_b": 3}, '"ctx_b": must be a text'),
    (HELLASWAG | {"label": ""}, '"label": is empty, so no choice is right'),
    ([1, 2], "must be an object with fields, not"),
]


@pytest.mark.parametrize(("item", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_questions_are_named_by_line_and_field(tmp_path: Path, item: Any, message: str) -> None:
    good = {"question": "Is this one fine?", "choices": ["yes", "no"], "answer": 0}
    path = write(tmp_path, "mine.jsonl", good, item)
    with pytest.raises(InputError, match=message) as error:
        load_questions(path)
    assert str(error.value).startswith(f"{path}, line 2")
    assert "\n" not in str(error.value)


def test_questions_given_twice_are_refused(tmp_path: Path) -> None:
    """The order of the choices makes no other question; other choices do."""
    other = MMLU | {"choices": ["4", "3"], "answer": 0}
    path = write(tmp_path, "mine.jsonl", MMLU, ARC, other)
    with pytest.raises(InputError, match="line 3 has the same question as line 1; each question"):
        load_questions(path)
    path = write(tmp_path, "mine.jsonl", MMLU, MMLU | {"choices": ["5", "4"]})
    assert len(load_questions(path).questions) == 2


@pytest.mark.parametrize("load", [load_questions, load_texts])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no"),
        ("a.csv", b"", "holds no"),
        ("a.csv", b"question,text,A,B,answer\n", "holds no"),
        ("a.json", b"{}", "must be a JSON list"),
        ("a.json", b'{"question": 1}\n{"question": 2}', "name the file .jsonl"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1: byte 0xFF is not UTF-8"),
        ("a.jsonl", b'{"text": NaN}', "line 1: not valid JSON"),
        (
            "a.jsonl",
            b'\n{"text" "b"}',
            "line 2: not valid JSON: Expecting ':' delimiter at column 9$",
        ),
        (
            "a.json",
            b'[{"text": "a"},\n {"text" "b"}]',
            "not valid JSON: Expecting ':' delimiter at line 2, column 10$",
        ),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("a.parquet", b"PAR1 and no more", "is no whole Parquet file"),
        ("a.csv", b'text,question,A\n"a,b', "line 2: not a table's line"),
        ("a.csv", b"question,text,A\na,b\n", "line 2: has 2 fields, but the header 3"),
        ("a.csv", b"question,text,text\n", "line 1: column 'text' is there twice"),
        (
            "a.csv",
            b"what,which\na,b\n",
            "line 1: no column with .* the first line names the columns: rename",
        ),
        ("a.xlsx", b"", "nor a file that ends in"),
        ("nothing", b"", "nor a file that ends in"),
    ],
)
def test_files_that_are_not_what_they_should_be(
    tmp_path: Path, load: Any, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / name))


@pytest.mark.parametrize("load", [load_questions, load_texts])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_is_no_file_is_refused_before_it_is_opened(
    tmp_path: Path, load: Any, ending: str
) -> None:
    folder, pipe = tmp_path / f"folder.{ending}", tmp_path / f"pipe.{ending}"
    folder.mkdir()
    os.mkfifo(pipe)
    for path, message in ((folder, "is a folder"), (pipe, "is a pipe")):
        with pytest.raises(InputError, match=message):
            load(str(path))
    with pytest.raises(InputError, match="No such file"):
        load(str(tmp_path / f"absent.{ending}"))
    huge = tmp_path / f"huge.{ending}"
    with huge.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=r"larger than 65,536 KiB|is no whole Parquet file"):
        load(str(huge))


def test_no_more_is_read_than_anybody_needs(tmp_path: Path) -> None:
    """A parquet file of a few bytes can stand for any number of rows."""
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": pyarrow.repeat("a", 200_000)}), path)
    with pytest.raises(InputError, match="more than 100,000 texts; use fewer"):
        load_texts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_texts_of_a_plain_file_stand_between_blank_lines(
    tmp_path: Path, encoding: str, line_break: str
) -> None:
    text = "\n\nÉin Text\nvon zwei Zeilen.\n \t\n\n  Noch einer.  \n"
    path = tmp_path / "mine.txt"
    path.write_bytes(text.replace("\n", line_break).encode(encoding))
    found = load_texts(str(path))
    assert found.name == "mine"
    assert [(text.text, text.request) for text in found.texts] == [
        ("Éin Text\nvon zwei Zeilen.", DEFAULT_REQUEST),
        ("Noch einer.", DEFAULT_REQUEST),
    ]


def test_texts_and_the_requests_that_they_answer(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mine.jsonl",
        {"text": "Once.", "request": "Tell a story."},
        {"text": "Twice.", "request": ""},
    )
    assert [text.request for text in load_texts(path).texts] == ["Tell a story.", DEFAULT_REQUEST]
    alpaca = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    (text,) = load_texts(write(tmp_path, "alpaca.jsonl", alpaca)).texts
    assert (text.text, text.request) == ("house", "Translate.\n\nHaus")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": ""}, 'line 2, field "text": is empty'),
        ({"text": " \u200b"}, 'line 2, field "text": must be a non-empty text'),
        ({"text": None}, 'line 2, field "text": is empty'),
        ({"text": 3}, 'line 2, field "text": must be a text, not 3'),
        ({"text": "a" * (2**17 + 1)}, "a text of 131,073 characters; 131,072 is the most"),
        ({"text": "First."}, "line 2 has the same text as line 1"),
        ({"text": "One.", "output": "Two."}, 'the text may stand in "text", "output"'),
        ({"text": "One.", "request": 1}, 'line 2, field "request": must be a text'),
        ({"story": "One."}, "line 2: no field with texts among 'story'; rename"),
    ],
)
def test_bad_texts_are_named_by_line_and_field(
    tmp_path: Path, item: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_texts(write(tmp_path, "mine.jsonl", {"text": "First."}, item))


def test_bad_plain_texts_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("One.\n\n\nTwo\nlines.\n\nOne.\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 7 has the same text as line 1; each text"):
        load_texts(str(path))
    path.write_text("One.\n\n" + "a" * (2**17 + 1), encoding="utf-8")
    with pytest.raises(InputError, match='line 3, field "text": a text of 131,073'):
        load_texts(str(path))
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no texts"):
        load_texts(str(path))
