"""What an update gives away: images drawn back out of it, with and without protection.

    python benchmarks/leakage.py            # figures, and out/leakage/report.html with the pictures
    python benchmarks/leakage.py --quick    # one image, fewer steps

The small network is chosen so that the attack works: a LeNet with sigmoids, one step of plain
gradient descent on a single image of 32 pixels. That is the best case for the attacker and no
round of Transferline; against it each protection is measured alone. The real backbone is attacked
as it is: the gradient of one image, and the update of a whole round. Protections are the product's
own code (`client.dpsgd`, `common.noise`, `common.secagg`).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from inversion import LeNet, align, closest, gradient, label_of, match, quality
from jinja2 import Template
from PIL import Image
from torch import Tensor, nn

from client import dpsgd
from client.exchange import cut_update
from client.methods import FEDERATED, Work
from client.tasks.images import ImageTask, Selection
from client.training import Trainer
from common.backbone import Network, load_source, read_tensors
from common.config import FederationConfig
from common.noise import Noise
from common.orders import Release
from common.privacy import Cost, epsilon
from common.secagg.encoding import Encoding, Packer, decode
from common.secagg.masks import add_masks
from common.update import Schema

DATA = Path(os.environ.get("TRANSFERLINE_DATA", "../shared/data"))
PICTURES = (
    ("steel, scratches", "neu_steel/scratches", 7),
    ("wood, dead knot", "wood_board/dead_knot", 25),
    ("magnetic tile, blowhole", "magnetic_tile/blowhole", 4),
)
SIDE, CLASSES = 32, 6
CLIP = 1.0


@dataclass(kw_only=True)
class Cell:
    """One way to send an update, and what came back out of it.

    Attributes
    ----------
    found : images, shape (count, 3, side, side).
    """

    name: str
    says: str
    found: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self) -> dict[str, object]:
        pairs = [quality(f, t) for f, t in zip(self.found, self.truth, strict=True)]
        psnr, ssim = ([round(value, 3) for value in column] for column in zip(*pairs, strict=True))
        return {
            "name": self.name,
            "says": self.says,
            "psnr": psnr,
            "ssim": ssim,
            "psnr_mean": round(float(np.mean(psnr)), 1),
            "ssim_mean": round(float(np.mean(ssim)), 2),
            "seconds": round(self.seconds, 1),
        }


def pictures(side: int) -> tuple[list[str], Tensor]:
    """Return titles and real images, float in [0, 1], shape (count, 3, side, side)."""
    images = []
    for _, folder, place in PICTURES:
        path = sorted((DATA / "images" / folder).iterdir())[place]
        with Image.open(path) as image:
            small = np.asarray(image.convert("RGB").resize((side, side)), dtype=np.float32)
        images.append(torch.from_numpy(small.copy()).permute(2, 0, 1) / 255)
    return [title for title, _, _ in PICTURES], torch.stack(images)


def small_network() -> Network:
    """Return the LeNet with wide random weights, as its paper draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network(LeNet(), features=12 * (SIDE // 4) ** 2, classes=CLASSES)
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return network.eval()


def clipped(network: Network, image: Tensor, label: Tensor, *, noise: float) -> list[Tensor]:
    """Return what one step of DP-SGD sends of one image; without noise it is clipped alone."""
    sums, _ = dpsgd.clipped_sum(network, image, label, clip=CLIP)
    source = Noise()
    return [
        part
        + torch.from_numpy(source.normal(part.numel(), scale=noise * CLIP)).view_as(part).float()
        for part in sums.values()
    ]


def flat(parts: Sequence[Tensor]) -> np.ndarray:
    """Return tensors as one vector."""
    return torch.cat([part.flatten() for part in parts]).numpy()


def shaped(vector: np.ndarray, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector into tensors of these shapes."""
    sizes = [part.numel() for part in like]
    pieces = torch.from_numpy(np.ascontiguousarray(vector, np.float32)).split(sizes)
    return [piece.view_as(part) for piece, part in zip(pieces, like, strict=True)]


def masked(vectors: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the centre reads of the first plant alone, and of the sum of all.

    The keys are drawn, where the protocol would agree on them; masks and encoding are its own.
    """
    bound = float(max(np.abs(vector).max() for vector in vectors))
    encoding = Encoding(
        size=len(vectors[0]), bits=24, bound=bound, max_weight=1, plants=len(vectors)
    )
    keys = [os.urandom(32) for _ in vectors]
    total = np.zeros(encoding.words, np.uint64)
    first = total
    for place, (vector, key) in enumerate(zip(vectors, keys, strict=True)):
        words = np.zeros(encoding.words, np.uint64)
        packer = Packer(vector.astype(np.float32), weight=1, encoding=encoding)
        add_masks(words, plus=[key], fill=packer.fill)
        first = words.copy() if place == 0 else first
        total += words
    add_masks(total, minus=keys)
    # Read as if there were no mask: the best that can be done with it.
    field_mask = np.uint64(2**encoding.field - 1)
    numbers = [
        (first[: encoding.packed] >> np.uint64(place * encoding.field)) & field_mask
        for place in range(encoding.per_word)
    ]
    alone = np.concatenate(numbers)[: encoding.size].astype(np.float64)
    alone = (alone / 2**encoding.field - 0.5) * 2 * bound
    return alone, decode(total, encoding=encoding, survivors=len(vectors)).vector


def attack(
    cell: Cell, network: Network, seen: Sequence[Tensor], labels: Tensor, steps: int
) -> Tensor:
    """Run the attack and take its time."""
    started = time.process_time()
    found = match(network, seen, labels, side=SIDE, steps=steps, seed=2)
    cell.seconds += time.process_time() - started
    return found


def against_each_protection(titles: Sequence[str], images: Tensor, *, steps: int) -> list[Cell]:
    """Attack the small network's single-image updates under each protection."""
    network = small_network()
    labels = torch.arange(len(images)) % CLASSES
    ways: list[tuple[str, str, Callable[[int], list[Tensor]]]] = [
        ("none", "the gradient as it is", lambda i: gradient_of(network, images, labels, i)),
        (
            "clipping",
            f"shortened to {CLIP:g}",
            lambda i: clipped(network, images[[i]], labels[[i]], noise=0.0),
        ),
    ]
    for noise in (0.01, 0.1, 1.0):
        spent = epsilon([Cost(noise_multiplier=noise)], delta=1e-5).value
        ways.append(
            (
                f"DP, noise {noise:g}",
                f"clipped, noise multiplier {noise:g}: epsilon {spent:.3g} for this one step",
                lambda i, noise=noise: clipped(network, images[[i]], labels[[i]], noise=noise),
            )
        )
    cells = []
    for name, says, send in ways:
        cell = Cell(name=name, says=says)
        for place, title in enumerate(titles):
            seen = send(place)
            label = torch.tensor([label_of(seen)])
            cell.found.append(attack(cell, network, seen, label, steps)[0])
            cell.truth.append(images[place])
            print(f"{name}, {title}: label {'read' if label == labels[place] else 'missed'}")
        cells.append(cell)
    return cells


def gradient_of(network: Network, images: Tensor, labels: Tensor, place: int) -> list[Tensor]:
    """Return the gradient of one of the images."""
    return [part.detach() for part in gradient(network, images[[place]], labels[[place]])]


def under_sums(images: Tensor, *, sums: Sequence[int], shown: int, steps: int) -> list[Cell]:
    """Attack what the centre sees under secure aggregation: one masked update, and the sum."""
    network, cells = small_network(), []
    for plants in sums:
        # Further plants have images of their own: the same products, mirrored.
        every = torch.cat([images, images.flip(3)])[:plants]
        theirs = torch.arange(plants) % CLASSES
        sent = [flat(gradient_of(network, every, theirs, place)) for place in range(plants)]
        like = gradient_of(network, every, theirs, 0)
        alone, total = masked(sent)
        if not cells:
            cell = Cell(name="masked update", says="one plant's words under masks, read as values")
            for place in range(shown):
                label = theirs[[place]]
                cell.found.append(attack(cell, network, shaped(alone, like), label, steps)[0])
                cell.truth.append(images[place])
            cells.append(cell)
        cell = Cell(
            name=f"sum of {plants}",
            says=f"unmasked sum of {plants} plants, one image each; labels given to the attacker",
        )
        found = closest(attack(cell, network, shaped(total, like), theirs, steps), every)
        cell.found, cell.truth = list(found[:shown]), list(images[:shown])
        cells.append(cell)
    return cells


def on_the_real_backbone(images: Tensor, *, steps: int) -> list[Cell]:
    """Attack MobileNetV2 with its source weights: one image's gradient, and a round's update."""
    side = images.shape[-1]
    weights = (DATA / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    config = FederationConfig(weights=str(weights), image_size=side)
    source = load_source(config, base=Path(), classes=CLASSES)
    config = config.model_copy(update={"mean": source.mean, "std": source.std})
    network = source.network.eval()
    mean = torch.tensor(source.mean)[:, None, None]
    std = torch.tensor(source.std)[:, None, None]

    def normalise(batch: Tensor) -> Tensor:
        return (batch - mean) / std

    def run(name: str, says: str, seen: Sequence[Tensor]) -> Cell:
        cell = Cell(name=name, says=says, truth=[images[0]])
        started = time.process_time()
        found = align(
            network, seen, torch.tensor([0]), side=side, steps=steps, seed=3, normalise=normalise
        )
        cell.found, cell.seconds = [found[0]], time.process_time() - started
        return cell

    label = torch.tensor([0])
    single = [part.detach() for part in gradient(network, normalise(images[:1]), label)]
    first = run("backbone, one image", f"MobileNetV2 at {side} px: gradient of one image", single)
    update = whole_round(network, config)
    second = run(
        "backbone, a round",
        f"MobileNetV2 at {side} px: the update of a round as it is sent (AdamW, 30 images)",
        update,
    )
    return [first, second]


def whole_round(network: Network, config: FederationConfig) -> list[Tensor]:
    """Return the update of one round on steel, in the shape of a gradient (its opposite)."""
    selection = Selection(
        image_size=config.image_size, labels_per_class=10, test_per_class=1,
        classes=(
            "scratches", "crazing", "inclusion", "patches", "pitted_surface", "rolled_in_scale",
        ),
    )  # fmt: skip
    task = ImageTask(selection=selection, mean=config.mean, std=config.std)
    data = task.load(DATA / "images" / "neu_steel")
    trainer = Trainer(task=task, data=data, config=config, device=torch.device("cpu"), seed=0)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    tensors = read_tensors(network)
    schema = Schema.of(tensors)
    release = Release(number=0, schema=schema, vector=schema.flatten(tensors))
    FEDERATED["fedper"].train(Work(network=network, trainer=trainer, first=True))
    update = cut_update(network, read_tensors(network), release, config=config, weight=1)
    change = update.schema.unflatten(update.vector)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(before[name])
            parameter.requires_grad_(True)
    network.eval()
    # The head stays at the plant; the attacker has nothing of its part of the gradient.
    return [
        -torch.from_numpy(change[name].copy()) if name in change else torch.zeros_like(parameter)
        for name, parameter in network.named_parameters()
    ]


PAGE = Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>What an update gives away</title>
<style>body{font:15px system-ui;margin:2rem;max-width:70rem}table{border-collapse:collapse}
td,th{padding:.4rem .8rem;text-align:left;border-bottom:1px solid #8884;vertical-align:top}
img{width:96px;height:96px;image-rendering:pixelated;margin-right:4px}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}</style>
<h1>What an update gives away</h1><p>{{ intro }}</p>
<table><tr><th>sent</th><th>originals, and what came back</th><th>PSNR, dB</th><th>SSIM</th></tr>
{% for cell in cells %}<tr><td><b>{{ cell.name }}</b><br>{{ cell.says }}</td>
<td>{% for one in cell.truth %}<img alt="original" src="{{ one }}">{% endfor %}<br>
{% for one in cell.found %}<img alt="reconstruction" src="{{ one }}">{% endfor %}</td>
<td>{{ cell.psnr_mean }}</td><td>{{ cell.ssim_mean }}</td></tr>{% endfor %}</table></html>""",
    autoescape=True,
)


def uri(image: Tensor) -> str:
    """Return a picture to put into a page."""
    data = io.BytesIO()
    pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def write(cells: Sequence[Cell], out: Path, *, intro: str) -> None:
    """Write report.html, leakage.json and the picture grid leakage.png."""
    out.mkdir(parents=True, exist_ok=True)
    figures = [cell.figures() for cell in cells]
    (out / "leakage.json").write_text(json.dumps(figures, indent=2) + "\n")
    rows = [
        {**told, "truth": list(map(uri, cell.truth)), "found": list(map(uri, cell.found))}
        for cell, told in zip(cells, figures, strict=True)
    ]
    (out / "report.html").write_text(PAGE.render(cells=rows, intro=intro))
    width = max(len(cell.found) for cell in cells)
    grid = Image.new("RGB", (width * 200, len(cells) * 100), "white")
    for row, cell in enumerate(cells):
        for column, pair in enumerate(zip(cell.truth, cell.found, strict=True)):
            for half, image in enumerate(pair):
                pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
                tile = Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST)
                grid.paste(tile, (column * 200 + half * 98, row * 100))
    grid.save(out / "leakage.png")


def main() -> None:
    """Attack, print the table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/leakage"))
    parser.add_argument("--quick", action="store_true", help="one image, fewer steps")
    parser.add_argument("--no-backbone", action="store_true", help="leave the real backbone out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    titles, images = pictures(SIDE)
    count, steps, slow = (1, 20, 30) if args.quick else (len(titles), 60, 400)
    cells = against_each_protection(titles[:count], images[:count], steps=steps)
    sums = (3,) if args.quick else (3, 6)
    cells += under_sums(images, sums=sums, shown=count, steps=steps)
    if not args.no_backbone:
        cells += on_the_real_backbone(pictures(64)[1], steps=slow)
    intro = (
        f"Gradient inversion on {count} real image(s): {', '.join(titles[:count])}. A LeNet with "
        "sigmoids at 32 px, one step on one image, is the best case for the attacker; the real "
        "backbone is below it, as it is."
    )
    write(cells, args.out, intro=intro)
    print("\n| sent | PSNR, dB | SSIM | attack, CPU s |\n|---|---|---|---|")
    for told in (cell.figures() for cell in cells):
        print(f"| {told['name']} | {told['psnr_mean']} | {told['ssim_mean']} | {told['seconds']} |")
    print(f"\n{args.out}/report.html")


if __name__ == "__main__":
    main()
