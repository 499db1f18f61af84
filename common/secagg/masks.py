"""Masks: key streams of ChaCha20 that are added to a vector of 64-bit words, modulo 2^64.

Each key encrypts one stream and no more, so the nonce is zero and the counter starts at 0. Work
goes in chunks that stay in the processor's cache: a chunk is filled, all masks are added to it,
then the next. Threads share a vector by seeking in the streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

Words = npt.NDArray[np.uint64]
#: Fills words[start:stop] before masks are added.
Fill = Callable[[Words, int, int], None]

CHUNK = 32 * 1024  #: words, 256 KiB
BLOCK = 8  #: words in a block of ChaCha20
_ZEROS = bytes(8 * CHUNK)


def add_masks(
    words: Words,
    *,
    plus: Sequence[bytes] = (),
    minus: Sequence[bytes] = (),
    fill: Fill | None = None,
    threads: int = 1,
) -> None:
    """Add and subtract key streams in place.

    Parameters
    ----------
    words : uint64, shape (size,).
    plus, minus : keys of 32 bytes, each used once.
    fill : called for each chunk just before its masks are added.
    """
    # Whole chunks for each thread, so that a stream is entered at a block.
    chunks = -(-words.size // CHUNK)
    step = -(-chunks // threads) * CHUNK
    parts = [(start, min(start + step, words.size)) for start in range(0, words.size, step)]
    if len(parts) < 2:
        _add(words, (0, words.size), plus, minus, fill)
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for job in [pool.submit(_add, words, part, plus, minus, fill) for part in parts]:
            job.result()


def _add(
    words: Words,
    part: tuple[int, int],
    plus: Sequence[bytes],
    minus: Sequence[bytes],
    fill: Fill | None,
) -> None:
    counter = (part[0] // BLOCK).to_bytes(4, "little") + bytes(12)
    streams = [
        (Cipher(algorithms.ChaCha20(key, counter), mode=None).encryptor(), operation)
        for keys, operation in ((plus, np.add), (minus, np.subtract))
        for key in keys
    ]
    buffer = bytearray(8 * CHUNK)
    stream = np.frombuffer(buffer, dtype="<u8")
    for start in range(part[0], part[1], CHUNK):
        stop = min(start + CHUNK, part[1])
        if fill is not None:
            fill(words, start, stop)
        chunk, size = words[start:stop], stop - start
        for cipher, operation in streams:
            cipher.update_into(memoryview(_ZEROS)[: 8 * size], buffer)
            operation(chunk, stream[:size], out=chunk)
