"""Prompts of data sets: of the Hugging Face hub, of its caches, or of a folder.

`hf:OWNER/NAME:SPLIT:COLUMN`; split and column may be left out where there is no choice. Only files
of data are read; code of a repository is never run. Without a network what was downloaded before
will do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import json_problem, parse_json, read_text, shown
from steersweep.prompts.entries import Entry, collect
from steersweep.prompts.files import is_prompt_file, read_prompt_file

HUB = "hf:"
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_KINDS = (".arrow", ".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
_ABOUT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
# Words in a file's path that say of which split it is; other files are of "train".
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_TIMEOUT_S = 20  # of the hub's answer to what a data set has
_MAX_ABOUT = 4 * 2**20  # bytes of a file about a data set


@dataclass(frozen=True)
class _Files:
    """The files of a data set.

    Attributes:
        splits: names of files by split, or by `CONFIG/SPLIT` where there are several configs.
        get: where a file is on this machine, once it is there.
    """

    splits: Mapping[str, Sequence[str]]
    get: Callable[[str], Path]


def read_data_set(address: str) -> list[Entry]:
    """The prompts of a data set, in order.

    Args:
        address: `hf:OWNER/NAME[@REVISION]` or `hf:FOLDER`, and maybe `:SPLIT` and `:COLUMN` after
            it; a split of one of several configs is `CONFIG/SPLIT`.

    Raises:
        InputError: there is no such data set, split or column, or it cannot be read.
    """
    where, split, column = _parts(address)
    called = HUB + where
    is_here = where and os.path.isdir(where)
    files = _of_folder(Path(where), called) if is_here else _of_hub(where, called)
    names = _chosen(files.splits, split, called)
    entries: list[Entry] = []
    for name in names:
        for entry in _read(files.get(name), column, f"{called}, {name}"):
            place = entry.place if len(names) == 1 else f"{name}, {entry.place}"
            entries.append(replace(entry, place=place))
    return collect(called, entries)


def data_set_name(address: str) -> str:
    """What results call the prompts of a data set; of a folder its last part."""
    where, *rest = _parts(address)
    name = Path(where).resolve().name if where and os.path.isdir(where) else where
    return ":".join([name, *filter(None, rest)])


def _parts(address: str) -> tuple[str, str | None, str | None]:
    """Data set, split and column; a folder's own colons are part of its name."""
    text = address.removeprefix(HUB)
    ends = [found.start() for found in re.finditer(":", text)] + [len(text)]
    end = next((at for at in reversed(ends) if text[:at] and os.path.isdir(text[:at])), ends[0])
    split, _, column = text[end + 1 :].partition(":")
    return text[:end], split or None, column or None


def _chosen(splits: Mapping[str, Sequence[str]], split: str | None, called: str) -> Sequence[str]:
    known = ", ".join(splits)
    if split is None:
        if len(splits) > 1:
            raise InputError(f"{called}: has splits {known}; name one, as {called}:SPLIT:COLUMN")
        return next(iter(splits.values()))
    if split in splits:
        return splits[split]
    within = [name for name in splits if name.endswith(f"/{split}")]
    if len(within) == 1:
        return splits[within[0]]
    raise InputError(f"{called}: has no split {shown(split, 40)}; it has {known}")


def _read(path: Path, column: str | None, called: str) -> list[Entry]:
    """The prompts of one file; messages call it by the data set's name."""
    try:
        content = read_prompt_file(str(path), column)
    except InputError as error:
        raise InputError(str(error).replace(str(path), called)) from error
    if isinstance(content, dict):
        raise InputError(f"{called}: is a JSON object, not rows; download it and name its list")
    return content


# -- a folder --------------------------------------------------------------------------------------


def _of_folder(folder: Path, called: str) -> _Files:
    """Saved by `datasets` (`save_to_disk`), or with files of data as a repository has them."""
    saved = {}
    if (folder / "dataset_dict.json").is_file():
        for split in _json(folder / "dataset_dict.json").get("splits", []):
            saved[str(split)] = [f"{split}/{name}" for name in _saved_files(folder / str(split))]
    elif (folder / "state.json").is_file():
        split = _json(folder / "state.json").get("_split") or "train"
        saved[str(split)] = _saved_files(folder)
    if saved:
        return _Files(saved, lambda name: folder / name)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    return _Files(_splits(names, called, lambda name: folder / name), lambda name: folder / name)


