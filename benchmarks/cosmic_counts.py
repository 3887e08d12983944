"""How many passes kept COSMIC searches took, against those that cannot be avoided.

    python benchmarks/cosmic_counts.py RUN/extraction/cosmic-*.json

Reads what a run kept; nothing is run. A pass is one prompt through the layers up to the last
compared one; S_refuse resumes at a candidate's layer and counts as the share of layers it runs.

Cannot be avoided: activations of the training prompts, the validation prompts as they are, S_refuse
of every candidate, S_comply of those that no rule drops and whose S_refuse allows a total as high
as the choice's, KL of those whose total is no lower. What the median rule and a sweep's layers ask
for besides counts as avoidable here, though it is not. A KL counts in full on either side; it is
often cut short.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from steersweep.methods.candidates import kept_of
from steersweep.methods.cosmic import Cosmic, CosmicAffine
from steersweep.methods.cosmic_selection import CosmicScores, dropped_by, select

RULES = {method.name: method.rules for method in (Cosmic, CosmicAffine)}


def main() -> None:
    """Parse, count, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--train", type=int, default=32, help="training prompts of a class")
    parser.add_argument("--val", type=int, default=18, help="validation prompts of a class")
    options = parser.parse_args()
    print("| layers | candidates | S_comply: asked, needed | KL | passes | needed | ratio | s |")
    print("|---|---|---|---|---|---|---|---|")
    for file in options.files:
        print(row(json.loads(file.read_text()), options.train, options.val))


def row(kept: dict[str, Any], n_train: int, n_val: int) -> str:
    """A line of the table."""
    rules, scores = RULES[kept["method"]], CosmicScores.from_json(kept["state"])
    choice = select(scores, rules)
    best = scores.total[choice.position, choice.layer]
    dropped = dropped_by(scores, rules)
    for name in ("outscored", "kl"):  # no rules, but what was found out on the way
        dropped.pop(name, None)
    allowed = kept_of(dropped)
    may_be_best = allowed & (scores.refuse + 1 >= best)
    is_better = allowed & ~scores.comply.isnan() & (scores.total >= best)
    asked = [int((~table.isnan()).sum()) for table in (scores.comply, scores.kl)]
    needed = [int(mask.sum()) for mask in (may_be_best, is_better)]

    deepest = max(scores.low_layers) + 1
    n_positions, n_layers = scores.refuse.shape
    resumed = n_positions * sum(max(0, deepest - layer) / deepest for layer in range(n_layers))
    always = 2 * n_train + 2 * n_val + n_val * resumed
    passes, least = (always + n_val * sum(counts) for counts in (asked, needed))
    return (
        f"| {n_layers} | {scores.refuse.numel()} | {asked[0]}, {needed[0]} "
        f"| {asked[1]}, {needed[1]} | {passes:,.0f} | {least:,.0f} | {passes / least:.2f} "
        f"| {kept['seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
