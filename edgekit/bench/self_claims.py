"""How a text says who its writer is, read word by word: `edgekit/corpus/identity.toml` holds the words.

Reading is one pass, no pattern that could take long on a hostile answer. It is made to miss rather than to accuse: a
name counts in a sentence that claims it of oneself, not in denials, comparisons, questions or talk about other models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from edgekit import corpus
from edgekit.corpus.prompts import Family

READ_CHARACTERS = 4000
"""Of a response, less what is not seen; the longest honest one has a tenth of that."""

REACH, MADE_REACH, SHORT_REACH = 12, 8, 4
"""Words between `i am` and a model's name; `developed by` and a maker's; any other phrase and the name."""

_PIECE = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+|\d+|[?？¿]|[!。！\n]|\.(?=\s|$)|[,;，；、()（）—–]")
_BREAKS = frozenset(",;，；、()（）—–")
_ENDS = frozenset("!。！\n.")
_ARTICLES = frozenset(("a", "an", "the"))

Phrase = tuple[str, ...]


def claimed_model(text: str, *, expected: Sequence[str] = (), lead: str = "") -> str:
    """The first known model or maker that `text` claims for itself and that `expected` does not allow; empty for none.

    `lead` is the end of the prompt that `text` goes on from.
    """
    known = _known()
    allowed = {id(family) for family in corpus.identity_patterns().families if _expected(family, expected)}
    met_stranger = False
    for number, sentence in enumerate(_sentences(f"{lead} {text.strip()}")):
        outsiders: set[int] = set()
        for mention in _mentions(sentence):
            if _claims(sentence, mention, known, outsiders, met_stranger=met_stranger, first=number == 0):
                if not any(id(family) in allowed for family in mention.families):
                    return mention.shown
            elif not any(id(family) in allowed for family in mention.families):
                outsiders.update(range(mention.start, mention.end))
        met_stranger = met_stranger or bool(outsiders)
    return ""


def speaks_of_itself(text: str, expected: Sequence[str]) -> bool:
    """Whether `text` says `I am`, in one of the languages known, or a name that is expected."""
    known = _known()
    names = {_phrase(name) for name in expected} - {()}
    phrases = {phrase for phrase in known.being if len(phrase) > 1 and not known.selves.isdisjoint(phrase)} | names
    longest = max(map(len, phrases))
    for sentence in _sentences(text):
        for at in range(len(sentence.words)):
            if any(tuple(sentence.words[at : at + size]) in phrases for size in range(1, longest + 1)):
                return True
    return False


# ---- words --------------------------------------------------------------------------------------------------------


class _Sentence(NamedTuple):
    words: list[str]
    """Folded; `,` where a clause ends."""
    written: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mention:
    """A known name at `words[start:end]`."""

    start: int
    end: int
    families: tuple[Family, ...]
    maker: bool
    model: bool
    shown: str


class _Known(NamedTuple):
    """`corpus.identity_patterns()`, cut into words."""

    names: dict[Phrase, tuple[tuple[Family, ...], bool, bool]]
    """(families, whether it is a maker's, whether it is a model's)"""
    longest: int
    longest_phrase: int
    being: frozenset[Phrase]
    made: frozenset[Phrase]
    after: frozenset[Phrase]
    labels: frozenset[Phrase]
    neutral: frozenset[Phrase]
    denials: frozenset[str]
    detours: frozenset[str]
    selves: frozenset[str]
    others: frozenset[str]
    strangers: frozenset[str]
    breaks: frozenset[str]
    fillers: frozenset[str]
    questions: frozenset[Phrase]
    asking: frozenset[Phrase]
    particles: frozenset[str]
    roles: frozenset[Phrase]
    greetings: frozenset[str]


@cache
def _known() -> _Known:
    patterns = corpus.identity_patterns()
    names: dict[Phrase, tuple[tuple[Family, ...], bool, bool]] = {}
    for family in patterns.families:
        for maker, spellings in ((False, family.names), (True, family.makers)):
            for spelling in map(_phrase, spellings):
                families, is_maker, is_model = names.get(spelling, ((), False, False))
                families = families if family in families else (*families, family)
                names[spelling] = (families, is_maker or maker, is_model or not maker)
    return _Known(
        names=names,
        longest=max(map(len, names)),
        longest_phrase=max(map(len, _phrases((*patterns.being, *patterns.made)))),
        being=_phrases(patterns.being),
        made=_phrases(patterns.made),
        after=_phrases(patterns.after),
        labels=_phrases(patterns.labels),
        neutral=_phrases(patterns.neutral),
        denials=frozenset(patterns.denials),
        detours=frozenset(patterns.detours),
        selves=frozenset(patterns.selves),
        others=frozenset(patterns.others),
        strangers=frozenset(patterns.strangers),
        breaks=frozenset(patterns.breaks),
        fillers=frozenset(patterns.fillers),
        questions=_phrases(patterns.questions),
        asking=_phrases(patterns.asking),
        particles=frozenset(patterns.particles),
        roles=_phrases(patterns.roles),
        greetings=frozenset(patterns.greetings),
    )


def _phrases(texts: Sequence[str]) -> frozenset[Phrase]:
    return frozenset(map(_phrase, texts))


def _phrase(text: str) -> Phrase:
    return tuple(piece.casefold() for piece in _PIECE.findall(unicodedata.normalize("NFKC", text)))


def _expected(family: Family, expected: Sequence[str]) -> bool:
    """Whether one of the family's names stands, whole words, in one of the names that are `expected`."""
    whole = [f" {' '.join(_phrase(name))} " for name in expected]
    spellings = [f" {' '.join(_phrase(name))} " for name in (*family.names, *family.makers)]
    return any(spelling in name for spelling in spellings for name in whole)


