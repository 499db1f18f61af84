"""The table ``[text]``: how work orders are read and turned into numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config.section import Section


class TextSection(Section):
    """How texts are read, in federation.toml for all plants."""

    text: str = Field("text", min_length=1, description="Name of the column with the texts.")
    label: str = Field("label", min_length=1, description="Name of the column with the labels.")
    least: int = Field(
        8,
        ge=3,
        description="Labels with fewer different texts at a plant become one class, `other`; if "
        "that has too few as well, its rows are left out.",
    )
    vocabulary: str = Field(
        "",
        description="A WordPiece vocabulary, one piece a line (relative to this file), the same at "
        "every plant; empty: character n-grams are hashed, which needs no file.",
    )
    buckets: int = Field(
        2**14,
        ge=2,
        le=2**20,
        description="Rows of the table that n-grams are hashed into; with a "
        "vocabulary its pieces and one, written by the program.",
    )
    length: int = Field(
        24, ge=1, le=512, description="Words of a text (pieces, with a vocabulary or an encoder); "
        "the rest is cut off."
    )  # fmt: skip
    width: int = Field(
        64, ge=8, le=1024, description="Numbers a word, of the backbones trained from scratch."
    )
    encoder: str = Field(
        "",
        description="Of the backbone `encoder`: folder (relative to this file) or Hugging Face "
        "name of a model with config.json, tokenizer.json and safetensors.",
        examples=["sentence-transformers/all-MiniLM-L6-v2"],
    )
    tune: Literal["whole", "lora"] = Field(
        "whole",
        description="What of the encoder is trained and travels: all of it, or low-rank adapters "
        "on a base that is the same at every plant and never changes.",
    )
    rank: int = Field(8, ge=1, le=256, description="Rank of the adapters.")
    digest: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="SHA-256 of the vocabulary or the encoder, which every plant must have the "
        "same; written by the program when a run starts.",
    )


class PlantTextSection(Section):
    """Where a plant has its texts' columns and files, where they differ from the federation's."""

    text: str = Field("", description="Name of the column with the texts, if another.")
    label: str = Field("", description="Name of the column with the labels, if another.")
    vocabulary: str = Field("", description="The plant's copy of the federation's vocabulary.")
    encoder: str = Field("", description="The plant's copy of the federation's encoder.")
