"""Which architectures give right numbers with the installed transformers, and which are refused.

Everything the package computes of a tiny model is compared with plain transformers. A row of the
result is right or refused by name; anything else is wrong.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from steersweep.core.errors import InputError
from steersweep.core.printing import first_line
from steersweep.judging.fluency import response_nll
from steersweep.lab.models import lab_model
from steersweep.methods.candidates import SplitIds
from steersweep.methods.cosmic import Cosmic
from steersweep.methods.cosmic_scoring import cosmic_positions, find_candidates
from steersweep.methods.cosmic_search import score_candidates
from steersweep.model.chat_model import ChatModel
from steersweep.model.source import ModelSource
from steersweep.prompts.prompts import load_extraction_set
from steersweep.smoke.smoke import Check, check_model
from steersweep.steer.activations import mean_residuals, residuals
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.passes import run_edits
from steersweep.steer.regime_search import regime_of
from steersweep.steer.steering import Row, generate
from steersweep.verification import plain
from steersweep.verification.tiny_models import ARCHITECTURES, NotInThisRelease, build

Verdict = Literal["right", "refused", "wrong", "absent"]

CHECKS = ("texts", "directions", "likelihood", "ablation", "smoke", "cosmic")
_PROMPTS = (
    "Hi",
    "Name a colour of the sky at noon, please, and say why it is so in one short line.",
    "Sum two and five.",
    "Write down every step of making bread at home with flour, water, salt and yeast, and then "
    "tell me how long to wait for it to rise and to bake.",
)
_NEW_TOKENS = 10
_ROWS = 7  # in a batch, of more
_STRENGTH = 0.6  # of the residual stream's length
_TIE = 1e-4  # of the largest logit: two tokens as likely as rounding can tell
_SAME = 1e-4  # relative difference of numbers
_COMPLETE = 1e-6  # share of the stream that may be left
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Found:
    """What one check of one architecture found, and what there is to say of it."""

    verdict: Verdict
    said: str = ""


@dataclass
class ArchitectureResult:
    """An architecture: what is special about it, and every check."""

    name: str
    kind: str
    checks: dict[str, Found] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether some check is neither right nor refused."""
        return any(found.verdict == "wrong" for found in self.checks.values())


def verify_architectures(
    only: Sequence[str] = (), on_result: Callable[[ArchitectureResult], None] = lambda _: None
) -> list[ArchitectureResult]:
    """Build and check tiny models of all architectures, or those named.

    Raises:
        InputError: no architecture of that name is known here.
    """
    unknown = [name for name in only if name not in ARCHITECTURES]
    if unknown:
        raise InputError(
            f"architecture {unknown[0]}: not known here; choose from {', '.join(ARCHITECTURES)}"
        )
    results = []
    for name in only or ARCHITECTURES:
        results.append(_checked(name))
        on_result(results[-1])
    return results


def _checked(name: str) -> ArchitectureResult:
    result = ArchitectureResult(name, ARCHITECTURES[name].kind)
    try:
        network = build(name)
    except NotInThisRelease as error:
        result.checks = dict.fromkeys(CHECKS, Found("absent", str(error)))
        return result
    with tempfile.TemporaryDirectory() as folder:
        try:
            subject = _Subject(name, network, Path(folder))
        except InputError as error:  # the layers of this architecture are not found
            result.checks = dict.fromkeys(CHECKS, Found("refused", str(error)))
            return result
        for check in CHECKS:
            try:
                result.checks[check] = getattr(subject, check)()
            except InputError as error:
                result.checks[check] = Found("refused", str(error))
            except Exception as error:  # whatever it is, nothing but a refusal is meant to end so
                said = f"{type(error).__name__}: {first_line(error)}"
                result.checks[check] = Found("wrong", said)
    return result


