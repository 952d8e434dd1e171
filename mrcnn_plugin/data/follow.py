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
        cfg: receives `DATASETS.FILES`, `DATASETS.TRAIN`, `DATASETS.TEST` and so on.
        train, val: each `name=json:images`, or the name of a registered data set.
        val_fraction: part of the training images to hold out for validation.
        given: keys that the user set, which stay as they are.

    Raises:
        DataError: a text is malformed, `val` and `val_fraction` are both given, or there is nothing
            to hold images out of.
    """
    if val and val_fraction:
        raise DataError("--val and --val-fraction are both given: expected one or the other")
    options = cfg.DATASETS
    specs = {_parse(text).name: text for text in options.FILES}
    for texts, key, other in ((train, "TRAIN", "TEST"), (val, "TEST", None)):
        names = tuple(_declare(text, specs) for text in texts)
        if names and f"DATASETS.{key}" not in given:
            cfg.DATASETS[key] = names
        if names and other and f"DATASETS.{other}" not in given:
            cfg.DATASETS[other] = ()  # the config's own validation data belong to its own training
    options.FILES = tuple(specs.values())
    if train and "DATASETS.CLASS_NAMES" not in given:
        options.CLASS_NAMES = ()
    if val_fraction is not None or (train and val):
        options.VAL_FRACTION = float(val_fraction or 0)
    if val_fraction and not any(n.removesuffix(TRAIN_PART) in specs for n in cfg.DATASETS.TRAIN):
        raise DataError(
            f"--val-fraction splits data of --train name=json:images; {cfg.DATASETS.TRAIN} are "
            "registered elsewhere"
        )


def _declare(text: str, specs: dict[str, str]) -> str:
    """Add what `text` declares to `specs`; returns its name."""
    if not is_spec(text):
        return text
    spec = _parse(text).absolute()
    before = specs.get(spec.name)
    if before is not None and _parse(before).absolute() != spec:
        logger.info(f"'{spec.name}' is now {spec}, no longer {before}")
    specs[spec.name] = str(spec)
    return spec.name


def _parse(text: str) -> DatasetSpec:
    try:
        return DatasetSpec.parse(text)
    except ValueError as error:
        raise DataError(str(error)) from error


def follow_data(cfg: CfgNode, *, given: Collection[str] = ()) -> None:
    """Register the declared data sets and set what follows from them, in place, saying what.

    `DATASETS.CLASS_NAMES`, `MODEL.ROI_HEADS.NUM_CLASSES` and `INPUT.MASK_FORMAT` follow from
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
    if not used or cfg.DATASETS.CLASS_NAMES:
        return
    names = tuple(dict.fromkeys(name for d in used for name in sorted_class_names(d.raw())))
    cfg.DATASETS.CLASS_NAMES = names
    shown = f"classes {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
    any_rle = any(has_rle(d.raw()) for d in used)
    derived = {
        "MODEL.ROI_HEADS.NUM_CLASSES": (len(names), shown),
        "INPUT.MASK_FORMAT": ("bitmask", "RLE masks") if any_rle else ("polygon", "polygons only"),
    }
    where = ", ".join(d.name for d in used)
    for key, (value, why) in derived.items():
        if key in given:
            logger.info(f"{key} is as given; from {where} would follow {value} ({why})")
        else:
            cfg.merge_from_list([key, value])
            logger.info(f"{key} is {value}, which follows from {where}: {why}")
    _share_class_names(cfg, used)


def _use_parts(cfg: CfgNode, given: Collection[str]) -> None:
    """With `VAL_FRACTION`, train on one part of each declared data set, evaluate on the other."""
    if not cfg.DATASETS.VAL_FRACTION:
        return
    names = declared_names(cfg)
    whole = [n for n in cfg.DATASETS.TRAIN if n in names and names[n][1] == ""]
    if not whole:
        return
    cfg.DATASETS.TRAIN = tuple(n + TRAIN_PART if n in whole else n for n in cfg.DATASETS.TRAIN)
    if "DATASETS.TEST" not in given:
        cfg.DATASETS.TEST = tuple(n + VAL_PART for n in whole)


def _share_class_names(cfg: CfgNode, used: list[DeclaredDataset]) -> None:
    """Registered before the classes were known: what was read already is kept."""
    raws = {dataset.name: dataset.raw() for dataset in used}
    register_declared(cfg)
    for name, raw in raws.items():
        find_declared(name).keep_raw(raw)
