"""Counter-based random numbers: pure functions of (seed, step, row)."""

import hashlib

import torch
from torch import Tensor

# The golden ratio for a Weyl sequence, then the multipliers of Wellons' lowbias32 (hash-prospector, 2018), whose
# bias is close to that of a random function.
_GOLDEN, _FIRST, _SECOND = 0x9E3779B9, 0x7FEB352D, 0x846CA68B


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed as a hash of a run's seed and other parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def step_key(seed: int, step: int) -> tuple[int, int]:
    """Return the key of all random numbers of a step: two int32."""
    mixed = derive_seed(seed, "noise", step)
    return _signed(mixed), _signed(mixed >> 31)


def _signed(number: int) -> int:
    """Return the int32 with the same lower 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def stream_key(key: Tensor, stream: int) -> Tensor:
    """Return the key, (2,) int32, of a stream that is independent of other streams."""
    return key + _signed(stream * _FIRST)


def counters(indices: Tensor, stride: int) -> Tensor:
    """Return the contribution of `indices` (int32) times `stride` to a counter of `counter_hash`, int32."""
    # int32 wraps, so a sum of products of two short vectors replaces the product of a long counter.
    return indices * _signed(stride * _GOLDEN)


def counter_hash(rows: Tensor, columns: Tensor, key: Tensor, salt: int = 0) -> Tensor:
    """Return random int32, (R, C), of the counters rows + columns, (R,) and (C,) by `counters`. `key`: (2,) int32."""
    x = rows[:, None] + (columns + (key[0] + _signed(salt)))
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))  # >> copies the sign bit: the mask removes the copies
    x.mul_(_FIRST)
    # The second half of the key separates steps whose counters overlap.
    x.bitwise_xor_(key[1])
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x.mul_(_signed(_SECOND))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def to_uniform(x: Tensor) -> Tensor:
    """Return int32 as floats in (0, 1): 24 bits, the midpoints of equal intervals."""
    return ((x >> 8).bitwise_and_(0xFFFFFF).to(torch.get_default_dtype()) + 0.5) * 2.0**-24
