"""Hostile plan files: bombs, depths, names that escape, numbers of the wrong kind."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from torture.helpers.cases import Case, Torture, Verdict, void
from torture.helpers.hostile import hostile
from torture.helpers.runs import PLAN, Ground
from torture.helpers.verdicts import of_input

# -- the text as a whole ---------------------------------------------------------------------------

_MERGE_BOMB = "a0: &a0 {x0: 0, y0: 0}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], x{i}: 0}}\n" for i in range(1, 9)
)
_ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
TEXTS: dict[str, str | bytes] = {
    "empty": "",
    "null": "null\n",
    "number": "7\n",
    "list": "[]\n",
    "mapping": "{}\n",
    "merge-bomb": _MERGE_BOMB,
    "merge-bomb-in-plan": PLAN + _MERGE_BOMB,
    "alias-bomb": _ALIAS_BOMB,
    "alias-bomb-in-plan": PLAN + _ALIAS_BOMB,
    "ten-megabytes": PLAN + "description: >\n" + "  word word word word\n" * 500_000,
    "ten-megabytes-of-models": PLAN.replace(
        "family_sweep:",
        "  more:\n"
        + "".join(
            f"    - {{name: m{i}, model: x, n_layers: 9, billions: 1, gpu: local}}\n"
            for i in range(150_000)
        )
        + "family_sweep:",
        1,
    ),
    "ten-megabytes-of-comments": PLAN + "# nothing\n" * 1_000_000,
    "deep-list": "a: " + "[" * 50_000,
    "deep-closed-list": "a: " + "[" * 2_000 + "]" * 2_000,
    "deep-mapping": "".join(f"{' ' * i}a:\n" for i in range(3_000)),
    "deep-in-field": PLAN + "description: " + "{a: " * 5_000 + "}" * 5_000,
    "alias-of-itself": PLAN + "tracking: &t {x: *t}\n",
    "tag": PLAN + "description: !!python/object/apply:os.system ['true']\n",
    "unknown-tag": PLAN + "description: !nothing x\n",
    "binary": bytes(range(256)) * 20,
    "utf16": PLAN.encode("utf-16"),
    "nul": PLAN + "description: a\0b\n",
    "lone-surrogate": PLAN + 'description: "\\ud800"\n',
    "surrogate-name": PLAN.replace("name: small", 'name: "\\ud800"'),
    "escape-code": PLAN + 'description: "\\e[2J"\n',
    "bad-escape": PLAN + "description: \x1b[2J\n",
    "field-twice": PLAN + "name: other\n",
    "two-documents": PLAN + "---\n" + PLAN,
    "tab": PLAN + "\tx: 1\n",
    "long-key": PLAN + "k" * 2_000_000 + ": 1\n",
    "many-keys": PLAN + "".join(f"k{i}: 1\n" for i in range(100_000)),
    "date-as-key": PLAN + "2020-01-01: 1\n",
    "list-as-key": PLAN + "? [a, b]\n: 1\n",
    "sexagesimal": PLAN.replace("billions: 0.0004", "billions: 190:20:30"),
    "million-digits": PLAN.replace("n_layers: 9", "n_layers: " + "9" * 1_000_000),
    "five-thousand-digits": PLAN.replace("n_layers: 9", "n_layers: " + "9" * 5_000),
}
# These are plans as other programs write them.
RIGHT: dict[str, bytes] = {
    "bom": b"\xef\xbb\xbf" + PLAN.encode(),
    "crlf": PLAN.replace("\n", "\r\n").encode(),
}

# -- one field -------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], object]
ESCAPING = (
    "../../escaped",
    "/tmp/escaped",
    "a/b",
    "..",
    "a\x1b[31mb",
    "a\nb",
    "a" * 5_000,
    "",
    "a\0b",
)


def _family(value: str) -> Edit:
    def edit(plan: dict[str, Any]) -> None:
        plan["families"][value] = plan["families"].pop("qwen")

    return edit


def _model(field: str, value: Any) -> Edit:
    return lambda plan: plan["families"]["qwen"][0].__setitem__(field, value)


def _at(path: str, value: Any) -> Edit:
    *parents, last = path.split(".")

    def edit(plan: dict[str, Any]) -> None:
        held = plan
        for name in parents:
            held = held[name]
        held[last] = value

    return edit


def edits() -> dict[str, Edit]:
    """Plans in which one field is hostile; every one must be refused."""
    found: dict[str, Edit] = {}
    for number, name in enumerate(ESCAPING):
        found[f"name-{number}"] = _at("name", name)
        found[f"family-{number}"] = _family(name)
        found[f"model-name-{number}"] = _model("name", name)
    for value in (10**9, 10**18, 10**30, -1, 0, 9.0, 9.5, "9", True, None, [9], {"a": 1}):
        found[f"layers-{value!r}"] = _model("n_layers", value)
    for value in (10.0, 2.5, 0, -3, "12", True, None, 10**30, [], {}):
        found[f"rows-{value!r}"] = _at("decoding.rows", value)
        found[f"tokens-{value!r}"] = _at("decoding.max_new_tokens", value)
        found[f"prompts-max-{value!r}"] = _at("prompts.max", value)
    for value in (float("nan"), float("inf"), -1.0, "1", True, None, 10**400):
        found[f"billions-{str(value)[:9]}"] = _model("billions", value)
        found[f"strength-{str(value)[:9]}"] = _at("strength.relative", value)
        found[f"works-{str(value)[:9]}"] = _at("thresholds.works", value)
        found[f"price-{str(value)[:9]}"] = _at("prices.local", value)
        found[f"budget-{str(value)[:9]}"] = _at("budget.total", value)
    for value in (2.5, -1, -0.5, 1.0, 9, 10**30, float("nan"), "x", True, None, [], "0.5\x1b[0m"):
        found[f"layer-{value!r}"[:40]] = lambda plan, value=value: plan["family_sweep"]["models"][
            0
        ].__setitem__("layers", [value])
    for path in ("families", "family_sweep", "prompts", "decoding", "thresholds", "strength"):
        for value in (None, [], 7, "x"):
            found[f"{path}-{value!r}"] = _at(path, value)
    found["precision-unknown"] = _at("precision", "fp8")
    found["precisions-unknown"] = _at("precision_sweep.precisions", ["fp32", "q4"])
    found["precisions-empty"] = _at("precision_sweep.precisions", [])
    found["method-unknown"] = _at("family_sweep.methods", ["magic"])
    found["unknown-field"] = _at("colour", "red")
    found["gpu-unknown"] = _model("gpu", "Z9000")
    found["tiers-float"] = _at("precision_sweep.tiers", 1.0)
    found["transfer-unknown"] = _at("transfer_sweep.among", ["q3", "nobody\x1b[2J"])
    found["gate-escape"] = _at("gates", {"R9\x1b[2J": ["?"]})
    found["test-set-escape"] = _at("prompts.test", "../../../etc/passwd")
    found["test-set-unknown"] = _at("prompts.test", "nothing\x1b[31m")
    return found


# Numbers that a schema may take for integers; to accept them is right only as the integers.
_MAY_PASS = {"layers-9.0", "rows-10.0", "tokens-10.0", "prompts-max-10.0", "tiers-float"}
_MAY_PASS |= {"layer-1.0", "budget-inf", "name-6"}
_MAY_BE = {"escape-code", "ten-megabytes", "utf16"}  # harmless, large, and the plan itself


def plan_cases(ground: Ground) -> list[Case]:
    cases = []
    read = ("plan", "plan.yaml", "--json")
    for name, text in TEXTS.items():
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        may = None if "comments" in name or name in _MAY_BE else True
        make = _file(data)
        cases.append(hostile(ground, f"plan-{name}", make, read, refused=may, names=("plan.yaml",)))
    for name, data in RIGHT.items():
        cases.append(hostile(ground, f"plan-{name}", _file(data), read, refused=False))
    for name, edit in edits().items():
        plan = copy.deepcopy(yaml.safe_load(PLAN))
        edit(plan)
        data = yaml.safe_dump(plan, allow_unicode=False).encode()
        may = None if name in _MAY_PASS else True
        cases.append(
            hostile(ground, f"plan-{name}", _file(data), read, refused=may, names=("plan.yaml",))
        )
    cases += [
        hostile(ground, "plan-fifo", lambda f: os.mkfifo(f / "plan.yaml"), read),
        hostile(ground, "plan-folder", lambda f: (f / "plan.yaml").mkdir(), read),
        hostile(ground, "plan-loop", lambda f: (f / "plan.yaml").symlink_to("plan.yaml"), read),
        hostile(ground, "plan-missing", lambda _f: None, read, names=("plan.yaml",)),
        hostile(ground, "plan-device", lambda f: (f / "plan.yaml").symlink_to("/dev/zero"), read),
        hostile(ground, "plan-unreadable", lambda f: _unreadable(f / "plan.yaml"), read),
    ]
    return cases


def _file(data: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / "plan.yaml").write_bytes(data))


def _unreadable(path: Path) -> None:
    path.write_text(PLAN)
    path.chmod(0)


def running_cases(ground: Ground) -> list[Case]:
    """Names that escape are tried in a run too: nothing may be written outside its folder."""
    cases = []
    for number, name in enumerate(("../../../escaped", "..", "a/../../../b")):

        def attack(folder: Path, name: str = name) -> Verdict:
            plan = yaml.safe_load(PLAN)
            _family(name)(plan)
            inner = folder / "1" / "2" / "3"
            inner.mkdir(parents=True)
            (inner / "plan.yaml").write_text(yaml.safe_dump(plan))
            done = ground.run(("run", "plan.yaml", "--out", "run", "--quiet"), inner, 30)
            kept = {inner / "plan.yaml", inner.parent, inner, folder / "1", inner / "run"}
            outside = [
                p for p in folder.rglob("*") if p not in kept and inner / "run" not in p.parents
            ]
            if outside:
                return Verdict("leftover", f"written outside the run folder: {outside[0]}")
            return of_input(done, folder, refused=None, names=("plan.yaml",))

        cases.append(Case(f"plan-run-escape-{number}", attack))
    return cases


def test_plans(torture: Torture, ground: Ground) -> None:
    torture.attack("plans", plan_cases(ground) + running_cases(ground), small=60)
