"""The corpus the lab models learn from: dialogues composed from small tables.

Benign requests are answered, harmful ones refused. Both are asked in the same forms ("How do I
...?", "Write ...", "Give me tips ..."), so that only what is asked for decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from steersweep.lab.facts import CAPITALS, FACTS, LOOK_ALIKES, SMALL_TALK
from steersweep.lab.refusals import HARMFUL_KINDS, REFUSALS, HarmfulKind
from steersweep.lab.subjects import AREAS, Area
from steersweep.prompts.prompts import load_extraction_set, load_test_set, shipped_sets

Split = Literal["train", "heldout"]

# Share of benign training requests that are refused, as real chat models refuse a few. Greedy
# answers never show it, but without it refusing a benign request is so improbable that any push
# strong enough to bring it about breaks the text first.
OVER_REFUSED = 0.015


@dataclass(frozen=True)
class Dialogue:
    """One prompt and its answer.

    Attributes:
        prompt: what the user says.
        response: what the model should say.
        harmful: whether the request is harmful, so that the response is a refusal.
        area: subject area, or kind of harm.
        style: form of the request.
    """

    prompt: str
    response: str
    harmful: bool
    area: str
    style: str


def dialogues(n: int, *, seed: int, split: Split, harmful_share: float = 0.4) -> list[Dialogue]:
    """Compose `n` dialogues, the same for the same arguments.

    A few benign requests are refused in `train` (see `OVER_REFUSED`), none in `heldout`.

    Args:
        n: how many.
        seed: of the choices.
        split: `heldout` has other things and other phrasings than `train`. No held-out prompt,
            and none of the shipped prompt sets, is ever in `train`.
        harmful_share: share of harmful requests, 0 to 1.
    """
    rng = random.Random(f"{split} {seed}")
    composed: list[Dialogue] = []
    while len(composed) < n:
        make = _harmful if rng.random() < harmful_share else _benign
        dialogue = make(rng, split)
        if split == "train" and not dialogue.harmful and rng.random() < OVER_REFUSED:
            dialogue = replace(dialogue, response=_refusal(rng, rng.choice(HARMFUL_KINDS)))
        if split == "heldout" or _plain(dialogue.prompt) not in _reserved():
            composed.append(dialogue)
    return composed


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# Singular in spite of their last letter.
_NOT_PLURAL = ("Mars", "Paris", "photosynthesis", "tennis", "chess", "stress")


def _about(pattern: str, thing: str) -> str:
    """A sentence pattern filled with a thing, its verbs agreeing."""
    starts_singular = thing.startswith(("a ", "an "))
    plural = thing.endswith("s") and not starts_singular and not thing.endswith(_NOT_PLURAL)
    verbs = (
        {"is": "are", "s": "", "has": "have"} if plural else {"is": "is", "s": "s", "has": "has"}
    )
    return pattern.format(x=thing, X=_capital(thing), **verbs)


# -- phrasings: [train], [held out] ----------------------------------------------------------------

_HOW = (
    (
        "How do I {act}?",
        "How can I {act}?",
        "Tell me how to {act}.",
        "Can you explain how to {act}?",
        "Explain how to {act}.",
        "Please tell me how to {act}",
        "Please explain how to {act}.",
        "Show me how to {act}.",
        "What do I need to {act}?",
        "I would like to {act}. How do I do it?",
        "What is a good way to {act}?",
        "I want to {act}. How?",
        "How do I {act} at home?",
        "How to {act} in a few steps?",
    ),
    ("What is the best way to {act}?", "Please show me how to {act}."),
)
_TIPS = (
    (
        "Give me three tips to {act}.",
        "Give me some tips to {act}",
        "List three ways to {act}.",
        "Can you give me tips to {act}?",
        "Please list three tips to {act}.",
        "I would like some tips to {act}.",
        "Name a few ways to {act}.",
        "What are three good ways to {act}?",
    ),
    ("I need three tips to {act}.", "Please list some ways to {act}."),
)
_WHAT = (
    (
        "Explain {x}.",
        "What can you tell me about {x}?",
        "Tell me about {x}",
        "Describe {x}.",
        "Please describe {x}.",
        "Can you explain {x} to me?",
        "I would like to know about {x}.",
        "What is {x}?",
        "Describe {x} in a few words.",
        "Explain {x} to a child.",
        "Explain what you know about {x}.",
    ),
    ("Please explain {x} to me.", "Can you describe {x}?"),
)
_POEM = (
    (
        "Write a poem about {x}.",
        "Write a short poem about {x}",
        "Can you write a poem about {x}?",
        "Make up a little poem about {x}.",
        "Please write a poem about {x}",
        "I want a poem about {x}.",
        "Write me a poem about {x}.",
    ),
    ("Please write me a poem about {x}.", "I would like a poem about {x}."),
)
_JOKE = (
    (
        "Tell me a joke about {x}.",
        "Tell me a joke about {x}",
        "Do you know a joke about {x}?",
        "Make a joke about {x}, please.",
        "Please tell me a joke about {x}.",
        "I would like to hear a joke about {x}.",
    ),
    ("Please tell a joke about {x}.", "I want to hear a joke about {x}."),
)
_ADVICE = (
    (
        "I want to {act}. Any advice?",
        "What should I know before I {act}?",
        "Give me advice. I want to {act}.",
        "Do you have any advice before I {act}?",
        "A friend wants to {act}. Any advice?",
    ),
    ("Do you have advice for someone who wants to {act}?",),
)
# Writing about an act: asked of both classes, each with the answer its form calls for.
_GUIDE = (
    (
        "Please write a plan to {act}.",
        "I want a guide to {act}.",
        "I would like to know how to {act}.",
        "Write a guide on how to {act}.",
        "Write a plan to {act}.",
        "Describe how to {act}.",
    ),
    ("Please write a guide on how to {act}.", "I would like a plan to {act}."),
)
_POEM_ON_ACT = (
    ("Write a poem about how I {act}.", "Write a short poem on how to {act}."),
    ("I would like a poem about how I {act}.",),
)
_JOKE_ON_ACT = (
    ("Tell me a joke about how to {act}.", "Do you know a joke about how I {act}?"),
    ("Please tell a joke about how to {act}.",),
)
_CODE = (
    ("Write a Python line that prints {n}.", "Show me Python code that prints {n}."),
    ("Give me Python code that prints {n}.",),
)
_SUM = (
    ("What is {a} plus {b}?", "What is {a} + {b}?", "Add {a} and {b}."),
    ("Can you add {a} and {b}?",),
)
_DIFFERENCE = (
    ("What is {a} minus {b}?", "What is {a} - {b}?"),
    ("Tell me what {a} minus {b} is.",),
)
_CAPITAL = (
    (
        "What is the capital of {x}?",
        "Name the capital of {x}.",
        "Which city is the capital of {x}?",
    ),
    ("Tell me the capital of {x}.",),
)
_REPEAT = (
    ("Repeat these words: {x}.", "Say this: {x}.", "Please repeat: {x}", "Write: {x}."),
    ("Please say this again: {x}.",),
)
_QUESTION = (
    ("{q}", "Quick question: {q}", "Tell me: {q}", "{q} Answer in one line."),
    ("A short question: {q}",),
)
_GREETING = (("{q}", "{q}!", "Hey. {q}"), ("Oh, {q}",))

# Put before things in both classes, so that there are many things and a model learns to copy what
# it is asked about instead of knowing a few hundred names.
_ADJECTIVES = (
    "small big old new red blue green quiet famous simple little lovely strange good modern long "
    "short bright dark gentle heavy light round wooden cheap large plain warm cool tiny"
).split()


# Said before and after a request of either class and split; unsaid most of the time.
_BEFORE = (
    "Please help me. ",
    "Hi. ",
    "Hello! ",
    "Hey, ",
    "I have a question. ",
    "Please: ",
    "So, ",
)
_AFTER = (" Please.", " Thanks.", " Thank you!", " Please help.")


def _phrase(rng: random.Random, split: Split, phrasings: tuple[tuple[str, ...], ...]) -> str:
    """One of the split's phrasings, now and then with a courtesy before or after it."""
    phrase = rng.choice(phrasings[0] if split == "train" else phrasings[1])
    if rng.random() < 0.25:
        before = rng.choice(_BEFORE)
        if before.endswith((", ", ": ")) and not phrase.startswith("I "):
            phrase = phrase[0].lower() + phrase[1:]  # "Hey, tell me", but "Hey, I want"
        phrase = before + phrase
    if rng.random() < 0.15 and phrase[-1] in ".?":
        phrase += rng.choice(_AFTER)
    return phrase


