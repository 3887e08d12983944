"""Time COSMIC's choice of a candidate three ways on the same model and prompts.

    python benchmarks/cosmic_speed.py [--model lab:qwen-7b] [--train 180] [--val 100] [--runs 5]

- separate: the official procedure: for each candidate three separate runs over the validation
  prompts in batches of 32, from the first layer to the logits (ablated harmful, ablated harmless,
  added to harmless), hooks put on and taken off for each.
- every score: all of these scores by steersweep: candidates are rows of a batch; passes resume from
  clean residual streams at the edited layer and stop above the last compared one.
- the choice: steersweep as it searches: candidates that cannot be chosen any more are not scored.

Every run times all, one after the other in the same process, from token ids to the scores.
Scores and choices are compared: scores may differ by rounding, choices may not.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from steersweep import ChatModel, SteersweepError, residuals
from steersweep.lab.corpus import dialogues
from steersweep.methods.candidates import Candidates, PromptIds, SplitIds, next_token_kl
from steersweep.methods.cosmic import Cosmic, CosmicAffine
from steersweep.methods.cosmic_rules import CosmicRules
from steersweep.methods.cosmic_scoring import (
    candidate_edits,
    cosmic_positions,
    find_candidates,
    layers_to_compare,
)
from steersweep.methods.cosmic_search import score_candidates
from steersweep.methods.cosmic_selection import CosmicScores, select
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of

BATCH = 32
VARIANTS = {method.name: method.rules for method in (Cosmic, CosmicAffine)}


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
            if edit.removed is not None:
                unit = edit.removed.to(hidden)
                hidden = hidden - (hidden @ unit)[..., None] * unit
            return hidden if edit.added is None else hidden + edit.added.to(hidden)

        def at_input(layer: int, hidden: Tensor, found: Tensor = found) -> Tensor | None:
            edits_here = edit is not None and layer in range(*edit.span(chat.n_layers))
            edited = change(hidden) if edits_here else hidden
            if layer - 1 in low:
                found[:, low.index(layer - 1)] = (hidden if before else edited)[:, -1].float().cpu()
            return edited if edits_here else None

        def at_end(final: Tensor, found: Tensor = found) -> None:
            if chat.n_layers - 1 in low:
                found[:, low.index(chat.n_layers - 1)] = final.float().cpu()

        with ExitStack() as stack:
            stack.enter_context(chat.layer_hooks(at_input, range(chat.n_layers), "resid_pre"))
            stack.enter_context(chat.final_states(at_end))
            if edit is not None and edit.all_writes:
                sites = ablation_sites_of(chat)
                stack.enter_context(sites.edited(chat, change, range(chat.n_layers)))
            # Of every position, as a plain call of the model gives them.
            output = chat.logits(
                batch.input_ids,
                batch.attention_mask,
                batch.position_ids,
                keep=batch.input_ids.shape[1],
            )
        states.append(found)
        logits.append(output[:, -1].clone())
    return torch.cat(states), torch.cat(logits)


def plain_candidates(chat: ChatModel, data: SplitIds, rules: CosmicRules) -> Candidates:
    """Candidates in padded batches. What is read at last tokens besides is left empty."""
    positions, site = cosmic_positions(chat, rules), rules.candidate_site
    harmful, harmless = (
        residuals(chat, prompts, positions=positions, site=site, max_rows=BATCH).double().mean(0)
        for prompts in (data.harmful_train, data.harmless_train)
    )
    none = torch.empty(0)
    return Candidates(
        positions,
        harmful - harmless,
        harmless,
        site,
        last=none,
        last_unit=none,
        residual_norms=none,
    )


def separate_passes(chat: ChatModel, data: SplitIds, rules: CosmicRules) -> CosmicScores:
    """Candidates, the layers to compare, and scores of every candidate, three runs each."""
    before = rules.read_before_edit
    candidates = plain_candidates(chat, data, rules)
    means = [
        one_edit(chat, prompts, None, range(chat.n_layers), before=before)[0].double().mean(0)
        for prompts in (data.harmful_train, data.harmless_train)
    ]
    similarity = torch.cosine_similarity(means[0], means[1], dim=-1)
    low, notes = layers_to_compare(similarity, rules)
    _, clean = one_edit(chat, data.harmless_val, None, low, before=before)

    def unit_mean(states: Tensor) -> Tensor:
        mean = states.double().mean((0, 1))
        unit: Tensor = mean / (mean.norm() + 1e-8)
        return unit

    to_harmless, to_harmful = (
        unit_mean(one_edit(chat, prompts, None, low, before=before)[0])
        for prompts in (data.harmless_val, data.harmful_val)
    )
    edits = candidate_edits(candidates, rules)
    found: dict[str, list[float]] = {"comply": [], "refuse": [], "kl": []}
    shape = candidates.norms.shape
    for ablated, added in zip(edits.ablations, edits.additions, strict=True):
        _, logits = one_edit(chat, data.harmless_val, ablated, low, before=before)
        found["kl"].append(float(next_token_kl(clean, logits).mean()))
        states, _ = one_edit(chat, data.harmful_val, ablated, low, before=before)
        found["comply"].append(float(unit_mean(states) @ to_harmless))
        states, _ = one_edit(chat, data.harmless_val, added, low, before=before)
        found["refuse"].append(float(unit_mean(states) @ to_harmful))
    tables = {
        name: torch.tensor(values, dtype=torch.float64).reshape(shape)
        for name, values in found.items()
    }
    return CosmicScores(
        positions=candidates.positions,
        scored=torch.ones(shape, dtype=torch.bool),
        norms=candidates.norms,
        layer_similarity=similarity,
        low_layers=low,
        notes=notes,
        **tables,
    )


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


def largest_difference(one: CosmicScores, other: CosmicScores, limit: float | None) -> float:
    """Of the scores that both have; a KL above the limit may be a lower bound."""
    bounded = torch.zeros_like(other.scored) if limit is None else other.kl > limit
    differences = [
        (getattr(one, name) - getattr(other, name)).abs().nan_to_num(nan=0.0)
        for name in ("comply", "refuse", "kl")
    ]
    differences[-1][bounded] = 0.0
    return max(float(table.max()) for table in differences)


def choice(scores: CosmicScores, rules: CosmicRules) -> str:
    """What follows from scores, as position and layer."""
    try:
        found = select(scores, rules)
    except SteersweepError:
        return "none"
    return f"{scores.positions[found.position]}, {found.layer}"


def timed(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--variant", default="cosmic", choices=[*VARIANTS])
    parser.add_argument("--train", type=int, default=180)
    parser.add_argument("--val", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    rules = VARIANTS[options.variant]
    chat = ChatModel.load(options.model, device=options.device)
    data = prompts_of(chat, options.train, options.val)
    n_positions = len(cosmic_positions(chat, rules))
    sizes = ", ".join(f"{len(getattr(data, field.name))} {field.name}" for field in fields(data))
    print(
        f"{options.model}, {options.variant}: {n_positions} positions x {chat.n_layers} layers; "
        f"{sizes}"
    )
    print(
        f"{chat.precision} on {chat.device}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, torch {torch.__version__}"
    )

    def ours(rules: CosmicRules) -> CosmicScores:
        candidates = find_candidates(chat, data, rules, cosmic_positions(chat, rules))
        return score_candidates(chat, data, candidates, rules, max_rows=options.rows)

    ways: dict[str, Callable[[], CosmicScores]] = {
        "separate": lambda: separate_passes(chat, data, rules),
        "every score": lambda: ours(replace(rules, score_all=True)),
        "the choice": lambda: ours(rules),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, CosmicScores] = {}
    for _run in range(options.runs):
        for name, way in ways.items():
            took, found[name] = timed(way)
            seconds[name].append(took)
    print(
        "| way | seconds | separate takes (min-max) | S_comply of | KL of | difference | choice |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, scores in found.items():
        ratios = [a / b for a, b in zip(seconds["separate"], seconds[name], strict=True)]
        measured = [int((~table.isnan()).sum()) for table in (scores.comply, scores.kl)]
        limit = rules.max_kl if name == "the choice" else None
        difference = largest_difference(found["separate"], scores, limit)
        print(
            f"| {name} | {statistics.median(seconds[name]):.2f} | {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f}-{max(ratios):.1f}) | {measured[0]} | {measured[1]} "
            f"| {difference:.1e} | {choice(scores, rules)} |"
        )


if __name__ == "__main__":
    main()
