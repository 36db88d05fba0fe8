"""Keyed randomness: a uniform number that depends on what it is for, and on nothing that happened before."""

import hashlib
import struct

DRAW = 0
"""The place of the engine's own draw; a stage's place in the chain counts from 1."""


def keyed_uniform(seed: int, position: int, place: int = DRAW) -> float:
    """Return the number in [0, 1) of (seed, position, place).

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), here with
    BLAKE2b as the bijection, so that undoing, branching or switching a chain never shifts another draw.
    """
    key = struct.pack("<QQQ", seed & 0xFFFFFFFFFFFFFFFF, position, place)
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53
