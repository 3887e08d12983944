"""A model's network from its files: every tensor in its place, or a message that says why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psutil

from steersweep.core.errors import InputError
from steersweep.core.precision_labels import INT8_DYNAMIC, runs_as
from steersweep.core.printing import first_line
from steersweep.model.architectures import NOT_TEXT, auto_class, is_wrapper
from steersweep.model.explaining import explain_loading
from steersweep.model.int8 import to_int8
from steersweep.model.memory import OutOfMemory, free_memory, is_out_of_memory
from steersweep.model.misfits import Misfits, why
from steersweep.model.numbers import check_numbers
from steersweep.model.precision import check_label, load_options, settle
from steersweep.model.quantization import method_of
from steersweep.model.source import ModelSource
from steersweep.model.weight_files import check_types, stored_tensors

# What files hold beside the weights that answers are computed with: layers that guess several
# tokens ahead, scales of quantized caches, buffers that are computed anew.
_SPARE = re.compile(
    r"(^|\.)mtp[._]|\.[qkv]_scale$|\.kv_scale$|\.[kv]_cache_scale$|\.rotary_emb\.inv_freq$"
    r"|\.(attn|attention)\.(masked_)?bias$|\.position_ids$|\.num_batches_tracked$"
)
_AHEAD = re.compile(r"^(.*\.layers\.\d+\.)(eh_proj|enorm|hnorm|shared_head)\b")


def load_network(source: ModelSource, config: Any, precision: str, device: str) -> Any:
    """A model's network in evaluation mode, all of whose tensors came from its files.

    Args:
        source: the model.
        config: its config, from `ModelSource.config`.
        precision: resolved for the device.
        device: torch device.

    Raises:
        InputError: files that are not whole, tensors that are missing, unexpected or of another
            shape than the config says, or that hold no numbers to compute with.
        OutOfMemory: it does not fit on the device.
    """
    _refuse_giants(source, config, device)
    try:
        return _loaded(source, config, precision, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    free_memory()  # only here has what was loaded been let go
    raise OutOfMemory(f"{source.model_id}: does not fit on {device}: {reason}")


def _refuse_giants(source: ModelSource, config: Any, device: str) -> None:
    """Stop before memory is asked for that this machine cannot have: some systems promise it."""
    text = config.get_text_config()
    width, depth, words = (
        int(getattr(text, name, None) or 0)
        for name in ("hidden_size", "num_hidden_layers", "vocab_size")
    )
    least = width * (words + depth * width) // 4  # parameters; few architectures have fewer
    if device.startswith("cpu") and least > 2 * psutil.virtual_memory().total:  # in four bits
        raise OutOfMemory(
            f"{source.model_id}: does not fit on {device}: config.json describes some "
            f"{least:.0e} parameters or more (hidden_size {width:,}, num_hidden_layers {depth:,}, "
            f"vocab_size {words:,})"
        )


def _loaded(source: ModelSource, config: Any, precision: str, device: str) -> Any:
    options = load_options(precision, config, device)
    with source.weights(config, options["dtype"]) as stored:
        network, report = _from_files(stored, config, device, options)
    _check_report(source, config, report)
    _check_ties(source, network)
    check_label(network, precision, source.model_id)
    check_numbers(network, source.model_id)
    settle(network)
    if runs_as(precision) == INT8_DYNAMIC:
        to_int8(network, source.model_id)
    network.eval()
    network.requires_grad_(False)
    return network


def _from_files(
    source: ModelSource, config: Any, device: str, options: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """The network as transformers loads it, and what it says of tensors without a place."""
    method = method_of(config)
    if source.is_local:  # of the hub they are there after loading
        _check_tensors(source, config, method)
    found = auto_class(config, source.model_id, trust_remote_code=source.trust_remote_code)
    try:
        with explain_loading(source):
            loaded: tuple[Any, Mapping[str, Any]] = found.from_pretrained(
                source.location,
                config=config,
                use_safetensors=True,
                device_map={"": device},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below, with their cause
                **options,
                **source.load_options(),
            )
    except RuntimeError as error:
        if is_out_of_memory(error) or "CUDA error" in str(error):
            raise
        raise InputError(
            f"{source.model_id}: the weights cannot be put into the network that config.json "
            f"describes: {first_line(error)}"
        ) from error
    if not source.is_local:
        _check_tensors(source, config, method)
    return loaded


def _check_tensors(source: ModelSource, config: Any, method: str | None) -> None:
    """Stop if files on this machine are not whole, or contradict each other or the config."""
    tensors = stored_tensors(source.folder, getattr(config, "transformers_weights", None))
    check_types(tensors, source.model_id, method)


def _check_report(source: ModelSource, config: Any, report: Mapping[str, Any]) -> None:
    """Stop if a tensor that text depends on was not read, or one of the files found no place."""

    def counts(name: str) -> bool:
        return not (_SPARE.search(name) or (is_wrapper(config) and NOT_TEXT.search(name)))

    ahead = {match[1] for name in report["unexpected_keys"] if (match := _AHEAD.match(name))}
    misfits = Misfits(
        missing=sorted(filter(counts, report["missing_keys"])),
        unexpected=sorted(
            name
            for name in report["unexpected_keys"]
            if counts(name) and not name.startswith(tuple(ahead))
        ),
        reshaped=sorted(
            (name, tuple(stored), tuple(made))
            for name, stored, made in report["mismatched_keys"]
            if counts(name)
        ),
    )
    if misfits:
        raise InputError(f"{source.model_id}: {misfits}: {why(misfits, config)}")


def _check_ties(source: ModelSource, network: Any) -> None:
    """Stop where the config ties tensors that the files hold with different numbers.

    transformers leaves them untied then; other programs tie them, and answer otherwise.
    """
    ties = network.get_expanded_tied_weights_keys(all_submodels=True)
    for name in sorted(ties.keys() - network.all_tied_weights_keys.keys()):
        raise InputError(
            f"{source.model_id}: config.json says that {name} is {ties[name]} "
            f"(tie_word_embeddings), and the files hold other numbers for it; set "
            f"tie_word_embeddings to false if it was trained on its own, or remove it from the "
            f"files"
        )
