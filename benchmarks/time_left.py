"""How well a run knows how long it will take: records a sweep's stages, and plays them again.

`python benchmarks/time_left.py MODEL --record FILE` sweeps a model and writes down when each stage
began, went on and ended. `python benchmarks/time_left.py FILE...` plays recordings with their own
clock and prints what was said of the time left, beside the time that was left. The recordings in
tests/recordings are replayed by tests/test_stages.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steersweep.budget.estimate import LOADING
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work import worker
from steersweep.work.expected import APART
from steersweep.work.stages import Stages, seconds_left, share_done

_THIN = 0.004  # of a stage: less is not written down


class Recorded(Stages):
    """Stages that write down what they are told, with the time."""

    calls: list[list[Any]]

    def __init__(self, expected: Any, **options: Any) -> None:
        super().__init__(expected, **options)
        Recorded.calls = [[0.0, "expect", dict(expected)]]
        self._began = time.monotonic()
        self._last = -1.0

    def _note(self, name: str, *args: Any) -> None:
        Recorded.calls.append([round(time.monotonic() - self._began, 3), name, *args])

    def expect(self, expected: Any) -> None:
        """See `Stages`."""
        self._note("expect", {name: round(value, 4) for name, value in expected.items()})
        super().expect(expected)

    def skip(self, name: str, share: float) -> None:
        """See `Stages`."""
        self._note("skip", name, share)
        super().skip(name, share)

    def begin(self, name: str) -> None:
        """See `Stages`."""
        self._note("begin", name)
        self._last = -1.0
        super().begin(name)

    def at(self, share: float) -> None:
        """See `Stages`."""
        if abs(share - self._last) >= _THIN:
            self._note("at", round(share, 4))
            self._last = share
        super().at(share)

    def end(self) -> None:
        """See `Stages`."""
        self._note("end")
        super().end()

    def finish(self, *names: str) -> None:
        """See `Stages`."""
        self._note("finish", *names)
        super().finish(*names)


def record(arguments: argparse.Namespace) -> None:
    """Sweep a model, and write down its stages."""
    setattr(worker, "Stages", Recorded)  # noqa: B010
    settings = make_settings(
        arguments.what,
        methods=arguments.methods,
        layers=arguments.layers,
        strengths=arguments.strengths,
        max_prompts=arguments.prompts,
        max_new_tokens=arguments.tokens,
    )
    with tempfile.TemporaryDirectory() as folder:
        run_sweep(settings, Path(folder) / "run")
    lines = [json.dumps(call) for call in Recorded.calls]
    arguments.record.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{arguments.record}: {len(lines)} lines, {Recorded.calls[-1][0]:.0f} s")


def replay(path: Path) -> Iterator[tuple[float, float, float, str]]:
    """Seconds since the start, those that were left, those said to be, and the stage; each second.

    The last line of a recording is its end.
    """
    calls = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    total = calls[-1][0]
    clock = 0.0
    stages = Stages({LOADING: 5.0}, apart=APART, now=lambda: clock)
    shown = 0.0
    for when, name, *args in calls:
        while shown + 1 <= when:
            shown += 1
            clock = shown
            if len(stages.now()) > 1:
                yield shown, total - shown, seconds_left(stages.now()), stages.current
        clock = when
        getattr(stages, name)(*args)
    assert share_done(stages.now()) > 0.999, "a recording ends when its run has ended"


def main() -> None:
    """Record a sweep, or show recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", help="models to record, or recordings to show")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--methods", default="dim")
    parser.add_argument("--layers", default="0.3,0.5,0.7")
    parser.add_argument("--strengths", default="0.05,0.1,0.2")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.record is not None:
        record(arguments)
        return
    for name in arguments.what:
        rows = [*replay(Path(name))]
        total = rows[-1][0] + rows[-1][1]
        print(f"{name}: {total:.0f} s")
        for row in rows[:: max(1, len(rows) // 25)]:
            since, left, said, stage = row
            print(
                f"{since:7.0f} s  left {left:6.0f}, said {said:6.0f}  x{said / left:5.2f}  {stage}"
            )


if __name__ == "__main__":
    main()
