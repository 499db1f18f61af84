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
    margin = (height // 2, width // 2)
    wide = np.pad(image, ((margin[0],) * 2, (margin[1],) * 2, (0, 0)), mode="symmetric")
    turned = Image.fromarray(wide).rotate(
        camera.turn + rng.normal(0, 1.5), Image.Resampling.BICUBIC
    )
    scale = max(1.0, camera.scale * rng.normal(1, 0.01))
    centre_x, centre_y = turned.width / 2, turned.height / 2
    half_x, half_y = width / scale / 2, height / scale / 2
    box = (centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)
    seen = turned.resize((width, height), Image.Resampling.BICUBIC, box=box)
    blurred = seen.filter(ImageFilter.GaussianBlur(camera.blur * min(height, width)))
    return np.asarray(blurred)


def _lit(image: Pixels, camera: Camera, *, rng: Rng) -> Pixels:
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    away = (1 - (x * np.cos(camera.lamp) + y * np.sin(camera.lamp)) / np.sqrt(2)) / 2
    light = (1 - camera.falloff * away) * (1 - camera.vignette * (x**2 + y**2) / 2)
    gain = camera.gain * rng.normal(1, 0.03)
    values = (image / 255) ** camera.gamma * gain * np.asarray(camera.tint) + camera.offset
    seen: Pixels = np.clip(np.rint(values * light[..., None] * 255), 0, 255).astype(np.uint8)
    return seen
