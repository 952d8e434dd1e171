"""What follows from the data sets: names in `DATASETS`, classes, mask format."""

import logging
from collections.abc import Collection, Sequence

from detectron2.config import CfgNode

from .check import has_rle
from .coco_file import DataError, sorted_class_names
from .declared import (
    TRAIN_PART,
    VAL_PART,
    DeclaredDataset,
    declared_names,
    find_declared,
    register_declared,
)
from .spec import DatasetSpec, is_spec

logger = logging.getLogger(__name__)


def declare_datasets(
    cfg: CfgNode,
    *,
    train: Sequence[str] = (),
    val: Sequence[str] = (),
    val_fraction: float | None = None,
    given: Collection[str] = (),
) -> None:
    """Write data sets of the command line into a config, in place, as its yaml would have them.

    Args:
        cfg: receives `MODEL.MRCNN.DATASETS`, `DATASETS.TRAIN`, `DATASETS.TEST` and so on.
        train, val: each `name=json:images`, or the name of a registered data set.
        val_fraction: part of the training images to hold out for validation.
        given: keys that the user set, which stay as they are.

    Raises:
        DataError: a text is malformed, or `val` and `val_fraction` are both given.
    """
    if val and val_fraction:
        raise DataError("--val and --val-fraction are both given: expected one or the other")
    options = cfg.MODEL.MRCNN
    specs = {DatasetSpec.parse(text).name: text for text in options.DATASETS}
    for texts, key, other in ((train, "TRAIN", "TEST"), (val, "TEST", None)):
        names = tuple(_declare(text, specs) for text in texts)
        if names and f"DATASETS.{key}" not in given:
            cfg.DATASETS[key] = names
        if names and other and f"DATASETS.{other}" not in given:
            cfg.DATASETS[other] = ()  # the config's own validation data belong to its own training
    options.DATASETS = tuple(specs.values())
    if train and "MODEL.MRCNN.CLASS_NAMES" not in given:
        options.CLASS_NAMES = ()
    if val_fraction is not None or val:
        options.VAL_FRACTION = float(val_fraction or 0)


def _declare(text: str, specs: dict[str, str]) -> str:
    """Add what `text` declares to `specs`; returns its name."""
    if not is_spec(text):
        return text
    try:
        spec = DatasetSpec.parse(text).absolute()
    except ValueError as error:
        raise DataError(str(error)) from error
    before = specs.get(spec.name)
    if before is not None and DatasetSpec.parse(before).absolute() != spec:
        logger.info(f"'{spec.name}' is now {spec}, no longer {before}")
    specs[spec.name] = str(spec)
    return spec.name


def follow_data(cfg: CfgNode, *, given: Collection[str] = ()) -> None:
    """Register the declared data sets and set what follows from them, in place, saying what.

    `MODEL.MRCNN.CLASS_NAMES`, `MODEL.ROI_HEADS.NUM_CLASSES` and `INPUT.MASK_FORMAT` follow from
    the declared data sets that are trained on (evaluated on, where none is). A config that has
    `CLASS_NAMES` already, such as a saved one, is left as it is. So is one that declares nothing.

    Args:
        cfg: not yet frozen.
        given: keys that the user set, which stay as they are.

    Raises:
        DataError: a file cannot be used at all, or a declaration is malformed.
    """
    _use_parts(cfg, given)
    register_declared(cfg)
    used = [d for d in map(find_declared, cfg.DATASETS.TRAIN) if d]
    used = used or [d for d in map(find_declared, cfg.DATASETS.TEST) if d]
    if not used or cfg.MODEL.MRCNN.CLASS_NAMES:
        return
    class_names = dict.fromkeys(n for d in used for n in sorted_class_names(d.raw()))
    cfg.MODEL.MRCNN.CLASS_NAMES = tuple(map(str, class_names))
    where = ", ".join(d.name for d in used)
    _log_and_set(cfg.MODEL.ROI_HEADS, "NUM_CLASSES", len(class_names), cfg, given, where)
    mask_format = "bitmask" if any(has_rle(d.raw()) for d in used) else "polygon"
    _log_and_set(cfg.INPUT, "MASK_FORMAT", mask_format, cfg, given, where)
    _share_class_names(cfg, used)


def _use_parts(cfg: CfgNode, given: Collection[str]) -> None:
    """With `VAL_FRACTION`, train on one part of each declared data set, evaluate on the other."""
    if not cfg.MODEL.MRCNN.VAL_FRACTION:
        return
    names = declared_names(cfg)
    whole = [n for n in cfg.DATASETS.TRAIN if n in names and names[n][1] == ""]
    if not whole:
        return
    cfg.DATASETS.TRAIN = tuple(n + TRAIN_PART if n in whole else n for n in cfg.DATASETS.TRAIN)
    if "DATASETS.TEST" not in given:
        cfg.DATASETS.TEST = tuple(n + VAL_PART for n in whole)


def _log_and_set(node, key, value, cfg, given, where) -> None:
    full = {"NUM_CLASSES": "MODEL.ROI_HEADS.NUM_CLASSES", "MASK_FORMAT": "INPUT.MASK_FORMAT"}[key]
    why = {
        "NUM_CLASSES": f"classes {', '.join(cfg.MODEL.MRCNN.CLASS_NAMES[:20])}",
        "MASK_FORMAT": "RLE masks" if value == "bitmask" else "polygons only",
    }[key]
    if full in given:
        said = "as they need" if node[key] == value else f"they would say {value}"
        logger.info(f"{full} is {node[key]}, as given; {said} ({where}: {why})")
        return
    logger.info(f"{full} is {value}, which follows from {where}: {why}")
    node[key] = value


def _share_class_names(cfg: CfgNode, used: list[DeclaredDataset]) -> None:
    """Registered before the classes were known: what was read already is kept."""
    raws = {dataset.name: dataset.raw() for dataset in used}
    register_declared(cfg)
    for name, raw in raws.items():
        find_declared(name).keep_raw(raw)
