"""Damages files of the real libraries at random and has every parser read them, for a fixed time; prints the count.

    python -m tests.fuzz --seconds 60

A parser may return or raise `Malformed`; anything else, more than 64 MiB or more than ten seconds is exit code 1.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time

from fetchverify.core.diagnosis.facts import Entry
from fetchverify.engine.examine import examine_source
from fetchverify.formats import dcp, gguf, pickles, safetensors, torchfile
from fetchverify.formats.source import Bytes, Malformed
from tests.models.folders import HERE

LONGEST_S = 10.0
MOST_BYTES = 64 << 20
INTERESTING = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\xff\xff\xff\xff",
    b"\xff" * 8,
    b"\x00" * 8,
    b"(",
    b"]",
    b"}",
    b"\x94",
    b"R",
    b"{",
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the data with one to eight wounds."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + rng.randrange(9)] = rng.choice(INTERESTING)
            case 2:
                del out[at : at + rng.randrange(64)]
            case 3:
                out[at:at] = out[rng.randrange(len(out) + 1) :][: rng.randrange(256)]
            case _:
                out[at:at] = rng.randbytes(rng.randrange(16))
        if not out:
            out += b"\0"
    return bytes(out)


def main() -> int:
    """Fuzz, and say how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    seeds = [(path.name, path.read_bytes()) for path in sorted(HERE.rglob("*")) if path.is_file()]
    readers = [safetensors.read_header, torchfile.read_torch, gguf.read_gguf, dcp.read_dcp]
    count = refused = 0
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        name, data = rng.choice(seeds)
        data = damaged(data, rng)
        began = time.monotonic()
        examine_source(Bytes(data), Entry(path=name, size=len(data)))  # raises nothing at all
        for read in (rng.choice(readers), lambda source: pickles.walk(source.read(0, source.size))):
            try:
                read(Bytes(data))
            except Malformed:
                refused += 1
            count += 1
        slowest = max(slowest, time.monotonic() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    print(f"{count:,} files read, {refused:,} refused, slowest {slowest:.2f} s, memory grew by {grown / 2**20:.0f} MiB")
    return int(slowest > LONGEST_S or grown > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
