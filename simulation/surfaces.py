"""Draws made-up surfaces and the defects on them, under a plant's own light.

A surface is an albedo (how bright the material is) and a height in pixels. Defects change one or
both: a scratch is a shallow groove with raised edges, a crack a deep jagged one, a bubble a dome,
a stain a change of albedo alone. Light from one side then makes the picture, so that the same
defect looks different at each plant and yet is the same defect. Numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Plane = npt.NDArray[np.float64]  # shape (size, size)
Pixels = npt.NDArray[np.uint8]  # shape (size, size, 3)
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Surface:
    """How a plant's product and its camera look.

    Attributes
    ----------
    material : a key of `MATERIALS`.
    colour : albedo a channel, 0 to 1.
    contrast : of the material's pattern in albedo.
    roughness : height of the material's pattern, pixels.
    scale : size of the pattern; 1 is usual.
    angle : of the pattern, radians.
    light : direction the light comes from, radians.
    relief : how strongly slopes show.
    falloff : how much darker the far side is, 0 to 1.
    gamma, noise, blur : of the camera; noise as a share of full scale, blur in pixels.
    """

    material: str
    colour: tuple[float, float, float]
    contrast: float
    roughness: float
    scale: float
    angle: float
    light: float
    relief: float
    falloff: float
    gamma: float
    noise: float
    blur: float


def draw(surface: Surface, defect: str, *, size: int, rng: Rng) -> Pixels:
    """Draw one picture.

    Parameters
    ----------
    defect : a key of `DEFECTS`, or "good".
    size : side, pixels.

    Returns
    -------
    uint8, shape (size, size, 3).
    """
    pattern = MATERIALS[surface.material](surface, size, rng)
    albedo = 1 + surface.contrast * pattern
    height = surface.roughness * pattern
    _wear(albedo, height, size=size, rng=rng)
    if defect != "good":
        DEFECTS[defect](albedo, height, size, rng)
    return _photograph(surface, albedo, height, size=size, rng=rng)


def _photograph(surface: Surface, albedo: Plane, height: Plane, *, size: int, rng: Rng) -> Pixels:
    """Light the surface from one side, and let the camera blur, sharpen and add its noise."""
    towards = surface.light + rng.normal(0, 0.12)
    down, right = np.gradient(height)
    slope = right * np.cos(towards) + down * np.sin(towards)
    y, x = _grid(size)
    along = (x * np.cos(towards) + y * np.sin(towards)) / size
    shade = (1 - surface.relief * slope) * (1 - surface.falloff * along) * rng.normal(1, 0.06)
    light = np.clip(albedo * shade, 0, None)[..., None] * np.asarray(surface.colour)
    picture = np.clip(light, 0, 1) ** surface.gamma
    seen = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    seen = seen.filter(ImageFilter.GaussianBlur(surface.blur))
    grain = rng.normal(0, surface.noise * 255, (size, size, 1))
    return np.clip(np.rint(np.asarray(seen) + grain), 0, 255).astype(np.uint8)


# Materials: patterns of mean 0 and deviation 1.


def _brushed(surface: Surface, size: int, rng: Rng) -> Plane:
    """Long fine streaks, as on rolled or brushed metal."""
    return _noise(size, rng, coarse=1.2 * surface.scale, angle=surface.angle, stretch=18)


def _cast(surface: Surface, size: int, rng: Rng) -> Plane:
    """Lumps of all sizes, as on castings and concrete."""
    parts = [_noise(size, rng, coarse=c * surface.scale) * c**0.5 for c in (1, 2.5, 6)]
    return _standard(sum(parts, np.zeros((size, size))))


def _peel(surface: Surface, size: int, rng: Rng) -> Plane:
    """Waves of one size, as on sprayed paint."""
    fine = _noise(size, rng, coarse=2.2 * surface.scale)
    return _standard(fine - _noise(size, rng, coarse=5 * surface.scale))


def _speckled(surface: Surface, size: int, rng: Rng) -> Plane:
    """Small spots on a smooth ground, as on glazed tiles."""
    spots = _noise(size, rng, coarse=1.1 * surface.scale)
    return _standard(np.where(spots > 2.2, -3.0, 0.0) + 0.6 * _noise(size, rng, coarse=12))


def _woven(surface: Surface, size: int, rng: Rng) -> Plane:
    """Two crossing threads with a little play."""
    y, x = _turned(size, surface.angle)
    play = 0.5 * _noise(size, rng, coarse=9)
    step = 2 * np.pi / (6.5 * surface.scale)
    shift = rng.uniform(0, 2 * np.pi, 2)
    weave = np.sin(step * x + play + shift[0]) * np.sin(step * y + play + shift[1])
    return _standard(weave + 0.4 * _noise(size, rng, coarse=0.8))


def _grained(surface: Surface, size: int, rng: Rng) -> Plane:
    """Bent bands, as in veneer."""
    _, across = _turned(size, surface.angle)
    bend = 1.6 * _noise(size, rng, coarse=10, angle=surface.angle, stretch=6)
    bands = np.sin(2 * np.pi * across / (13 * surface.scale) + bend + rng.uniform(0, 6))
    return _standard(bands + 0.7 * _noise(size, rng, coarse=0.8, angle=surface.angle, stretch=12))


MATERIALS: dict[str, Callable[[Surface, int, Rng], Plane]] = {
    "brushed": _brushed,
    "cast": _cast,
    "peel": _peel,
    "speckled": _speckled,
    "woven": _woven,
    "grained": _grained,
}


# Defects: change albedo and height in place.


def _scratch(albedo: Plane, height: Plane, size: int, rng: Rng) -> None:
    """Draw one to three thin, nearly straight grooves of much the same direction."""
    angle = rng.uniform(0, np.pi)
    for _ in range(rng.integers(1, 4)):
        length = size * rng.uniform(0.3, 0.8)
        path = _path(
            _start(size, rng), angle + rng.normal(0, 0.12), length=length, turn=0.02, rng=rng
        )
        far = _distance(path, size)
        width = size * rng.uniform(0.009, 0.016)
        depth = rng.uniform(0.8, 1.7)
        height -= depth * np.exp(-((far / width) ** 2))
        height += 0.4 * depth * np.exp(-(((far - 2 * width) / width) ** 2))
        albedo += rng.uniform(0.1, 0.4) * np.exp(-((far / width) ** 2))


def _crack(albedo: Plane, height: Plane, size: int, rng: Rng) -> None:
    """Draw a dark jagged line that forks."""
    path = _path(
        _start(size, rng),
        rng.uniform(0, 2 * np.pi),
        length=size * rng.uniform(0.4, 0.85),
        turn=0.5,
        rng=rng,
    )
    lines = [(path, 1.0)]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(2, max(3, len(path) - 2)))
        heading = np.arctan2(*(path[at] - path[at - 1])[::-1]) + rng.choice([-1, 1]) * 0.8
        branch = _path(path[at], heading, length=size * rng.uniform(0.12, 0.3), turn=0.5, rng=rng)
        lines.append((branch, 0.7))
    for line, share in lines:
        width = share * size * rng.uniform(0.010, 0.019)
        groove = np.exp(-((_distance(line, size) / width) ** 2))
        albedo -= share * rng.uniform(0.35, 0.65) * groove
        height -= share * rng.uniform(0.5, 1.1) * groove


def _bubble(albedo: Plane, height: Plane, size: int, rng: Rng) -> None:
    """Draw one to four domes, some of them burst."""
    y, x = _grid(size)
    for _ in range(rng.integers(1, 5)):
        centre = _start(size, rng)
        radius = size * rng.uniform(0.045, 0.1)
        far = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.85, 1.15)) / radius
        dome = np.sqrt(np.clip(1 - far**2, 0, None))
        height += radius * rng.uniform(0.3, 0.6) * dome
        albedo -= rng.uniform(0.05, 0.2) * np.exp(-(((far - 1) / 0.15) ** 2))
        if rng.random() < 0.3:
            albedo -= 0.4 * np.exp(-((far / 0.4) ** 2))


def _stain(albedo: Plane, height: Plane, size: int, rng: Rng) -> None:
    """Draw one or two soft blotches, which are flat: the light does not show them."""
    y, x = _grid(size)
    sign = rng.choice([-1, -1, 1])
    for _ in range(rng.integers(1, 3)):
        centre = _start(size, rng)
        far = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.6, 1.6))
        edge = size * rng.uniform(0.12, 0.25) * (1 + 0.3 * _noise(size, rng, coarse=size / 14))
        inside = 1 / (1 + np.exp((far - edge) / (size * 0.012)))
        rim = np.exp(-(((far - edge) / (size * 0.02)) ** 2))
        albedo += sign * rng.uniform(0.14, 0.32) * (inside + 0.5 * rim)
    height *= 1 - 0.3 * (albedo < 0.8)  # what is wet or oily is a little smoother


DEFECTS: dict[str, Callable[[Plane, Plane, int, Rng], None]] = {
    "scratch": _scratch,
    "crack": _crack,
    "bubble": _bubble,
    "stain": _stain,
}


def _wear(albedo: Plane, height: Plane, *, size: int, rng: Rng) -> None:
    """Dust, short nicks and faint shadows, which good parts have too."""
    y, x = _grid(size)
    albedo += rng.uniform(0, 0.05) * _noise(size, rng, coarse=size / 5)
    for _ in range(rng.integers(0, 5)):
        centre = _start(size, rng)
        speck = np.exp(-(np.hypot(x - centre[0], y - centre[1]) ** 2) / rng.uniform(0.6, 2.5))
        albedo += rng.choice([-1, 1]) * rng.uniform(0.1, 0.35) * speck
    if rng.random() < 0.5:
        nick = _path(_start(size, rng), rng.uniform(0, 6.3), length=size * 0.07, turn=0.1, rng=rng)
        height -= rng.uniform(0.2, 0.6) * np.exp(-((_distance(nick, size) / 0.8) ** 2))


# Geometry and noise.


def _grid(size: int) -> tuple[Plane, Plane]:
    """Return the pixels' y and x, both from -size/2 to size/2."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) - (size - 1) / 2
    return y, x


