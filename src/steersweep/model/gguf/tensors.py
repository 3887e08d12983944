"""The tensors of a GGUF file as ordinary numbers, under transformers' names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.gguf.checks import byte_count
from steersweep.model.gguf.header import Header, StoredTensor
from steersweep.model.misfits import Misfits, why

_CHUNK = 1 << 17  # elements that are made numbers at a time: what a processor's cache holds
_PART = 1 << 23  # elements of a tensor that are in memory at a time; a whole number of blocks
# Tensors of which the config holds what they say.
_OF_THE_CONFIG = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def numbers_of(header: Header, tensor: StoredTensor) -> Any:
    """A tensor of a file as float32, a numpy array of its shape."""
    import numpy as np

    found = np.empty(tensor.count, dtype=np.float32)
    _read_into(found, header, tensor, 0)
    return found.reshape(tensor.shape)


def parts_of(header: Header, tensor: StoredTensor) -> Iterator[Any]:
    """The same numbers in their order, some at a time: each array is overwritten by the next.

    Memory that is new costs more than the arithmetic: a vocabulary's tensor takes half a gigabyte.
    """
    import numpy as np

    held = np.empty(min(_PART, tensor.count), dtype=np.float32)
    for first in range(0, tensor.count, _PART):
        part = held[: tensor.count - first]
        _read_into(part, header, tensor, first)
        yield part


def _read_into(found: Any, header: Header, tensor: StoredTensor, first: int) -> None:
    """Fill a flat float32 array with a tensor's numbers from a place on, where a block begins."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(tensor.kind)
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.fromfile(
        header.path,
        dtype=np.uint8,
        count=byte_count(tensor.kind, len(found)),
        offset=tensor.start + byte_count(tensor.kind, first),
    )
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        found[:] = raw.view(np.float32 if kind == GGMLQuantizationType.F32 else np.float16)
        return
    step = max(1, _CHUNK // block)  # blocks

    def convert(begin: int) -> None:
        part = raw[begin * size : (begin + step) * size]
        found[begin * block : (begin + step) * block] = dequantize(part[None], kind)[0]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(convert, range(0, len(found) // block, step)):
            pass


class Weights:
    """The tensors of a file as those of the network that its config describes.

    Attributes:
        shapes: of every tensor by transformers' name, in the order they are made.

    Raises:
        InputError: a tensor of either has no place in the other.
    """

    def __init__(self, header: Header, config: Any, called: str) -> None:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        self._header = header
        self._called = called
        network = empty_network(config, called)
        of: Any = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
        self._processor = of(config=config.to_dict())
        self._as_stored = of.process is TensorProcessor.process  # an architecture may turn some
        self._names = get_gguf_hf_weights_map(_Named(network), self._processor)
        state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self._sources = self._sources_of(network, state)
        self.shapes = {name: state[name] for name in self._sources}

    def _sources_of(
        self, network: Any, state: dict[str, tuple[int, ...]]
    ) -> dict[str, list[StoredTensor]]:
        """Which of the file's tensors make one of the network's."""
        found: dict[str, list[StoredTensor]] = {}
        unused = []
        for tensor in self._header.tensors:
            # Experts of a layer are mapped without the ending.
            names = (tensor.name, tensor.name.removesuffix(".weight"))
            target = next((self._names[name] for name in names if name in self._names), None)
            if target in state:
                found.setdefault(target, []).append(tensor)
            elif tensor.name not in _OF_THE_CONFIG:
                unused.append(tensor.name)
        ties = network.get_expanded_tied_weights_keys(all_submodels=True)
        missing = [self._own_name(name) for name in state if name not in found and name not in ties]
        misfits = Misfits(missing=sorted(missing), unexpected=sorted(unused), reshaped=[])
        if misfits:
            raise InputError(
                f"{self._called}: {misfits}: the file is not whole, or its architecture "
                f"({self._header.architecture}) is one that transformers reads in part; use "
                f"another file, or the model's safetensors version"
            )
        return found

    def _own_name(self, name: str) -> str:
        return next((own for own, target in self._names.items() if target == name), name)

    def __iter__(self) -> Iterator[tuple[str, Iterable[Any]]]:
        """Names and float32 tensors, one at a time and each in parts.

        Raises:
            InputError: one has another shape than the network's.
        """
        import numpy as np
        import torch

        for name, sources in self._sources.items():
            if self._as_stored and [one.shape for one in sources] == [self.shapes[name]]:
                yield name, map(torch.from_numpy, parts_of(self._header, sources[0]))
                continue
            made: dict[str, Any] = {"tensors": {}}
            for tensor in sources:
                result = self._processor.process(
                    weights=numbers_of(self._header, tensor),
                    name=tensor.name,
                    tensor_key_mapping=self._names,
                    parsed_parameters=made,
                )
                if result.name is not None:
                    whole = torch.from_numpy(np.ascontiguousarray(result.weights))
                    made["tensors"][name] = whole
            found = made["tensors"].get(name)
            if found is None or tuple(found.shape) != self.shapes[name]:
                shape = None if found is None else tuple(found.shape)
                raise InputError(
                    f"{self._called}: {sources[0].name} is {shape}, and the network of its fields "
                    f"has {self.shapes[name]} there; the file's fields and tensors do not belong "
                    f"together"
                )
            yield name, (found,)


class _Named:
    """What transformers' map of names asks of a network: its names, and those of its decoder.

    Asked of every module in turn, it would take half a minute.
    """

    def __init__(self, network: Any, *, is_whole: bool = True) -> None:
        self.config = network.config
        self.state_dict = network.state_dict
        self._decoder = network.base_model if is_whole else network
        self._prefix = network.base_model_prefix if is_whole else ""

    def named_children(self) -> list[tuple[str, _Named]]:
        """The decoder, where it is a part."""
        return [(self._prefix, _Named(self._decoder, is_whole=False))] if self._prefix else []


class WeightsByTransformers:
    """`Weights` of architectures for which only transformers' newer reading will do."""

    def __init__(self, header: Header, config: Any, called: str) -> None:
        self._header, self._config, self._called = header, config, called
        network = empty_network(config, called)
        ties = network.get_expanded_tied_weights_keys(all_submodels=True)
        self.shapes = {
            name: tuple(value.shape)
            for name, value in network.state_dict().items()
            if name not in ties
        }

    def __iter__(self) -> Iterator[tuple[str, Iterable[Any]]]:
        """Names and float32 tensors, each in one part."""
        import torch
        from transformers import GgufConfig

        from steersweep.model.architectures import auto_class

        path = self._header.path
        with tempfile.TemporaryDirectory(prefix="steersweep-") as folder:
            link = Path(folder) / "model.gguf"
            link.symlink_to(path)
            network, report = auto_class(self._config, self._called).from_pretrained(
                folder,
                gguf_file=link.name,
                config=self._config,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        misfits = Misfits(
            missing=sorted(report["missing_keys"]),
            unexpected=sorted(report["unexpected_keys"]),
            reshaped=sorted(report["mismatched_keys"]),
        )
        if misfits:
            raise InputError(f"{self._called}: {misfits}: {why(misfits, self._config)}")
        state = network.state_dict()
        yield from ((name, (state[name],)) for name in self.shapes)


def weights_of(header: Header, config: Any, called: str) -> Weights | WeightsByTransformers:
    """The weights of a file, by the reading that transformers has for its architecture."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

    of = WeightsByTransformers if header.architecture in GGUF_CONFIG_ARCHS else Weights
    return of(header, config, called)


def empty_network(config: Any, called: str) -> Any:
    """The network of a config, without numbers."""
    import torch

    from steersweep.model.architectures import auto_class

    with torch.device("meta"):
        return auto_class(config, called).from_config(config)
