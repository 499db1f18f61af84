"""The tokeniser that a Hugging Face encoder was trained with, from its tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from client.tasks.tokens import Ids
from common.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Subwords:
    """Texts as an encoder's token numbers plus one, shape (texts, tokens); 0 is none.

    Attributes
    ----------
    length : tokens of a text, with those at its start and end; the rest is cut off.
    """

    tokenizer: Any
    length: int

    @classmethod
    def read(cls, folder: Path, *, length: int) -> Subwords:
        """Read an encoder's tokeniser.

        Raises
        ------
        ConfigError
            If there is none, or it has no padding.
        """
        try:
            found = AutoTokenizer.from_pretrained(
                folder, use_fast=True, trust_remote_code=False, local_files_only=True
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"text.encoder must have a tokeniser that can be read, got {folder}: "
                f"{str(error).splitlines()[0][:200]}; download the model again"
            ) from error
        if found.pad_token_id is None:
            raise ConfigError(
                f"text.encoder must have a padding token, got none in {folder}; choose one like "
                "BERT, RoBERTa, MiniLM or DistilBERT"
            )
        return cls(tokenizer=found, length=length)

    def __call__(self, texts: Sequence[str]) -> Ids:
        found = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length
        )
        there = np.asarray(found["attention_mask"], dtype=np.int64)
        return (np.asarray(found["input_ids"], dtype=np.int64) + 1) * there
