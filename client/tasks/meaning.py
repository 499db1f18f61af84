"""What a model's inputs and outputs stand for at its plant, and how that is kept with the model.

A plant's data changes: a class is added or renamed, rows come in and move a column's scale, a new
name sorts before the old ones. A model goes on to mean what it was made from. So all that a task
fits to the plant's data lies in a `Meaning`, every version keeps its own (`client.personal`), and
new examples are read, and answers said, by that and not by what lies in the folder today.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from client.tasks.series.normalise import Normaliser
from common.backbones.table import Columns
from common.errors import StateError

#: What tasks fit to a plant's inputs. A new one is a dataclass that pydantic can read, named here.
Fitted = Columns | Normaliser | None
_FITTED: TypeAdapter[Fitted] = TypeAdapter(Fitted)


@dataclass(frozen=True, kw_only=True, eq=False)
class Meaning:
    """All that a task fits to a plant's data, or reads off it, and that a model rests on.

    Attributes
    ----------
    classes : names, in the order of the head's outputs; empty where numbers are learned.
    numbers : names of the numbers that are learned, with units if known; empty for classes.
    good : the class of good parts, or "".
    columns : what was fitted to the plant's inputs: columns of a table, from which the network's
        personal stem is built (`common.backbones.Family.stem`); the normaliser of a series'
        channels; None where nothing was.
    centre, spread : of numbers, mean and deviation of the training targets, float32, shape
        (outputs,); the network learns targets normalised by them. None for classes.
    """

    classes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    good: str = ""
    columns: Any = None
    centre: Tensor | None = None
    spread: Tensor | None = None

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return len(self.classes) or len(self.numbers)

    @property
    def text(self) -> str:
        """JSON, exact to the last bit: equal texts mean the same."""
        return json.dumps(fields_of(self), default=_plain)

    @classmethod
    def of(cls, text: str, *, where: str) -> Meaning:
        """Read a text again.

        Parameters
        ----------
        where : what it belongs to, for messages.

        Raises
        ------
        StateError
            If it is none.
        """
        try:
            kept = json.loads(text)
            return cls(
                classes=tuple(kept["classes"]),
                numbers=tuple(kept["numbers"]),
                good=kept["good"],
                columns=_FITTED.validate_python(kept["columns"]),
                centre=_tensor(kept["centre"]),
                spread=_tensor(kept["spread"]),
            )
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise StateError(
                f"{where} must say what its answers mean, got one of an older program, or damaged; "
                "wait for the next model, or put another in its place with `transferline-plant "
                "personal`"
            ) from error


def fields_of(meaning: Meaning) -> dict[str, Any]:
    """Return the fields of a meaning alone, as they are."""
    return {one.name: getattr(meaning, one.name) for one in fields(Meaning)}


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.tolist()


def _tensor(values: list[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)