def _seen(text: str) -> str:
    """The beginning of `text` as a reader sees it: without characters that take no room, such as the zero-width space
    that would hide `ChatG\u200bPT`.
    """
    normal = unicodedata.normalize("NFKC", text[: 16 * READ_CHARACTERS])
    return "".join(one for one in normal if unicodedata.category(one) != "Cf")[:READ_CHARACTERS]


def _sentences(text: str) -> Iterator[_Sentence]:
    """The sentences of `text` but for what they ask, without the phrases that only look like denials."""
    written: list[str] = []
    for piece in (*_PIECE.findall(_seen(text)), "."):
        if piece == "¿":
            written += [",", piece]
        elif piece not in _ENDS and piece not in "?？":
            written.append("," if piece in _BREAKS else piece)
        else:
            told = _told(written) if piece in "?？" else written
            if told:
                yield _without_neutral(_Sentence([word.casefold() for word in told], told))
            written = []


def _told(written: list[str]) -> list[str]:
    """What a sentence that ends in a question says before it asks: `I'm ChatGPT`, of `I'm ChatGPT, how can I help?`.

    The last clause asks, and so does all from the first clause on that begins as questions do.
    """
    known, words = _known(), [word.casefold() for word in written]
    clause = 0
    for at, word in enumerate(words):
        if at and (words[at - 1] == "," or word in known.breaks):
            clause = at
        if word in known.particles or (at == clause and _starts(words, at, known.questions)):
            return written[:clause]
        if _starts(words, at, known.asking):
            return written[:at]
    return written[:clause]


def _starts(words: list[str], at: int, phrases: frozenset[Phrase]) -> bool:
    return any(tuple(words[at : at + size]) in phrases for size in range(1, 5))


def _without_neutral(sentence: _Sentence) -> _Sentence:
    words, written, at = list[str](), list[str](), 0
    while at < len(sentence.words):
        skipped = next((len(p) for p in _known().neutral if tuple(sentence.words[at : at + len(p)]) == p), 0)
        if not skipped:
            words.append(sentence.words[at])
            written.append(sentence.written[at])
        at += skipped or 1
    return _Sentence(words, written)


def _mentions(sentence: _Sentence) -> Iterator[_Mention]:
    """Known names, the longest at each place."""
    known, at = _known(), 0
    while at < len(sentence.words):
        length = 1
        for size in range(min(known.longest, len(sentence.words) - at), 0, -1):
            found = known.names.get(tuple(sentence.words[at : at + size]))
            if found and not (found[0][0].common and found[2] and _is_common(sentence, at)):
                written = sentence.written[at : at + size]
                shown = ("" if written[0] >= "\u3400" else " ").join(written)
                families, maker, model = found
                yield _Mention(start=at, end=at + size, families=families, maker=maker, model=model, shown=shown)
                length = size
                break
        at += length


def _is_common(sentence: _Sentence, at: int) -> bool:
    """Whether the word is no name here: small, or with an article."""
    return not sentence.written[at][0].isupper() or (at > 0 and sentence.words[at - 1] in _ARTICLES)


# ---- claims -------------------------------------------------------------------------------------------------------


def _claims(
    sentence: _Sentence, mention: _Mention, known: _Known, outsiders: set[int], *, met_stranger: bool, first: bool
) -> bool:
    """Whether the sentence claims the name of oneself."""
    words = sentence.words

    def of_itself(at: int) -> bool:
        """Whether a phrase without a word for oneself speaks of oneself: the nearest subject before it decides."""
        for place in range(at - 1, -1, -1):
            if words[place] in known.selves:
                return True
            if place in outsiders or words[place] in known.strangers:
                return False
            if words[place] in known.others and met_stranger:
                return False
        return True

    for begin, end, kind in _phrases_before(words, mention, known):
        has_self = not known.selves.isdisjoint(words[begin:end])
        between = words[end : mention.start]
        if kind == "being" and has_self and not known.detours.isdisjoint(between):
            continue
        if _denied(words, begin, mention.start, known) or not (has_self or of_itself(begin)):
            continue
        return True
    after = _claimed_after(words, mention, known)
    if after is not None:
        return after
    return (
        _labelled(words, mention, known)
        or _apposed(words, mention, known)
        or _announced(words, mention, known)
        or _played(words, mention, known)
        or (first and _bare(sentence, mention, known))
    )


