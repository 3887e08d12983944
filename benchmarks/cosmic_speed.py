"""Time COSMIC's scoring of all candidates two ways on the same model and prompts.

    python benchmarks/cosmic_speed.py [--model lab:qwen-7b] [--train 180] [--val 100] [--runs 3]

- separate: the official procedure: for each candidate three separate runs over the validation
  prompts in batches of 32, from the first layer to the logits (ablated harmful, ablated harmless,
  added to harmless), hooks put on and taken off for each.
- steersweep: candidates are rows of a batch; passes resume from clean residual streams at the
  edited layer and stop above the last compared one; KL is measured from the best score down until
  a candidate passes, which chooses the same.

Every run times both, one after the other in the same process. Scores are compared: the largest
difference must stay within rounding.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from steersweep import ChatModel
from steersweep.directions.candidates import Candidates, PromptIds, SplitIds, next_token_kl
from steersweep.directions.cosmic import VARIANTS, CosmicRules, CosmicScores
from steersweep.directions.cosmic_scoring import (
    baseline,
    candidate_edits,
    cosmic_positions,
    find_candidates,
    layer_similarity,
    score_candidates,
)
from steersweep.directions.edits import Edit
from steersweep.lab.corpus import dialogues

BATCH = 32


@torch.inference_mode()
def one_edit(
    chat: ChatModel, prompts: PromptIds, edit: Edit | None, low: Sequence[int], *, before: bool
) -> tuple[Tensor, Tensor]:
    """States `[prompt, compared layer, d_model]` and logits `[prompt, vocabulary]`."""
    states, logits = [], []
    for first in range(0, len(prompts), BATCH):
        batch = chat.pad(prompts[first : first + BATCH])
        found = torch.empty((len(batch.input_ids), len(low), chat.d_model))

        def change(hidden: Tensor) -> Tensor:
            assert edit is not None
            unit, offset = edit.unit.to(hidden), edit.offset.to(hidden)
            return hidden - (hidden @ unit)[..., None] * unit + offset

        def at_input(layer: int, hidden: Tensor, found: Tensor = found) -> Tensor | None:
            edits_here = edit is not None and edit.layer in (None, layer)
            edited = change(hidden) if edits_here else hidden
            if layer - 1 in low:
                found[:, low.index(layer - 1)] = (hidden if before else edited)[:, -1].float().cpu()
            return edited if edits_here else None

        def at_part(_layer: int, output: Tensor) -> Tensor:
            return change(output)

        def at_end(final: Tensor, found: Tensor = found) -> None:
            if chat.n_layers - 1 in low:
                found[:, low.index(chat.n_layers - 1)] = final.float().cpu()

        with ExitStack() as stack:
            stack.enter_context(chat.layer_hooks(at_input, range(chat.n_layers), "resid_pre"))
            stack.enter_context(chat.final_states(at_end))
            if edit is not None and edit.layer is None:
                for site in ("attn_out", "mlp_out"):
                    stack.enter_context(chat.layer_hooks(at_part, range(chat.n_layers), site))
            # Of every position, as a plain call of the model gives them.
            output = chat.logits(
                batch.input_ids,
                batch.attention_mask,
                batch.position_ids,
                keep=batch.input_ids.shape[1],
            )
        states.append(found)
        logits.append(output[:, -1])
    return torch.cat(states), torch.cat(logits)


def separate_passes(
    chat: ChatModel, data: SplitIds, candidates: Candidates, rules: CosmicRules, low: list[int]
) -> dict[str, list[float]]:
    """Scores of every candidate, three runs each."""
    before = rules.read_before_edit
    to_harmless = baseline(chat, data.harmless_val, low, rules)[0]
    to_harmful = baseline(chat, data.harmful_val, low, rules)[0]
    _, clean = one_edit(chat, data.harmless_val, None, low, before=before)

    def likeness(states: Tensor, target: Tensor) -> float:
        mean = states.double().mean((0, 1))
        cosine: Tensor = mean @ target / mean.norm()
        return float(cosine)

    edits = candidate_edits(candidates, rules)
    found: dict[str, list[float]] = {"comply": [], "refuse": [], "kl": []}
    for ablated, added in zip(edits.ablations, edits.additions, strict=True):
        _, logits = one_edit(chat, data.harmless_val, ablated, low, before=before)
        found["kl"].append(float(next_token_kl(clean, logits).mean()))
        states, _ = one_edit(chat, data.harmful_val, ablated, low, before=before)
        found["comply"].append(likeness(states, to_harmless))
        states, _ = one_edit(chat, data.harmless_val, added, low, before=before)
        found["refuse"].append(likeness(states, to_harmful))
    return found


def prompts_of(chat: ChatModel, n_train: int, n_val: int) -> SplitIds:
    """Held-out requests of the lab corpus; any model can be timed on them."""
    held_out = dialogues(8 * (n_train + n_val), seed=1, split="heldout", harmful_share=0.5)
    lists = []
    for harmful in (True, False):
        texts = list(dict.fromkeys(d.prompt for d in held_out if d.harmful == harmful))
        ids = [chat.prompt_ids(text) for text in texts[: n_train + n_val]]
        if len(ids) < n_train + n_val:
            raise SystemExit(f"only {len(ids)} different prompts a class; lower --train or --val")
        lists.append((ids[:n_train], ids[n_train:]))
    (harmful_train, harmful_val), (harmless_train, harmless_val) = lists
    return SplitIds(harmful_train, harmless_train, harmful_val, harmless_val)


def largest_difference(one: dict[str, list[float]], other: CosmicScores) -> float:
    """Of what both computed; KL is not measured where a candidate lies too deep."""
    differences = [
        float(abs(a - b))
        for name, values in one.items()
        for a, b in zip(values, getattr(other, name).flatten().tolist(), strict=True)
        if not math.isnan(b)
    ]
    return max(differences)


def timed(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--variant", default="cosmic", choices=["cosmic", "cosmic-affine"])
    parser.add_argument("--train", type=int, default=180)
    parser.add_argument("--val", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    rules = VARIANTS[options.variant]
    chat = ChatModel.load(options.model, device=options.device)
    data = prompts_of(chat, options.train, options.val)
    candidates = find_candidates(chat, data, rules, cosmic_positions(chat, rules))
    n_positions, n_layers, _ = candidates.vectors.shape
    sizes = ", ".join(f"{len(getattr(data, field.name))} {field.name}" for field in fields(data))
    print(
        f"{options.model}, {options.variant}: {n_positions} positions x {n_layers} layers; {sizes}"
    )
    print(
        f"{chat.precision} on {chat.device}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, torch {torch.__version__}"
    )
    similarity = layer_similarity(chat, data, rules)
    low = similarity.argsort()[: max(1, int(rules.low_share * n_layers))].tolist()
    ratios = []
    for run in range(1, options.runs + 1):
        slow, expected = timed(lambda: separate_passes(chat, data, candidates, rules, low))
        fast, found = timed(
            lambda: score_candidates(chat, data, candidates, rules, max_rows=options.rows)
        )
        ratios.append(slow / fast)
        difference = largest_difference(expected, found)
        print(
            f"run {run}: separate {slow:.2f} s, steersweep {fast:.2f} s; "
            f"largest difference of a score {difference:.1e}"
        )
    print(
        f"separate / steersweep: {statistics.median(ratios):.1f} x "
        f"(min {min(ratios):.1f}, max {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
