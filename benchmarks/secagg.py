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
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from common.pki import Authority, Role, Trust
from common.secagg import shares
from common.secagg.coordinator import Coordinator
from common.secagg.encoding import Encoding, Packer, Vector
from common.secagg.limits import Limits
from common.secagg.masks import CHUNK, add_masks
from common.secagg.member import Session
from common.secagg.roster import Roster, threshold
from common.secagg.terms import Terms
from common.secagg.transcript import SessionId
from common.signing import Signer

VALUES = 11_200_000
BITS = (16, 28)  #: half of what Flower's words take, and the default
RUNS = 3


def seconds(work: Callable[[], object], *, runs: int = RUNS) -> float:
    """Return the best of some runs: what disturbs only adds."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def ours(vector: Vector, *, plants: int, threads: int, bits: int) -> None:
    """Encode and mask as a plant does."""
    encoding = _encoding(vector, plants, bits)
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


class Peak:
    """The peak of memory while something runs, as a multiple of so many bytes."""

    def __init__(self, size: int) -> None:
        self._size, self.times = size, 0.0

    def __enter__(self) -> Peak:
        tracemalloc.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.times = tracemalloc.get_traced_memory()[1] / self._size
        tracemalloc.stop()


def buffers(vector: Vector, *, bits: int) -> str:
    """Hold a sum of three plants by the protocol's own classes; return what each side needs.

    Beside the update at a plant (`Session.mask`), beside a masked update at the centre
    (`Coordinator.take_masked`), and for reading the sum (`Coordinator.total`, whose result takes
    8 bytes a value), each in buffers of a masked update's size.
    """
    now = datetime.now(UTC)
    with TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder), federation="bench")
        trust = Trust.of(authority.pem)

        def signer(name: str, role: Role) -> Signer:
            key = Ed25519PrivateKey.generate()
            pem = authority.issue(key.public_key(), name=name, role=role, days=1, at=now)
            return Signer(key=key, certificate=pem, name=name)

        signers = [signer(name, Role.PLANT) for name in ("a", "b", "c")]
        centre = signer("centre", Role.RELEASE)
    sid = SessionId(federation="bench", run="r", round=1, attempt=0)
    accepted = frozenset(one.fingerprint for one in signers)
    limits = Limits(accepted=accepted, minimum_cohort=3, bound=1.0)
    found = [
        Session(sid, signer=one, trust=trust, limits=limits, record=_Book(), now=lambda: now)
        for one in signers
    ]
    sessions = {bytes.fromhex(one.fingerprint): s for one, s in zip(signers, found, strict=True)}
    texts = [sessions[plant].advert for plant in sorted(sessions)]
    roster = Roster.read(texts, sid=sid, trust=trust, at=now)
    coordinator = Coordinator(roster, signer=centre, trust=trust, now=lambda: now)
    for session in sessions.values():
        coordinator.take_shares(session.share(coordinator.setup))
    terms = Terms(
        sid=sid,
        roster=roster.hash,
        cohort=coordinator.cohort,
        release="ab" * 32,
        task=bytes(32),
        encoding=_encoding(vector, 3, bits),
    ).sealed(centre)
    size = 8 * terms.encoding.words
    coordinator.order(terms)
    for plant, session in sessions.items():
        boxes = coordinator.boxes_for(plant)
        with Peak(size) as masking:
            words, text = session.mask(terms.text, boxes=boxes, vector=vector, weight=100)
        with Peak(size) as adding:
            coordinator.take_masked(text, words)
        del words
    request = coordinator.unmask_request()
    for session in sessions.values():
        coordinator.take_unmasked(session.unmask(request))
    with Peak(size) as reading:
        coordinator.total()
    return f"{masking.times:.2f}, {adding.times:.2f}, {reading.times:.2f}"


class _Book:
    """A record that keeps nothing: one session, once."""

    def begin(self, sid: SessionId) -> None: ...

    def check(self, release: str, *, most: int) -> None: ...

    def contribute(self, release: str, *, most: int) -> None: ...


def _encoding(vector: Vector, plants: int, bits: int) -> Encoding:
    return Encoding(size=vector.size, bits=bits, bound=1.0, max_weight=1000, plants=plants)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    size = VALUES // 10 if given.quick else VALUES
    vector = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    print(f"{size / 1e6:.1f} million values; best of {RUNS}\n")
    print("| bits | plants | ours, 1 thread | 2 threads | stream alone | / stream | Flower "
          "| times faster | with 2 threads | masked MB | shares |")  # fmt: skip
    print("|---" * 11 + "|")
    cohorts = (3, 10) if given.quick else (3, 10, 30, 100)
    for bits, plants in ((bits, plants) for bits in BITS for plants in cohorts):
        one = seconds(lambda n=plants, b=bits: ours(vector, plants=n, threads=1, bits=b))
        two = seconds(lambda n=plants, b=bits: ours(vector, plants=n, threads=2, bits=b))
        words = _encoding(vector, plants, bits).words
        bare = seconds(lambda n=plants, w=words: stream(w, plants=n))
        cells = [f"{one:.2f} s", f"{two:.2f} s", f"{bare:.2f} s", f"{one / bare:.2f}"]
        if plants <= 10:
            theirs = seconds(lambda n=plants: flower(vector, plants=n), runs=1)
            cells += [f"{theirs:.2f} s", f"{theirs / one:.1f}", f"{theirs / two:.1f}"]
        else:
            cells += ["not run"] * 3
        share = seconds(lambda n=plants: sharing(n), runs=1)
        cells += [f"{8 * words / 1e6:.0f}", f"{share:.2f} s"]
        print(f"| {bits} | {plants} | {' | '.join(cells)} |", flush=True)
    print("\nBuffers of a masked update's size: masking, adding to the sum, reading the sum")
    for bits in BITS:
        print(f"{bits} bits: {buffers(vector, bits=bits)}")


if __name__ == "__main__":
    main()
