"""Training a lab model from its seed, and the test it must pass to be shipped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersweep.core import typed
from steersweep.core.atomic import write_json
from steersweep.core.errors import SteersweepError
from steersweep.judging.judges import get_judge
from steersweep.lab.corpus import Dialogue, dialogues
from steersweep.lab.models import (
    HEAD_WIDTH,
    MAX_POSITIONS,
    VOCAB_SIZE,
    Acceptance,
    Card,
    Family,
    LabModel,
)
from steersweep.model.chat_model import ChatModel
from steersweep.model.source import ModelSource
from steersweep.steer.steering import Row, generate

N_DIALOGUES = 20_000
# Many small steps, Muon for the matrices and AdamW for the rest: with 48 dialogues a step, AdamW at
# 2e-3 for everything and the usual initialisation, the same number of dialogues ended at four times
# the loss.
BATCH_DIALOGUES = 24
MATRIX_LEARNING_RATE = 0.02
OTHER_LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 20
EMBEDDING_SCALE = 3.0  # times the usual initialisation: tied embeddings start slowly
MAX_NOISE = 0.15  # see _noisy_layers
CORPUS_SEED = 1
IGNORED = -100  # label of tokens that carry no loss


def train(
    spec: LabModel, folder: Path, *, report: Callable[[str], None] = lambda _line: None
) -> Acceptance:
    """Train `spec` from scratch and save it with its card in `folder`.

    The same seed gives the same figures within the noise of the machine's arithmetic.

    Args:
        spec: what to train.
        folder: where to save; made if needed.
        report: receives a line of progress now and then.

    Raises:
        SteersweepError: the trained model does not pass; nothing of it is kept but the message.
    """
    from transformers import AutoTokenizer

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)  # before the work: the path may be a file
    corpus = dialogues(N_DIALOGUES, seed=CORPUS_SEED, split="train")
    tokenizer = make_tokenizer(spec.family, corpus)
    torch.manual_seed(spec.seed)
    model = make_model(spec, tokenizer)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    # Train on what users will load: transformers gives some families a pre-tokenizer of its own.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [_encode(tokenizer, spec.family, dialogue) for dialogue in corpus]
    loss = _fit(model, encoded, spec, tokenizer.pad_token_id, report)

    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written private
    accepted = accept(ChatModel.load(ModelSource(f"lab:{spec.name}", str(folder))))
    card = Card(
        name=f"lab:{spec.name}",
        what="a miniature trained from scratch; it is not the model it is named after",
        mirrors=spec.mirrors,
        family=spec.family.name,
        n_layers=spec.n_layers,
        d_model=spec.width,
        parameters=sum(weight.numel() for weight in model.parameters()),
        steps=spec.steps,
        seed=spec.seed,
        final_loss=round(loss, 4),
        held_out=accepted,
    )
    write_json(folder / "card.json", typed.plain(card))
    report(f"lab:{spec.name}: {accepted} after {time.monotonic() - started:.0f} s")
    if not accepted.passed:
        raise SteersweepError(f"lab:{spec.name} does not pass on held-out prompts: {accepted}")
    return accepted


def accept(chat: ChatModel, n: int = 200) -> Acceptance:
    """Greedy unsteered answers to `n` held-out benign and `n` harmful prompts, judged."""
    held_out = dialogues(4 * n, seed=CORPUS_SEED, split="heldout", harmful_share=0.5)
    judge = get_judge()
    judged = {}
    for harmful in (False, True):
        prompts = list(dict.fromkeys(d.prompt for d in held_out if d.harmful == harmful))[:n]
        answers = generate(chat, [Row(chat.prompt_ids(text)) for text in prompts])
        judged[harmful] = [
            judge(text, answer.text) for text, answer in zip(prompts, answers, strict=True)
        ]
    return Acceptance(
        n=min(len(judgements) for judgements in judged.values()),
        benign_refusals=_share(j.refusal for j in judged[False]),
        benign_normal=_share(j.quality == "normal" for j in judged[False]),
        harmful_refusals=_share(j.refusal for j in judged[True]),
        harmful_coherent=_share(j.quality == "coherent" for j in judged[True]),
    )


def make_tokenizer(family: Family, corpus: Sequence[Dialogue]) -> Any:
    """A byte-level BPE of `VOCAB_SIZE` tokens with the family's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Byte-level, because AutoTokenizer may rebuild a Qwen tokenizer with a byte-level one.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(family.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for dialogue in corpus for text in (dialogue.prompt, dialogue.response))
    bpe.train_from_iterator(texts, trainer)
    if family.bos is not None:
        # As real tokenizers do; a template string tokenised again would get a second BOS.
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, bpe.token_to_id(family.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=family.bos,
        eos_token=family.ends[0],
        pad_token=family.pad,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": list(family.special_tokens)})
    tokenizer.chat_template = family.template
    return tokenizer


def make_model(spec: LabModel, tokenizer: Any) -> Any:
    """An untrained model of the family's transformers class, in float32."""
    import transformers

    family = spec.family
    model_class = getattr(transformers, family.model_class)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in family.ends]
    config = model_class.config_class(
        vocab_size=VOCAB_SIZE,
        hidden_size=spec.width,
        intermediate_size=2 * spec.width,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.heads[0],
        num_key_value_heads=spec.heads[1],
        head_dim=HEAD_WIDTH,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None if family.bos is None else tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **family.config,
    )
    model = model_class(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    return model


def _encode(tokenizer: Any, family: Family, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Token ids of a dialogue and their labels: only the answer and its end carry loss."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": dialogue.prompt}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    answer = tokenizer.encode(dialogue.response, add_special_tokens=False)
    answer.append(tokenizer.convert_tokens_to_ids(family.ends[0]))
    return prompt + answer, [IGNORED] * len(prompt) + answer


def _fit(
    model: Any,
    encoded: Sequence[tuple[list[int], list[int]]],
    spec: LabModel,
    pad_id: int,
    report: Callable[[str], None],
) -> float:
    """Linear warm-up, cosine decay; returns the mean loss of the last 20 steps."""
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(
            others, lr=OTHER_LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95)
        ),
    )

    def rate(step: int) -> float:
        progress = (step - WARMUP_STEPS) / max(1, spec.steps - WARMUP_STEPS)
        return min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * max(0.0, progress))))

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
    model.train()
    losses: list[float] = []
    batches = _batches(encoded, pad_id, spec.seed)
    for step in range(spec.steps):
        input_ids, mask, labels = next(batches)
        with _noisy_layers(model):
            loss = model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            report(f"lab:{spec.name}: step {step + 1}/{spec.steps}, loss {_mean(losses[-20:]):.3f}")
    model.eval()
    return _mean(losses[-20:])


