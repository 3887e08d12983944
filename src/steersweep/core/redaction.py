"""Keeps secrets out of what is shown or written."""

from __future__ import annotations

import base64
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import quote, quote_plus

from steersweep.core.printing import printable

_PLACEHOLDER = "[secret]"
# Variables whose values are secrets, by the ends of their names: HF_TOKEN, WANDB_API_KEY, ...
_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|TOKEN_ID|TOKEN_SECRET|\w*API_?KEY|KEY|KEY_ID|SECRET|PASSWORD|PASSWD|PASS|PWD"
    r"|PASSPHRASE|CREDENTIALS?|PAT|DSN|WEBHOOK|COOKIE|AUTH|DATABASE_URL|CONNECTION_STRING)$"
    r"|PASSWORD|PGPASS|SECRET|_TOKEN_|ACCESS_KEY|PRIVATE_KEY|DATABASE_URL",
    re.I,
)
_NO_SECRETS = {"PWD", "OLDPWD", "SSH_AUTH_SOCK"}
# How the name of a field or of an address's parameter ends whose value is a secret.
_FIELD = (
    r"(?:token|secret|passw(?:or)?d|passwd|pwd|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|session[-_]?key|auth[-_]?key|signature|credential)"
)
# Secrets by their own form, wherever they come from.
_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^\s/@:]*:[^\s/]+(?=@)"  # user:password@ of an address
    r"|(?<=://)[^\s/@:]{16,}(?=@)"  # token@ of an address
    r"|\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b"  # Hugging Face
    r"|\ba[ks]-[A-Za-z0-9]{20,}\b"  # Modal
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\b(?:gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"  # GitHub, GitLab
    r"|\b(?:npm_[A-Za-z0-9]{20,}|pypi-[\w-]{20,})"
    r"|\b(?:sk|rk|pk)[-_](?=[\w-]{0,60}\d)[\w-]{20,}"  # OpenAI, Anthropic, Stripe
    r"|\bxox[a-z]-[\w-]{10,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}"  # Slack, Google
    r"|\bwandb_v\d_\w{20,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # JSON web tokens
    r"|(?i:(?<=bearer ))[A-Za-z0-9._~+/=-]{16,}"
    # ?X-Amz-Signature=..., &sig=...
    rf"|(?i:(?P<parameter>[?&;](?:[\w.%-]{{0,40}}{_FIELD}|sig|sas|key|code|auth|pat|jwt|policy)=))"
    r"[^\s&#;\"'<>]+"
    r"|(?i:(?P<header>\b(?:proxy-)?authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:[a-z-]{1,20} )?))"
    r"(?!\[secret\])[^\s\"',]{8,}"
    r"|(?i:(?P<cookie>\b(?:set-)?cookie[\"']?:\s{0,3}[\"']?)(?=[\w.-]{1,80}=))[^\r\n\"']{8,}"
    # api_key="...", password: ...; a special token of a tokenizer is no secret
    rf"|(?i:(?P<field>{_FIELD}[\"']?\s?[=:]\s?[\"']?))(?=[^\s\"',;]*[\d!#$%^&*+/=])"
    r"(?![\[<])[^\s\"',;&)\]}]{8,}",
    re.S,
)
_SHORTEST = 8  # anything shorter would hide ordinary words


def redact(text: str) -> str:
    """`text` without secrets: values of secret environment variables, and what looks like one.

    Known by their form are tokens, keys and passwords in addresses and headers, signatures of
    presigned addresses, JSON web tokens, and private keys. Hashes and commit ids stay.
    """
    for value in _known():
        if value in text:
            text = text.replace(value, _PLACEHOLDER)
    return _FORMS.sub(_kept_name, text)


def redacted_traceback(error: BaseException) -> str:
    """The traceback of an error, without secrets and without what would command a terminal."""
    return printable(redact("".join(traceback.format_exception(error))))


def hide_secrets_of_crashes() -> None:
    """From now on, errors that nobody catches, in any thread, are printed without secrets."""

    def show(
        _kind: type[BaseException], error: BaseException, _where: TracebackType | None
    ) -> None:
        sys.stderr.write(redacted_traceback(error))

    def show_of_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            name = found.thread.name if found.thread else "?"
            text = redacted_traceback(found.exc_value)
            sys.stderr.write(f"Exception in thread {name}:\n{text}")

    sys.excepthook = show
    threading.excepthook = show_of_thread


def _kept_name(found: re.Match[str]) -> str:
    names = (found[name] for name in ("parameter", "header", "cookie", "field"))
    return next(filter(None, names), "") + _PLACEHOLDER


def _known() -> list[str]:
    """Values of secret variables, as they may stand in a text; the longest first.

    So a secret that begins like another one is hidden whole.
    """
    found = {
        form
        for name, value in os.environ.items()
        if _NAMES.search(name) and name not in _NO_SECRETS and not _is_a_path(value)
        for form in _forms(value.strip())
        if len(form) >= _SHORTEST
    }
    return sorted(found, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    yield value
    if "\n" in value:  # a key of several lines may be shown line by line
        yield from (line for line in value.splitlines() if len(line) >= 2 * _SHORTEST)
        yield value.replace("\n", "\\n")
    if len(value) >= _SHORTEST:
        yield quote(value, safe="")
        yield quote_plus(value)
        yield base64.b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("=")


def _is_a_path(value: str) -> bool:
    """`GOOGLE_APPLICATION_CREDENTIALS` names a file; its name is no secret."""
    return value.startswith(("/", "~", "./", "../")) and os.path.exists(os.path.expanduser(value))
