"""From a text to numbers, in a way that plants agree on without showing each other any text.

A tokeniser that is learned from texts would carry words of one plant to all others. These two need
no texts:

- **Hashing.** A word is the set of its character n-grams and itself (https://arxiv.org/abs/1607.04606),
  each hashed into a row of the embedding table (https://arxiv.org/abs/0902.2206). Misspelt and
  unseen words share most of their pieces with known ones, which suits work orders.
- **A vocabulary** that all plants were given: WordPiece (https://arxiv.org/abs/1609.08144), a file
  with one piece a line, ``##`` before those that continue a word.

Either gives whole numbers of shape (texts, words, pieces); 0 is no piece, and no word.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.agreed import read_vocabulary
from common.errors import ConfigError

Ids = npt.NDArray[np.int64]

#: Lengths of the character n-grams that a word is hashed as.
NGRAMS = (3, 4, 5)
#: Pieces of one word; n-grams beyond are those of the ends of very long words.
PIECES = 24
UNKNOWN = "[UNK]"
#: Letters in a word that a vocabulary is tried on; longer ones are unknown.
LONGEST = 100

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return a text's words: letters, digits and underscores, in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


def normalised(text: str) -> str:
    """Return what two texts have in common that say the same: their words."""
    return " ".join(words(text))


class Tokeniser(Protocol):
    """Turns texts into what a network's ``embed`` takes."""

    def __call__(self, texts: Sequence[str]) -> Ids:
        """Return piece numbers, shape (texts, ...); 0 is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hashing:
    """Words as hashed character n-grams.

    Attributes
    ----------
    buckets : rows of the embedding table, the first of which is no piece.
    length : words of a text; the rest is cut off.
    """

    buckets: int
    length: int

    def __call__(self, texts: Sequence[str]) -> Ids:
        ids = np.zeros((len(texts), self.length, PIECES), dtype=np.int64)
        for row, text in enumerate(texts):
            for place, word in enumerate(words(text)[: self.length]):
                pieces = [1 + hash_of(piece) % (self.buckets - 1) for piece in ngrams(word)]
                ids[row, place, : len(pieces)] = pieces
        return ids


def ngrams(word: str) -> list[str]:
    """Return a word between marks and its n-grams, each once, at most ``PIECES``."""
    marked = f"<{word}>"
    grams = [
        marked[start : start + size]
        for size in NGRAMS
        for start in range(len(marked) - size + 1)
        if size < len(marked)
    ]
    return list(dict.fromkeys([marked, *grams]))[:PIECES]


def hash_of(piece: str) -> int:
    """Return the same number on every machine."""
    return zlib.crc32(piece.encode())


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words as the longest pieces of a given vocabulary, from left to right.

    Attributes
    ----------
    pieces : number of each piece, from 1.
    length : pieces of a text; the rest is cut off.
    """

    pieces: dict[str, int]
    length: int

    @classmethod
    def read(cls, path: Path, *, length: int) -> Vocabulary:
        """Read a file with one piece a line.

        Raises
        ------
        ConfigError
            If it cannot be read, has no pieces, has one twice, or lacks ``[UNK]``.
        """
        lines = read_vocabulary(path)
        pieces = {line: number for number, line in enumerate(lines, start=1)}
        if UNKNOWN not in pieces or len(pieces) < len(lines):
            twice = len(lines) - len(pieces)
            what = f"{twice} twice" if twice else f"{len(pieces)} lines without it"
            raise ConfigError(
                f"text.vocabulary must have each piece once, {UNKNOWN} among them, got {path} "
                f"with {what}; take a WordPiece vocabulary (vocab.txt)"
            )
        return cls(pieces=pieces, length=length)

    def __call__(self, texts: Sequence[str]) -> Ids:
        ids = np.zeros((len(texts), self.length, 1), dtype=np.int64)
        for row, text in enumerate(texts):
            pieces = [piece for word in words(text) for piece in self.cut(word)][: self.length]
            ids[row, : len(pieces), 0] = [self.pieces[piece] for piece in pieces]
        return ids

    def cut(self, word: str) -> list[str]:
        """Cut a word into pieces; ``[UNK]`` alone if that cannot be done."""
        found: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.pieces), None)
            if end is None or len(word) > LONGEST:
                return [UNKNOWN]
            found.append(mark + word[start:end])
            start = end
        return found