def _turned(size: int, angle: float) -> tuple[Plane, Plane]:
    y, x = _grid(size)
    return y * np.cos(angle) - x * np.sin(angle), x * np.cos(angle) + y * np.sin(angle)


def _start(size: int, rng: Rng) -> Plane:
    """Return a point (x, y) away from the border."""
    return rng.uniform(-0.36, 0.36, 2) * size


def _path(start: Plane, heading: float, *, length: float, turn: float, rng: Rng) -> Plane:
    """Return a polyline of shape (points, 2) through ``start`` that wanders around a heading."""
    step = 4.0
    count = max(2, int(length / step))
    headings = heading + turn * rng.standard_normal(count) + 2 * turn * rng.uniform(-1, 1)
    moves = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    anchor = points[count // 2 if turn < 0.3 else 0]
    path: Plane = start + points - anchor
    return path


def _distance(path: Plane, size: int) -> Plane:
    """Return each pixel's distance to a polyline, shape (size, size)."""
    y, x = _grid(size)
    nearest = np.full((size, size), np.inf)
    for (ax, ay), (bx, by) in pairwise(path):
        dx, dy = bx - ax, by - ay
        share = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - share * dx, y - ay - share * dy))
    return nearest


def _noise(
    size: int, rng: Rng, *, coarse: float, angle: float = 0.0, stretch: float = 1.0
) -> Plane:
    """Return smooth noise of mean 0 and deviation 1.

    Parameters
    ----------
    coarse : radius of its lumps, pixels.
    angle, stretch : direction in which the lumps are longer, and how much.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    along = (fx * np.cos(angle) + fy * np.sin(angle)) * coarse * stretch
    across = (fy * np.cos(angle) - fx * np.sin(angle)) * coarse
    keep = np.exp(-2 * np.pi**2 * (along**2 + across**2) / 2)
    white = np.fft.rfft2(rng.standard_normal((size, size)))
    return _standard(np.fft.irfft2(white * keep, s=(size, size)))


def _standard(plane: Plane) -> Plane:
    centred: Plane = plane - plane.mean()
    return centred / max(float(centred.std()), 1e-9)