@contextmanager
def _noisy_layers(model: Any) -> Iterator[None]:
    """Add to every layer's output but the last a random vector, the same at all positions of a row.

    Its length is a random share, up to `MAX_NOISE`, of the residual stream's. A model trained so
    stands a push in a direction that means nothing to it, as large models do; without it a
    miniature breaks under any push.
    """

    def add_noise(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        rows, _, width = output.shape
        length = output.detach().pow(2).mean(-1, keepdim=True).sqrt()
        noise = torch.randn(rows, 1, width) * torch.rand(rows, 1, 1) * MAX_NOISE
        return output + length * noise

    handles = [layer.register_forward_hook(add_noise) for layer in model.model.layers[:-1]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _batches(
    encoded: Sequence[tuple[list[int], list[int]]], pad_id: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless right-padded batches of dialogues in random order: ids, mask, labels.

    Sorting by length would save padding, but puts refusals and lists into batches of their own,
    and training then swings between them.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(encoded), generator=generator).tolist()
        for first in range(0, len(order) - BATCH_DIALOGUES + 1, BATCH_DIALOGUES):
            rows = [encoded[i] for i in order[first : first + BATCH_DIALOGUES]]
            yield _right_padded(rows, pad_id)


def _right_padded(
    rows: Sequence[tuple[list[int], list[int]]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (ids, targets) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
        labels[index, : len(ids)] = torch.tensor(targets)
    return input_ids, mask, labels


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _share(flags: Iterator[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)
