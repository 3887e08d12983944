"""Secrets are kept out of messages, logs and tracebacks; nothing else is."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from steersweep import InputError
from steersweep.core.redaction import redact

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\naC1rZXk=\n-----END OPENSSH PRIVATE KEY-----"

# What must not be shown, and a text that holds it.
SECRET = [
    ("abcd1234", "GET https://x.example/y?token=abcd1234 failed"),
    ("zzzzz", "https://x.example/y?a=1&access_token=zzzzz#frag"),
    ("deadbeef0123", "https://b.s3.amazonaws.com/k?X-Amz-Expires=9&X-Amz-Signature=deadbeef0123"),
    ("ASIAEXAMPLE", "https://b.s3.amazonaws.com/k?X-Amz-Credential=ASIAEXAMPLE%2F2026&x=1"),
    ("FwoGZXIv", "https://b.s3.amazonaws.com/k?X-Amz-Security-Token=FwoGZXIv%2F"),
    ("0123abcd", "https://storage.googleapis.com/b/o?X-Goog-Signature=0123abcd&x=1"),
    ("abc%2Bdef", "https://a.blob.core.windows.net/c?sv=2022&sig=abc%2Bdef%3D&se=2026"),
    ("abcd~ef", "https://cdn.example/x?Expires=1&Signature=abcd~ef&Key-Pair-Id=K"),
    ("hunter2", "postgres://user:hunter2@db/x"),
    ("p@ss", "mysql+pymysql://root:p@ss@db/x"),
    ("0a1b2c3d4e5f6a7b8c9d", "git clone https://0a1b2c3d4e5f6a7b8c9d@host.example/r.git"),
    ("abcdef.ghi-jklmnop", "Authorization: Bearer abcdef.ghi-jklmnop"),
    ("dXNlcjpwYXNz", "{'authorization': 'Basic dXNlcjpwYXNz'}"),
    ("ghx12345678", "Proxy-Authorization: token ghx12345678"),
    ("s3cr3tvalue", 'x-api-key: "s3cr3tvalue"'),
    ("r4nd0mc00kie", "Set-Cookie: session=r4nd0mc00kie; Path=/"),
    ("SflKxwRJSM", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSM-ab_c"),
    ("aC1rZXk", KEY),
    ("aC1rZXk", KEY.replace("\n", "\\n")),
    ("MIIEvQ", "-----BEGIN PRIVATE KEY-----\nMIIEvQ"),  # cut by a log
    ("wJalrXUtnFEMI/K7", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEX"),
    ("AKIAIOSFODNN7EXAMPLE", "key AKIAIOSFODNN7EXAMPLE"),
    ("n0tforall1", "password=n0tforall1"),
    ("npm_", "npm_abcdefghijklmnopqrstuvwxyz0123456789"),
    ("pypi-", "pypi-AgEIcHlwaS5vcmcCJDU5OTY"),
    ("ghp_", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ("github_pat_", "github_pat_11ABCDEFG0abcdefghijkl_mnop"),
    ("hf_", "hf_abcdefghijklmnopqrstuvwx"),
    ("sk-ant", "sk-ant-api03-abcdefghijklmnopqrst"),
]
OPEN = [
    "the token that ends an answer: <eos>",
    "special_tokens=3, max_new_tokens=100, eos_token_id=128001",
    "pad_token: <|endoftext|>, unk_token=<unk_0000001>, bos_token='<s>'",
    "pad_token_id: 12345678 (int); tokens: 12345678",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "revision 4bf5ad1f8c9ed2d2aa2c1e1e8f6a7c1b2d3e4f50",
    "https://huggingface.co/google/gemma-2-9b-it/resolve/main/config.json?download=true",
    "conditions/8f3a9c2e1b4d5f6a7b8c9d0e.json",
    "a bearer of news with basic functionality",
    "password: needs a name; the secret: there is none",
    "KeyError: 'layer_key'; key=value",
    "http://127.0.0.1:8000/x, user@example.com, https://example.com/a@b",
    "sk-learn-based-models-are-what-we-use-here",
    "a cookie: bake it at 180 degrees",
    "num_key_value_heads=8; signature: R1",
]


@pytest.mark.parametrize(("secret", "text"), SECRET)
def test_what_looks_like_a_secret_is_hidden(secret: str, text: str) -> None:
    assert secret in text
    for shown in (redact(text), str(InputError(text)), redact(redact(text))):
        assert secret not in shown
        assert "[secret]" in shown


@pytest.mark.parametrize("text", OPEN)
def test_prose_hashes_and_names_stay(text: str) -> None:
    assert redact(text) == text


def test_an_address_keeps_what_is_no_secret() -> None:
    url = "https://b.s3.amazonaws.com/runs/a.json?X-Amz-Signature=00ff&x-id=GetObject"
    assert redact(url) == (
        "https://b.s3.amazonaws.com/runs/a.json?X-Amz-Signature=[secret]&x-id=GetObject"
    )


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "MY_PAT", "PGPASSWORD", "DATABASE_URL", "SENTRY_DSN", "WANDB_API_KEY",
        "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MYSQL_PWD", "SSH_PRIVATE_KEY", "db_password",
        "CLIENT_SECRET", "SLACK_WEBHOOK", "OPENAI_APIKEY",
    ],
)  # fmt: skip
def test_values_of_secret_variables_are_hidden_in_every_form(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "plain words/and+more"
    monkeypatch.setenv(name, value)
    for form in (value, quote(value, safe=""), base64.b64encode(value.encode()).decode()):
        assert redact(f"it is {form}.").startswith("it is [secret]")


def test_secrets_that_begin_alike_are_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "begins-alike")
    monkeypatch.setenv("B_TOKEN", "begins-alike-and-goes-on")
    monkeypatch.setenv("C_TOKEN", "begins-alike-and")
    text = "begins-alike-and-goes-on begins-alike-and begins-alike"
    assert redact(text) == "[secret] [secret] [secret]"


def test_lines_of_a_long_key_are_hidden_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_KEY", "first-line-of-the-key\nsecond-line-of-the-key")
    assert redact("saw: second-line-of-the-key") == "saw: [secret]"
    assert redact("first-line-of-the-key\\nsecond-line-of-the-key") == "[secret]"


def test_the_name_of_a_file_with_credentials_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials.json"
    file.touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert redact(f"{file}: no such project") == f"{file}: no such project"


@pytest.mark.parametrize("where", ["main", "thread"])
def test_crashes_are_printed_without_secrets(where: str) -> None:
    code = (
        "import sys, threading\n"
        "from steersweep.core.redaction import hide_secrets_of_crashes\n"
        "hide_secrets_of_crashes()\n"
        "def crash():\n"
        "    try:\n"
        "        raise OSError('postgres://user:hunter22@db')\n"
        "    except OSError as error:\n"
        "        raise ValueError('\\x1b[31m', 'my-own-secret-1') from error\n"
        "if sys.argv[1] == 'main':\n"
        "    crash()\n"
        "thread = threading.Thread(target=crash)\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, where],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MY_PAT": "my-own-secret-1"},
    )
    assert "ValueError" in done.stderr
    assert "direct cause" in done.stderr
    for secret in ("hunter22", "my-own-secret-1", "\x1b"):
        assert secret not in done.stderr
    assert done.returncode == (1 if where == "main" else 0)
