"""A plant's own camera: the same part, photographed with other light, lens, angle and distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]  # shape (height, width, 3)
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How a camera sees.

    Attributes
    ----------
    gain, offset, gamma : of the light, on a scale from 0 to 1; a pixel becomes
        ``gain * value ** gamma + offset``.
    tint : gain a channel.
    falloff : share of the light that is lost at the side turned away from the lamp.
    lamp : direction of the lamp, radians.
    vignette : share of the light that is lost in the corners.
    blur : radius, as a share of the shorter side.
    turn : degrees.
    scale : enlargement; the border is cut off.
    """

    gain: float
    offset: float
    gamma: float
    tint: tuple[float, float, float]
    falloff: float
    lamp: float
    vignette: float
    blur: float
    turn: float
    scale: float


def camera_of(plant: int, *, seed: int) -> Camera:
    """Return the camera of the plant with this index."""
    rng = np.random.default_rng([seed, plant, 1])
    red, green, blue = (float(part) for part in rng.uniform(0.94, 1.06, 3))
    return Camera(
        gain=rng.uniform(0.7, 1.25),
        offset=rng.uniform(-0.08, 0.08),
        gamma=rng.uniform(0.7, 1.4),
        tint=(red, green, blue),
        falloff=rng.uniform(0.0, 0.4),
        lamp=rng.uniform(0, 2 * np.pi),
        vignette=rng.uniform(0.0, 0.4),
        blur=rng.uniform(0.0, 0.008),
        turn=rng.uniform(-25, 25),
        scale=rng.uniform(1.0, 1.35),
    )


def photograph(image: Pixels, camera: Camera, *, rng: Rng) -> Pixels:
    """Return the image as this camera sees it, of the same shape.

    ``rng`` moves hand and lamp a little from picture to picture.
    """
    return _lit(_framed(image, camera, rng=rng), camera, rng=rng)


def _framed(image: Pixels, camera: Camera, *, rng: Rng) -> Pixels:
    """Turn, enlarge and blur; what comes into view from outside mirrors the inside."""
    height, width = image.shape[:2]
    margin = (height // 3, width // 3)
    wide = np.pad(image, ((margin[0],) * 2, (margin[1],) * 2, (0, 0)), mode="symmetric")
    turn = np.deg2rad(camera.turn + rng.normal(0, 1.5))
    scale = max(1.0, camera.scale * rng.normal(1, 0.01))
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
    to_x = wide.shape[1] / 2 - (cos * width + sin * height) / 2
    to_y = wide.shape[0] / 2 - (cos * height - sin * width) / 2
    seen = Image.fromarray(wide).transform(
        (width, height),
        Image.Transform.AFFINE,
        (cos, sin, to_x, -sin, cos, to_y),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(seen.filter(ImageFilter.GaussianBlur(camera.blur * min(height, width))))


def _lit(image: Pixels, camera: Camera, *, rng: Rng) -> Pixels:
    height, width = image.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    away = (1 - (x * np.cos(camera.lamp) + y * np.sin(camera.lamp)) / np.sqrt(2)) / 2
    light = (1 - camera.falloff * away) * (1 - camera.vignette * (x**2 + y**2) / 2)
    gain = camera.gain * rng.normal(1, 0.03)
    curve = gain * (np.arange(256) / 255) ** camera.gamma
    curves = (255 * (curve[:, None] * camera.tint + camera.offset)).astype(np.float32)
    values = np.stack([curves[image[..., c], c] for c in range(3)], axis=-1)
    values *= light.astype(np.float32)[..., None]
    seen: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return seen
