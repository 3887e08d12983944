"""Real small models, as GGUF files and as the folders that their numbers are.

They are asked for with `pytest -m real`, and found in the folder that STEERSWEEP_REAL_MODELS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.gguf_models import TEXTS
from steersweep import ChatModel
from steersweep.model.find import find_model
from steersweep.steer.steering import Row, generate
from test_cli import run

pytestmark = pytest.mark.real

NAMES = ("smollm2-135m", "qwen-coder-0.5b")
HOW = """set STEERSWEEP_REAL_MODELS to a folder that holds smollm2-135m.gguf
(SmolLM2-135M-Instruct) and qwen-coder-0.5b.gguf (Qwen2.5-Coder-0.5B-Instruct), of any quantization,
and beside each a folder of its name: what transformers' from_pretrained(gguf_file=...,
dtype=float32) and save_pretrained make of it, with the tokenizer"""
PROMPTS = ("How do I bake bread?", "写一首关于春天的诗。", "What is 17 + 25?")


@pytest.fixture(params=NAMES)
def real(request: pytest.FixtureRequest) -> Path:
    """A GGUF file; without its ending, the folder of the same numbers."""
    folder = os.environ.get("STEERSWEEP_REAL_MODELS")
    path = Path(folder or "nowhere") / f"{request.param}.gguf"
    if not path.is_file() or not folder_of(path).is_dir():
        pytest.fail(HOW)
    return path


def folder_of(file: Path) -> Path:
    return file.parent / file.name.removesuffix(".gguf")


def test_tokens_are_those_of_the_folder(real: Path) -> None:
    found, own = (find_model(str(path)).load_tokenizer() for path in (real, folder_of(real)))
    for text in TEXTS:
        assert found(text).input_ids == own(text).input_ids, text
    conversation = [{"role": "user", "content": TEXTS[1]}]
    assert found.apply_chat_template(conversation) == own.apply_chat_template(conversation)


def test_smollm_takes_digits_one_by_one_after_spaces(real: Path) -> None:
    """transformers' own reading, and so the folder, gives another token for the spaces."""
    if "smollm" in real.name:
        tokenizer = find_model(str(real)).load_tokenizer()
        assert tokenizer.tokenize("a  12\n\n3") == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]


def test_greedy_answers_are_those_of_the_folder(real: Path) -> None:
    answers = []
    for path in (real, folder_of(real)):
        chat = ChatModel.load(str(path), device="cpu")
        rows = [Row(chat.prompt_ids(prompt)) for prompt in PROMPTS]
        batch = chat.pad([rows[0].prompt_ids])
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
        answers.append((generate(chat, rows, max_new_tokens=16), chat.eos_ids, logits))
        del chat
    (found, ends, logits), (own, own_ends, own_logits) = answers
    assert [answer.text for answer in found] == [answer.text for answer in own]
    assert ends == own_ends
    assert torch.equal(logits, own_logits)


def test_smoke_passes(real: Path) -> None:
    done = run("smoke", str(real), cwd=real.parent)
    assert done.returncode == 0, done.stdout
    assert " → fp32 on cpu" in done.stdout
    assert "FAIL" not in done.stdout


def test_a_sweep_names_what_is_stored_and_what_runs(real: Path, tmp_path: Path) -> None:
    sizes = ("--layers", "0.5", "--strengths", "0.1", "--max-prompts", "3")
    sweep = ("sweep", str(real), *sizes, "--max-new-tokens", "8", "--out", "found", "--quiet")
    done = run(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{real.stem}: Q" in done.stdout
    assert " → fp32 (stored, and what runs)" in done.stdout
    assert " → fp32)" in (tmp_path / "found" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("kept", ["made", "kept"])
def test_loading_takes_little_more_memory_than_the_weights(
    kept: str, real: Path, tmp_path: Path
) -> None:
    """In a process of its own: what this one has taken stays counted."""
    if "smollm" in real.name:
        return  # half of what it takes are libraries
    code = (
        "import re, sys; from steersweep import ChatModel; "
        "chat = ChatModel.load(sys.argv[1], device='cpu'); "
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]; "
        "print(int(peak) * 1024, sum(w.nbytes for w in chat.model.parameters()))"
    )
    environment = {**os.environ, "STEERSWEEP_CACHE": str(tmp_path)}
    for _ in range(1 if kept == "made" else 2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(real)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    peak, weights = map(int, done.stdout.split())
    assert peak <= 1.3 * weights
