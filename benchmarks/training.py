"""Speed of the training loop, as ratios within one run.

    python benchmarks/training.py            # ours against a plain loop; cached features
    python benchmarks/training.py --engines  # seconds a round, local engine against Flower's

The plain loop is what one would write by hand for the same work: same network, augmentation,
frozen batch norm, optimiser and clipping, no seams. The two take turns; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from client.device import choose_device
from client.tasks.data import PlantData
from client.tasks.images import ImageTask, Selection
from client.training import Trainer
from common.backbone import Network, build, norm_layers
from common.config import FederationConfig, TrainingConfig
from server.state.store import history
from simulation.factory import write_plants
from simulation.run import Plan, run

HALF = (0.5, 0.5, 0.5)


def made_up(images: int, size: int, classes: int = 6) -> PlantData:
    """Return random images: speed does not depend on what is in them."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(images)
    return PlantData(
        classes=tuple(f"class-{n}" for n in range(classes)),
        good="",
        inputs=torch.randint(
            0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator
        ),
        targets=index % classes,
        names=tuple(map(str, range(images))),
        train=index,
        validation=index[:classes],
        test=index[:classes],
        folds=((index, index[:classes]),),
    )


def trainer(images: int, size: int, device: torch.device) -> tuple[Trainer, Network]:
    """Return a trainer and a fresh mobilenet_v2 on the device."""
    config = FederationConfig(mean=HALF, std=HALF, image_size=size)
    task = ImageTask(selection=Selection(image_size=size), mean=HALF, std=HALF)
    data = made_up(images, size).to(device)
    network = build("mobilenet_v2", classes=len(data.classes), image_size=size)
    network.to(device).to(memory_format=torch.channels_last)
    return Trainer(task=task, data=data, config=config, device=device, seed=0), network


def plain_epoch(trainer: Trainer, network: Network) -> None:
    """One epoch as one would write it by hand."""
    data, training, device = trainer.data, trainer.config.training, trainer.device
    augment = trainer.task.training_transform()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(
        [
            {"params": network.backbone.parameters(), "lr": training.learning_rate},
            {"params": network.head.parameters(), "lr": training.head_learning_rate},
        ],
        weight_decay=training.weight_decay,
    )
    network.train()
    for layer in norm_layers(network):
        layer.eval()
    for batch in torch.randperm(len(data.train), generator=generator).split(training.batch_size):
        batch = batch.to(device)
        inputs = augment(data.inputs[batch], generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(inputs)
        loss = F.cross_entropy(
            logits.float(), data.targets[batch], label_smoothing=training.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
        optimiser.step()


def take_turns(
    ours: Callable[[], object], theirs: Callable[[], object], *, times: int, device: torch.device
) -> tuple[float, float]:
    """Return median seconds of both, measured in turns after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(times + 1):
        for place, function in enumerate((ours, theirs)):
            started = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[place].append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def loops(*, images: int, size: int, times: int) -> dict[str, float]:
    """Compare the loop with a plain one, and head epochs with and without cached features."""
    device = choose_device("auto")
    ours, network = trainer(images, size, device)
    index = ours.data.train
    mine, plain = take_turns(
        lambda: ours.fit(network, index, epochs=1, rate=3e-4),
        lambda: plain_epoch(ours, network),
        times=times,
        device=device,
    )
    training = ours.config.training.model_copy(update={"head_epochs": 100})
    heads = replace(ours, config=ours.config.model_copy(update={"training": training}))
    features = ours.embed(network, index)
    cached, recomputed = take_turns(
        lambda: heads.fit_head(network, index),
        lambda: ours.embed(network, index),
        times=times,
        device=device,
    )
    # Fitting embeds once, then runs its epochs on what it has.
    epoch = (cached - recomputed) / training.head_epochs
    if epoch <= 0:
        sys.exit(
            f"fitting a head must take longer than embedding alone, got {cached:.3f} s and "
            f"{recomputed:.3f} s: the machine is too busy to measure, run it again"
        )
    return {
        "images_per_second": images / mine,
        "images_per_second_plain": images / plain,
        "loop_ratio": plain / mine,
        "head_epoch_ratio": recomputed / epoch,
        "features": float(features.shape[1]),
    }


def engines(*, rounds: int) -> dict[str, float]:
    """Seconds a round of both engines on the same small plants, training included."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_plants(place / "plants", plants=3, images_per_class=20, size=64)
        config = FederationConfig(
            backbone="mobilenet_v2",
            weights="none",
            image_size=64,
            rounds=rounds,
            device="cpu",
            training=TrainingConfig(epochs=1, head_epochs=5),
        )
        for engine in ("local", "flower"):
            plan = Plan(
                config=config,
                base=place,
                data=place / "plants",
                out=place / engine,
                engine=engine,
                workers=2,
                pooled=False,
                alone=("head_only", "local"),
            )
            started = time.monotonic()
            seconds = run(plan, watch=lambda *_: None)[0].seconds["rounds"]
            found[f"{engine}_seconds_a_round"] = _median_round(place / engine)
            found[f"{engine}_seconds_all_rounds"] = seconds
            found[f"{engine}_seconds_in_all"] = time.monotonic() - started
    found["round_ratio"] = found["flower_seconds_a_round"] / found["local_seconds_a_round"]
    return found


def _median_round(home: Path) -> float:

    return statistics.median(entry["seconds"] for entry in history(home))


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and turns")
    parser.add_argument("--engines", action="store_true", help="compare the two engines")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.engines:
        print(json.dumps(engines(rounds=2 if given.quick else 5), indent=2))
    else:
        images, times = (64, 3) if given.quick else (256, 7)
        print(json.dumps(loops(images=images, size=96, times=times), indent=2))


if __name__ == "__main__":
    main()
