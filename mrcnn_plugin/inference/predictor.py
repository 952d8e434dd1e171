"""Predicts instances with a model file."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..checkpoint.model_file import ModelFile, read_model_file
from ..data.image_file import ImageFault
from ..errors import ConfigError
from ..modeling.frozen_bn import fuse_frozen_bn
from ..precision import autocast
from .formats import to_coco, to_labelme, to_polygons
from .inputs import read_image
from .masks import encode_masks
from .tiles import predict_tiles

ImageLike = str | Path | np.ndarray | Image.Image


class Predictor:
    """A trained model that finds instances in images.

        predictor = Predictor("output/model_best.pth")
        instances = predictor("image.jpg")
        instances.pred_boxes, instances.scores, instances.pred_classes, instances.pred_masks

    The detections are those of detectron2's `DefaultPredictor` at the same threshold. The masks are
    `RLEMasks`, which need little memory in large images; `.tensor` decodes them.

    Attributes:
        class_names: in the order of `pred_classes`.
        thresholds: float32 (number of classes,): the score from which on a class is kept.
    """

    def __init__(
        self,
        model_file: str | Path | ModelFile,
        *,
        device: str | None = None,
        threshold: float | Sequence[float] | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int = 1,
        amp: bool | None = None,
    ):
        """
        Args:
            model_file: of a run of mrcnn_plugin, such as `model_best.pth`.
            device: "cpu" or "cuda"; None uses a GPU if there is one.
            threshold: the score from which on detections are kept, of all classes or of each. None
                uses those of the file, which have the best F1 at the evaluation, or else 0.5.
            tile: side in pixels of the tiles in which larger images are predicted. Each is resized
                as an image is. None predicts every image in one piece.
            overlap: of tiles in pixels; None means a fifth of their side.
            batch_size: tiles that go through the model together.
            amp: compute in bfloat16 on CPUs and in float16 on GPUs. None does what the run did
                whose file it is (`SOLVER.AMP.ENABLED`).

        Raises:
            ConfigError: the file is not a model file, the threshold is not between 0 and 1, or the
                tiles do not fit the overlap or the model.
        """
        content = model_file if isinstance(model_file, ModelFile) else read_model_file(model_file)
        cfg = content.cfg()
        cfg.MODEL.DEVICE = _device(device)
        self.class_names = content.class_names
        if len(self.class_names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ConfigError(
                f"the model file has {len(self.class_names)} class names; expected "
                f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}, the NUM_CLASSES of its config"
            )
        self.thresholds = _thresholds(threshold, content)
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(self.thresholds.min())
        cfg.SOLVER.AMP.ENABLED = cfg.SOLVER.AMP.ENABLED if amp is None else amp
        cfg.freeze()
        self.cfg = cfg
        self.tile, self.overlap, self.batch_size = tile, overlap, batch_size
        if tile is not None:
            self.overlap = max(1, tile // 5) if overlap is None else overlap
            _check_tiles(cfg, tile, self.overlap)
        self.model = _build(cfg, content.weights)
        with autocast(cfg, self.model.device):
            fuse_frozen_bn(self.model)
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, format: str = "BGR"
    ) -> Instances | list[Instances]:
        """Find the instances of one image, or of several.

        Several images that have the same size after resizing go through the model together. Images
        of other sizes do not, because padding would change their detections.

        Args:
            images: paths, PIL images, or uint8 arrays (height, width, 3) or (height, width). EXIF
                orientation of files and PIL images is applied.
            format: the order of the channels of arrays, "BGR" or "RGB".

        Returns:
            `Instances` with `pred_boxes`, `scores`, `pred_classes` and `pred_masks` in pixels of
            the original image, best score first; a list of them for a list of images.

        Raises:
            ValueError: an array has another dtype or shape, or a PIL image more than 8 bits.
            TypeError: an image is of another type, such as the None of a failed `cv2.imread`.
            OSError: a file cannot be read as an image, or has 16 bits of grey.
        """
        if isinstance(images, (str, np.ndarray)) or not isinstance(images, Iterable):
            return self([images], format=format)[0]
        arrays = [_read(image, format) for image in images]
        if self.tile is None:
            return self._predict_arrays(arrays)
        tiling = (self.tile, self.overlap, self.batch_size)
        return [predict_tiles(self._predict_arrays, array, *tiling) for array in arrays]

    def to_coco(self, instances: Instances, image_id: int | str, *, first_id: int = 1):
        """The annotations of an image in a COCO json; see `formats.to_coco`."""
        return to_coco(instances, image_id, first_id=first_id)

    def to_labelme(self, instances: Instances, file_name: str, *, tolerance: float = 0.0) -> dict:
        """The content of a labelme json; see `formats.to_labelme`."""
        return to_labelme(instances, file_name, self.class_names, tolerance=tolerance)

    def to_polygons(
        self, instances: Instances, *, tolerance: float = 0.0
    ) -> list[list[list[float]]]:
        """The polygons of each instance; see `formats.to_polygons`."""
        return to_polygons(instances, tolerance=tolerance)

    def _predict_arrays(self, images: list[np.ndarray]) -> list[Instances]:
        """The instances of BGR images. Those of one size go through the model together."""
        by_size: dict[tuple, dict[int, dict]] = defaultdict(dict)
        for index, image in enumerate(images):
            inputs = self._input(image)
            by_size[tuple(inputs["image"].shape)][index] = inputs
        found: dict[int, Instances] = {}
        for batch in by_size.values():
            found.update(zip(batch, self._predict([*batch.values()])))
        return [found[index] for index in range(len(images))]

    def _input(self, image: np.ndarray) -> dict:
        """detectron2's input for a BGR image."""
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        resize = self._resize.get_transform(image)
        resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)  # 0 for a thin line
        image = resize.apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)).astype("float32"))
        return {"image": tensor, "height": height, "width": width}

    @torch.no_grad()
    def _predict(self, inputs: list[dict]) -> list[Instances]:
        with autocast(self.cfg, self.model.device):
            raw = self.model.inference(inputs, do_postprocess=False)
        return [self._finish(r, i["height"], i["width"]) for r, i in zip(raw, inputs)]

    def _finish(self, raw: Instances, height: int, width: int) -> Instances:
        """Scale boxes to the original image, apply the thresholds and encode the masks."""
        if raw.has("pred_masks"):  # under another name, so that they are not pasted
            raw.grids = raw.pred_masks[:, 0]
            raw.remove("pred_masks")
        found = detector_postprocess(raw, height, width)
        found = found[found.scores.cpu() >= self.thresholds[found.pred_classes.cpu()]].to("cpu")
        if found.has("grids"):
            found.pred_masks = encode_masks(found.grids, found.pred_boxes.tensor, (height, width))
            found.remove("grids")
        return found


