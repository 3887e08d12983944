"""Damage to a finished run never changes a number: bits, whole files, records, directions."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steersweep import InputError, SteersweepError
from steersweep.core.digests import seal, seal_tensors, seal_text, unseal
from steersweep.run.direction import Direction, cosine
from steersweep.run.folder import RunFolder
from steersweep.run.records import Steering
from steersweep.run.result_files import read_objects
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import SweepSettings, make_settings

MOMENTS = ("timestamp", "created", "runtime_seconds", "extraction_seconds", "seconds")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SweepSettings:
    """Two layers, four prompts, eight tokens; few prompts to extract from, so that it is quick."""
    shipped = make_settings(["lab:qwen-7b"], strengths="1").extraction["dim"]
    prompts = tmp_path_factory.mktemp("prompts") / "few.json"
    few = {name: list(texts)[:8] for name, texts in shipped.content().items()}
    prompts.write_text(json.dumps(few))
    return make_settings(
        ["lab:qwen-7b"],
        methods="dim,cosmic",
        layers="0.3,0.5",
        strengths="0.5",
        extraction=str(prompts),
        max_prompts=4,
        max_new_tokens=8,
        rows=8,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, settings: SweepSettings) -> Path:
    return run_sweep(settings, tmp_path_factory.mktemp("sweep") / "run").folder


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def names_of(folder: Path) -> list[str]:
    """Every file that a run writes and reads back, but for the results, which are made anew."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in files if name.name != ".lock")


def read(folder: Path, name: str) -> Any:
    """What a run reads of a file; None where the file counts as absent."""
    store = RunFolder(folder)
    kind, stem = Path(name).parent.name, Path(name).stem
    if kind == "conditions":
        return store.get(stem)
    if kind == "directions":
        found = store.direction(stem)
        return None if found is None else found.facts | {"vector": found.vector.tolist()}
    try:
        if kind == "results":
            return read_objects(folder / name)
        return store.plan if name == "plan.yaml" else store.read_json(folder / name)
    except InputError:
        return None


def test_no_single_bit_changes_what_is_read(run_copy: Path) -> None:
    """400 bits in all, in every file of the run."""
    chance = random.Random(7)
    names = names_of(run_copy)
    held = {name: (run_copy / name).read_bytes() for name in names}
    right = {name: read(run_copy, name) for name in names}
    assert None not in right.values()
    accepted = 0
    for turn in range(400):
        name = names[turn % len(names)]
        data = bytearray(held[name])
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (run_copy / name).write_bytes(data)
        found = read(run_copy, name)
        assert found is None or found == right[name], (name, bit)
        if found is not None:  # the bit meant nothing, as in the padding of safetensors' header
            assert name.endswith(".safetensors")
            accepted += 1
        elif not name.startswith("results/"):
            aside = sorted(run_copy.glob(f"{name}*.damaged"))
            assert bytes(data) in [path.read_bytes() for path in aside]
        (run_copy / name).write_bytes(held[name])
    assert accepted <= 20


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def folder_instead(path: Path) -> None:
    path.unlink()
    (path / "below").mkdir(parents=True)


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def neighbour(path: Path) -> None:
    """Another file of the same kind, or of any."""
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    same = [other for other in others if other.suffix == path.suffix]
    others = same or others or [path.parent.parent / "run.json"]
    data = others[0].read_bytes()
    path.write_bytes(data if data != path.read_bytes() else b"")


def written(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": written(b""),
    "null": written(b"null"),
    "list": written(b"[]"),
    "object": written(b"{}"),
    "number": written(b"1e999"),
    "NaN": written(b'{"a": NaN}'),
    "deep": written(b"[" * 200_000),
    "deep object": written(b'{"a":' * 200_000),
    "zeros": written(b"\0" * 300),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" x"),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16")),
    "BOM": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "another file": neighbour,
    "a folder": folder_instead,
    "a pipe": pipe_instead,
    "a link to itself": link_to_itself,
    "a link to nothing": link_to_nothing,
}


def test_no_damage_to_a_whole_file_is_read(run_copy: Path) -> None:
    for name in names_of(run_copy):
        held = (run_copy / name).read_bytes()
        for kind, damage in DAMAGES.items():
            damage(run_copy / name)
            assert read(run_copy, name) is None, (name, kind)
            assert name.startswith("results/") == os.path.lexists(run_copy / name), (name, kind)
            if os.path.lexists(run_copy / name):
                path = run_copy / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            (run_copy / name).write_bytes(held)


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\n\n", b" \n"])
def test_white_space_at_the_end_is_no_damage(run_copy: Path, end: bytes) -> None:
    """Editors change it when they save a file. They may change no other line end."""
    for name in names_of(run_copy):
        path = run_copy / name
        if path.suffix == ".safetensors":
            continue
        held, data = read(run_copy, name), path.read_bytes()
        path.write_bytes(data.removesuffix(b"\n") + end)
        assert read(run_copy, name) == held, name
        path.write_bytes(data.replace(b"\n", b"\r\n"))
        assert read(run_copy, name) is None, name
        path.write_bytes(data)


