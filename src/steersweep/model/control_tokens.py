"""Token ids of rendered prompts, in which only a template's own control tokens are tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from steersweep.core.errors import InputError


class Encoder:
    """Makes token ids of texts in which some parts are a template's own.

    Args:
        tokenizer: of the model.
        template: the source of its chat template.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template

    @cached_property
    def control(self) -> dict[int, str]:
        """Tokens that steer the model: special ones, and added ones that the template writes."""
        named = {*(getattr(self._tokenizer, "chat_control_tokens", None) or ())}
        return {
            int(token_id): token.content
            for token_id, token in self._tokenizer.added_tokens_decoder.items()
            if token.special
            or token.content in named
            or (
                token.content in self._template
                and not token.content.isspace()
                and not token.content.isalnum()
            )
        }

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds control tokens in a text, by what they are called."""
        longest_first = sorted(self.control.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(
        self, text: str, spans: Sequence[tuple[int, int]], name: str
    ) -> tuple[list[int], list[list[str]]]:
        """Token ids of a rendered prompt, and the control tokens within spans of its characters.

        Raises:
            InputError: it is no text; `name` is what messages call it.
        """
        fast = bool(getattr(self._tokenizer, "is_fast", False))
        try:
            found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast)
        except (TypeError, UnicodeError) as error:
            raise InputError(f"{name}: is no text that can be tokenized ({error})") from error
        ids = [int(token) for token in found.input_ids]
        if not fast:
            return ids, [self.pattern.findall(text[start:stop]) for start, stop in spans]
        control = [
            (self.control[token], first, last)
            for token, (first, last) in zip(ids, found.offset_mapping, strict=True)
            if token in self.control
        ]
        return ids, [
            [token for token, first, last in control if first < stop and last > start]
            for start, stop in spans
        ]

    def encode_apart(
        self, rendered: str, spans: Sequence[tuple[int, int]], inside: Sequence[str], name: str
    ) -> list[int]:
        """Token ids where only the template's control tokens are tokens, and the texts are text.

        Exact at the seams too: a copy of the tokenizer knows the control tokens by other names, and
        the template's are written so.

        Args:
            rendered: the prompt in its template.
            spans: first and last character of the texts, in order.
            inside: the control tokens that they spell.
            name: what messages call the prompt.

        Raises:
            InputError: this tokenizer cannot take one of them for text.
        """
        parts, at = [], 0
        for start, stop in spans:
            parts += [(rendered[at:start], True), (rendered[start:stop], False)]
            at = stop
        return self.encode_parts([*parts, (rendered[at:], True)], inside, name)

    def encode_parts(
        self, parts: Sequence[tuple[str, bool]], inside: Sequence[str], name: str
    ) -> list[int]:
        """`encode_apart` of texts in a row, each with whether it is the template's own."""
        if not getattr(self._tokenizer, "is_fast", False):
            raise InputError(f"{name}: {_no_text(inside)}")
        every = "".join(text for text, _ in parts)
        opening = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in every)
        renamed, originals = self._renamed(opening)
        names = {content: f"{opening}{token}{opening}" for token, content in self.control.items()}
        whole = "".join(
            self.pattern.sub(lambda found: names[found[0]], text) if own else text
            for text, own in parts
        )
        found = [int(token) for token in renamed.encode(whole, add_special_tokens=False).ids]
        if any(token in self.control and token not in originals for token in found):
            raise InputError(f"{name}: {_no_text(inside)}")
        return [originals.get(token, token) for token in found]

    def _renamed(self, mark: str) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer with its control tokens called `mark ID mark`; ids to ids."""
        from tokenizers import Tokenizer

        if mark not in self._copies:
            state = json.loads(self._tokenizer.backend_tokenizer.to_str())
            state |= {"post_processor": None, "truncation": None, "padding": None}
            names = {token: f"{mark}{token}{mark}" for token in self.control}
            for token in state["added_tokens"]:
                token["content"] = names.get(token["id"], token["content"])
            copy: Any = Tokenizer.from_str(json.dumps(state))
            ids = {int(copy.token_to_id(name)): token for token, name in names.items()}
            self._copies[mark] = copy, ids
        return self._copies[mark]

    @cached_property
    def _copies(self) -> dict[str, tuple[Any, dict[int, int]]]:
        return {}


def _no_text(tokens: Sequence[str]) -> str:
    return (
        f"holds {tokens[0]!r}, a special token of the model, and this tokenizer cannot take it for "
        f"text; change the prompt, or set special tokens to be tokens"
    )