def _phrases_before(words: list[str], mention: _Mention, known: _Known) -> Iterator[tuple[int, int, str]]:
    """(begin, end, kind) of claiming phrases in the name's clause that reach the name, the nearest first."""
    possessive = mention.maker and words[mention.end : mention.end + 1] == ["s"]
    for end in range(mention.start, max(0, mention.start - REACH) - 1, -1):
        if end < mention.start and words[end] == ",":
            return
        gap = mention.start - end
        for size in range(1, min(end, known.longest_phrase) + 1):
            phrase = tuple(words[end - size : end])
            if phrase in known.made and mention.maker and gap <= MADE_REACH:
                yield end - size, end, "made"
            if phrase not in known.being:
                continue
            has_self = not known.selves.isdisjoint(phrase)
            reach = REACH if mention.model and has_self else SHORT_REACH
            if (mention.model or (possessive and has_self)) and gap <= reach:
                yield end - size, end, "being"


def _denied(words: list[str], begin: int, end: int, known: _Known) -> bool:
    """Whether a denial stands between the start of the clause that holds `begin`, and `end`."""
    while begin > 0 and words[begin - 1] != "," and words[begin - 1] not in known.breaks:
        begin -= 1
    return not known.denials.isdisjoint(words[begin:end])


def _claimed_after(words: list[str], mention: _Mention, known: _Known) -> bool | None:
    """`OpenAI, a company in San Francisco, created me`: whether it is said; `None` where it is not spoken of."""
    for at in range(mention.end, min(len(words), mention.end + REACH)):
        if any(tuple(words[at : at + size]) in known.after for size in range(2, 6)):
            return not _denied(words, mention.start, at, known)
    return None


def _labelled(words: list[str], mention: _Mention, known: _Known) -> bool:
    """`Developer: OpenAI`."""
    for size in (1, 2):
        begin = mention.start - size
        opens = begin == 0 or (begin > 0 and words[begin - 1] == ",")
        if opens and tuple(words[begin : mention.start]) in known.labels:
            return True
    return False


def _apposed(words: list[str], mention: _Mention, known: _Known) -> bool:
    """`I am your assistant, Claude`."""
    alone = mention.end == len(words) or words[mention.end] == ","
    if not (alone and mention.model and mention.start > 1 and words[mention.start - 1] == ","):
        return False
    begin = mention.start - 1
    while begin > 0 and words[begin - 1] != ",":
        begin -= 1
    clause = words[begin : mention.start - 1]
    says_so = any(
        tuple(clause[:size]) in known.being and known.selves.intersection(clause[:size]) for size in (1, 2, 3)
    )
    return bool(says_so) and known.denials.isdisjoint(clause)


def _announced(words: list[str], mention: _Mention, known: _Known) -> bool:
    """`Hi there, ChatGPT here!`"""
    begin = mention.start
    while begin > 0 and words[begin - 1] in known.greetings:
        begin -= 1
    after = words[mention.end : mention.end + 2]
    opens = begin == 0 or words[begin - 1] == ","
    return opens and mention.model and after[:1] == ["here"] and after[1:] in ([], [","], ["to"])


def _played(words: list[str], mention: _Mention, known: _Known) -> bool:
    """`As ChatGPT, I can help`: a role at the start of a clause, nothing but names, and oneself."""
    end = mention.start
    while end > 0 and words[end - 1] in _ARTICLES:
        end -= 1
    sizes = [
        size for size in range(1, min(end, known.longest_phrase) + 1) if tuple(words[end - size : end]) in known.roles
    ]
    if not any(end == size or words[end - size - 1] == "," for size in sizes):
        return False
    at = mention.end
    while skipped := _name_or_filler(words, at, known):
        at += skipped
    at += words[at : at + 1] == [","]
    return at < len(words) and words[at] in known.selves


def _name_or_filler(words: list[str], at: int, known: _Known) -> int:
    """How many words from `at` on are a name, a number or a word that names stand with."""
    named = next((size for size in range(known.longest, 0, -1) if tuple(words[at : at + size]) in known.names), 0)
    return named or int(at < len(words) and (words[at] in known.fillers or words[at].isdigit()))


def _bare(sentence: _Sentence, mention: _Mention, known: _Known) -> bool:
    """Whether the answer begins with this name and nothing but names: `GPT-4 by OpenAI`."""
    end = sentence.words.index(",") if "," in sentence.words else len(sentence.words)
    clause = _Sentence(sentence.words[:end], sentence.written[:end])
    named = {place for mention in _mentions(clause) for place in range(mention.start, mention.end)}
    rest = [word for place, word in enumerate(clause.words) if place not in named]
    return mention.start in named and all(word in known.fillers or word.isdigit() for word in rest)
