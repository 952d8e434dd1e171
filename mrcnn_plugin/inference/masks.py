"""Predicted masks as RLE, computed inside their boxes without an image-sized array per object.

detectron2 pastes every mask into an array of the image's size: 100 objects in an image of 24
megapixels take 2.4 GB before they are encoded.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import Tensor

from ..data.crops import crop_mask

_MOST_PIXELS = 1 << 22  # of a box that are computed at a time


class RLEMasks:
    """Binary masks of one image as COCO RLE; the `pred_masks` of detectron2's `Instances`.

    Indexing with an integer gives an RLE, `{"size": [height, width], "counts": bytes}`, and with
    anything else that selects objects another `RLEMasks`.
    """

    def __init__(self, rles: Sequence[dict], image_size: tuple[int, int]):
        """
        Args:
            rles: compressed RLE of every object.
            image_size: (height, width) in pixels.
        """
        self.rles = list(rles)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[dict]:
        return iter(self.rles)

    def __getitem__(self, item) -> "dict | RLEMasks":
        if isinstance(item, (int, np.integer)):
            return self.rles[item]
        if isinstance(item, Tensor):
            item = item.cpu().numpy()
        chosen = np.arange(len(self))[item]
        return RLEMasks([self.rles[i] for i in np.atleast_1d(chosen)], self.image_size)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """An array of the dicts, which is what detectron2's `Visualizer` converts masks to."""
        array = np.empty(len(self), dtype=object)
        array[:] = self.rles
        return array

    @property
    def tensor(self) -> Tensor:
        """The decoded masks, bool (N, height, width)."""
        if not self.rles:
            return torch.zeros(0, *self.image_size, dtype=torch.bool)
        decoded = mask_utils.decode(self.rles)  # (height, width, N)
        return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1))).bool()

    def areas(self) -> np.ndarray:
        """The number of pixels of each mask, int64 (N,)."""
        return np.array([mask_utils.area(rle) for rle in self.rles], dtype=np.int64)

    def to(self, *args, **kwargs) -> "RLEMasks":
        """Itself: RLE are not on a device."""
        return self

    @staticmethod
    def cat(parts: Sequence["RLEMasks"]) -> "RLEMasks":
        return RLEMasks([rle for part in parts for rle in part], parts[0].image_size)


def encode_masks(
    probabilities: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> RLEMasks:
    """The RLE of masks that are predicted on a grid over their boxes (Mask R-CNN, Sec. 3).

    Pixels are set where the bilinear interpolation of the probabilities reaches the threshold, as
    in detectron2's `paste_masks_in_image`. Rounding differs, so a pixel whose probability is within
    1e-5 of the threshold may.

    Args:
        probabilities: float (N, M, M), in [0, 1].
        boxes: float (N, 4), x1 y1 x2 y2 in pixels of the image.
        image_size: (height, width) in pixels.
        threshold: in (0, 1].
    """
    grids = probabilities.detach().float().cpu().numpy()
    corners = boxes.detach().float().cpu().numpy()
    rles = [_encode(grid, box, image_size, threshold) for grid, box in zip(grids, corners)]
    return RLEMasks(rles, image_size)


def shift_mask(rle: dict, left: int, top: int, image_size: tuple[int, int]) -> dict:
    """The RLE in an image of which `rle` covers the part whose corner is at (left, top)."""
    x, y, crop = crop_mask(rle)
    height, width = image_size
    borders = _borders(np.ascontiguousarray(crop.T), left + x, top + y, height)
    return _from_borders(borders, height, width)


def _encode(grid: np.ndarray, box: np.ndarray, image_size: tuple[int, int], threshold: float):
    height, width = image_size
    x1, y1, x2, y2 = box
    top, bottom = _pixels(y1, y2, height)
    left, right = _pixels(x1, x2, width)
    rows = _interpolation(top, bottom, y1, y2, grid.shape[0]).T  # (M, rows)
    columns_per_part = max(1, _MOST_PIXELS // max(1, bottom - top))
    borders = []
    for begin in range(left, right, columns_per_part):
        end = min(right, begin + columns_per_part)
        columns = _interpolation(begin, end, x1, x2, grid.shape[1])  # (columns, M)
        inside = columns @ grid.T @ rows >= threshold  # (columns, rows): the order of RLE
        borders.append(_borders(inside, begin, top, height))
    return _from_borders(np.concatenate(borders or [np.zeros(0, np.int64)]), height, width)


def _pixels(begin: float, end: float, size: int) -> tuple[int, int]:
    """The range of pixels that a box can set along one axis."""
    return max(int(np.floor(begin)) - 1, 0), min(int(np.ceil(end)) + 1, size)


def _interpolation(begin: int, end: int, low: float, high: float, bins: int) -> np.ndarray:
    """The weights of a grid over [low, high] at the centres of pixels, float32 (pixels, bins).

    Bins have their values at their centres. Outside the grid the values are 0.
    """
    centers = np.arange(begin, end, dtype=np.float32) + np.float32(0.5)
    # Rounded as in torch's grid_sample, because it matters for boxes thinner than a pixel.
    normalized = (centers - low) / (high - low) * np.float32(2) - np.float32(1)
    position = ((normalized + np.float32(1)) * np.float32(bins) - np.float32(1)) / np.float32(2)
    first = np.floor(position)
    weights = np.zeros((len(centers), bins), np.float32)
    for bin_index, weight in ((first, first + 1 - position), (first + 1, position - first)):
        pixel = np.flatnonzero((bin_index >= 0) & (bin_index < bins))
        weights[pixel, bin_index[pixel].astype(np.int64)] = weight[pixel]
    return weights


def _borders(inside: np.ndarray, first_column: int, top: int, height: int) -> np.ndarray:
    """Where runs begin and end, alternately, as pixels in column-major order of the image.

    Args:
        inside: bool (columns, rows).
        first_column, top: the pixel of `inside[0, 0]`.
        height: of the image.
    """
    columns, rows = inside.shape
    separated = np.zeros((columns, rows + 1), dtype=bool)  # no run continues in the next column
    separated[:, :rows] = inside
    flat = separated.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, rows + 1)
    return (first_column + column) * height + top + row


def _from_borders(borders: np.ndarray, height: int, width: int) -> dict:
    """The compressed RLE of runs given by begin, end, begin, end, ..."""
    inner = borders[1:-1].reshape(-1, 2)  # end of a run, begin of the next
    inner = inner[inner[:, 0] != inner[:, 1]]  # over the bottom of a column to the next top
    borders = np.concatenate([borders[:1], inner.ravel(), borders[-1:]])
    counts = np.diff(borders, prepend=0, append=height * width)
    return mask_utils.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
