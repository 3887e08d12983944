"""Keeps secrets out of what is shown or written."""

from __future__ import annotations

import os
import re

_PLACEHOLDER = "[secret]"
# Variables whose values are secrets, by the ends of their names: HF_TOKEN, WANDB_API_KEY, ...
_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|TOKEN_ID|TOKEN_SECRET|KEY|KEY_ID|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I
)
# Secrets by their own form, wherever they come from.
_FORMS = re.compile(
    r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"  # user:password@ of an address
    r"|\bhf_[A-Za-z0-9]{16,}\b"  # Hugging Face
    r"|\ba[ks]-[A-Za-z0-9]{20,}\b"  # Modal
    r"|\bAKIA[A-Z0-9]{16}\b"  # AWS
    r"|(?i:(?<=bearer )[A-Za-z0-9._~+/-]{16,})"
)
_SHORTEST = 8  # anything shorter would hide ordinary words


def redact(text: str) -> str:
    """`text` without the values of secret environment variables, tokens and passwords in it."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES.search(name) and value in text:
            text = text.replace(value, _PLACEHOLDER)
    return _FORMS.sub(_PLACEHOLDER, text)
