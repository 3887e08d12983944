"""What identifies the files of a model folder: a hash over every byte that can change a result.

Which files count, by one rule: every file at the top of the folder, code (`.py`), templates
(`.jinja`) and what an index of weights names, at any depth; and where the folder brings code, which
may read anything, every other file too. Never: documentation, pictures, logs, hidden files, what a
trainer leaves behind; nor, in a folder without code, weights in formats that are not read here. A
file of an unknown kind counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.user_cache import keep, kept

CHUNK = 64 << 20  # bytes that one thread hashes at a time
KEPT_FROM = 1 << 20  # bytes; smaller files are hashed anew every time
# Times of change are kept by clocks that tick: a file that is younger may change unseen.
_SETTLED_AFTER_S = 3.0

_HARMLESS = (
    "readme*",
    "license*",
    "licence*",
    "notice*",
    "use_policy*",
    "citation*",
    "changelog*",
    "card.json",
    "trainer_state.json",
    "training_args.bin",
    "*_results.json",
    "*.tfevents.*",
    *(f"*.{kind}" for kind in ("md", "pdf", "log", "lock", "tmp", "incomplete", "pyc")),
    *(f"*.{kind}" for kind in ("png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "mp4")),
)
_UNREAD_WEIGHTS = (
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    *(f"*.{kind}" for kind in ("pt", "pth", "ckpt", "h5", "msgpack", "onnx", "onnx_data", "gguf")),
)


def folder_fingerprint(folder: Path) -> str:
    """`sha256:` and 32 hexadecimal digits over names and bytes of all files that count.

    Raises:
        InputError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    for name in files_that_count(folder):
        try:
            content = file_hash(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from error
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:32]}"


def files_that_count(folder: Path) -> list[str]:
    """Paths, relative to a model folder, of the files that can change a result; sorted."""
    there = sorted(_files(folder))
    brings_code = any(name.endswith(".py") for name in there)
    indexed = _indexed(folder, there)
    return [name for name in there if _counts(name, brings_code, name in indexed)]


def _counts(name: str, brings_code: bool, indexed: bool) -> bool:
    last = name.rpartition("/")[2].lower()
    if indexed or last.endswith((".py", ".jinja")):
        return True
    if any(fnmatch(last, pattern) for pattern in _HARMLESS):
        return False
    if brings_code:
        return True
    return "/" not in name and not any(fnmatch(last, pattern) for pattern in _UNREAD_WEIGHTS)


def _files(folder: Path) -> Iterator[str]:
    """Regular files, through links; hidden ones and compiled code left out."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        facts = os.stat(place)
        if (facts.st_dev, facts.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix()


def _indexed(folder: Path, names: list[str]) -> set[str]:
    """Files of weights that an index at the top of the folder names."""
    found: set[str] = set()
    for name in names:
        if "/" not in name and name.endswith(".safetensors.index.json"):
            try:
                found |= {
                    *map(str, json.loads((folder / name).read_bytes())["weight_map"].values())
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # loading will say what is wrong with it
    return found


def file_hash(path: Path) -> str:
    """SHA-256 over the hashes of a file's chunks of 64 MiB, hexadecimal: over its every byte.

    That of a large file is kept in the user's cache and used again while its size, its times of
    change, inode and device stay the same.

    Raises:
        OSError: it cannot be read.
    """
    real = path.resolve()
    name = f"hashes/{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    facts = _facts(real)
    held = kept(name) if facts["size"] >= KEPT_FROM else None
    if isinstance(held, dict) and facts.items() <= held.items() and "sha256" in held:
        return str(held["sha256"])
    began = time.time()
    found = _hash(real, facts["size"])
    settled = began - max(facts["mtime_ns"], facts["ctime_ns"]) / 1e9 > _SETTLED_AFTER_S
    if facts["size"] >= KEPT_FROM and settled and _facts(real) == facts:
        keep(name, {"path": os.fsencode(real).decode("utf-8", "replace"), **facts, "sha256": found})
    return found


def _facts(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _hash(path: Path, size: int) -> str:
    def of_chunk(start: int) -> bytes:
        digest, left = hashlib.sha256(), CHUNK
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left and (block := file.read(min(left, 1 << 20))):
                digest.update(block)  # lets other threads run
                left -= len(block)
        return digest.digest()

    starts = range(0, max(size, 1), CHUNK)
    if len(starts) == 1:
        parts = [of_chunk(0)]
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            parts = [*pool.map(of_chunk, starts)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
