"""Checks run-length encoded masks before pycocotools reads them.

pycocotools trusts its input: it reads past the end of a compressed string that ends in the middle
of a number, and leaves memory uninitialised where the runs cover fewer pixels than the image has.
"""

import math
from typing import NamedTuple

import numpy as np

from .records import shown

_CHUNK = 2**16  # characters per step, unless a string is longer: arrays that fit the cache
_MAX_LENGTH = 2**24  # characters; a mask of 2 ** 24 runs has no use
_MAX_DIGITS = 6  # 5 bits each: runs and differences of runs up to 2 ** 29 pixels


class _Runs(NamedTuple):
    """Per string, (N,) each: sum of all runs, of the runs inside the mask, the extreme runs."""

    total: np.ndarray
    inside: np.ndarray
    least: np.ndarray
    most: np.ndarray


def form_fault(rle: dict, size: tuple[int, int]) -> tuple[str, str] | None:
    """(kind, fault) of a COCO RLE whose form or size is wrong, or None.

    Args:
        rle: a `segmentation` of a json, whatever it has.
        size: (height, width) of its image.
    """
    counts, found = rle.get("counts"), rle.get("size")
    if not isinstance(counts, (str, bytes, list)) or not isinstance(found, (list, tuple)):
        return "rle-form", f"an RLE needs 'size' and 'counts', this one has {sorted(rle)[:8]}"
    if list(found) != list(size) or {type(side) for side in found} != {int}:
        return "rle-size", f"RLE has (height, width) {shown(found)}, its image {list(size)}"
    limit = min(2 * math.prod(size) + 16, _MAX_LENGTH)  # no mask of this size needs more
    if len(counts) > limit:
        what = "runs" if isinstance(counts, list) else "characters"
        return "rle-counts", f"RLE has {len(counts)} {what}, expected at most {limit}"
    return None


def list_fault(counts: list, pixels: int) -> tuple[str, str] | None:
    """(kind, fault) of uncompressed counts that are no mask of `pixels` pixels, or None."""
    if not all(type(count) is int and count >= 0 for count in counts):
        return "rle-counts", "RLE counts have an entry that is not an integer of 0 or more"
    total, inside = sum(counts), sum(counts[1::2])
    return _sum_fault(total, inside, pixels)


def compressed_faults(
    strings: list[str | bytes], pixels: list[int]
) -> list[tuple[str, str] | None]:
    """For each compressed string, (kind, fault) if it is no mask of `pixels` pixels, or None."""
    encoded = [s.encode("utf-8", "surrogatepass") if isinstance(s, str) else s for s in strings]
    faults: list[tuple[str, str] | None] = []
    chunk, length = [], 0
    for position, string in enumerate(encoded):
        chunk.append(string)
        length += len(string)
        if length >= _CHUNK or position == len(encoded) - 1:
            faults += _chunk_faults(chunk, pixels[len(faults) : position + 1])
            chunk, length = [], 0
    return faults


def _chunk_faults(strings: list[bytes], pixels: list[int]) -> list[tuple[str, str] | None]:
    malformed = "rle-counts", "RLE counts are not a compressed string of runs, or it ends early"
    faults: list[tuple[str, str] | None] = [malformed] * len(strings)
    well_formed = list(range(len(strings)))
    if not (all(strings) and _are_well_formed(strings)):  # rare, so that one by one is fast enough
        well_formed = [k for k in well_formed if strings[k] and _are_well_formed([strings[k]])]
    if well_formed:
        decoded = _decode([strings[k] for k in well_formed])
        for k, total, inside, least, most in zip(well_formed, *(f.tolist() for f in decoded)):
            if least < 0:
                faults[k] = "rle-counts", f"RLE counts have a run of {least} pixels"
            elif most > pixels[k]:
                faults[k] = _sum_fault(most, 1, pixels[k])
            else:
                faults[k] = _sum_fault(total, inside, pixels[k])
    return faults


def _sum_fault(total: int, inside: int, pixels: int) -> tuple[str, str] | None:
    if total != pixels:
        return "rle-counts", f"RLE counts cover {shown(total)} pixels, expected {pixels}"
    return None if inside else ("empty-mask", "the mask has no pixel")


def _are_well_formed(strings: list[bytes]) -> bool:
    """Whether all strings have only digits of COCO's code and end with a number's last digit.

    None of them may be empty.
    """
    digits = np.frombuffer(b"".join(strings), np.uint8) - np.uint8(48)  # others wrap above 63
    last = np.cumsum([len(string) for string in strings]) - 1
    if digits.max() > 63 or (digits[last] & 32).any():
        return False
    ends = np.flatnonzero(digits < 32)
    return bool(np.diff(ends, prepend=-1).max() <= _MAX_DIGITS)


def _decode(strings: list[bytes]) -> _Runs:
    """Decode well-formed strings, as `rleFrString` of pycocotools does.

    A number has digits of 5 bits, the lowest first. Bit 32 says that another digit follows, and bit
    16 of the last digit is the sign. From the fourth number on, a number is the difference to the
    run before the previous one.
    """
    digits = np.frombuffer(b"".join(strings), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits < 32)  # the last digit of each number
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((digits & 31) << (5 * place), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * (last - first + 1)), 0)
    ends = np.cumsum([len(string) for string in strings])
    starts = np.concatenate([[0], np.searchsorted(last, ends[:-1])])  # the first number of each
    counts = np.diff(starts, append=len(numbers))
    index = np.arange(len(numbers)) - np.repeat(starts, counts)  # of a number in its string
    odd = index % 2 == 1
    runs = np.where(index == 0, numbers, 0)
    for chain in (odd, ~odd & (index > 0)):
        sums = np.cumsum(np.where(chain, numbers, 0))
        runs += np.where(chain, sums - np.repeat(sums[starts], counts), 0)
    return _Runs(
        np.add.reduceat(runs, starts),
        np.add.reduceat(np.where(odd, runs, 0), starts),
        np.minimum.reduceat(runs, starts),
        np.maximum.reduceat(runs, starts),
    )
