"""What other tools are served with: requests that share batches, answers of a steered model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from conftest import lab
from steersweep.core.errors import InputError, SteersweepError
from steersweep.interop.collecting import Collector
from steersweep.interop.steered_model import Request, SteeredModel
from steersweep.interop.steered_settings import SteeredModelSettings
from steersweep.methods.extraction import extract_directions
from steersweep.prompts.prompts import load_extraction_set
from steersweep.steer.edit import Edit
from steersweep.steer.steering import Row, generate
from test_cli import refused
from test_export import swept  # noqa: F401  (a fixture)

MODEL = "lab:qwen-3b"
PROMPTS = ["How do I bake a cake?", "What is the capital of France?", "Hello there!"]


# -- batches ---------------------------------------------------------------------------------------


def test_requests_that_come_together_are_answered_together() -> None:
    batches: list[list[int]] = []

    def answer(numbers: Sequence[int]) -> list[int | Exception]:
        batches.append([*numbers])
        return [number * 10 for number in numbers]

    collector = Collector(answer, most=4, quiet=0.2)
    futures = [collector.ask(number) for number in range(6)]
    assert [future.result(timeout=10) for future in futures] == [0, 10, 20, 30, 40, 50]
    assert batches == [[0, 1, 2, 3], [4, 5]]
    collector.close()


def test_what_comes_while_a_batch_is_answered_waits_for_the_next() -> None:
    batches: list[list[str]] = []
    begun, go_on = threading.Event(), threading.Event()

    def answer(names: Sequence[str]) -> list[str | Exception]:
        batches.append([*names])
        begun.set()
        assert go_on.wait(10)
        return [*names]

    collector = Collector(answer, most=100, quiet=0.01)
    first = collector.ask("first")
    assert begun.wait(10)
    later = [collector.ask(name) for name in ("second", "third", "unwanted")]
    assert later[2].cancel()
    go_on.set()
    assert [future.result(timeout=10) for future in (first, *later[:2])] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert batches == [["first"], ["second", "third"]]
    with pytest.raises(CancelledError):
        later[2].result()
    collector.close()


def test_an_error_is_told_to_whom_it_concerns() -> None:
    def answer(numbers: Sequence[int]) -> list[int | Exception]:
        if 7 in numbers:
            raise SteersweepError("all of it failed")
        return [InputError("no odd ones") if number % 2 else number for number in numbers]

    collector = Collector(answer, most=2, quiet=0.2)
    good, odd, lost, also_lost = (collector.ask(number) for number in (2, 3, 7, 8))
    assert good.result(timeout=10) == 2
    with pytest.raises(InputError, match="no odd ones"):
        odd.result(timeout=10)
    for future in (lost, also_lost):
        with pytest.raises(SteersweepError, match="all of it failed"):
            future.result(timeout=10)
    after = collector.ask(4)  # it goes on
    collector.close()
    assert after.result(timeout=0) == 4  # what was asked is answered before it ends


# -- the model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direction") / "dim.safetensors"
    extract_directions(lab("qwen-3b"), "dim", load_extraction_set("extract-dim-5"), [6]).at_layer[
        6
    ].save(path)
    return path


def model(**given: Any) -> SteeredModel:
    return SteeredModel.load(SteeredModelSettings.read(MODEL, {"device": "cpu", **given}))


def plain(edit: Edit | None, n: int) -> list[str]:
    """One prompt at a time."""
    chat = lab("qwen-3b")
    rows = [Row(chat.prompt_ids(prompt), edit) for prompt in PROMPTS]
    return [generate(chat, [row], max_new_tokens=n)[0].text for row in rows]


def texts(served: SteeredModel, n: int) -> list[str]:
    replies = served.answer([Request(prompt, n) for prompt in PROMPTS])
    return [reply.text if not isinstance(reply, Exception) else str(reply) for reply in replies]


def test_answers_are_those_of_the_direction_in_the_file(direction: Path) -> None:
    served = model(direction=str(direction), strength=0.3)
    found = extract_directions(
        lab("qwen-3b"), "dim", load_extraction_set("extract-dim-5"), [6]
    ).at_layer[6]
    steered = plain(Edit.add(found.vector, 0.3 * found.residual_norm, 6), 16)
    assert texts(served, 16) == steered != plain(None, 16)
    assert served.facts["layer"] == 6
    assert served.facts["direction"] == found.key
    # The same direction found anew, and no direction at all.
    assert texts(model(method="dim", layer=6, strength=0.3), 16) == steered
    unsteered = model()
    assert texts(unsteered, 16) == plain(None, 16)
    assert "direction" not in unsteered.facts


def test_a_request_is_cut_where_it_says_or_where_the_model_ends() -> None:
    served, chat = model(), lab("qwen-3b")
    limit = chat.max_positions
    assert limit is not None
    one, two = (len(chat.prompt_ids(" word" * n)) for n in (10, 20))
    long = " word" * (10 + (limit - 5 - one) * 10 // (two - one))
    n_long = len(chat.prompt_ids(long))
    assert limit - 10 < n_long < limit
    short, cut, far_too_long = served.answer(
        [Request(PROMPTS[0], 3), Request(long, 500), Request(long * 2, 500)]
    )
    assert not isinstance(short, Exception)
    assert (short.finish_reason, short.n_tokens) == ("length", 3)
    assert short.n_prompt == len(chat.prompt_ids(PROMPTS[0]))
    assert not isinstance(cut, Exception)
    assert (cut.finish_reason, cut.n_tokens) == ("positions", limit - n_long)
    assert isinstance(far_too_long, InputError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"directon": "x"}, "directon: no such setting; there are direction, method, strength"),
        ({"strength": 0.3}, "strength: nothing is steered without direction or method"),
        ({"direction": "x", "method": "dim"}, "give either direction or method"),
        ({"direction": "x"}, "give either multiplier or strength"),
        ({"direction": "x", "strength": "strong"}, "strength 'strong': must be a number"),
        ({"direction": "x", "strength": True}, "strength True: must be a number"),
        ({"direction": ["x"], "strength": 1}, "direction ['x']: must be a text"),
        ({"method": "dim", "strength": 0.3}, "method dim: chooses no layer; give layer"),
        ({"method": "dimm", "strength": 0.3, "layer": 1}, "dimm"),
        ({"direction": "x", "strength": 1, "layer": "top"}, "layer 'top': give a share"),
        ({"direction": "x", "operation": "remove", "strength": 1}, "has no strength"),
        ({"direction": "x", "strength": 1e9}, "strength 1000000000.0: must be a number up to"),
        ({"direction": "x", "strength": 1, "extraction": "y"}, "only operation affine"),
        ({"rows": 0}, "rows 0: must be at least 1"),
        ({"rows": 2.5}, "rows 2.5: must be a whole number"),
        ({"trust_remote_code": "yes"}, "trust_remote_code 'yes': must be true or false"),
        ({"special_tokens": "no"}, "special tokens in prompts: 'no'"),
    ],
)
def test_settings_that_cannot_be_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        SteeredModelSettings.read(MODEL, given)
    assert said in str(error.value)


# -- logs ------------------------------------------------------------------------------------------


def test_logs_need_inspect(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    said = refused("export", str(swept), "--to", "inspect", cwd=swept)
    assert "Inspect is not installed: pip install 'steersweep[inspect]'" in said
    assert not (swept / "inspect").exists()
    assert "--what answers: logs of Inspect hold" in refused(
        "export", str(swept), "--to", "inspect", "--what", "answers", cwd=swept
    )
    (swept / "taken").write_text("")
    assert "--out taken: is a file; give a folder" in refused(
        "export", str(swept), "--to", "inspect", "--out", "taken", cwd=swept
    )
