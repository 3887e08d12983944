"""Digests that show whether a file of a run folder is as it was written.

JSON files end in a field `digest`: the SHA-256, in hexadecimal, of the file's name in the run
folder, a line feed, and every byte before the line of that field. In a list of objects it is the
last field of the last object. The name is part of it, so that one file in place of another shows.

White space at the end of a JSON file or of `plan.yaml` counts for nothing: editors add a line
feed, or change the last one. Any other change, CR LF for every LF among them, is damage.

`plan.yaml` begins with a comment that holds the digest of its name, a line feed, and all that
follows the comment. Safetensors files hold the digest of their metadata and tensors in `digest` of
the metadata; a direction's file is named by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from steersweep.core.indented import pieces, plain_already

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELD = "digest"
_HEX = 64
_TAIL = 4096  # bytes in which the end of a large file is looked for
_CHUNK = 1 << 22
_SPACE = b" \t\r\n"
_COMMENT = b"# digest: "
# How a file goes on after the digest, by its first character.
_BEFORE = {b"{": b'\n "digest": "', b"[": b'\n  "digest": "'}
_AFTER = {b"{": b'"\n}\n', b"[": b'"\n }\n]\n'}


class Damaged(Exception):
    """A file is not what was written; the message says in what way."""


def seal(name: str, value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bytes:
    """JSON of an object, or of a list of objects, with its digest.

    Args:
        name: the file's path relative to the run folder.
        value: no `digest` in it; a list ends in an object with fields. Lone surrogates, which a
            model may produce, are escaped.

    Raises:
        ValueError: NaN or infinity in it, which other programs cannot read; an empty list.
    """
    return b"".join(sealed(name, value))


def sealed(
    name: str,
    value: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    later: Callable[[Any], Any] = plain_already,
) -> Iterator[bytes]:
    """What `seal` gives, in pieces.

    Args:
        name: see `seal`.
        value: see `seal`.
        later: see `pieces`.

    Raises:
        ValueError: see `seal`.
    """
    last = value if isinstance(value, Mapping) else value[-1] if value else {}
    if FIELD in last or (last is not value and not last):
        raise ValueError(f"{name}: cannot hold a digest: nothing to add it to, or one is there")
    kind = b"{" if isinstance(value, Mapping) else b"["
    end = (b"\n}" if last else b"}") if kind == b"{" else b"\n }\n]"
    digest = hashlib.sha256(name.encode() + b"\n")
    held = b""  # not given on yet: it may be the end, where the digest goes
    for chunk in _in_chunks(pieces(value, later)):
        held += chunk
        body, held = held[: -len(end)], held[-len(end) :]
        digest.update(body)
        yield body
    assert held == end, "so does JSON with this indent end"
    if last:
        digest.update(b",")
        yield b","
    yield _BEFORE[kind] + digest.hexdigest().encode() + _AFTER[kind]


def _in_chunks(texts: Iterator[str]) -> Iterator[bytes]:
    """Texts as UTF-8, some hundred at a time."""
    while some := "".join(islice(texts, 512)):
        yield some.encode("utf-8", errors="backslashreplace")


def unseal(name: str, data: bytes) -> Any:
    """What `seal` was given.

    Raises:
        Damaged: the file is not as it was written.
    """
    check(name, data)
    value = json.loads(data)
    del (value if isinstance(value, dict) else value[-1])[FIELD]
    return value


def check(name: str, data: bytes) -> str:
    """See that a sealed JSON file is as it was written, without reading it; its digest.

    Raises:
        Damaged: it is not.
    """
    kind = data[:1]
    data = data.rstrip(_SPACE) + b"\n"
    if kind not in _BEFORE:
        raise Damaged("empty, or no JSON object" if data.strip() else "empty")
    before, after = _BEFORE[kind], _AFTER[kind]
    end = len(data) - len(after)
    body = data[: max(0, end - _HEX - len(before))]
    found = _hex(name, body)
    if data[len(body) :] != before + found + after:
        written = data[len(body) : end - _HEX] == before and data[end:] == after
        raise Damaged("its digest is wrong" if written else "its digest is missing")
    return found.decode()


def check_file(name: str, file: BinaryIO) -> None:
    """`check` of an open file that may be larger than memory.

    Raises:
        Damaged: it is not as it was written.
    """
    file.seek(0)
    kind = file.read(1)
    size = file.seek(0, os.SEEK_END)
    begin = max(0, size - _TAIL)
    file.seek(begin)
    tail = file.read().rstrip(_SPACE) + b"\n"
    if kind not in _BEFORE:
        raise Damaged("no JSON object")
    before, after = _BEFORE[kind], _AFTER[kind]
    end = len(tail) - len(after)
    rest = end - _HEX - len(before)  # what of the tail comes before the digest
    digest = hashlib.sha256(name.encode() + b"\n")
    file.seek(0)
    left = begin + rest
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    if rest < 0 or left or tail[rest:] != before + digest.hexdigest().encode() + after:
        raise Damaged("its digest is wrong or missing")


def seal_text(name: str, text: str) -> bytes:
    """A text with the digest in a comment on its first line; it ends in one line feed."""
    data = text.encode("utf-8", errors="backslashreplace").rstrip(_SPACE) + b"\n"
    return _COMMENT + _hex(name, data) + b"\n" + data


def unseal_text(name: str, data: bytes) -> str:
    """What `seal_text` was given, with one line feed at its end.

    Raises:
        Damaged: the file is not as it was written.
    """
    first, _, rest = data.partition(b"\n")
    rest = rest.rstrip(_SPACE) + b"\n"
    if first != _COMMENT + _hex(name, rest):
        is_there = first.startswith(_COMMENT)
        raise Damaged("its digest is wrong" if is_there else "its digest is missing")
    return rest.decode("utf-8")


def tensors_digest(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """Digest of arrays, by name, type, shape and bytes, and of facts about them."""
    import numpy as np

    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        described = [name, f"torch.{tensor.dtype}", list(tensor.shape)]
        digest.update(b"\n" + json.dumps(described).encode() + b"\n")
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def seal_tensors(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """A safetensors file; each fact is JSON in its metadata, beside the digest."""
    import numpy as np
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {name: json.dumps(value, allow_nan=False) for name, value in facts.items()}
    return save(whole, metadata=metadata | {FIELD: tensors_digest(whole, facts)})


def unseal_tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and facts that `seal_tensors` was given; the arrays are read-only.

    Raises:
        Damaged: no safetensors file, or not as it was written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
        written = metadata.pop(FIELD, None)
        facts = {name: json.loads(value) for name, value in metadata.items()}
        found = tensors_digest(tensors, facts)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"no whole safetensors file ({error})") from error
    if written != found:
        raise Damaged("its digest is wrong" if written else "its digest is missing")
    return tensors, facts


def _hex(name: str, body: bytes) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\n")
    digest.update(body)
    return digest.hexdigest().encode()