def _device(device: str | None) -> str:
    usable = ["cpu"]
    if torch.cuda.is_available():
        usable += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    device = str(device or usable[:2][-1])
    if device not in usable:
        raise ConfigError(f"the device is '{device}'; expected one of {', '.join(usable)}")
    return device


def _thresholds(threshold: float | Sequence[float] | None, content: ModelFile) -> Tensor:
    count = len(content.class_names)
    threshold = content.thresholds() if threshold is None else threshold
    values = torch.as_tensor(threshold, dtype=torch.float32)
    if values.ndim and len(values) != count:
        raise ConfigError(f"there are {len(values)} thresholds; expected one, or {count} in a list")
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"the threshold is {threshold}; expected values from 0 to 1")
    return values.expand(count).clone()


def _check_tiles(cfg: CfgNode, tile: int, overlap: int) -> None:
    if not cfg.MODEL.MASK_ON:
        raise ConfigError("tiles are joined by masks, but MODEL.MASK_ON of this model is False")
    if not 1 <= overlap < tile:
        raise ConfigError(
            f"tiles of {tile} pixels overlap by {overlap} pixels; expected from 1 to {tile - 1}"
        )


def _build(cfg: CfgNode, weights: dict[str, Tensor]) -> nn.Module:
    try:
        model = build_model(cfg).eval()
    except KeyError as error:  # of a registry
        raise ConfigError(f"the model of the file cannot be built: {error.args[0]}") from error
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        fault = str(error).splitlines()[1].strip()
        raise ConfigError(f"the tensors of the model file are of another model: {fault}") from error
    if missing := [name for name in missing if not name.startswith("pixel_")]:
        raise ConfigError(
            f"the model file lacks {len(missing)} tensors of its model, such as {min(missing)}"
        )
    return model


def _read(image: ImageLike, format: str) -> np.ndarray:
    """A BGR uint8 array (height, width, 3)."""
    if isinstance(image, (str, Path)):
        try:
            return read_image(str(image))
        except ImageFault as error:
            raise OSError(f"'{image}' {error}") from error
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":  # 16 or 32 bits, which Pillow clips at 255
            raise ValueError(f"an image has the mode {image.mode}; expected 8 bits per channel")
        return detection_utils.convert_PIL_to_numpy(ImageOps.exif_transpose(image), "BGR")
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is {type(image)}; expected a path, an array or a PIL image")
    if format not in ("BGR", "RGB"):
        raise ValueError(f"format is '{format}'; expected 'BGR' or 'RGB'")
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"an image is {image.dtype} of shape {image.shape}; expected uint8 (height, width, 3)"
        )
    return image if format == "BGR" else image[:, :, ::-1]
