"""Real small models: the shipped lab zoo, and other architectures with random weights."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers that each use every core get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests, and the commands they start, keep nothing in the user's own cache.
os.environ["STEERSWEEP_CACHE"] = tempfile.mkdtemp(prefix="steersweep-cache-")

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steersweep import ChatModel
from steersweep.model.find import find_model
from steersweep.model.source import ModelSource

if TYPE_CHECKING:
    from modal_server import ModalServer

CACHE = os.environ["STEERSWEEP_CACHE"]
FAMILIES = ("qwen-7b", "gemma-9b", "llama-8b", "mistral-7b", "phi-mini")

# The files that take longest, so that they begin first and none of them runs alone at the end.
LONGEST = (
    "test_study", "test_checks", "test_smoke", "test_engines", "test_report", "test_modal",
    "test_study_damage", "test_hub", "test_review", "test_money", "test_study_families",
    "test_search", "test_library", "test_decoding", "test_without_torch", "test_tracking",
    "test_verification",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others, and the tests of each file, stay in their order."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_unconfigure() -> None:
    """Converted models of real sizes are gigabytes, and every run has a cache of its own."""
    shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Leave what imports have made, which stays to the end, out of every search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """What `fsync` guards against, a machine that loses its power, happens in no test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _handle: None)
        yield


def rest_slow(values: Sequence[Any], fast: int = 1) -> list[Any]:
    """Parameters of a test, of which only the first `fast` belong to the fast tests."""
    return [*values[:fast], *(pytest.param(v, marks=pytest.mark.slow) for v in values[fast:])]


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of a user's own code, which are put on the path, leave it with the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@cache
def lab(name: str) -> ChatModel:
    """A lab model, loaded once for all tests; tests must leave it as it was."""
    return ChatModel.load(f"lab:{name}", device="cpu")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> ChatModel:
    """Each of the five lab families in turn."""
    return lab(request.param)


@pytest.fixture
def qwen() -> ChatModel:
    return lab("qwen-7b")


def random_model(model_class: str, **shape: Any) -> ChatModel:
    """A model of any transformers class with random weights and the lab's Qwen tokenizer."""
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, model_class)
    config = cls.config_class(vocab_size=1024, bos_token_id=None, eos_token_id=1, **shape)
    model = cls(config).eval()
    return ChatModel(model, lab("qwen-7b").tokenizer, source=ModelSource(model_class, "."))


def with_a_long_stream(folder: Path, scale: float, dtype: torch.dtype | None = None) -> Path:
    """The answers of lab:llama-8b from a residual stream `scale` times as long.

    Each layer's norm takes the length out again; a push of a given length is so much weaker.
    `dtype`: that scaled weights are stored in, None: as they are.
    """
    folder.mkdir()
    for file in Path(find_model("lab:llama-8b").location).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    embedding = "model.embed_tokens.weight"
    weights["lm_head.weight"] = weights[embedding].clone()
    for name in weights:
        if name == embedding or name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = weights[name].to(dtype or weights[name].dtype) * scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@cache
def gpt2() -> ChatModel:
    """Learned absolute positions: wrong position ids show at once."""
    return random_model("GPT2LMHeadModel", n_layer=4, n_embd=32, n_head=4, n_positions=256)


@cache
def bloom() -> ChatModel:
    """Its decoder layers return tuples."""
    return random_model("BloomForCausalLM", n_layer=4, hidden_size=32, n_head=4)


@contextmanager
def part_hooks(
    chat: ChatModel, hook: Callable[[int, Tensor], Tensor | None], names: Sequence[str]
) -> Iterator[None]:
    """Call `hook(l, output)` with what a part of every layer gives; a tensor replaces it."""

    def attach(layer: int) -> Any:
        def on_output(_module: Any, _inputs: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            edited = hook(layer, output[0] if is_tuple else output)
            return (edited, *output[1:]) if is_tuple and edited is not None else edited

        module = chat.layers[layer]
        part = next(getattr(module, name) for name in names if hasattr(module, name))
        return part.register_forward_hook(on_output)

    handles = [attach(layer) for layer in range(chat.n_layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study run from start to end, once for all workers; tests must leave it as it was."""
    from helpers.studies import small
    from steersweep.study.study import run_study

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    folder, done = base / "finished-study", base / "finished-study.done"
    with (base / "finished-study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            run_study(small(), folder)
            done.touch()
    return folder


@pytest.fixture
def copied_lab_model(tmp_path: Path, qwen: ChatModel) -> Path:
    """A folder with a lab model's files, for tests that change them."""
    import shutil

    return Path(shutil.copytree(qwen.source.location, tmp_path / "model"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser, where there is one."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A browser tab that notes `problems` of scripts and what is `requested`."""
    found = browser.new_page()
    found.problems, found.requested = [], []
    found.on("console", lambda message: found.problems.append(message.text))
    found.on("pageerror", lambda error: found.problems.append(str(error)))
    found.on("request", lambda request: found.requested.append(request.url))
    yield found
    found.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalServer]:
    """A stand-in for Modal's service."""
    from modal_server import ModalServer

    server = ModalServer(tmp_path_factory.mktemp("modal"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(service: ModalServer, monkeypatch: pytest.MonkeyPatch) -> ModalServer:
    """The service as the client's, with volumes mounted here and containers without a GPU."""
    from steersweep.engines.modal import remote as there
    from steersweep.engines.modal.engine import ModalEngine

    monkeypatch.setenv("MODAL_SERVER_URL", service.url)
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-test")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-test")
    monkeypatch.setattr(there, "RUNS", str(service.volumes / there.RUNS_VOLUME))
    monkeypatch.setattr(there, "_PROGRESS_EVERY_S", 0.2)
    monkeypatch.setattr(ModalEngine, "device", lambda _self, _kind: "cpu")
    monkeypatch.setattr("steersweep.engines.modal.engine._LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("steersweep.study.away.away._LOOK_EVERY_S", 0.2)
    service.calls.clear()
    service.fate.clear()
    return service
