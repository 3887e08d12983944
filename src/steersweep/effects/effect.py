"""What an effect is, and the effects that come with the package.

Nothing here needs torch: settings and help ask effects for their names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from steersweep.core.errors import InputError
from steersweep.core.registry import Registry
from steersweep.effects.questions import QuestionSet
from steersweep.effects.texts import TextSet
from steersweep.prompts.prompts import TestSet
from steersweep.run.effect import Measured, Sizes

if TYPE_CHECKING:
    from steersweep.judging.judge import OfAnswers
    from steersweep.model.chat_model import ChatModel
    from steersweep.steer.edit import Edit

_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class OwnAnswers:
    """The model's own unsteered answers to prompts.

    Attributes:
        prompts: as text, for `item_id`.
        prompt_ids: token ids of the prompts in the template.
        answer_ids: token ids of the answers, without the ending token; may be empty.
        source: name and digest of the prompts.
    """

    prompts: Sequence[str] = ()
    prompt_ids: Sequence[Sequence[int]] = ()
    answer_ids: Sequence[Sequence[int]] = ()
    source: str = "none"


_NO_ANSWERS = OwnAnswers()
_NO_TEXTS = TextSet("none", ())
_NO_QUESTIONS = QuestionSet("none", ())
_NO_PROMPTS = TestSet("none", ())


@dataclass(frozen=True, eq=False)
class Given:
    """What effects are given beside a model and edits; each takes what it needs.

    Sets are whole: an effect takes the first items of them, as many as `sizes` says.

    Attributes:
        own_answers: the model's unsteered answers.
        texts: texts that the model did not write.
        questions: multiple-choice questions.
        harmful: requests that a model should refuse.
        borderline: requests that only look unsafe.
        judge: of answers to the last two.
        sizes: how much of all that is looked at.
        max_rows: rows per forward pass that fit in memory.
        keep_answers: keep the text of the answers that are judged.
        on_share: to be told of the share of an effect that is done, 0 to 1.
    """

    own_answers: OwnAnswers = _NO_ANSWERS
    texts: TextSet = _NO_TEXTS
    questions: QuestionSet = _NO_QUESTIONS
    harmful: TestSet = _NO_PROMPTS
    borderline: TestSet = _NO_PROMPTS
    judge: OfAnswers | None = None
    sizes: Sizes = field(default_factory=Sizes)
    max_rows: int = 256
    keep_answers: bool = False
    on_share: Callable[[float], None] = lambda _share: None


class Effect(Protocol):
    """Something that steering does to a model besides what it is for.

    Attributes:
        name: what results call it: lower-case letters, digits and hyphens.
    """

    name: str

    def measure(
        self, chat: ChatModel, edits: Sequence[Edit | None], given: Given
    ) -> list[tuple[Measured, ...]]:
        """The effect of each edit, in order, each in all variants, always in the same order.

        Rows of different edits share batches.

        Args:
            chat: the model; nothing may be hooked into it.
            edits: what to do to the residual stream; None: nothing.
            given: what else it may use.

        Raises:
            InputError: it is given nothing to measure on, or what cannot be put to this model.
            NumericalError: numbers of the model are NaN or infinite.
        """
        ...


def _name_of(effect: Any) -> str:
    """The name of an effect of a user's own, once it is seen to be one."""
    name = getattr(effect, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        given = f"is {name!r}" if hasattr(effect, "name") else "is missing"
        raise InputError(
            f"its attribute name {given}; it must be of lower-case letters, digits and hyphens"
        )
    try:
        inspect.signature(effect.measure).bind(None, None, None)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError("it must have measure(self, chat, edits, given)") from error
    return name


EFFECTS: Registry[Effect] = Registry(
    "effect",
    {
        "divergence": "steersweep.effects.divergence:Divergence",
        "text": "steersweep.effects.text:TextLoss",
        "choices": "steersweep.effects.choices:Choices",
        "harmful": "steersweep.effects.refusals:Harmful",
        "borderline": "steersweep.effects.refusals:Borderline",
    },
    _name_of,
)