class _Subject:
    """A tiny model, as it is in plain transformers and as the package has it."""

    def __init__(self, name: str, network: Any, folder: Path) -> None:
        from transformers import AutoTokenizer

        source = Path(lab_model("qwen-7b").folder)
        for file in _TOKENIZER:
            shutil.copy(source / file, folder)
        network.save_pretrained(folder)
        self.network = network
        where = ModelSource(name, str(folder))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        ChatModel(network, self.tokenizer, source=where)  # refused if its layers are not found
        self.prompts = [plain.prompt_ids(self.tokenizer, text) for text in _PROMPTS]
        network.generation_config.eos_token_id = [self.tokenizer.eos_token_id]
        self.states = torch.stack([plain.last_states(network, ids) for ids in self.prompts])
        self.pushes = self._pushes()
        self.alone = [
            plain.greedy(network, ids, push, _NEW_TOKENS)
            for push in self.pushes
            for ids in self.prompts
        ]
        self.endings = self._endings()
        network.generation_config.eos_token_id = self.endings
        self.alone = [answer.until(self.endings) for answer in self.alone]
        self.chat = ChatModel(network, self.tokenizer, source=where)

    def _pushes(self) -> list[plain.Push | None]:
        """None, two first layers, and one with a last layer."""
        layers, width = self.states.shape[1:]
        noise = torch.randn((3, width), generator=torch.Generator().manual_seed(0))
        noise /= noise.norm(dim=-1, keepdim=True)
        spans = ((0, layers), (layers // 2, layers), (1, layers - 1))
        lengths = self.states.norm(dim=-1).mean(0).float()
        return [
            None,
            *(
                plain.Push(vector * lengths[start] * _STRENGTH, start, stop)
                for vector, (start, stop) in zip(noise, spans, strict=True)
            ),
        ]

    def _endings(self) -> list[int]:
        """Ending tokens at which rows end at different steps: some that answers hold by chance."""
        chosen = {self.alone[row].tokens[2 + row % 5] for row in range(0, len(self.alone), 3)}
        return [int(self.tokenizer.eos_token_id), *sorted(chosen)]

    def texts(self) -> Found:
        """Rows of mixed edits, more than a batch, twice on the same model."""
        regime_of(self.chat)  # refused before a row is made
        rows = [
            Row(ids, None if push is None else Edit.add(push.vector, 1.0, push.start, push.stop))
            for push in self.pushes
            for ids in self.prompts
        ]
        for _turn in range(2):
            answers = generate(self.chat, rows, max_new_tokens=_NEW_TOKENS, max_rows=_ROWS)
            apart = [
                row
                for row, (answer, alone) in enumerate(zip(answers, self.alone, strict=True))
                if not _same(answer.token_ids, alone)
            ]
            if apart:
                return Found("wrong", f"{len(apart)} of {len(rows)} texts differ")
        lengths = sorted({len(answer.tokens) for answer in self.alone})
        return Found("right", f"{len(rows)} rows of {lengths[0]} to {lengths[-1]} tokens")

    def directions(self) -> Found:
        """Differences of means, as DIM and as COSMIC read them."""
        harmful, harmless = (self.states[rows] for rows in (slice(0, 2), slice(2, 4)))
        expected = harmful.mean(0) - harmless.mean(0)
        read = residuals(self.chat, self.prompts)[:, 0].double()
        by_dim = read[:2].mean(0) - read[2:].mean(0)
        means = [
            mean_residuals(self.chat, some, positions=(-1,)).at[0]
            for some in (self.prompts[:2], self.prompts[2:])
        ]
        size = self.states.norm(dim=-1).mean(0)
        worst = max(
            float(((found - expected).norm(dim=-1) / size).max())
            for found in (by_dim, means[0] - means[1])
        )
        return _judged(worst, _SAME)

    def likelihood(self) -> Found:
        """Mean negative log-likelihood of the answers."""
        answers = [answer.tokens or (5,) for answer in self.alone]
        prompts = self.prompts * len(self.pushes)
        found = response_nll(self.chat, prompts, answers, max_rows=_ROWS)
        worst = 0.0
        for ids, answer, nll in zip(prompts, answers, found, strict=True):
            expected = plain.nll(self.network, ids, answer)
            assert nll is not None
            worst = max(worst, abs(nll.mean - expected) / max(1.0, abs(expected)))
        return _judged(worst, _SAME)

    def ablation(self) -> Found:
        """What is left of the stream along a direction that is ablated everywhere."""
        unit = torch.randn(self.chat.d_model, generator=torch.Generator().manual_seed(3))
        unit /= unit.norm()
        sites = ablation_sites_of(self.chat)
        with torch.inference_mode(), plain.stream_lengths(self.network, unit) as left:
            for _ in run_edits(self.chat, self.prompts, [Edit.everywhere(unit)], with_logits=True):
                pass
        worst = max(left)
        if worst > _COMPLETE and not sites.complete:
            return Found("right", f"as in the official code, {worst:.1%} is left")
        return _judged(worst, _COMPLETE)

    def smoke(self) -> Found:
        """The smoke test of a loaded model; a made model is in no catalog."""
        failed: list[Check] = []
        regime_of(self.chat)  # else every look says the same

        def note(check: Check) -> None:
            if not check.passed:
                failed.append(check)

        check_model(self.chat, note)
        if not failed:
            return Found("right")
        return Found("wrong", "; ".join(f"{check.name}: {check.seen}" for check in failed))

    def cosmic(self) -> Found:
        """COSMIC's scores of a few prompts."""
        rules = Cosmic.rules
        prompts = load_extraction_set("extract-dim-5")
        harmful, harmless = (
            [plain.prompt_ids(self.tokenizer, text) for text in group]
            for group in (prompts.harmful, prompts.harmless)
        )
        data = SplitIds(harmful[:3], harmless[:3], harmful[3:], harmless[3:])
        positions = cosmic_positions(self.chat, rules)[-2:]
        candidates = find_candidates(self.chat, data, rules, positions)
        scores = score_candidates(self.chat, data, candidates, rules)
        if not bool(torch.isfinite(scores.refuse).all()):
            return Found("wrong", "a score is no number")
        return Found("right")


def _same(tokens: Sequence[int], alone: plain.Answer) -> bool:
    """Whether texts are equal up to a step where two tokens were as likely."""
    for step, margin in enumerate(alone.margins):
        ours = tokens[step] if step < len(tokens) else None
        plains = alone.tokens[step] if step < len(alone.tokens) else None
        if ours != plains:
            return margin < _TIE
    return len(tokens) == len(alone.tokens)


def _judged(difference: float, limit: float) -> Found:
    return Found("right" if difference <= limit else "wrong", f"{difference:.0e}")


def as_table(results: Sequence[ArchitectureResult]) -> str:
    """The results as Markdown: a row for each architecture, then what is refused and why."""
    head = ["architecture", "what is special", *CHECKS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    reasons: dict[str, str] = {}  # what was refused or wrong -> where
    for result in results:
        cells = []
        for name in CHECKS:
            found = result.checks[name]
            shown = {"wrong": "**WRONG**", "absent": "not in this release"}
            cell = shown.get(found.verdict, found.verdict)
            cells.append(f"{cell} ({found.said})" if _is_short(found) else cell)
            if found.verdict in ("refused", "wrong"):
                reasons[found.said] = f"{reasons.get(found.said, '')}, {name}".strip(", ")
        lines.append(f"| {result.name} | {result.kind} | {' | '.join(cells)} |")
    lines += ["", *(f"- {where}: {said}" for said, where in reasons.items())]
    return "\n".join(lines).rstrip() + "\n"


def _is_short(found: Found) -> bool:
    return found.verdict == "right" and bool(found.said)


def versions() -> str:
    """What was tried."""
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"