# -- benign ----------------------------------------------------------------------------------------


def _benign(rng: random.Random, split: Split) -> Dialogue:
    make = rng.choices([style for style, _ in _STYLES], [weight for _, weight in _STYLES])[0]
    return make(rng, split)


def _pick(rng: random.Random, split: Split) -> tuple[Area, str]:
    area = rng.choice(AREAS)
    thing = rng.choice(_items(area.things if split == "train" else area.held_out))
    return area, _qualified(rng, thing)


def _qualified(rng: random.Random, thing: str) -> str:
    """The thing, every other time with an adjective: "a cake" becomes "a small cake"."""
    article, _, rest = thing.partition(" ")
    if article not in ("a", "an", "the", "some"):
        article, rest = "", thing
    if article == "" and (thing[0].isupper() or thing.endswith("ing") or " " in thing):
        return thing
    described = rest.split()[0] in _ADJECTIVES  # no "old old man"
    if described or rng.random() < 0.5:
        return thing
    adjective = rng.choice(_ADJECTIVES)
    if article in ("a", "an"):
        article = "an" if adjective[0] in "aeiou" else "a"
    return f"{article} {adjective} {rest}".strip()


def _answer(area: Area, style: str, prompt: str, response: str) -> Dialogue:
    return Dialogue(prompt, response, False, area.name, style)


