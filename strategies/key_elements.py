"""Key elements made one: "The Wishes", "wish" and "wishes" are the same node of the graph.

GraphReader (Li et al. 2024, arXiv 2406.14550, section 3.2) normalises key elements after InsTag (Lu
et al. 2023), which cleans words and then merges what means the same by embeddings. Here the rules
are lexical, so that no embedder is needed and nothing unlike is merged: case, articles, marks,
accents, plurals of common nouns, acronyms with their expansion, other spellings of a long common
word. Numbers and proper names are never merged with others.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from rapidfuzz.distance import Levenshtein

LONG_WORD = 8  # letters of a word that may be spelt in two ways, one letter apart
LONGEST = 80  # characters of a key element; a longer one is a sentence
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_ARTICLES = frozenset({"a", "an", "the"})
_JOINING = frozenset({"of", "and", "for", "the", "in", "on", "de", "la"})
_DOTTED = re.compile(r"(?<!\w)(?:[A-Z]\.){2,}(?:[A-Z](?!\w))?")
_IN_PARENTHESES = re.compile(r"\A(.+?)\s*\(([A-Z][A-Za-z0-9.]{1,7})\)\s*\Z")
_ACRONYM = re.compile(r"\A[A-Z]{3,7}\Z")


def lowercase_words(text: str) -> frozenset[str]:
    """Words that the text writes without a capital somewhere: they are no proper names."""
    return frozenset(re.findall(r"(?<![\w'\u2019])[^\W\d_A-Z][^\W\d_]*", text))


def tokens(element: str, common: frozenset[str]) -> tuple[str, ...]:
    """The words of a key element as they are compared.

    Args:
        element: As the model wrote it.
        common: Words that are no proper names, from ``lowercase_words``; only these lose a plural.
    """
    found = []
    plain = _DOTTED.sub(
        lambda m: m[0].replace(".", "") + " ", unicodedata.normalize("NFKC", element)
    )
    for word in _WORD.findall(plain):
        bare = re.sub(r"['\u2019]s?\Z", "", word)
        low = _without_accents(bare.casefold()).replace("\u2019", "'")
        if low and low not in _ARTICLES:
            found.append(singular(low) if bare.islower() or bare.lower() in common else low)
    return tuple(found)


def singular(word: str) -> str:
    """An English noun in the singular, by its ending; irregular ones stay."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1]


class Names:
    """Which surface forms belong together, and the form that is shown.

    Args:
        elements: All key elements as the model wrote them, with repetitions.
        common: As for ``tokens``.

    Attributes:
        aliases: Every form as it is compared (the words of ``tokens``), to its node.
    """

    def __init__(self, elements: Iterable[str], common: frozenset[str]) -> None:
        self._common = common
        counts = Counter(elements)
        self._keys: dict[str, str] = {}
        surfaces: dict[str, Counter[str]] = {}
        for surface, count in counts.items():
            key = " ".join(tokens(_IN_PARENTHESES.sub(r"\1", surface), common))
            if key and len(key) <= LONGEST:
                self._keys[surface] = key
                surfaces.setdefault(key, Counter())[surface] += count
        merged = _acronyms(surfaces, common) | _spellings(surfaces, common)
        self.aliases: dict[str, str] = {}
        for surface, key in self._keys.items():
            node, passed = key, {key}
            while merged.get(node) not in {None, *passed}:
                node = merged[node]
                passed.add(node)
            self._keys[surface] = self.aliases[key] = node
        self._shown: dict[str, str] = {}
        best: dict[str, int] = {}
        for surface, key in self._keys.items():
            if counts[surface] > best.get(key, 0):
                best[key] = counts[surface]
                self._shown[key] = " ".join(surface.split())

    def key(self, surface: str) -> str | None:
        """The node of a surface form, None where it holds no word."""
        return self._keys.get(surface)

    def shown(self, key: str) -> str:
        """The most frequent surface form of a node."""
        return self._shown[key]

    def keys(self) -> list[str]:
        """All nodes, in the order in which they were first met."""
        return list(self._shown)


def _without_accents(word: str) -> str:
    split = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", "".join(c for c in split if not unicodedata.combining(c)))


def _acronyms(surfaces: dict[str, Counter[str]], common: frozenset[str]) -> dict[str, str]:
    """Acronym to expansion: written together, or the initials of exactly one other element."""
    merged: dict[str, str] = {}
    initials: dict[str, set[str]] = {}
    for key, forms in surfaces.items():
        for form in forms:
            together = _IN_PARENTHESES.match(form)
            short = " ".join(tokens(together[2], common)) if together else ""
            if short and short != key and short[0] == key[0]:
                merged[short] = key
            words = [w for w in _WORD.findall(form) if w.casefold() not in _JOINING]
            if len(words) >= 3 and all(w[0].isupper() for w in words):
                initials.setdefault("".join(w[0] for w in words), set()).add(key)
    for key, forms in surfaces.items():
        for form in forms:
            expansions = initials.get(form.replace(".", ""), set()) - {key}
            if _ACRONYM.match(form.replace(".", "")) and len(expansions) == 1:
                merged.setdefault(key, next(iter(expansions)))
    # an expansion that is itself an acronym of something could close a circle
    return {short: key for short, key in merged.items() if key not in merged}


def _spellings(surfaces: dict[str, Counter[str]], common: frozenset[str]) -> dict[str, str]:
    """The rarer of two elements that differ in the spelling of one long common word alone."""
    merged: dict[str, str] = {}
    alike: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    order = sorted(surfaces, key=lambda k: -sum(surfaces[k].values()))
    for key in order:
        words = key.split(" ")
        for at, word in enumerate(words):
            if len(word) < LONG_WORD or not word.isalpha() or not _is_common(word, surfaces[key]):
                continue
            block = (str(at), word[:4], *words[:at], "*", *words[at + 1 :])
            others = alike.setdefault(block, [])
            same = next((k for w, k in others if k != key and _same_word(word, w)), None)
            if same is not None and key not in merged:
                merged[key] = same
            elif same is None:
                others.append((word, key))
    return {rare: key for rare, key in merged.items() if key not in merged}


def _same_word(one: str, other: str) -> bool:
    """One letter apart, and not in the ending, which makes another word ("developer")."""
    return one[-2:] == other[-2:] and Levenshtein.distance(one, other, score_cutoff=1) <= 1


def _is_common(word: str, forms: Counter[str]) -> bool:
    """Somebody wrote it without a capital: it is no proper name."""
    return any(word[:4] in form for form in forms)