def test_a_plan_that_multiplies_is_damaged(run_copy: Path) -> None:
    """Also with the right digest, and in no time."""
    doubled = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    (run_copy / "plan.yaml").write_bytes(seal_text("plan.yaml", f"a0: &a0 [x]\n{doubled}"))
    store = RunFolder(run_copy, repairs=False)
    assert store.get_plan() is None
    assert "more than 10,000 values" in store.damaged["plan.yaml"]


@pytest.mark.parametrize("turn", [0, 7, 13])
def test_a_damaged_run_comes_back_as_it_was(
    finished: Path, run_copy: Path, settings: SweepSettings, turn: int
) -> None:
    """Two of three files damaged, each in another way, and the same command again."""
    victims = [name for i, name in enumerate(names_of(run_copy)) if (i + turn) % 3]
    kinds = [*DAMAGES]
    for number, name in enumerate(victims):
        DAMAGES[kinds[(number + turn) % len(kinds)]](run_copy / name)
    run_sweep(settings, run_copy)
    assert comparable_results(run_copy) == comparable_results(finished)
    for name in victims:
        if not name.startswith("results/"):
            assert os.path.lexists(f"{run_copy / name}.damaged"), name


def comparable_results(folder: Path) -> dict[str, Any]:
    """Conditions and newest results without moments and digests; directions; settings."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            gone = {*MOMENTS, "digest"}
            return {key: strip(item) for key, item in value.items() if key not in gone}
        return [strip(item) for item in value] if isinstance(value, list) else value

    newest = max(folder.glob("results/*.json"))
    found = {"results": strip(read_objects(newest))}
    for path in folder.glob("conditions/*.json"):
        found[path.name] = strip(json.loads(path.read_text()))
    for path in folder.glob("directions/*.safetensors"):
        found[path.name] = Direction.load(path).facts
    for path in folder.glob("extraction/*.json"):
        found[path.name] = strip(json.loads(path.read_text()))
    found["prompts"] = json.loads((folder / "prompts.json").read_text())
    found["plan"] = RunFolder.existing(folder).plan
    return found


def test_what_is_damaged_twice_is_kept_twice(run_copy: Path) -> None:
    name = next(name for name in names_of(run_copy) if name.startswith("conditions/"))
    for text in ("one", "two", "three"):
        (run_copy / name).write_text(text)
        assert read(run_copy, name) is None
    kept = [run_copy / f"{name}{ending}.damaged" for ending in ("", ".2", ".3")]
    assert [path.read_text() for path in kept] == ["one", "two", "three"]


def test_damage_is_said(run_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = next(name for name in names_of(run_copy) if name.startswith("conditions/"))
    (run_copy / name).write_text("null")
    read(run_copy, name)
    assert name in caplog.text
    assert "made again" in caplog.text


def test_a_file_that_may_not_be_read_is_set_aside(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, no file is unreadable: the system's answer is made up."""
    name = next(name for name in names_of(run_copy) if name.startswith("conditions/"))
    original = os.open

    def refuse(path: Any, *arguments: Any) -> int:
        if str(path) == str(run_copy / name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    assert read(run_copy, name) is None
    assert (run_copy / f"{name}.damaged").exists()


def test_a_machine_short_of_files_damages_nothing(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(name for name in names_of(run_copy) if name.startswith("conditions/"))

    def short(*_arguments: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        with pytest.raises(InputError, match="Too many open files"):
            read(run_copy, name)
    assert read(run_copy, name) is not None


# -- records -------------------------------------------------------------------------------------


STEERING = [field.name for field in fields(Steering)]
EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a rate": lambda r: r["result"].update(coherent_refusal_rate=0.3),
    "an interval": lambda r: r["result"].update(coherent_refusal_ci=[0.0, 1.0]),
    "repeats": lambda r: r["result"].update(n_samples=7),
    "no repeats": lambda r: r["result"].update(n_samples=0),
    "a sample missing": lambda r: r["samples"].pop(),
    "a sample twice": lambda r: r["samples"].append(r["samples"][0]),
    "another order": lambda r: r["samples"].reverse(),
    "a foreign prompt": lambda r: r["samples"][1].update(prompt="What is the time?"),
    "a label": lambda r: r["samples"][0].update(refusal=not r["samples"][0]["refusal"]),
    "no samples": lambda r: r.update(samples=[]),
    "samples of another type": lambda r: r.update(samples={"a": 1}),
    "another condition": lambda r: r["condition"].update(seed=43),
    "another precision": lambda r: r["condition"].update(precision="int8"),
    "an unknown field": lambda r: r["condition"].update(colour="red"),
    "a field missing": lambda r: r["condition"].pop("judge"),
    "no key": lambda r: r.pop("key"),
    "another key": lambda r: r.update(key="0" * 24),
    "another layer": lambda r: r["result"].update(layer_idx=6),
    "another multiplier": lambda r: r["result"].update(multiplier=99.0),
    "another residual norm": lambda r: r["result"].update(residual_norm=1.0),
    "no residual norm": lambda r: r["result"].update(residual_norm=0.0),
    "no result": lambda r: r.pop("result"),
    "no steering": lambda r: [r["result"].pop(name, None) for name in STEERING],
    "part of the steering": lambda r: r["result"].pop("site"),
    "an unknown number": lambda r: r["result"].update(surprise=1),
    "an unknown label": lambda r: r["samples"][0].update(quality="splendid"),
    "a response that is no text": lambda r: r["samples"][0].update(response=None),
    "a sample with another field": lambda r: r["samples"][0].update(colour="red"),
    "a method that is no label": lambda r: r["condition"].update(method="random@dim"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_record_whose_parts_contradict_each_other_is_refused(
    run_copy: Path, settings: SweepSettings, edit: str
) -> None:
    """Also where somebody made the digest fit."""
    store = RunFolder(run_copy)
    records = [store.get(path.stem) for path in sorted(run_copy.glob("conditions/*.json"))]
    record = next(r for r in records if r is not None and r.condition.label.is_swept)
    path = store.paths.condition(record.key)
    name = store.paths.name_of(path)
    changed = copy.deepcopy(record.as_json())
    EDITS[edit](changed)
    path.write_bytes(seal(name, changed))
    assert store.get(record.key, settings.test.prompts) is None
    assert name in store.damaged
    store.put(record)
    assert store.get(record.key, settings.test.prompts) == record


def test_results_without_a_damaged_condition_are_not_made(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another layer would be called the best."""
    from steersweep.sweeps import run as runner

    def run_and_damage(_job: Any, store: RunFolder, _on_progress: Any) -> None:
        victim = next(store.root.glob("conditions/*.json"))
        victim.write_text("null")

    monkeypatch.setattr(runner, "run_job", run_and_damage)
    with pytest.raises(SteersweepError, match="was damaged after it was made"):
        run_sweep(settings, run_copy)


# -- directions ----------------------------------------------------------------------------------


def changed_vector(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Another vector with the old metadata, as any program would write it."""

    def damage(path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({"direction": change(load_file(path)["direction"])}, path, metadata)

    return damage


def resealed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Another vector with a digest that fits."""

    def damage(path: Path) -> None:
        found = Direction.load(path)
        path.write_bytes(seal_tensors({"direction": change(found.vector).numpy()}, found.facts))

    return damage


def swap(path: Path) -> None:
    other = next(other for other in path.parent.glob("*.safetensors") if other != path)
    shutil.copy(other, path)


def first_differs(vector: torch.Tensor) -> torch.Tensor:
    """Equal in all components but one beyond the eighth, and in the last digit."""
    changed = vector.clone()
    changed[20] = torch.nextafter(changed[20], torch.tensor(math.inf))
    return changed


DIRECTIONS: dict[str, Callable[[Path], Any]] = {
    "zeroed": changed_vector(torch.zeros_like),
    "tripled": changed_vector(lambda v: 3 * v),
    "negated": changed_vector(lambda v: -v),
    "NaN": changed_vector(lambda v: v * math.nan),
    "shorter": changed_vector(lambda v: v[:-1] / v[:-1].norm()),
    "last digit": changed_vector(first_differs),
    "zeroed, with a digest": resealed(torch.zeros_like),
    "tripled, with a digest": resealed(lambda v: 3 * v),
    "negated, with a digest": resealed(lambda v: -v),
    "last digit, with a digest": resealed(first_differs),
    "swapped": swap,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_no_bad_direction_is_read(run_copy: Path, kind: str) -> None:
    path = sorted(run_copy.glob("directions/*.safetensors"))[0]
    assert RunFolder(run_copy).direction(path.stem) is not None
    DIRECTIONS[kind](path)
    assert RunFolder(run_copy).direction(path.stem) is None


@pytest.mark.parametrize("length", [0.0, 0.99, 3.0, math.nan])
def test_a_direction_that_is_no_unit_vector_cannot_be_loaded(
    finished: Path, tmp_path: Path, length: float
) -> None:
    """A file of the user's own, whose digest fits."""
    found = Direction.load(next(finished.glob("directions/*.safetensors")))
    tensors = {"direction": (length * found.vector).numpy()}
    (tmp_path / "mine.safetensors").write_bytes(seal_tensors(tensors, found.facts))
    with pytest.raises(InputError, match=r"mine\.safetensors: .*no unit vector"):
        Direction.load(tmp_path / "mine.safetensors")


def test_bad_directions_are_made_again_and_their_conditions_stay(
    finished: Path, run_copy: Path, settings: SweepSettings
) -> None:
    paths = sorted(run_copy.glob("directions/*.safetensors"))
    for path, kind in zip(paths, DIRECTIONS, strict=False):
        DIRECTIONS[kind](path)
    before = {path: path.stat().st_mtime_ns for path in run_copy.glob("conditions/*.json")}
    found = run_sweep(settings, run_copy)
    assert comparable_results(run_copy) == comparable_results(finished)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    (cosmic,) = (result for result in found.results if result.method == "cosmic")
    cosines = [cell.cosine_to_dim for cell in cosmic.conditions]
    assert all(cosine is not None and -1 <= cosine <= 1 for cosine in cosines)


def test_a_direction_that_does_not_come_back_takes_its_conditions_with_it(
    run_copy: Path, settings: SweepSettings
) -> None:
    """As on another machine: the last digits differ, so the records must be of the new one."""
    path = next(
        path
        for path in run_copy.glob("directions/*.safetensors")
        if Direction.load(path).method == "dim"
    )
    changed = Direction.load(path)
    other = Direction(**changed.facts, vector=first_differs(changed.vector))
    store = RunFolder(run_copy)
    for condition in run_copy.glob("conditions/*.json"):
        record = store.get(condition.stem)
        steering = record and record.steering
        if record and steering and steering.direction_file == f"directions/{path.name}":
            steering = replace(steering, direction_file=f"directions/{other.key}.safetensors")
            changed_record = replace(record, steering=steering).as_json()
            condition.write_bytes(seal(store.paths.name_of(condition), changed_record))
    path.unlink()
    run_sweep(settings, run_copy)
    assert path.exists()
    for result in run_sweep(settings, run_copy).results:
        for cell in result.conditions:
            assert (run_copy / cell.steering.direction_file).exists()


def test_the_key_of_a_direction_is_all_of_it_but_names(finished: Path) -> None:
    found = Direction.load(next(finished.glob("directions/*.safetensors")))
    keys = {found.key, Direction(**found.facts, vector=first_differs(found.vector)).key}
    for name, value in found.facts.items():
        other = f"{value}x" if isinstance(value, str) else value + 1
        key = Direction(**(found.facts | {name: other}), vector=found.vector).key
        assert (key == found.key) == (name in ("model_id", "prompts"))
        keys.add(key)
    assert len(keys) == len(found.facts)


def test_cosines_stay_within_their_range() -> None:
    for seed in range(200):
        vector = torch.randn(97, generator=torch.Generator().manual_seed(seed))
        vector /= vector.norm()
        assert cosine(vector.numpy(), vector.numpy()) <= 1
        assert cosine(vector.numpy(), -vector.numpy()) >= -1


# -- folders of other versions -------------------------------------------------------------------


def test_a_run_of_an_earlier_version_is_refused_and_untouched(
    run_copy: Path, settings: SweepSettings
) -> None:
    """As it was: the same files without digests."""
    for path in (*run_copy.rglob("*.json"), run_copy / "plan.yaml"):
        name = path.relative_to(run_copy).as_posix()
        if path.suffix == ".yaml":
            path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
        else:
            path.write_text(json.dumps(unseal(name, path.read_bytes()), indent=1))
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    for use in (lambda: run_sweep(settings, run_copy), lambda: RunFolder.existing(run_copy)):
        with pytest.raises(InputError, match=r"earlier version.*Use a new folder"):
            use()
    assert before == {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}


def test_a_lost_beginning_of_the_plan_is_no_earlier_version(run_copy: Path) -> None:
    plan = run_copy / "plan.yaml"
    for size in range(0, plan.stat().st_size - 1, 7):
        held = plan.read_bytes()
        plan.write_bytes(held[:size])
        with pytest.raises(InputError, match=r"plan.yaml: is damaged"):
            RunFolder.existing(run_copy)
        plan.write_bytes(held)