def _saved_files(folder: Path) -> list[str]:
    state = _json(folder / "state.json")
    files = state.get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if files else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{folder / 'state.json'}: names no files; save the data set again")
    return [str(name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path, max_bytes=_MAX_ABOUT))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {json_problem(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: must be a JSON object")
    return found


def _splits(
    names: Sequence[str], called: str, get: Callable[[str], Path]
) -> Mapping[str, Sequence[str]]:
    """Files of data by split: as the card says, else by the words in their paths."""
    data = [n for n in names if is_prompt_file(n) and Path(n).name not in _ABOUT]
    data = [name for name in data if not any(part.startswith(".") for part in Path(name).parts)]
    if "README.md" in names and (configs := _configs(get("README.md"))):
        found = {name: _matching(data, patterns) for name, patterns in configs.items()}
        if found := {name: files for name, files in found.items() if files}:
            return found
    kinds = {Path(name).suffix.lower() for name in data}
    kind = next((kind for kind in _KINDS if kind in kinds), None)
    if kind is None:
        raise InputError(
            f"{called}: has no files of data that can be read ({', '.join(_KINDS)}); of a data set "
            f"made by a script, try {called}@refs/convert/parquet"
        )
    by_split: dict[str, list[str]] = {}
    for name in data:
        if Path(name).suffix.lower() == kind:
            by_split.setdefault(_split_of(name), []).append(name)
    return by_split


def _split_of(name: str) -> str:
    stem = Path(name).stem
    if shard := _SHARD.search(stem):
        return stem[: shard.start()].rpartition("-")[2]
    words = re.split(r"[^a-z]+", name.rpartition(".")[0].lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "train")


def _configs(card: Path) -> dict[str, list[str]]:
    """Patterns of files by split, from the head of a data set's card; none where it has none."""
    import yaml

    text = read_text(card, max_bytes=_MAX_ABOUT)
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        data = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    configs = data.get("configs") if isinstance(data, dict) else None
    if not isinstance(configs, list) or not all(isinstance(c, dict) for c in configs):
        return {}
    found: dict[str, list[str]] = {}
    for config in configs:
        prefix = f"{config.get('config_name', 'default')}/" if len(configs) > 1 else ""
        folder = f"{config['data_dir'].strip('/')}/" if config.get("data_dir") else ""
        files = config.get("data_files")
        if isinstance(files, str) or (files and isinstance(files[0], str)):
            files = [{"split": "train", "path": files}]
        for part in files or []:
            paths = part.get("path", []) if isinstance(part, dict) else []
            patterns = [paths] if isinstance(paths, str) else paths
            found[f"{prefix}{part.get('split', 'train')}"] = [folder + str(p) for p in patterns]
    return found


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    plain = [pattern.replace("**", "*").removeprefix("./") for pattern in patterns]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in plain)]


# -- the hub ---------------------------------------------------------------------------------------


def _of_hub(where: str, called: str) -> _Files:
    parts = _NAME.fullmatch(where)
    if parts is None:
        raise InputError(
            f"{called}: neither a folder nor OWNER/NAME of the hub; write "
            f"{HUB}OWNER/NAME:SPLIT:COLUMN"
        )
    name, revision = parts["name"], parts["revision"]
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def get(file: str) -> Path:
        try:
            return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
        except Exception as error:  # what carries the client's requests has errors of its own
            said = str(error).splitlines() or [type(error).__name__]
            raise InputError(f"{called}: {file} cannot be downloaded: {said[0][:200]}") from error

    try:
        about = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise InputError(
            f"{called}: its owner lets in who asks; ask on its page on the hub, and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(f"{called}: the hub has no such data set or revision") from error
    except Exception as error:  # no network, or the client is told not to use it
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            if cached := _cached(name):
                return cached
            raise InputError(
                f"{called}: the hub cannot be reached ({type(error).__name__}), and this machine "
                f"has no copy; download it where there is a network, and give its folder as "
                f"{HUB}FOLDER"
            ) from error
        return _of_folder(Path(folder), called)
    names = sorted(file.rfilename for file in about.siblings or ())
    return _Files(_splits(names, called, get), get)


def _cached(name: str) -> _Files | None:
    """What `datasets` keeps of a data set, the latest of each config; None where it has nothing."""
    from huggingface_hub.constants import HF_HOME

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    wanted = _plain(name.replace("/", "___"))
    newest: dict[str, Path] = {}  # folders are OWNER___NAME/CONFIG/VERSION/HASH
    kept = [p for p in cache.glob("*/*/*/*/dataset_info.json") if _plain(p.parts[-5]) == wanted]
    for path in sorted(kept, key=lambda path: path.stat().st_mtime):
        newest[path.parts[-4]] = path.parent
    found: dict[str, Sequence[str]] = {}
    for config, folder in newest.items():
        prefix = f"{config}/" if len(newest) > 1 else ""
        for file in sorted(folder.glob("*.arrow")):
            split = _SHARD.sub("", file.stem).rpartition("-")[2]
            found[prefix + split] = [*found.get(prefix + split, ()), str(file)]
    return _Files(found, Path) if found else None


def _plain(name: str) -> str:
    """A name as it compares: `datasets` writes AdvBench as adv_bench."""
    return re.sub("[_-]", "", name.lower())
