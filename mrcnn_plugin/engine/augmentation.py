"""Augmentation by config (`INPUT.AUG`) with torchvision.transforms.v2."""

import logging
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from torch import Tensor
from torchvision.transforms import v2

from ..errors import ConfigError
from .geometric_transform import View

logger = logging.getLogger(__name__)


def training_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """`AugmentingMapper` if `INPUT.AUG.ENABLED`, or detectron2's `DatasetMapper`."""
    return AugmentingMapper(cfg) if cfg.INPUT.AUG.ENABLED else DatasetMapper(cfg, is_train=True)


def check_augmentation(cfg: CfgNode) -> None:
    """Check the keys of `INPUT.AUG` if it is enabled.

    Raises:
        ConfigError: a value is out of range, or another key asks for what `INPUT.AUG` replaces.
    """
    aug = cfg.INPUT.AUG
    if not aug.ENABLED:
        return
    for key in ("HORIZONTAL_FLIP", "VERTICAL_FLIP"):
        _require(0 <= aug[key] <= 1, key, aug[key], "a probability of 0 to 1")
    scale, crop, color = aug.SCALE, aug.CROP, aug.COLOR
    in_order = len(scale) == 2 and 0 < scale[0] <= scale[1]
    _require(in_order, "SCALE", scale, "two factors, the smaller one first")
    in_order = len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1
    _require(in_order, "CROP", crop, "two fractions of the image's sides, the smaller one first")
    _require(0 <= aug.ROTATION <= 180, "ROTATION", aug.ROTATION, "0 to 180 degrees")
    in_range = len(color) == 4 and all(0 <= c <= 1 for c in color) and color[-1] <= 0.5
    _require(in_range, "COLOR", color, "brightness, contrast, saturation (0 to 1) and hue (to 0.5)")
    options = cfg.INPUT
    conflicts = [
        (options.CROP.ENABLED, "INPUT.CROP.ENABLED True", "INPUT.AUG.CROP instead"),
        (
            options.RANDOM_FLIP != "horizontal",
            f"INPUT.RANDOM_FLIP {options.RANDOM_FLIP}",
            "INPUT.AUG.HORIZONTAL_FLIP and VERTICAL_FLIP instead",
        ),
        (cfg.MODEL.KEYPOINT_ON, "MODEL.KEYPOINT_ON True", "INPUT.AUG.ENABLED False"),
        (options.FORMAT not in ("BGR", "RGB"), f"INPUT.FORMAT {options.FORMAT}", "BGR or RGB"),
    ]
    for found, what, instead in conflicts:
        if found:
            raise ConfigError(f"INPUT.AUG.ENABLED is True, which excludes {what}. Set {instead}.")


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"INPUT.AUG.{key} is {value}; expected {expected}")


