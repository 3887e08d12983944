"""Does a text repeat itself where prose would go on? Poems, lists, tables and code may.

What counts is the whole text: a refusal that comes round to the same clause a third time is a loop,
word for word or with small changes, whatever its first sentence says.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from operator import eq

from steersweep.judging.text import Text, spoken_of, units_of

_CLAUSE_END = re.compile(r"[.!?;:…。！？；：]+(?=\s|$|[\"'”’)*\]]|[^\x00-\x7f])|[。！？；]|\n+")
# The same where all is ASCII, and quicker: one set of characters that it begins with.
_ASCII_CLAUSE_END = re.compile(r"[.!?;:\n](?:(?<!\n)[.!?;:]*(?=\s|$|[\"')*\]])|(?<=\n)\n*)")
_LIST_MARK = re.compile(r"^\s*(?:[-*•#>]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s*")
_SENTENCE_END = ".!?。！？"
_CODE_LINE = re.compile(r"[{};]\s*$|^\s*(?:def|for|if|int|return|print)\b.*[(:]", re.MULTILINE)

# A clause is the same with small changes where this share of its neighbouring pairs comes again.
_ALIKE = 0.6
_ALIKE_OF_BOTH = 0.33
_REPEAT = 10  # words that are said again
_FEWEST_AGAIN = 5  # phrases of four words
_FEWEST_TOKENS = 4  # of a clause that is looked at
_THIRD_TIME = 3
_LONGEST_UNIT = 40  # tokens
_SAME_LINES = 6  # one after the other


def is_loop(text: Text) -> bool:
    """Whether a text is stuck."""
    shown, tokens, units = text.shown, text.tokens, text.units
    if _stuck_on_characters(shown) or (_DIGIT.search(shown) and _stuck_on_figures(shown)):
        return True
    if not text.says_again:
        return False
    # The last word may be cut off, which would hide a loop.
    return bool(
        _repeated_unit(tokens)
        or _repeated_unit(tokens[:-1])
        or _repeated_unit(units)
        or _repeated_unit(units[:-1])
        or _stutters(text.words)
        or _stuck_on_phrase(text)
        or max(_times_said(text), default=0) >= _THIRD_TIME
        or _lines_come_again(text)
        or circles(text) >= CIRCLES_FROM
    )


def repeats_once(text: Text) -> bool:
    """Whether prose says something a second time, and no more: odd, but not yet a loop."""
    if not text.says_again:
        return False
    if max(_times_said(text), default=0) == 2:
        return True
    if not text.is_prose or _said_before(text) <= _REPEAT - _PHRASE:
        return False
    words = text.spoken
    phrases = _phrases(words, _REPEAT)
    return len(set(phrases)) < len(phrases)


def _phrases(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All words in a row, so many at a time."""
    return [*zip(*(words[start:] for start in range(size)), strict=False)]


@lru_cache(8)
def _said_before(text: Text) -> int:
    """How many of its phrases of a few words were said before."""
    phrases = _phrases(text.spoken, _PHRASE)
    return len(phrases) - len(set(phrases))


# -- clauses ---------------------------------------------------------------------------------------


@lru_cache(8)
def _times_said(text: Text) -> tuple[int, ...]:
    """How often each clause of prose is said, exactly or with small changes.

    Lines of verse, code and tables do not count. Items of a list count where the same one comes
    again at once: a recipe has many like ones, and a timetable the same ones again.
    """
    if text.is_table or not text.says_again:
        return ()
    clauses: list[tuple[str, ...]] = []
    items: list[tuple[str, ...]] = []
    verse = _is_verse(text)
    ends = (_ASCII_CLAUSE_END if text.is_ascii else _CLAUSE_END).split
    for line in text.lowered.split("\n"):
        mark = _LIST_MARK.match(line)
        if verse and not mark:
            continue
        for part in ends(line[mark.end() :] if mark else line):
            units = tuple(spoken_of(part))
            if len(units) >= _FEWEST_TOKENS:
                (items if mark else clauses).append(units)
    return (*_alike(clauses), *(len([*same]) for _, same in groupby(items)))


def _lines_come_again(text: Text) -> bool:
    """Whether one line comes again and again, or hardly one of verse or of a list is new."""
    lines = [line.strip().lower() for line in text.shown.split("\n") if line.strip()]
    same = max((len([*group]) for line, group in groupby(lines) if line[0].isalnum()), default=0)
    if same >= _SAME_LINES:
        return True
    if len(lines) < 5 or len(set(lines)) > 0.7 * len(lines):
        return False
    said = [line for line in lines if len(units_of(line)) >= _FEWEST_TOKENS]
    if len(said) < 5 or len(set(said)) > 0.55 * len(said):
        return False
    return not text.is_table and not _CODE_LINE.search(text.shown)


