"""Secret randomness for privacy: samples, normal and discrete normal noise from a ChaCha20 stream.

Whoever could repeat the noise could subtract it. So it comes from 256 secret bits of the operating
system, never from an order, a name or a seed that somebody else knows, and not from torch, whose
generator on the CPU takes 32 bits of a seed.

Covered: guessing the noise. `discrete` samples the discrete Gaussian of Canonne, Kamath and Steinke
2020 (https://arxiv.org/abs/2004.00010) on whole numbers, so that what is sent has no values between
them that could betray what is under the noise; its table is exact to 2**-63 a whole number where
long doubles have 64 bits or more (Linux), to 2**-52 elsewhere. Not covered: `normal` rounds to
float64, and the pattern of rounding may tell something (Mironov 2012,
https://doi.org/10.1145/2382196.2382264); DP-SGD adds many such draws and publishes only what comes
of their sum, which hides that pattern but is no proof.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

_CHUNK = 1 << 16  #: values at a time
_REACH = 12  #: standard deviations of the table; less than 1e-32 lies beyond
_WIDEST = 1 << 20  #: largest standard deviation of `discrete`

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


class Noise:
    """One stream; each value is used once.

    Parameters
    ----------
    key : 32 bytes; only tests give one.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = secrets.token_bytes(32) if key is None else key
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def __repr__(self) -> str:
        return "Noise()"

    def uniform(self, size: int) -> Floats:
        """Return multiples of 2**-53 in [0, 1), shape (size,)."""
        return np.ldexp((self._words(size) >> np.uint64(11)).astype(np.float64), -53)

    def chosen(self, size: int, *, rate: float) -> npt.NDArray[np.bool_]:
        """Draw each of ``size`` things with a chance of its own (Poisson sampling)."""
        return self.uniform(size) < rate

    def normal(self, size: int, *, scale: float) -> Floats:
        """Return normal noise of standard deviation ``scale``, shape (size,), by Box and Muller."""
        values = np.empty(size)
        for part in _parts(size):
            wanted = part.stop - part.start
            half = (wanted + 1) // 2
            # 1 - u is in (0, 1], of which there is a logarithm.
            radius = scale * np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
            angle = 2.0 * math.pi * self.uniform(half)
            pair = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
            values[part] = pair[:wanted]
        return values

    def discrete(self, size: int, *, scale: float) -> Whole:
        """Return whole numbers k with chance in proportion to exp(-k**2 / (2 scale**2)).

        Parameters
        ----------
        scale : 1 to 2**20; the standard deviation, but for less than 1e-7 of it.
        """
        if not 1 <= scale <= _WIDEST:
            raise ValueError(f"scale must be 1 to {_WIDEST}, got {scale}")
        limits, reach = _table(scale)
        values = np.empty(size, dtype=np.int64)
        for part in _parts(size):
            drawn = self._words(part.stop - part.start)
            values[part] = np.searchsorted(limits, drawn, side="right") - reach
        return values

    def _words(self, size: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * size)), dtype="<u8")


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, min(start + _CHUNK, size))


@lru_cache(maxsize=4)
def _table(scale: float) -> tuple[npt.NDArray[np.uint64], int]:
    """Return cumulated chances in units of 2**-64, from the lowest value on, and its distance."""
    reach = math.ceil(_REACH * scale)
    steps = np.arange(-reach, reach + 1, dtype=np.longdouble)
    chances = np.exp(-(steps**2) / (2 * np.longdouble(scale) ** 2))
    cumulated = np.cumsum(chances) / np.sum(chances)
    top = np.longdouble(2.0) ** 64
    limits = np.minimum(np.floor(cumulated * top), top - 1)[:-1]
    return limits.astype(np.uint64), reach
