"""What every run looks at first: template, ending, weights, padding, cache.

Each look is given the model and plain passes of it, and returns whether it found trouble, and what
it saw or what to do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steersweep.core.precision_labels import runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.model.numbers import odd_tensors
from steersweep.smoke.passes import (
    PlainPasses,
    is_apart,
    relative,
    share_of_fault,
    steered_states,
)
from steersweep.steer.parity import PROBES
from steersweep.steer.regime_search import regime_of

# A length at which attention kernels have gone wrong under left padding: 1 over a multiple of 32.
_PADDED_TO = 33
_SHORT = 16  # tokens at the end of the prompt that is padded; the others would only take time
# Texts that tokenizers lose part of: of several lines, with markup and quotes, long ones.
TEXTS = (
    *PROBES,
    "Name two rivers.\n\n1. One in <b>France</b> & one in 'Peru'.\n2. Say \"which\" {is} longer.",
    "Please sum this up. " + " ".join(f"Line {n} says that it is line {n}." for n in range(12)),
)


# -- template --------------------------------------------------------------------------------------


def template(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """The token ids of a prompt hold the user's text, whole.

    That the rendered prompt does, and leads up to an answer, the renderer sees before its first
    prompt; what it raises is what this check finds.
    """
    ids = chat.prompt_ids(PROBES[0])
    shown = repr("".join(chat.tokenizer.convert_ids_to_tokens(ids)))
    bos = chat.tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        return True, f"two BOS tokens: {shown}"
    lost = next(filter(None, (_lost(chat, text) for text in TEXTS)), "")
    return bool(lost), lost or shown


def _lost(chat: ChatModel, text: str) -> str:
    """What is said of a text that does not reach the model as it is, or ""."""
    ids = chat.prompt_ids(text)
    unknown = chat.tokenizer.unk_token_id
    spelled = chat.renderer.template.rendered(text).count(
        str(chat.tokenizer.unk_token)
    )  # often the BOS too
    if unknown is not None and ids.count(unknown) > spelled:
        return (
            f"the tokenizer does not know a part of {_short(text)}; are its files those of this "
            f"model?"
        )
    # As the tokenizer gives any text back: it may write spaces in another way.
    plain = chat.tokenizer.decode(chat.token_ids(text), skip_special_tokens=False).strip()
    if plain not in chat.tokenizer.decode(ids, skip_special_tokens=False):
        return f"the token ids of the prompt lack the user's text {_short(text)}"
    return ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


# -- ending ----------------------------------------------------------------------------------------


def ending(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """The token that the template puts after an answer must end generation."""
    if not chat.eos_ids:
        return True, "no token ends an answer; name one in eos_token_id of generation_config.json"
    names = _names(chat, chat.eos_ids)
    end = chat.turn_end
    if end is None:
        return False, f"{names}; the template does not show how an answer ends"
    if end.token is None:
        return True, (
            f"the template ends an answer with the text {_short(end.text)}, which is no control "
            f"token of this tokenizer, so nothing ends an answer there; add it to the tokenizer, "
            f"or use the chat template that the model was trained with"
        )
    if end.token not in chat.eos_ids:
        shown = _names(chat, [end.token])
        return True, f"the template ends an answer with {shown}, but only {names} end generation"
    beyond = [token for token in chat.eos_ids if token >= chat.vocab_size]
    if len(beyond) == len(chat.eos_ids):
        return True, f"{names} lie beyond the vocabulary of {chat.vocab_size}, so no answer ends"
    return False, ending_note(chat) or names


def ending_note(chat: ChatModel) -> str:
    """What to say where the template's ending was not among those of the model's files, or ""."""
    end = chat.turn_end
    if end is None or end.token is None or end.token in chat.declared_eos_ids:
        return ""
    declared = _names(chat, chat.declared_eos_ids) or "nothing"
    return (
        f"answers end at {_names(chat, [end.token])} too, by which the chat template ends a turn; "
        f"the model's files name only {declared}"
    )


def _names(chat: ChatModel, ids: frozenset[int] | list[int]) -> str:
    return ", ".join(map(repr, chat.tokenizer.convert_ids_to_tokens(sorted(ids))))


# -- weights ---------------------------------------------------------------------------------------


@torch.inference_mode()
def weights(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """Finite, not constant, and an answer depends on the prompt."""
    bad = [f"{odd.name} {odd.problem}" for odd in odd_tensors(chat.model)]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return True, f"{', '.join(bad[:3])}{more}: the weights are damaged; get the files again"
    prompts = [chat.prompt_ids(text) for text in PROBES]
    if same := _untrained(chat, sorted({token for ids in prompts for token in ids})):
        return True, same
    logits = torch.stack([plain.short.logits[-1], plain.long.logits[-1]])
    if not bool(logits.isfinite().all()):
        hint = (
            "; float16 overflows on this model, use bf16"
            if runs_as(chat.precision) == "fp16"
            else ""
        )
        return True, f"logits are NaN or infinite in {chat.precision}{hint}"
    spread = float(logits.std(-1).min() / logits.abs().max().clamp(min=1e-9))
    apart = relative(logits[0], logits[1])
    if spread < 1e-4:
        return True, "every next token is equally likely: the output layer is not trained"
    if apart < 1e-4:
        return True, "the next token is the same whatever is asked: the model is not trained"
    return False, f"finite; two questions differ by {apart:.2g} in their logits"


def _untrained(chat: ChatModel, tokens: list[int]) -> str:
    """What is said of tokens of every prompt that the model cannot tell apart, or ""."""
    embeddings = chat.model.get_input_embeddings()
    # The row of the padding token is 0 until a model is trained on it.
    tokens = [token for token in tokens if token != getattr(embeddings, "padding_idx", None)]
    rows = embeddings.weight[torch.tensor(tokens, device=chat.device)].float()
    if bool((rows == rows[:1]).all()):
        return "all tokens have the same embedding: the embeddings are not trained"
    names = chat.tokenizer.convert_ids_to_tokens(tokens)
    nothing = [name for name, row in zip(names, rows, strict=True) if not bool(row.any())]
    if nothing:
        return f"the embedding of {', '.join(map(repr, nothing[:3]))} is 0: it was never trained"
    seen: dict[bytes, str] = {}
    for name, row in zip(names, rows.cpu(), strict=True):
        twin = seen.setdefault(row.numpy().tobytes(), name)
        if twin != name:
            return f"{twin!r} and {name!r} have the same embedding: they were never trained"
    return ""


# -- padding and cache -----------------------------------------------------------------------------


def padding(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """A prompt alone and in a batch with a longer one, steered and not, has the same states."""
    if not regime_of(chat).pads:
        return False, "only prompts of equal length share a batch: padding would change this model"
    short, long = plain.short.ids[-_SHORT:], plain.long.ids
    wide = (long * (_PADDED_TO // len(long) + 1))[:_PADDED_TO]
    found: list[tuple[float, str]] = []
    share = 0.0
    shown: Tensor | None = None
    for step, name in ((None, "unsteered"), (plain.addition(), "steered")):
        alone = steered_states(chat, [short], step)
        batch = steered_states(chat, [wide, short], step)[1:]
        found.append((relative(batch, alone), f"padded to {_PADDED_TO}, {name}"))
        if shown is None:
            unmasked = _unmasked(chat, short).float().cpu()
            shown, fault = unmasked - alone, relative(unmasked, alone)
        share = max(share, share_of_fault(chat, batch - alone, shown))
    worst, where = max(found)
    said = f"{worst:.1e} {where}; padding that is not hidden changes {fault:.1e}"
    return is_apart(chat, worst, share), said


@torch.inference_mode()
def _unmasked(chat: ChatModel, short: list[int]) -> Tensor:
    """The short prompt's final state where its padding is attended to, `[1, d_model]`."""
    ids = [chat.pad_id] * (_PADDED_TO - len(short)) + short
    batch = chat.pad([ids])
    found: list[Tensor] = []
    with chat.final_states(found.append):
        chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    return found[0]