class AugmentingMapper:
    """Maps dataset dicts as detectron2's `DatasetMapper` does, with the views of `INPUT.AUG`.

    Random numbers are drawn from torch's generator of the process only. `INPUT.MIN_SIZE_TRAIN`,
    `MAX_SIZE_TRAIN` and `MASK_FORMAT` keep their meaning: the whole image is resized to the
    shortest side, times the factor of SCALE, and the window is cut out of that.

    Objects of which no pixel is left are dropped. If a view is cropped or rotated, boxes are those
    of the masks. `PolygonMasks` may extend beyond the image, to which the mask loss cuts them.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a full config; read here only.

        Raises:
            ConfigError: see `check_augmentation`.
        """
        check_augmentation(cfg)
        self.aug, self.input = cfg.INPUT.AUG.clone(), cfg.INPUT.clone()
        self.use_masks = cfg.MODEL.MASK_ON
        self.fill = [float(round(mean)) for mean in cfg.MODEL.PIXEL_MEAN]
        brightness, contrast, saturation, hue = self.aug.COLOR
        self.jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
        logger.info(f"Augmentation in training: {dict(self.aug)}")

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: of one image, in detectron2's dataset format.

        Returns:
            The same without "annotations", with "image", uint8 (C, H, W), and "instances".
        """
        ret = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = utils.read_image(dataset_dict["file_name"], format=self.input.FORMAT)
        utils.check_image_size(ret, image)
        view = self.draw_view(*image.shape[:2])
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        ret["image"] = self._color(view.apply(pixels, fill=self.fill)).contiguous()
        if "annotations" in dataset_dict:
            annotations = [
                found
                for annotation in dataset_dict["annotations"]
                if annotation.get("iscrowd", 0) == 0
                and (found := self._annotation(annotation, view))
            ]
            instances = utils.annotations_to_instances(
                annotations, view.result_size, mask_format=self.input.MASK_FORMAT
            )
            ret["instances"] = utils.filter_empty_instances(instances)
        return ret

    def draw_view(self, height: int, width: int) -> View:
        """Draw a view of an image of this size."""
        sizes = self.input.MIN_SIZE_TRAIN
        if self.input.MIN_SIZE_TRAIN_SAMPLING == "range":
            side = _integer(min(sizes), max(sizes) + 1)
        else:
            side = sizes[_integer(0, len(sizes))]
        factor = _uniform(*self.aug.SCALE) * (side / min(height, width) if side else 1)
        factor = min(factor, self.input.MAX_SIZE_TRAIN / max(height, width))
        size = [max(1, int(n * factor + 0.5)) for n in (height, width)]
        window = [max(1, round(n * _uniform(*self.aug.CROP))) for n in size]
        corner = [_integer(0, whole - part + 1) for whole, part in zip(size, window)]
        return View(
            image_size=(height, width),
            size=(size[0], size[1]),
            horizontal=_uniform(0, 1) < self.aug.HORIZONTAL_FLIP,
            vertical=_uniform(0, 1) < self.aug.VERTICAL_FLIP,
            angle=_uniform(-self.aug.ROTATION, self.aug.ROTATION),
            window=(*corner, *window),
        )

    def _color(self, image: Tensor) -> Tensor:
        is_bgr = self.input.FORMAT == "BGR"
        image = self.jitter(image.flip(0) if is_bgr else image)
        return image.flip(0) if is_bgr else image

    def _annotation(self, annotation: dict, view: View) -> dict | None:
        """An annotation in the frame of the view; None if nothing of its mask is left."""
        ret = {"category_id": annotation["category_id"], "bbox_mode": BoxMode.XYXY_ABS}
        x1, y1, x2, y2 = BoxMode.convert(
            annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS
        )
        corners = view.move([x1, y1, x2, y1, x2, y2, x1, y2]).reshape(-1, 2)
        ret["bbox"] = [*corners.min(0), *corners.max(0)]
        if self.use_masks:
            ret["segmentation"] = self._mask(annotation["segmentation"], view)
            if view.cuts:
                box = _mask_box(ret["segmentation"], view.result_size)
                if box is None:
                    return None
                ret["bbox"] = box
        height, width = view.result_size
        ret["bbox"] = np.clip(ret["bbox"], 0, [width, height, width, height])
        return ret

    def _mask(self, segmentation, view: View) -> list[np.ndarray] | np.ndarray:
        """Polygons in the frame of the view, or a mask, uint8 (H, W)."""
        if isinstance(segmentation, list):
            return [view.move(polygon) for polygon in segmentation]
        if self.input.MASK_FORMAT != "bitmask":
            raise ConfigError(
                f"INPUT.MASK_FORMAT is '{self.input.MASK_FORMAT}', but an object has an RLE mask. "
                "Set it to bitmask."
            )
        if isinstance(segmentation, dict):
            segmentation = mask_utils.decode(segmentation)
        mask = torch.from_numpy(np.ascontiguousarray(segmentation, dtype=np.uint8))
        return view.apply(mask[None])[0].numpy()


def _mask_box(mask: list[np.ndarray] | np.ndarray, size: tuple[int, int]) -> list[float] | None:
    """x1, y1, x2, y2 of the pixels of a mask in an image of this size; None if there are none."""
    if isinstance(mask, list):
        rle = mask_utils.merge(mask_utils.frPyObjects([p.tolist() for p in mask], *size))
    else:
        rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, width, height = mask_utils.toBbox(rle).tolist()
    return [x, y, x + width, y + height] if width and height else None


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def _integer(low: int, high: int) -> int:
    """Of low, ..., high - 1."""
    return int(torch.randint(low, high, ()))
