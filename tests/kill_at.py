"""Run a study that kills itself, as `kill -9` would: before the n-th rename, or in a forward pass.

    python kill_at.py PLAN OUT rename|forward N

Ends with exit code 0 if it finished before.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from steersweep import ChatModel
from steersweep.study.plan_file import load_plan
from steersweep.study.study import run_study


def die_at(count: int, original: Any) -> Any:
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    return counted


def main() -> None:
    plan, out, where, count = sys.argv[1:]
    if where == "rename":
        os.replace = die_at(int(count), os.replace)
    else:
        ChatModel.logits = die_at(int(count), ChatModel.logits)  # type: ignore[method-assign]
    run_study(load_plan(plan), Path(out))


if __name__ == "__main__":
    main()