@torch.inference_mode()
def cache(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """Positions computed one by one from the cache are those computed from all tokens at once."""
    ids, whole = plain.long.ids, plain.long.logits
    batch = chat.pad([ids])
    width, first = len(ids), len(ids) - len(whole)
    held = regime_of(chat).cache(chat, width)
    chat.logits(
        batch.input_ids[:, :first],
        batch.attention_mask[:, :first],
        batch.position_ids[:, :first],
        cache=held,
    )
    one_by_one: list[Tensor] = []
    for at in range(first, width):
        here = slice(at, at + 1)
        found = chat.logits(
            batch.input_ids[:, here],
            batch.attention_mask[:, : at + 1],
            batch.position_ids[:, here],
            cache=held,
        )
        one_by_one.append(found[0, 0])
    # What a cache that has forgotten everything gives: each token by itself.
    alone = batch.input_ids[0, first:, None]
    forgot = chat.logits(alone, torch.ones_like(alone), batch.position_ids[0, first:, None])[:, 0]
    worst, fault = max(map(relative, one_by_one, whole)), max(map(relative, forgot, whole))
    share = share_of_fault(chat, torch.stack(one_by_one) - whole, forgot - whole)
    return is_apart(chat, worst, share), f"{worst:.1e}; an empty cache changes {fault:.1e}"