def _is_verse(text: Text) -> bool:
    """Several short lines that do not end as sentences do."""
    lines = [line.strip() for line in text.shown.split("\n") if line.strip()]
    if len(lines) < 4 or text.line_length >= 55:
        return False
    ended = sum(line[-1] in _SENTENCE_END for line in lines)
    return ended <= 0.75 * len(lines)


def _alike(clauses: Sequence[tuple[str, ...]]) -> list[int]:
    """For each clause, how many are like it; itself counts."""
    pairs = [frozenset(pairwise(clause)) for clause in clauses]
    times = [1] * len(clauses)
    # Only those that begin or end alike, or are of the same pairs, need be compared.
    places: defaultdict[object, list[int]] = defaultdict(list)
    for i, (clause, mine) in enumerate(zip(clauses, pairs, strict=True)):
        keys = (clause[0], clause[-2:], mine)
        for j in {j for key in keys for j in places[key]}:
            if mine == pairs[j] or _are_near(mine, pairs[j]):
                times[i] += 1
                times[j] += 1
        for key in keys:
            places[key].append(i)
    return times


def _are_near(mine: frozenset[object], other: frozenset[object]) -> bool:
    """Whether two clauses share most of their neighbouring pairs of words."""
    # A cut or grown clause has another length; one much longer says more.
    if not 0.5 <= len(mine) / max(1, len(other)) <= 2:
        return False
    shared = len(mine & other)
    fewest = max(1, min(len(mine), len(other)))
    return shared >= _ALIKE * fewest and shared >= _ALIKE_OF_BOTH * len(mine | other)


# -- any unit --------------------------------------------------------------------------------------


def _repeated_unit(tokens: Sequence[str]) -> bool:
    """Whether the text ends in repeating a unit of up to 40 tokens.

    One token must come eight times, two or three tokens five times, longer units three times and
    over at least 16 tokens. The last copy may be cut off.
    """
    n = len(tokens)
    if not tokens or tokens[-1] not in tokens[-_LONGEST_UNIT - 1 : -1]:
        return False
    for size in range(1, min(_LONGEST_UNIT + 1, n)):
        if tokens[n - 1 - size] != tokens[n - 1]:
            continue
        times = 8 if size == 1 else 5 if size <= 3 else 3
        needed = max(size * times, 14 if size > 3 else 0)
        if needed > n:
            continue
        # Positions from the end that equal the token one unit earlier.
        run = 0
        while run < n - size and tokens[n - 1 - run] == tokens[n - 1 - run - size]:
            run += 1
        unit = tokens[n - size :]
        if run + size >= needed and any(token.isalnum() for token in unit):
            if not any(token[-1].isalpha() for token in unit) and run + size < 24:
                joined = {"-", ":", ".", "*", "/", "+", "="} & set(unit)
                if not joined or run + size < 12:
                    continue  # a row of figures, such as zeros in a matrix
            return True
    return False


def _stuck_on_phrase(text: Text) -> bool:
    """Three words said four times running, or up to eight three times, without a stop."""
    tokens = text.tokens
    enough = max(6, 0.12 * (len(tokens) - 2))
    # What comes again in tokens does so in the units that they are made of.
    if text.units_of_tokens and text.again < enough:
        return False
    phrases = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    if len(phrases) - len(set(phrases)) < enough:
        return False
    for size in range(3, 9):
        needed = size * (3 if size == 3 else 2)
        later = tokens[size:]
        if sum(map(eq, tokens, later)) < needed:
            continue
        run = 0
        for a, b in zip(tokens, later, strict=False):
            run = run + 1 if a == b and a.isalpha() else 0
            if run >= needed:
                return True
    return False


def _stuck_on_characters(text: str) -> bool:
    """Letters repeated without a space, such as `nononononono`, or one symbol without end."""
    tail = text[-300:]
    if _one_symbol(tail[-120:]):
        return True
    if max(map(len, tail.split()), default=0) < 24:
        return False
    runs = re.finditer(r"([^\W\d_]{1,16}?)\1{3,}|((?:['’-]?[^\W\d_]){1,8}?)\2{5,}", tail)
    symbols = _SYMBOLS_AGAIN.search(tail)
    return symbols is not None or any(len(run.group()) >= 18 for run in runs)


# Symbols, maybe with letters, as in `ongh?!ongh?!`; not figures, rules and borders of tables.
_SYMBOLS_AGAIN = re.compile(r"(?=\S{24})((?:(?![\s\d|=_~.*#─━-])\S){2,12}?)\1{7,}")


_RULES = "-=_~.*#─━"  # a row of these may be drawn on purpose


