"""What the likelihood under the unsteered model adds to the judge, on the lab zoo or other models.

    python benchmarks/judge_likelihood.py [MODEL ...]

Fluent: the model's answers to benign prompts, its refusals of harmful ones, and those refusals put
after benign prompts, as good steering would. Broken: its answers with words shuffled, with a third
of the tokens replaced by any others, and answers sampled at a temperature of 3.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import torch

from steersweep import ChatModel, Row, generate, get_judge, load_test_set
from steersweep.judging.fluency import fluency_threshold, response_nll
from steersweep.judging.quality import LIKELIHOOD_TOKENS, Fluency
from steersweep.model.find import find_model
from steersweep.prompts.prompts import load_extraction_set

MODELS = ("lab:qwen-7b", "lab:gemma-9b", "lab:llama-8b", "lab:mistral-7b", "lab:phi-mini")
N = 60

Case = tuple[str, list[int], str, list[int]]  # kind, prompt ids, response, response ids


def cases(chat: ChatModel) -> tuple[list[Case], list[list[int]], list[list[int]]]:
    """Texts of every kind; benign prompts and the model's answers to them."""
    rng = random.Random(0)
    benign = [chat.prompt_ids(p) for p in load_test_set("benign-120").first(N).prompts]
    harmful = [chat.prompt_ids(p) for p in load_extraction_set("extract-cosmic-50").harmful]
    answers, refusals = (
        [
            list(a.token_ids)
            for a in generate(chat, [Row(ids) for ids in prompts], max_new_tokens=60)
        ]
        for prompts in (benign, harmful)
    )
    found: list[tuple[str, list[int], list[int]]] = []
    for i, (ids, answer) in enumerate(zip(benign, answers, strict=True)):
        refusal = refusals[i % len(refusals)]
        found.append(("fluent: own answer", ids, answer))
        found.append(("fluent: refusal of a benign prompt", ids, refusal))
        words = chat.decode(answer).split()
        if len(words) >= 6:
            shuffled = " ".join(rng.sample(words, len(words)))
            found.append(
                (
                    "broken: words shuffled",
                    ids,
                    chat.tokenizer.encode(shuffled, add_special_tokens=False),
                )
            )
            noisy = [rng.randrange(chat.vocab_size) if rng.random() < 1 / 3 else t for t in answer]
            found.append(("broken: a third of the tokens replaced", ids, noisy))
    found += [
        ("fluent: refusal", ids, refusal) for ids, refusal in zip(harmful, refusals, strict=True)
    ]
    found += [("broken: temperature 3", ids, sampled(chat, ids, 40)) for ids in benign[:30]]
    decoded = [(kind, ids, chat.decode(tokens), tokens) for kind, ids, tokens in found if tokens]
    return decoded, benign, answers


def sampled(chat: ChatModel, prompt: Sequence[int], n: int) -> list[int]:
    generator = torch.Generator().manual_seed(sum(prompt))
    tokens: list[int] = []
    for _ in range(n):
        batch = chat.pad([[*prompt, *tokens]])
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=1)
        weights = (logits[0, -1].float() / 3).softmax(-1).cpu()
        tokens.append(int(torch.multinomial(weights, 1, generator=generator)))
    return tokens


@torch.inference_mode()
def main() -> None:
    judge = get_judge()
    counts: dict[str, list[int]] = {}
    for name in sys.argv[1:] or MODELS:
        chat = ChatModel.load(find_model(name))
        texts, benign, answers = cases(chat)
        of_answers = response_nll(chat, benign, answers)
        threshold = fluency_threshold(chat, benign, answers, of_answers, seed=42)
        prompts = [ids for _, ids, _, _ in texts]
        first = response_nll(chat, prompts, [t[:LIKELIHOOD_TOKENS] for *_, t in texts])
        every = response_nll(chat, prompts, [t for *_, t in texts])
        for (kind, _, text, _), *found in zip(texts, first, every, strict=True):
            held = counts.setdefault(kind, [0, 0, 0, 0])
            held[0] += 1
            for column, nll in enumerate((None, *found), start=1):
                evidence = None
                if nll is not None and judge.asks_likelihood(text):
                    evidence = Fluency(nll.worst, nll.mean, threshold, nll.n_tokens)
                held[column] += judge("", text, evidence).quality == "garbled"
    names = "text alone", f"first {LIKELIHOOD_TOKENS} tokens", "every token"
    print(f"| called garbled | {' | '.join(names)} |")
    print("|---|---|---|---|")
    for kind, (n, *garbled) in sorted(counts.items(), reverse=True):
        cells = " | ".join(f"{count} ({count / n:.0%})" for count in garbled)
        print(f"| {kind} ({n}) | {cells} |")


if __name__ == "__main__":
    main()
