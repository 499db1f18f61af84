from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tasks.tokens import PIECES, Hashing, Vocabulary, hash_of, ngrams, normalised, words
from common.errors import ConfigError


def test_words_are_the_same_however_they_are_written() -> None:
    assert words("L/H Bucket-cyl. LEAKING!") == ["l", "h", "bucket", "cyl", "leaking"]
    assert normalised("Dichtung  für PUMPE") == normalised("dichtung fur pumpe")


def test_a_hash_is_the_same_on_every_machine() -> None:
    assert hash_of("<engine>") == 2863588228


def test_ngrams_of_a_word_are_few_and_distinct() -> None:
    assert ngrams("oil") == ["<oil>", "<oi", "oil", "il>", "<oil", "oil>"]
    long = ngrams("x" * 500)
    assert len(long) <= PIECES
    assert len(set(long)) == len(long)


def test_misspelt_words_share_pieces() -> None:
    tokenise = Hashing(buckets=2**14, length=4)
    right, wrong, other = (set(row[0]) - {0} for row in tokenise(["hydraulic", "hydralic", "cab"]))
    assert len(right & wrong) > 4
    assert not right & other


def test_long_texts_are_cut_and_short_ones_filled() -> None:
    ids = Hashing(buckets=256, length=3)(["one two three four", "one"])
    assert ids.shape == (2, 3, PIECES)
    assert (ids[0, :, 0] > 0).all()
    assert (ids[1, 1:] == 0).all()


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.integers(256, 5000))
def test_hashing_stays_within_its_table(texts: list[str], buckets: int) -> None:
    ids = Hashing(buckets=buckets, length=5)(texts)
    assert ids.min() >= 0
    assert ids.max() < buckets
    for row, text in zip(ids, texts, strict=True):
        assert (row[:, 0] > 0).sum() == min(5, len(words(text)))


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("[UNK]\noil\nleak\n##ing\n##s\nengine\n")
    return path


def test_a_vocabulary_takes_the_longest_pieces(vocabulary: Path) -> None:
    tokenise = Vocabulary.read(vocabulary, length=6)
    assert tokenise.cut("leakings") == ["leak", "##ing", "##s"]
    assert tokenise.cut("pump") == ["[UNK]"]
    assert tokenise(["Engine oil LEAKING"])[0, :, 0].tolist() == [6, 2, 3, 4, 0, 0]
    assert tokenise(["oil " * 9]).shape == (1, 6, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"oil\nleak\n", "without it"),
        (b"[UNK]\noil\noil\n", "1 twice"),
        (b"[UNK]\n\xff\n", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_vocabulary_that_is_none_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        Vocabulary.read(path, length=6)
    assert "\n" not in str(caught.value)


def test_both_give_whole_numbers() -> None:
    assert Hashing(buckets=256, length=2)(["oil"]).dtype == np.int64