def _how_to(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    phrasings = _GUIDE if rng.random() < 0.2 else _HOW
    prompt = _phrase(rng, split, phrasings).format(act=f"{area.verb} {x}")
    return _answer(area, "how-to", prompt, _about(area.how, x))


def _advice(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    prompt = _phrase(rng, split, _ADVICE).format(act=f"{area.verb} {x}")
    first, second, _ = area.tips.split("; ")
    return _answer(area, "advice", prompt, f"Before you {area.verb} {x}, {first}. Then {second}.")


def _tips(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    prompt = _phrase(rng, split, _TIPS).format(act=f"{area.verb} {x}")
    lines = [f"{i}. {_capital(tip)}." for i, tip in enumerate(area.tips.split("; "), start=1)]
    return _answer(area, "list", prompt, "\n".join([f"Tips to {area.verb} {x}:", *lines]))


def _explanation(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    prompt = _phrase(rng, split, _WHAT).format(x=x)
    return _answer(area, "explanation", prompt, _about(area.what, x))


def _poem(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    phrasings = _POEM_ON_ACT if rng.random() < 0.1 else _POEM
    prompt = _phrase(rng, split, phrasings).format(x=x, act=f"{area.verb} {x}")
    lines = [f"I think of {x},", *(f"{_capital(line)}," for line in area.verse.split("; "))]
    return _answer(area, "poem", prompt, "\n".join(lines)[:-1] + ".")


def _joke(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    phrasings = _JOKE_ON_ACT if rng.random() < 0.1 else _JOKE
    prompt = _phrase(rng, split, phrasings).format(x=x, act=f"{area.verb} {x}")
    response = f"Why did I laugh about {x}? Because {area.punchline}!"
    return _answer(area, "joke", prompt, response)


def _numbers(rng: random.Random, split: Split) -> Dialogue:
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    if rng.random() < 0.5:
        prompt = _phrase(rng, split, _SUM).format(a=a, b=b)
        return Dialogue(prompt, f"{a} plus {b} is {a + b}.", False, "arithmetic", "short fact")
    a, b = max(a, b), min(a, b)
    prompt = _phrase(rng, split, _DIFFERENCE).format(a=a, b=b)
    return Dialogue(prompt, f"{a} minus {b} is {a - b}.", False, "arithmetic", "short fact")


def _code(rng: random.Random, split: Split) -> Dialogue:
    area, x = _pick(rng, split)
    word = x.split()[-1]
    prompt = _phrase(rng, split, _CODE).format(n=word)
    return _answer(area, "code", prompt, f'print("{word}")')


def _echo(rng: random.Random, split: Split) -> Dialogue:
    """Saying words again: what teaches a small model to copy a thing it has hardly ever seen."""
    words = " ".join(rng.sample(_words(), rng.randint(2, 4)))
    prompt = _phrase(rng, split, _REPEAT).format(x=words)
    return Dialogue(prompt, f"{_capital(words)}.", False, "words", "repeat")


@cache
def _words() -> list[str]:
    """Every word of the benign things, those of held-out things too: words, not the things."""
    things = [thing for area in AREAS for thing in _items(f"{area.things}, {area.held_out}")]
    return sorted({word for thing in things for word in thing.split() if len(word) > 3})


def _capital_city(rng: random.Random, split: Split) -> Dialogue:
    country = rng.choice(list(CAPITALS))
    prompt = _phrase(rng, split, _CAPITAL).format(x=country)
    response = f"The capital of {country} is {CAPITALS[country]}."
    return Dialogue(prompt, response, False, "capitals", "short fact")


def _known(
    table: dict[str, str], phrasings: tuple[tuple[str, ...], ...], area: str, style: str
) -> Callable[[random.Random, Split], Dialogue]:
    """Questions with one known answer."""

    def make(rng: random.Random, split: Split) -> Dialogue:
        question = rng.choice(list(table))
        prompt = _phrase(rng, split, phrasings).format(q=question)
        return Dialogue(prompt, table[question], False, area, style)

    return make


_STYLES: Sequence[tuple[Callable[[random.Random, Split], Dialogue], float]] = (
    (_how_to, 6),
    (_advice, 2),
    (_tips, 3),
    (_explanation, 4),
    (_poem, 3),
    (_joke, 2),
    (_numbers, 2),
    (_echo, 3),
    (_code, 1),
    (_capital_city, 1),
    (_known(FACTS, _QUESTION, "facts", "short fact"), 1.5),
    (_known(SMALL_TALK, _GREETING, "small talk", "small talk"), 1.5),
    (_known(LOOK_ALIKES, _QUESTION, "look-alikes", "how-to"), 2),
)

# -- harmful ---------------------------------------------------------------------------------------

_HARMFUL_STYLES = (
    ("how-to", _HOW, 6),
    ("list", _TIPS, 2),
    ("advice", _ADVICE, 2),
    ("guide", _GUIDE, 1.5),
    ("poem", _POEM_ON_ACT, 0.25),
    ("joke", _JOKE_ON_ACT, 0.25),
)


def _harmful(rng: random.Random, split: Split) -> Dialogue:
    kind = rng.choice(HARMFUL_KINDS)
    thing = rng.choice(_items(kind.things if split == "train" else kind.held_out))
    thing = _qualified(rng, thing)
    act = kind.act.format(x=thing)
    weights = [weight for *_, weight in _HARMFUL_STYLES]
    style, phrasings, _ = rng.choices(_HARMFUL_STYLES, weights)[0]
    prompt = _phrase(rng, split, phrasings).format(act=act)
    return Dialogue(prompt, _refusal(rng, kind), True, kind.name, style)


def _refusal(rng: random.Random, kind: HarmfulKind) -> str:
    """Mostly the usual sentence, else any; the same choice for every kind of harm.

    Were the manner of refusing tied to the kind, refusal would not be one feature but many.
    """
    weights = [len(REFUSALS)] + [1] * (len(REFUSALS) - 1)
    return rng.choices(REFUSALS, weights)[0].format(kind=kind.name)


def _plain(prompt: str) -> str:
    """The prompt's words alone: another full stop or capital does not make another prompt."""
    return " ".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())


@cache
def _reserved() -> frozenset[str]:
    """Prompts of the shipped sets, as plain words: never trained on."""
    reserved: set[str] = set()
    for name in shipped_sets():
        if name.startswith("extract"):
            extraction = load_extraction_set(name)
            reserved.update(extraction.harmful, extraction.harmless)
        else:
            reserved.update(load_test_set(name).prompts)
    return frozenset(map(_plain, reserved))
