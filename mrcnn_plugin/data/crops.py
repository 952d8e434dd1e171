"""Decodes run-length encoded masks inside their boxes only."""

import numpy as np
import pycocotools.mask as mask_utils


def crop_mask(rle: dict) -> tuple[int, int, np.ndarray]:
    """Decode a mask inside its box only, which takes no memory of the image's size.

    Args:
        rle: compressed RLE.

    Returns:
        left, top and a bool (height, width) array of the box; an empty array for an empty mask.
    """
    left, top, width, height = mask_utils.toBbox(rle).astype(np.int64).tolist()
    crop = np.zeros(width * height + 1, np.int8)
    if width * height == 0:
        return left, top, np.zeros((height, width), bool)
    ends = np.cumsum(_run_lengths(rle["counts"]))
    begins, ends = ends[0::2][: len(ends) // 2], ends[1::2]
    begins, ends = begins[begins < ends], ends[begins < ends]
    # A run over several columns has a box of the image's height, so no run leaves the box.
    column, row = np.divmod(begins, rle["size"][0])
    np.add.at(crop, (column - left) * height + row - top, 1)
    column, row = np.divmod(ends - 1, rle["size"][0])
    np.add.at(crop, (column - left) * height + row - top + 1, -1)
    inside = np.cumsum(crop[:-1], dtype=np.int8).astype(bool)
    return left, top, inside.reshape(width, height).T


def _run_lengths(counts: bytes | str) -> np.ndarray:
    """The run lengths of compressed counts, int64; rleFrString of pycocotools does the same in C.

    A number has 5 bits per byte, low ones first. From the fourth on, it is the difference to the
    run length two before.
    """
    data = counts.encode() if isinstance(counts, str) else counts
    values = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    is_last = (values & 0x20) == 0
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(starts, append=len(values))
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((values & 0x1F) << (5 * place), starts)
    negative = (values[starts + lengths - 1] & 0x10) != 0
    numbers[negative] -= 1 << (5 * lengths[negative])
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
