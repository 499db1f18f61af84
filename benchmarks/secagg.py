"""What a plant pays for the secure sum, beside Flower's SecAgg+ on the same values, in one run.

Plant side: encode 11.2 million values (a resnet18) and add the masks of a cohort: one for each
other plant and one of its own. Flower: `quantize`, then `pseudo_rand_gen` for each mask and the
sum, as its SecAgg+ mod does. "Stream" is the bare key stream of as many masks, added to nothing.

    python benchmarks/secagg.py            # 3, 10, 30 and 100 plants; Flower at 3 and 10
    python benchmarks/secagg.py --quick    # a tenth of the values, 3 and 10 plants
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from common.secagg import shares
from common.secagg.encoding import Encoding, Packer, Vector
from common.secagg.masks import CHUNK, add_masks
from common.secagg.roster import threshold

VALUES = 11_200_000
BITS = 16
RUNS = 3


def seconds(work: Callable[[], object], *, runs: int = RUNS) -> float:
    """Return the best of some runs: what disturbs only adds."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def ours(vector: Vector, *, plants: int, threads: int) -> None:
    """Encode and mask as a plant does."""
    encoding = _encoding(vector, plants)
    keys = [os.urandom(32) for _ in range(plants)]
    words = np.empty(encoding.words, np.uint64)
    fill = Packer(vector, weight=100, encoding=encoding).fill
    half = len(keys) // 2
    add_masks(words, plus=keys[:half], minus=keys[half:], fill=fill, threads=threads)


def stream(words: int, *, plants: int) -> None:
    """Make the key streams of as many masks and drop them."""
    zeros, buffer = bytes(8 * CHUNK), bytearray(8 * CHUNK)
    for _ in range(plants):
        cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
        for start in range(0, words, CHUNK):
            cipher.update_into(memoryview(zeros)[: 8 * min(CHUNK, words - start)], buffer)


def flower(vector: Vector, *, plants: int) -> None:
    """Quantise and mask as Flower's SecAgg+ mod does."""
    total = quantize([vector], 1.0, 2**22)[0]
    for number in range(plants):
        mask = pseudo_rand_gen(os.urandom(32), 2**32, [vector.shape])[0]
        total = total + mask if number % 2 else total - mask
    np.mod(total, 2**32)


def sharing(plants: int) -> None:
    """Share two secrets, and recover as many as there are plants, as the server does."""
    most = threshold(plants)
    secret = os.urandom(32)
    for _ in range(2):
        found = shares.split(secret, threshold=most, count=plants)
    for _ in range(plants):
        shares.recover({index: found[index - 1] for index in range(1, most + 1)}, threshold=most)


def extra(vector: Vector, *, plants: int) -> float:
    """Return the peak of memory beside the vector, as a multiple of the masked vector's bytes."""
    words = _encoding(vector, plants).words
    tracemalloc.start()
    ours(vector, plants=plants, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (8 * words)


def _encoding(vector: Vector, plants: int) -> Encoding:
    return Encoding(size=vector.size, bits=BITS, bound=1.0, max_weight=1000, plants=plants)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    size = VALUES // 10 if given.quick else VALUES
    vector = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    print(f"{size / 1e6:.1f} million values, {BITS} bits; best of {RUNS}\n")
    print("| plants | ours, 1 thread | 2 threads | stream alone | / stream | Flower | times faster "
          "| with 2 threads | masked MB | extra buffers | shares |")  # fmt: skip
    print("|---" * 11 + "|")
    for plants in (3, 10) if given.quick else (3, 10, 30, 100):
        one = seconds(lambda n=plants: ours(vector, plants=n, threads=1))
        two = seconds(lambda n=plants: ours(vector, plants=n, threads=2))
        words = _encoding(vector, plants).words
        bare = seconds(lambda n=plants, w=words: stream(w, plants=n))
        cells = [f"{one:.2f} s", f"{two:.2f} s", f"{bare:.2f} s", f"{one / bare:.2f}"]
        if plants <= 10:
            theirs = seconds(lambda n=plants: flower(vector, plants=n), runs=1)
            cells += [f"{theirs:.2f} s", f"{theirs / one:.1f}", f"{theirs / two:.1f}"]
        else:
            cells += ["not run"] * 3
        share = seconds(lambda n=plants: sharing(n), runs=1)
        memory = extra(vector, plants=plants)
        cells += [f"{8 * words / 1e6:.0f}", f"{memory:.2f}", f"{share:.2f} s"]
        print(f"| {plants} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
