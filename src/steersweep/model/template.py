"""What a chat template does with a user's prompt, found out by trying it.

A template is a program that came with a model: it may raise, drop or change the text, ask for the
date, draw at random, loop for ever or fill the memory. So it is first tried in a process of its
own, with little time and memory; what was found is kept in the user's cache.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from steersweep.core.user_cache import keep, kept
from steersweep.model.thinking import split_thinking
from steersweep.prompts.conversation import Role, Turn

Content = Literal["text", "parts"]
Message = dict[str, Any]
# Conversation, whether the answer is opened, and the date of the day -> the rendered prompt.
Render = Callable[[list[Message], bool, str], str]

PROBE = "Tell me, is number 4711 a good one?"
_ANSWER = "Certainly, it is."
_HARD = (
    "First line: é, 🙂 and “quotes”.\n\n\n   {{ braces }} and {% tags %} \\n <b>&amp;</b>\n\tEnd"
)
_LONG = "\n".join(f"{line}: of many lines that a long prompt has" for line in range(2000))
# They differ in day, month, year and day of the week.
_DATES = ("2021-03-02", "2024-11-29")

_SECONDS = 2  # of computing
_BYTES = 1 << 30
_LARGEST = 1 << 20  # characters of a template
_GROWS_TO = 4 << 20  # characters of a rendered prompt


@dataclass(frozen=True)
class TemplateFacts:
    """What a chat template does.

    Attributes:
        content: whether it takes a message's content as a text or as a list of parts.
        dated: whether the rendered prompt depends on the date.
        probe: hash of how it rendered `PROBE`, which is the same in every process.
        trouble: why it cannot be used, as the rest of a sentence about it; None if it can.
    """

    content: Content = "text"
    dated: bool = False
    probe: str = ""
    trouble: str | None = None


def user_turn(text: str, content: Content) -> list[Message]:
    """A conversation of one user message."""
    return [message("user", text, content)]


def messages(turns: Sequence[Turn], content: Content) -> list[Message]:
    """A conversation of several turns."""
    return [message(turn.role, turn.content, content) for turn in turns]


def message(role: str, text: str, content: Content) -> Message:
    """A message of a conversation."""
    parts = [{"type": "text", "text": text}]
    return {"role": role, "content": text if content == "text" else parts}


def place_of(rendered: str, text: str, before: str, after: str) -> int | None:
    """Where in a rendered prompt the user's text begins, space at its ends aside; None if nowhere.

    Args:
        rendered: the prompt.
        text: the user's.
        before: what the template puts before a text.
        after: what it puts after one.
    """
    core = text.strip()
    end = len(rendered) - len(after)
    if rendered.startswith(before) and rendered.endswith(after) and len(before) <= end:
        middle = rendered[len(before) : end]
        if middle.strip() == core:
            return len(before) + middle.index(core)
    # A template may write something else around a text that holds a word such as /no_think.
    return rendered.index(core) if rendered.count(core) == 1 else None


def probes(roles: Sequence[Role]) -> list[Turn]:
    """Turns of these roles with texts that are easy to find, the last of them `PROBE`."""
    last = len(roles) - 1
    return [
        Turn(role, PROBE.replace("4711", str(4711 + last - index)))
        for index, role in enumerate(roles)
    ]


def places_of(rendered: str, texts: Sequence[str], frames: Sequence[str]) -> list[int] | None:
    """Where each text of a conversation begins in a rendered one, as `place_of`; None if not so.

    Args:
        rendered: the conversation.
        texts: of its turns, in order.
        frames: what the template puts before the first text, between texts and after the last.
    """
    places, at = [], 0
    for text, before, after in zip(texts[:-1], frames, frames[1:], strict=False):
        at += len(before)
        kept = (text, text.strip(), text.lstrip(), text.rstrip())
        as_it_is = next((t for t in kept if rendered.startswith(t + after, at)), None)
        if as_it_is is None:
            return _one_by_one(rendered, texts)
        places.append(at + len(as_it_is) - len(as_it_is.lstrip()))
        at += len(as_it_is)
    last = place_of(rendered[at:], texts[-1], *frames[-2:])
    if last is None or not rendered.startswith(frames[0]):
        return _one_by_one(rendered, texts)
    return [*places, at + last]


def _one_by_one(rendered: str, texts: Sequence[str]) -> list[int] | None:
    """Where texts begin that stand in a rendered conversation once each, and in order."""
    cores = [text.strip() for text in texts]
    if any(rendered.count(core) != 1 for core in cores):
        return None
    places = [rendered.index(core) for core in cores]
    return places if places == sorted(places) else None


def probe_hash(render: Render, content: Content) -> str:
    """What `TemplateFacts.probe` holds."""
    rendered = render(user_turn(PROBE, content), True, _DATES[0])
    return hashlib.sha256(rendered.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def examine(render: Render) -> TemplateFacts:
    """Try a template with prompts of several kinds."""
    try:
        return _examined(render)
    except _Unusable as error:
        return TemplateFacts(trouble=str(error))


class _Unusable(Exception):
    pass


def _examined(render: Render) -> TemplateFacts:
    content = _content_wanted(render)

    def prompt(text: str, date: str = _DATES[0], opened: bool = True) -> str:
        return _tried(render, user_turn(text, content), opened, date)

    state = random.getstate()
    rendered = prompt(PROBE)
    if random.getstate() != state:
        raise _Unusable(
            "draws at random, so a prompt would be another one each time; take `random` or "
            "`lipsum` out of it"
        )
    if rendered.count(PROBE) > 1:
        raise _Unusable(f"puts the user's text {rendered.count(PROBE)} times")
    before, after = rendered.split(PROBE)
    if not after.strip():
        raise _Unusable("puts nothing after the user's text, so the model would go on writing it")
    for text in (_HARD, _LONG):
        long = prompt(text)
        if len(long) > _GROWS_TO:
            raise _Unusable(f"makes {len(long)} characters of a text of {len(text)}")
        if place_of(long, text, before, after) is None:
            kind = "several lines" if text == _HARD else f"{len(text)} characters"
            raise _Unusable(f"changes or cuts the user's text (tried with one of {kind})")
    if prompt(PROBE, opened=False) == rendered:
        _see_that_the_answer_is_opened(render, content, rendered)
    dated = prompt(PROBE, _DATES[1]) != rendered
    return TemplateFacts(content, dated, probe_hash(render, content))


def _content_wanted(render: Render) -> Content:
    """A text as it is, unless the template drops it and takes a list of parts."""
    try:
        if PROBE in (rendered := _tried(render, user_turn(PROBE, "text"), True, _DATES[0])):
            return "text"
        trouble = f"drops or changes the user's text: it gives {rendered[:80]!r}"
    except _Unusable as error:
        trouble = str(error)
    try:
        if PROBE in _tried(render, user_turn(PROBE, "parts"), True, _DATES[0]):
            return "parts"
    except _Unusable:
        pass
    raise _Unusable(trouble)


def _see_that_the_answer_is_opened(render: Render, content: Content, prompt: str) -> None:
    """Where asking for the start of an answer changes nothing, none may be needed."""
    answer = message("assistant", _ANSWER, content)
    try:
        whole = _tried(render, [*user_turn(PROBE, content), answer], False, _DATES[0])
    except _Unusable:
        return  # it takes no conversations: nothing can be compared
    lead, answered, _ = whole[len(prompt) :].partition(_ANSWER)
    parts = split_thinking(lead)
    # Reasoning that is empty: templates put it before answers that were given without any.
    missing = parts.answer if parts.thought == "" else lead
    if whole.startswith(prompt) and answered and missing.strip():
        raise _Unusable(
            f"does not open the answer: {lead!r} stands before answers, but is not put at the "
            f"end of a prompt; make it heed add_generation_prompt"
        )


def _tried(render: Render, conversation: list[Message], opened: bool, date: str) -> str:
    try:
        return render(conversation, opened, date)
    except MemoryError as error:
        raise _Unusable(_beyond()) from error
    except Exception as error:
        raise _Unusable(f"cannot render a user's message{said_by(error)}") from error


def said_by(error: Exception) -> str:
    """What a template said that raised an error, as the end of a sentence."""
    line = getattr(error, "lineno", None)
    where = f" (line {line})" if line else ""
    shown = "".join(c if c.isprintable() else " " for c in str(error))
    return f"{where}: {' '.join(shown.split())[:300] or type(error).__name__}"


def _beyond() -> str:
    return f"takes more than {_SECONDS} s or {_BYTES >> 30} GiB for one prompt"


# -- in a process of its own ---------------------------------------------------------------------


def examine_apart(template: str, variables: dict[str, Any]) -> TemplateFacts:
    """`examine` a Jinja template in another process; what was found is kept for this template.

    Args:
        template: its source.
        variables: what else it is given, such as `bos_token` and a user's options.
    """
    import jinja2
    import transformers

    if len(template) > _LARGEST:
        return TemplateFacts(trouble=f"has {len(template)} characters; none needs that many")
    asked = json.dumps({"template": template, "variables": variables}, sort_keys=True)
    code = Path(__file__).read_text("utf-8")
    versions = f"{transformers.__version__} {jinja2.__version__}"
    digest = hashlib.sha256(f"{versions}\0{code}\0{asked}".encode()).hexdigest()
    name = f"templates/{digest[:32]}.json"
    try:
        return TemplateFacts(**kept(name))
    except TypeError:  # not kept
        facts = _in_another_process(asked)
    if facts.trouble is None:
        keep(name, asdict(facts))
    return facts


def _in_another_process(asked: str) -> TemplateFacts:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-m", "steersweep.model.template"],
        input=asked,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode < 0:  # the system ended it
        return TemplateFacts(trouble=_beyond())
    if done.returncode > 0:
        raise RuntimeError(f"a chat template could not be tried: {done.stderr[-500:]}")
    return TemplateFacts(**json.loads(done.stdout))


def _main() -> None:
    import resource

    from transformers.utils.chat_template_utils import render_jinja_template

    asked = json.load(sys.stdin)

    def render(conversation: list[Message], opened: bool, date: str) -> str:
        with frozen_date(date):
            found: Any = render_jinja_template(
                [conversation],
                chat_template=asked["template"],
                add_generation_prompt=opened,
                **asked["variables"],
            )
        return str(found[0][0])  # the rendered conversations, and what is of no use here

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + _SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    pages = Path("/proc/self/statm")
    if pages.exists():  # elsewhere the system does not limit addresses
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, held + _BYTES))
    json.dump(asdict(examine(render)), sys.stdout)


# -- the date --------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


@contextmanager
def frozen_date(date: str) -> Iterator[None]:
    """While open, templates are told that it is midnight of a day, `2026-11-25`.

    transformers gives them `strftime_now`, and lets no other function in: so its clock is set.
    """
    from transformers.utils import chat_template_utils

    day = datetime.datetime.fromisoformat(date)

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Frozen:
            return cls(day.year, day.month, day.day, tzinfo=tz)

    with _one_at_a_time:
        names = vars(chat_template_utils)
        clock = names["datetime"]
        names["datetime"] = Frozen
        try:
            yield
        finally:
            names["datetime"] = clock


if __name__ == "__main__":
    _main()
