"""How far one model's direction steers another: a matrix from model to model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steersweep.report.figures.style import COLUMN, matrix, short
from steersweep.study.rows import TransferRow


def transfers_figure(rows: Sequence[TransferRow]) -> Any:
    """Coherent refusals of each model (down) under each model's direction (across)."""
    import numpy as np
    from matplotlib import pyplot as plt

    names = sorted({row.to for row in rows} | {row.source for row in rows})
    values = np.full((len(names), len(names)), np.nan)
    for row in rows:
        to = names.index(row.to)
        values[to, names.index(row.source)] = row.coherent_refusal_rate
        values[to, to] = row.own_rate
    side = max(COLUMN, 1.4 + 0.5 * len(names))
    figure, axis = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    image = matrix(axis, values, 0)
    shown = [short(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), shown)
    axis.set_xlabel("direction from")
    axis.set_ylabel("steered model")
    for y, x in np.ndindex(values.shape):
        if not np.isnan(values[y, x]):
            axis.text(
                x,
                y,
                f"{values[y, x]:.0%}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if values[y, x] < 0.5 else "black",
            )
    figure.colorbar(image, ax=axis, label="coherent refusals", format="{x:.0%}", shrink=0.8)
    return figure