def _one_symbol(tail: str) -> bool:
    """Ends in one symbol again and again, on one line or over many."""
    signs = "".join(tail.replace("\ufe0f", "").split())
    symbol = signs[-1:]
    if symbol.isalnum():
        return False
    times = len(signs) - len(signs.rstrip(symbol))
    if symbol in _RULES:
        return times >= 100 or (times >= 16 and tail.count("\n") >= 8)
    return times >= 40


_DIGIT = re.compile(r"[0-9]")
_FIGURES = re.compile(r"\d(?:[ \n]?\d){39,}[ \n]?")  # begins with a set, and so is quick
_NUMBER_END = re.compile(r"\d[.)]\s")
_LONGEST_FIGURES = 12  # characters that come again
_BARE_NUMBERS = re.compile(r"(?:\b\d{1,3}[.)]\s+){6,}")


def _stuck_on_figures(text: str) -> bool:
    """A long number of hardly any digits, or numbers of list items without items."""
    number = _FIGURES.search(text)
    if (
        number
        and len(set(number.group()) - {" ", "\n"}) <= 3
        and not _POWER.fullmatch(number.group().strip())
    ):
        return True
    if _ends_in_figures(text):
        return True
    return len(_NUMBER_END.findall(text)) >= 6 and bool(_BARE_NUMBERS.search(text))


def _ends_in_figures(text: str) -> bool:
    """Ends in a few figures again and again, such as `1 1 1 1` or `:1111111111:1111111111`."""
    tail = " ".join(text.split())[-120:]
    if not _DIGIT.search(tail[-_LONGEST_FIGURES:]):
        return False
    for period in range(1, _LONGEST_FIGURES + 1):
        needed = max(28, 4 * period)
        end = tail[-needed:]
        unit = end[:period]
        if len(end) < needed or end[period:] != end[:-period] or not _DIGIT.search(unit):
            continue
        return unit != "0" or not _POWER_ENDS.search(tail)
    return False


_POWER = re.compile(r"[1-9]0+")  # of ten
_POWER_ENDS = re.compile(r"[1-9]0+$")


def _stutters(words: Sequence[str]) -> bool:
    """Every word said twice or more."""
    stutters = [a for a, b in pairwise(words) if a == b]
    return len(stutters) >= 8 and len(set(stutters)) > 1 and len(stutters) > 0.3 * len(words)


# -- circling --------------------------------------------------------------------------------------

_WINDOW = 60  # phrases
CIRCLES_FROM = 1.0
_PHRASE = 4  # words
_THIRD_TIME_SHARE = {True: 0.32, False: 0.2}  # in lists, where items are alike, and elsewhere
_AGAIN_SHARE, _AGAIN_RUNS = 0.36, 3


@lru_cache(8)
def circles(text: Text) -> float:
    """How much some stretch of prose goes round in the same few phrases; from 1 it is a loop.

    Counted are phrases of four words that come a third time, and ones that come again here and
    there: a sentence said twice comes again in one piece. Code and verse repeat line by line and
    are left to the other measures: 0 for them.
    """
    units = text.units
    if len(units) < 20 or not text.says_again or not text.is_prose:
        return 0.0
    words = text.spoken
    if len(words) < 0.6 * len(units) or _said_before(text) < _FEWEST_AGAIN:
        return 0.0  # symbols, or hardly a phrase comes again
    every = _phrases(words, _PHRASE)
    # "had had had had" is one word, and may be about the word.
    times = Counter(every)
    again = [(i, phrase) for i, phrase in enumerate(every) if times[phrase] > 1]
    again = [(i, phrase) for i, phrase in again if len(set(phrase)) > 1]
    size = max(1, min(_WINDOW, len(every)))
    starts = {*range(0, len(every) - size + 1, 10), len(every) - size}
    enough = _THIRD_TIME_SHARE[bool(_LIST_ITEM.search(text.shown))]
    places = [i for i, _ in again]
    stretches = {
        (bisect_left(places, start), bisect_left(places, start + size)) for start in starts
    }
    return max(_going_round(again[a:b], size, enough) for a, b in stretches)


_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s", re.MULTILINE)


def _going_round(again: Sequence[tuple[int, tuple[str, ...]]], size: int, enough: float) -> float:
    """See `circles`, of one stretch; `again` are places of phrases that the text has twice."""
    if len(again) < 2:
        return 0.0
    times = Counter(phrase for _, phrase in again)
    size = max(size, _WINDOW // 2)
    third = sum(n for n in times.values() if n >= _THIRD_TIME) / size
    last: dict[tuple[str, ...], int] = {}
    n_again = runs = way = before = 0
    for i, phrase in again:
        back = i - last.get(phrase, i)
        n_again += back > 0
        runs += back > 0 and (back != way or i != before + 1)
        way, before = back, i
        last[phrase] = i
    here_and_there = n_again / size / _AGAIN_SHARE if runs >= _AGAIN_RUNS else 0.0
    return max(third / enough, here_and_there)
