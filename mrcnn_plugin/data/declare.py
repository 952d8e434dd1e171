"""`DATASETS.FILES`: written by the command line, resolved to names, and what the files imply."""

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode

from .coco_file import DataError, has_rle, read_coco_json, sorted_class_names
from .processes import run_on_main_process
from .spec import DatasetSpec, is_spec
from .text import abbreviate

logger = logging.getLogger(__name__)

TRAIN_PART, VAL_PART = "_split_train", "_split_val"


class DeclaredDataset(NamedTuple):
    """A COCO json of `DATASETS.FILES`, or one part of its split."""

    spec: DatasetSpec
    part: str  # "" for all of it, TRAIN_PART or VAL_PART


def declared_datasets(cfg: CfgNode) -> dict[str, DeclaredDataset]:
    """The datasets of `DATASETS.FILES` by registered name.

    With `VAL_FRACTION` every dataset also has the parts `<name>_split_train` and
    `<name>_split_val`.

    Raises:
        DataError: an entry is malformed, or a name is used twice.
    """
    parts = ("", TRAIN_PART, VAL_PART) if cfg.DATASETS.VAL_FRACTION else ("",)
    return {
        spec.name + part: DeclaredDataset(spec, part)
        for spec in _parse_files(cfg).values()
        for part in parts
    }


def _parse_files(cfg: CfgNode) -> dict[str, DatasetSpec]:
    specs = {}
    for text in cfg.DATASETS.FILES:
        spec = DatasetSpec.parse(text).absolute()
        if spec.name in specs:
            raise DataError(
                f"DATASETS.FILES has two datasets called '{spec.name}'. Give one another name: "
                "other=path.json:images"
            )
        specs[spec.name] = spec
    return specs


def declare_datasets(
    cfg: CfgNode,
    *,
    train: Sequence[str] = (),
    val: Sequence[str] = (),
    val_fraction: float | None = None,
    given: Collection[str] = (),
) -> None:
    """Write the datasets of the command line into a config, in place, as a yaml would have them.

    Args:
        cfg: receives `DATASETS.FILES`, `DATASETS.TRAIN`, `DATASETS.TEST` and so on.
        train, val: each `name=json:images`, or the name of a registered dataset.
        val_fraction: fraction of the training images to hold out for validation.
        given: keys that the user set and that are not changed.

    Raises:
        DataError: a text is malformed, `val` and `val_fraction` are both passed, or there is no
            dataset on files to hold images out of.
    """
    if val and val_fraction:
        raise DataError("--val and --val-fraction were both passed. Pass only one of them")
    options = cfg.DATASETS
    specs = _parse_files(cfg)
    for texts, key, other in ((train, "TRAIN", "TEST"), (val, "TEST", None)):
        names = tuple(_declare(text, specs) for text in texts)
        if names and f"DATASETS.{key}" not in given:
            options[key] = names
        if names and other and f"DATASETS.{other}" not in given:
            options[other] = ()  # the validation data of the config belong to its own training data
    options.FILES = tuple(map(str, specs.values()))
    if train and "DATASETS.CLASS_NAMES" not in given:
        options.CLASS_NAMES = ()
    if val_fraction is not None or (train and val):
        options.VAL_FRACTION = float(val_fraction or 0)
    if val_fraction and not any(n.removesuffix(TRAIN_PART) in specs for n in options.TRAIN):
        raise DataError(
            "--val-fraction only splits data of --train name=json:images, but DATASETS.TRAIN is "
            f"{options.TRAIN}, registered elsewhere. Pass --val instead"
        )


def _declare(text: str, specs: dict[str, DatasetSpec]) -> str:
    """Add the dataset that `text` declares to `specs`; returns its name."""
    if not is_spec(text):
        return text
    spec = DatasetSpec.parse(text).absolute()
    if specs.get(spec.name, spec) != spec:
        logger.info(f"'{spec.name}' is now {spec}, no longer {specs[spec.name]}")
    specs[spec.name] = spec
    return spec.name


def infer_from_files(cfg: CfgNode, *, given: Collection[str] = ()) -> None:
    """Set what the datasets of `DATASETS.FILES` imply, in place, and log it.

    `DATASETS.CLASS_NAMES`, `MODEL.ROI_HEADS.NUM_CLASSES` and `INPUT.MASK_FORMAT` are inferred from
    the training data (from the test data, if no training data are on files). A config that has
    `CLASS_NAMES` already, such as a saved one, or that has no such data, is not changed.

    Args:
        cfg: not yet frozen.
        given: keys that the user set and that are not changed.

    Raises:
        DataError: a file cannot be read, or an entry of `DATASETS.FILES` is malformed.
    """
    _use_parts(cfg, given)
    used = _class_sources(cfg)
    if not used or cfg.DATASETS.CLASS_NAMES:
        return
    names, any_rle = run_on_main_process(lambda: read_classes(cfg))
    cfg.DATASETS.CLASS_NAMES = names
    inferred = {
        "MODEL.ROI_HEADS.NUM_CLASSES": (len(names), f"classes {abbreviate(names, 20)}"),
        "INPUT.MASK_FORMAT": ("bitmask", "RLE masks") if any_rle else ("polygon", "polygons only"),
    }
    where = ", ".join(used)
    for key, (value, why) in inferred.items():
        if key in given:
            logger.info(f"{key} stays as set; {value} would be inferred from {where} ({why})")
        else:
            cfg.merge_from_list([key, value])
            logger.info(f"{key} is {value}, inferred from {where}: {why}")


def _use_parts(cfg: CfgNode, given: Collection[str]) -> None:
    """With `VAL_FRACTION`, train on one part of each dataset on files and evaluate on the other."""
    declared = declared_datasets(cfg)
    if VAL_PART not in {dataset.part for dataset in declared.values()}:
        return
    whole = [n for n in cfg.DATASETS.TRAIN if n in declared and not declared[n].part]
    if not whole:
        return
    cfg.DATASETS.TRAIN = tuple(n + TRAIN_PART if n in whole else n for n in cfg.DATASETS.TRAIN)
    if "DATASETS.TEST" not in given:
        cfg.DATASETS.TEST = tuple(n + VAL_PART for n in whole)


def _class_sources(cfg: CfgNode) -> list[str]:
    """Names of the datasets on files that define the classes of a run."""
    declared = declared_datasets(cfg)
    train = [name for name in cfg.DATASETS.TRAIN if name in declared]
    return train or [name for name in cfg.DATASETS.TEST if name in declared]


def read_classes(cfg: CfgNode) -> tuple[tuple[str, ...], bool]:
    """(class names in order, whether an object has an RLE mask) of the datasets on files."""
    declared = declared_datasets(cfg)
    names, any_rle = {}, False
    for file in dict.fromkeys(declared[name].spec.json_file for name in _class_sources(cfg)):
        content = read_coco_json(file)
        names |= dict.fromkeys(sorted_class_names(content))
        any_rle = any_rle or has_rle(content, crowds=cfg.DATASETS.CROWDS_AS_OBJECTS)
    return tuple(names), any_rle
