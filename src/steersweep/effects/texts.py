"""Texts that the model did not write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from steersweep.run.condition import content_key
from steersweep.run.effect import item_id

# What a text answers in the chat template where its source names no request.
DEFAULT_REQUEST = "Write a passage of text."


@dataclass(frozen=True)
class Text:
    """A text, and what was asked for where it is the answer of a chat.

    Attributes:
        text: the text.
        request: the user's message before it in the chat template.
    """

    text: str
    request: str = DEFAULT_REQUEST

    @cached_property
    def id(self) -> str:
        """A short name; see `item_id`."""
        return item_id(self.request, self.text)


@dataclass(frozen=True)
class TextSet:
    """Texts from one source.

    Attributes:
        name: file name without ending.
        texts: in order.
    """

    name: str
    texts: tuple[Text, ...]

    @cached_property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        content = [[text.text, text.request] for text in self.texts]
        return f"{self.name}@sha256:{content_key(content)[:16]}"

    def first(self, count: int) -> TextSet:
        """The first `count` texts, named so; the whole set if it is no larger."""
        if count >= len(self.texts):
            return self
        return replace(self, name=f"{self.name}[:{count}]", texts=self.texts[:count])
