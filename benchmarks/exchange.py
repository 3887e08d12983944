"""The same direction here and in other tools: greedy answers token by token, and logits.

    python benchmarks/exchange.py --model lab:qwen-7b --gguf-of-lab
    python benchmarks/exchange.py --model FOLDER --gguf FILE.gguf --strength 0.1 --float32

`convert` writes the file of each tool; the tool reads it by its own means and answers the same
prompts. Logits are compared at every token of our answers, so that a tie that breaks otherwise
does not hide what follows. Tools that are not installed are left out; peers.txt and
exchange.txt have them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy
import torch
from torch import Tensor

from peers import answers_of, attributes_of_layers, transformers_generate
from steersweep import (
    ChatModel,
    Direction,
    Edit,
    Row,
    convert,
    dim_directions,
    generate,
    load_extraction_set,
    load_test_set,
)
from steersweep.run.edit_settings import EditSettings
from steersweep.steer.passes import edited_logits

Ids = Sequence[int]


class Side(Protocol):
    """A tool with a direction on: what it answers, and its logits at every token."""

    def answer(self, prompt: Ids, tokens: int) -> list[int]: ...

    def logits(self, ids: Ids) -> Tensor: ...


@dataclass(frozen=True)
class Asked:
    """What a direction is converted for.

    Attributes:
        tool: what reads the file.
        format: of the file.
        file: its name.
        edit: what the tool should do.
        opened: gives the tool with the direction of a file on, at a length.
    """

    tool: str
    format: str
    file: str
    edit: EditSettings
    opened: Callable[[Asked, Path, float, argparse.Namespace, ChatModel], Any]


class OnTransformers:
    """A transformers network that a tool changed."""

    def __init__(self, network: Any, chat: ChatModel) -> None:
        self._network, self._chat = network, chat

    def answer(self, prompt: Ids, tokens: int) -> list[int]:
        return transformers_generate(self._network, self._chat, [prompt], tokens)[0]

    def logits(self, ids: Ids) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self._network(input_ids=torch.tensor([ids])).logits[0]
        return found.float()


@contextmanager
def with_steering_vectors(
    _asked: Asked, file: Path, length: float, _args: argparse.Namespace, chat: ChatModel
) -> Iterator[Side]:
    from steering_vectors import SteeringVector

    vector = SteeringVector(**torch.load(file, weights_only=True))
    with vector.apply(chat.model, multiplier=length):
        yield OnTransformers(chat.model, chat)


@contextmanager
def with_repeng(
    asked: Asked, file: Path, length: float, _args: argparse.Namespace, chat: ChatModel
) -> Iterator[Side]:
    vars(numpy)["float_"] = numpy.float64  # repeng 0.4.0 is written for numpy 1
    from repeng import ControlModel, ControlVector

    vector = ControlVector.import_gguf(str(file))
    with attributes_of_layers():
        control = ControlModel(chat.model, sorted(vector.directions))
        try:
            control.set_control(vector, length)
            yield OnTransformers(control, chat)
        finally:
            control.unwrap()


class OnLmEval:
    """lm-evaluation-harness's model `steered`, by the calls that its tasks are run with."""

    def __init__(self, file: Path, chat: ChatModel) -> None:
        from lm_eval.models.hf_steered import SteeredModel

        self._chat = chat
        folder = str(chat.source.location)
        self._model = SteeredModel(folder, str(file), device="cpu", dtype="float32")
        self._model.model.generation_config = chat.model.generation_config

    def answer(self, prompt: Ids, tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = self._model._model_generate(
                context=ids,
                max_length=len(prompt) + tokens,
                stop=["\0"],
                attention_mask=torch.ones_like(ids),
            )
        return answers_of(self._chat, output[:, len(prompt) :])[0]

    def logits(self, ids: Ids) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self._model._model_call(torch.tensor([ids]))[0]
        return found.float()


@contextmanager
def with_lm_eval(
    _asked: Asked, file: Path, _length: float, _args: argparse.Namespace, chat: ChatModel
) -> Iterator[Side]:
    yield OnLmEval(file, chat)


class OnLlamaCpp:
    """llama.cpp with a control vector, loaded as its own programs load one."""

    def __init__(self, model: Path, file: Path, length: float, chat: ChatModel) -> None:
        import llama_cpp

        f32 = 0  # of the cache, so that nothing is rounded that is not rounded here
        self._chat = chat
        self._model = llama_cpp.Llama(
            str(model), n_ctx=1024, logits_all=True, verbose=False, type_k=f32, type_v=f32
        )
        width = self._model.n_embd()
        vectors = {
            int(tensor.name.removeprefix("direction.")): tensor.data * numpy.float32(length)
            for tensor in gguf.GGUFReader(file).tensors
        }
        data = numpy.zeros((max(vectors), width), numpy.float32)  # without layer 0
        for layer, vector in vectors.items():
            data[layer - 1] = vector
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        context = self._model._ctx.ctx
        first, last = min(vectors), max(vectors)
        failed = llama_cpp.llama_set_adapter_cvec(context, pointer, data.size, width, first, last)
        assert not failed, "llama.cpp took the control vector"

    def answer(self, prompt: Ids, tokens: int) -> list[int]:
        self._model.reset()
        self._model.eval(list(prompt))
        found: list[int] = []
        for _ in range(tokens):
            token = int(self._model.scores[self._model.n_tokens - 1].argmax())
            if token in self._chat.eos_ids:
                break
            found.append(token)
            self._model.eval([token])
        return found

    def logits(self, ids: Ids) -> Tensor:
        self._model.reset()
        self._model.eval(list(ids))
        return torch.from_numpy(self._model.scores[: len(ids)].copy())


@contextmanager
def with_llama_cpp(
    _asked: Asked, file: Path, length: float, args: argparse.Namespace, chat: ChatModel
) -> Iterator[Side]:
    yield OnLlamaCpp(args.gguf, file, length, chat)


@contextmanager
def with_hooks(
    asked: Asked, file: Path, length: float, _args: argparse.Namespace, chat: ChatModel
) -> Iterator[Side]:
    """What activation-steering and Arditi et al.'s code do, for neither is a package."""
    if asked.format == "cast":
        held = json.loads(file.read_text())["directions"]
        pushes = {
            int(layer): (length * torch.tensor(numbers)).half() for layer, numbers in held.items()
        }
    else:
        vector = torch.load(file, weights_only=True)
        facts = json.loads(file.with_name(f"{file.stem}_metadata.json").read_text())
        pushes = {facts["layer"]: vector * (length / float(vector.norm()))}

    def hook(push: Tensor) -> Callable[[Any, Any], Any]:
        return lambda _module, given: (given[0] + push.to(given[0]), *given[1:])

    handles = [
        chat.layers[layer].register_forward_pre_hook(hook(push)) for layer, push in pushes.items()
    ]
    try:
        yield OnTransformers(chat.model, chat)
    finally:
        for handle in handles:
            handle.remove()


TO_END, ONE, REMOVE = EditSettings(), EditSettings(span="one"), EditSettings("remove")
INPUTS = EditSettings(site="resid_pre")
ASKED = [
    Asked("llama_cpp", "gguf", "v.gguf", TO_END, with_llama_cpp),
    Asked("llama_cpp", "gguf", "v.gguf", ONE, with_llama_cpp),
    Asked("repeng", "gguf", "v.gguf", TO_END, with_repeng),
    Asked("repeng", "gguf", "v.gguf", ONE, with_repeng),
    Asked("steering_vectors", "steering-vectors", "v.pt", TO_END, with_steering_vectors),
    Asked("steering_vectors", "steering-vectors", "v.pt", ONE, with_steering_vectors),
    Asked("lm_eval", "lm-eval", "v.pt", TO_END, with_lm_eval),
    Asked("lm_eval", "lm-eval", "v.pt", REMOVE, with_lm_eval),
    Asked("hooks", "cast", "v.svec", INPUTS, with_hooks),
    Asked("hooks", "arditi", "direction.pt", ONE, with_hooks),
]


@dataclass
class Compared:
    """Tokens that are the same, of all; the largest difference of a logit, and their spread."""

    same: int = 0
    tokens: int = 0
    largest: float = 0.0
    spread: float = 0.0
    steered: int = 0

    def add(self, ours: list[int], theirs: list[int], here: Tensor, there: Tensor) -> None:
        end = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        self.same += len(ours) if end is None and len(ours) == len(theirs) else end or 0
        self.tokens += len(ours)
        self.largest = max(self.largest, float((here - there).abs().max()))
        self.spread = max(self.spread, float(here.std()))


def compared(
    asked: Asked, direction: Direction, length: float, args: argparse.Namespace, chat: ChatModel
) -> Compared:
    """One tool against this package, over all prompts."""
    found = Compared()
    prompts = [
        chat.prompt_ids(text) for text in load_test_set("benign-120").prompts[: args.prompts]
    ]
    edit = Edit.of(asked.edit, direction.vector, direction.layer, multiplier=length)
    ours = generate(chat, [Row(ids, edit) for ids in prompts], max_new_tokens=args.tokens)
    plain = generate(chat, [Row(ids) for ids in prompts], max_new_tokens=args.tokens)
    found.steered = sum(a.token_ids != b.token_ids for a, b in zip(ours, plain, strict=True))
    here = []
    for ids, answer in zip(prompts, ours, strict=True):
        given = [[*ids, *answer.token_ids[:end]] for end in range(len(answer.token_ids))]
        here.append(edited_logits(chat, given, edit).float().cpu())
    with tempfile.TemporaryDirectory() as folder:
        direction.save(Path(folder) / "ours.safetensors")
        convert(
            Path(folder) / "ours.safetensors",
            Path(folder) / asked.file,
            format=asked.format,
            model=args.model,
            operation=asked.edit.operation,
            site=asked.edit.site,
            span=asked.edit.span,
            multiplier=None if asked.edit.operation == "remove" else length,
        )
        with asked.opened(asked, Path(folder) / asked.file, length, args, chat) as side:
            for ids, answer, logits in zip(prompts, ours, here, strict=True):
                tokens = list(answer.token_ids)
                there = side.logits([*ids, *tokens])[len(ids) - 1 : len(ids) + len(tokens) - 1]
                found.add(tokens, side.answer(ids, args.tokens), logits, there)
    return found


def lab_as_gguf(model: str, folder: Path) -> Path:
    """A lab model as a GGUF file of float32."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    written = import_module("gguf_files").write_gguf
    return Path(written(model.removeprefix("lab:"), folder / "model.gguf", "F32"))


def as_float32(model: Path, folder: Path) -> Path:
    """A GGUF file with the same numbers in float32: llama.cpp rounds activations beside others."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(folder / "f32.gguf", "", use_temp_file=True)
    writer.kv_data[0].clear()
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            kind = field.types[0]
            of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, of)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "f32.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--gguf-of-lab", action="store_true", help="write one of a lab model")
    parser.add_argument("--float32", action="store_true", help="as float32 for llama.cpp")
    parser.add_argument("--tools", default="llama_cpp,repeng,steering_vectors,lm_eval,hooks")
    parser.add_argument("--strength", type=float, default=0.3)
    parser.add_argument("--layer", type=int, help="default: the middle one")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=40)
    args = parser.parse_args()
    torch.manual_seed(0)
    chat = ChatModel.load(args.model, precision="fp32", device="cpu")
    layer = chat.n_layers // 2 if args.layer is None else args.layer
    prompts = load_extraction_set("extract-dim-5")
    (direction,) = dim_directions(chat, prompts, layers=[layer])
    assert direction.residual_norm is not None, "DIM measured it"
    length = args.strength * direction.residual_norm
    print(f"{args.model}, layer {layer} of {chat.n_layers}, length {length:.4g}")
    print("| tool | format | what | steered | tokens the same | largest difference (spread) |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        if args.gguf_of_lab:
            args.gguf = lab_as_gguf(args.model, Path(folder))
        if args.float32:
            args.gguf = as_float32(args.gguf, Path(folder))
        for asked in ASKED:
            there = asked.tool == "hooks" or find_spec(asked.tool) is not None
            if asked.tool not in args.tools.split(",") or not there:
                continue
            if asked.tool == "llama_cpp" and args.gguf is None:
                continue
            found = compared(asked, direction, length, args, chat)
            what = f"{asked.edit.operation}, {asked.edit.site}, {asked.edit.span}"
            print(
                f"| {asked.tool} | {asked.format} | {what} | {found.steered} of {args.prompts} | "
                f"{found.same} of {found.tokens} | {found.largest:.2g} ({found.spread:.2g}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
