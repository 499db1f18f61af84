"""The kinds of data that a federation can be about: what both sides must agree on of each.

The centre, the configuration and the reports need to know no more of a task than this. How data
is read, trained on and scored is the plant's business (`client.tasks`); which networks there are
for it is in `common.backbones`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from common.config import FederationConfig

TaskName = Literal[
    "image-classification",
    "image-anomaly",
    "series-classification",
    "series-regression",
    "tabular",
    "text-classification",
]
Learns = Literal["classes", "numbers"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score by which models are compared.

    Attributes
    ----------
    name : as in a plant's scores.
    word : for readers.
    lower : whether a lower score is the better one.
    share : whether it is a share from 0 to 1, shown in per cent.
    """

    name: str
    word: str
    lower: bool = False
    share: bool = False

    def rank(self, scores: Mapping[str, float]) -> float:
        """Return the score as a number of which the highest is the best."""
        return -scores[self.name] if self.lower else scores[self.name]


BALANCED_ACCURACY = Measure(name="balanced_accuracy", word="balanced accuracy", share=True)
ACCURACY = Measure(name="accuracy", word="accuracy", share=True)
AUROC = Measure(name="auroc", word="AUROC", share=True)
R2 = Measure(name="r2", word="R²")
RMSE = Measure(name="rmse", word="RMSE", lower=True)
MAE = Measure(name="mae", word="mean absolute error", lower=True)

MEASURES = {one.name: one for one in (BALANCED_ACCURACY, ACCURACY, AUROC, R2, RMSE, MAE)}


def told(scores: Mapping[str, float]) -> tuple[Measure, float] | None:
    """Return the score that says most, and what it is; None where there is none."""
    return next(((one, scores[name]) for name, one in MEASURES.items() if name in scores), None)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What there is to know of a task before any data is seen.

    Attributes
    ----------
    family : of its backbones, a key of `common.backbones.FAMILIES`.
    backbone : the default; a federation of another task than images names none of torchvision's.
    images : whether it is about images, so that torchvision's weights and `image_size` apply.
    learns : classes or numbers; None: the key ``learn`` of its section says so.
    section : its own table in federation.toml and plant.toml; "" where it has none.
    measure : its primary score; None: balanced accuracy for classes, R² for numbers.
    training : what ``[training]`` begins with where it says nothing: the defaults there are for
        pretrained image backbones.
    pretrained : the same for backbones that bring weights of their own, by name and what of them
        is trained, ``whole`` or ``lora``.
    views : whether an example can be shown in two ways, as self-supervised methods need.
    single : whether nothing of its examples but the gradient of each moves the backbone, so that
        noise can hide one of them (``privacy.unit = "record"``).
    remembers : whether the head is a memory of a plant's own, filled and not trained.
    proposes : whether `optimise` can search its inputs, where it learns numbers.
    """

    family: str
    backbone: str
    images: bool = False
    learns: Learns | None = "classes"
    section: str = ""
    measure: Measure | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    views: bool = False
    single: bool = False
    remembers: bool = False
    proposes: bool = False


#: Steps for small networks that start from random weights.
FROM_SCRATCH: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "round_learning_rate": 1e-3,
    "head_learning_rate": 2e-3,
    "weight_decay": 1e-3,
    "epochs": 60,
    "label_smoothing": 0.0,
}

#: Of series, whose networks start from random weights too; windows are many, so passes are few.
SERIES_FROM_SCRATCH: dict[str, Any] = {
    "learning_rate": 2e-3,
    "round_learning_rate": 1e-3,
    "head_learning_rate": 2e-3,
}
#: Of texts: a table of pieces is learned from a few steps that see each piece, so they are larger.
WORDS_FROM_SCRATCH: dict[str, Any] = {
    "batch_size": 32,
    "learning_rate": 3e-3,
    "round_learning_rate": 2e-3,
    "head_learning_rate": 3e-3,
    "epochs": 20,
}
#: Of an encoder that was trained on other texts, in a few passes: it is slow, and forgets.
ENCODER: dict[str, Any] = {
    "batch_size": 32,
    "learning_rate": 2e-4,
    "round_learning_rate": 1e-4,
    "head_learning_rate": 3e-3,
    "epochs": 6,
}
#: Adapters start at nothing, and cannot make the base forget: larger steps.
ADAPTERS: dict[str, Any] = {**ENCODER, "learning_rate": 2e-3, "round_learning_rate": 1e-3}


def defaults_of(kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what federation.toml of a task begins with, beside the defaults of the fields.

    Parameters
    ----------
    given : what the file says; the backbone, and whether it gets adapters, decide the steps.
    """
    backbone = given.get("backbone", kind.backbone)
    begin = {"backbone": kind.backbone, "weights": "none", "training": dict(kind.training)}
    section = given.get(kind.section)
    adapters = isinstance(section, Mapping) and section.get("tune") == "lora"
    if (own := kind.pretrained.get(f"{backbone} {'lora' if adapters else 'whole'}")) is not None:
        begin |= {"weights": "DEFAULT", "training": dict(own)}
    return begin


KINDS: dict[TaskName, Kind] = {
    "image-classification": Kind(
        family="image", backbone="mobilenet_v2", images=True, views=True, single=True
    ),
    "image-anomaly": Kind(
        family="patches",
        backbone="mobilenet_v2",
        images=True,
        section="anomaly",
        measure=AUROC,
        remembers=True,
    ),
    "series-classification": Kind(
        family="series", backbone="wdcnn", section="series", training=SERIES_FROM_SCRATCH
    ),
    "series-regression": Kind(
        family="series",
        backbone="gru",
        learns="numbers",
        section="series",
        measure=RMSE,
        training=SERIES_FROM_SCRATCH,
    ),
    "tabular": Kind(
        family="table",
        backbone="resnet_mlp",
        learns=None,
        section="table",
        training=FROM_SCRATCH,
        proposes=True,
    ),
    "text-classification": Kind(
        family="text",
        backbone="text_cnn",
        section="text",
        training=WORDS_FROM_SCRATCH,
        pretrained={"encoder whole": ENCODER, "encoder lora": ADAPTERS},
    ),
}


def able(feature: str) -> str:
    """Name the tasks whose `Kind` has a feature, for messages."""
    return " or ".join(task for task, kind in KINDS.items() if getattr(kind, feature))


def foreign_keys(task: TaskName) -> set[str]:
    """Name the keys of federation.toml and `[plants.NAME]` that say nothing about a task."""
    own = KINDS[task]
    keys = {kind.section for kind in KINDS.values() if kind.section} - {own.section}
    return keys if own.images else keys | {"image_size", "mean", "std"}


def learns(config: FederationConfig) -> Learns:
    """Return what the head of a federation's networks says: a class, or numbers."""
    kind = KINDS[config.task]
    if kind.learns is not None:
        return kind.learns
    found: Learns = getattr(config, kind.section).learn
    return found


def measure_of(config: FederationConfig) -> Measure:
    """Return the score that a federation is judged by."""
    if (own := KINDS[config.task].measure) is not None:
        return own
    return BALANCED_ACCURACY if learns(config) == "classes" else R2


def shared_outputs(config: FederationConfig) -> int:
    """Return the width of a head that travels; 0 where nobody says it.

    For classes these are the classes named in federation.toml. For numbers the section of the
    task may have a key ``outputs``; without it the head says one number.
    """
    if learns(config) == "classes":
        return len(config.classes)
    section = getattr(config, KINDS[config.task].section, None)
    return int(getattr(section, "outputs", 1))
