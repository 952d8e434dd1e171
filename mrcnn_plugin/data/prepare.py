"""Prepares datasets for detectron2: checks, repairs, writes and registers them.

The datasets of `DATASETS.FILES` are written to `OUTPUT_DIR/datasets/<name>.json` as they are used:
split, repaired and with the classes of the run. From then on they are COCO datasets like any other.
Datasets that others registered are checked too, but never changed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from .annotations import take_crowds_as_objects
from .builtin import draw_shapes, register_builtin_datasets
from .check import (
    check_content,
    check_num_classes,
    check_unseen_classes,
    drop_unusable,
    fit_categories,
)
from .coco_file import DataError, read_coco_json, select_images, split_images, write_json
from .declare import TRAIN_PART, DeclaredDataset, declared_datasets, read_classes
from .findings import Findings, Problem, Severity
from .overlap import check_overlap
from .statistics import coco_statistics, save_statistics

logger = logging.getLogger(__name__)


@dataclass
class PreparedDataset:
    """A dataset after its check.

    Attributes:
        content: its usable and repaired entries; of `DATASETS.FILES`, what is written.
        declared: its entry of `DATASETS.FILES`, None for a dataset that others registered.
    """

    name: str
    content: dict
    image_root: str
    findings: Findings
    declared: DeclaredDataset | None

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a run."""
        return [p for p in self.findings.problems if p.severity is Severity.ERROR]


def register_datasets(cfg: CfgNode) -> None:
    """Register the datasets that `DATASETS.TRAIN` and `DATASETS.TEST` name and this project knows.

    These are the builtin names (`register_builtin_datasets`; shapes are drawn if needed) and those
    of `DATASETS.FILES`. The latter load `OUTPUT_DIR/datasets/<name>.json`, which `prepare_datasets`
    writes at each start of train_net.py. Here their source is neither read nor checked, so that it
    need not exist any more. Calling it again with another config registers them anew.

    Raises:
        DataError: an entry of `DATASETS.FILES` is malformed, or its name is that of another
            registered dataset.
    """
    names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    declared = {n: d for n, d in declared_datasets(cfg).items() if n in names}
    register_builtin_datasets(names - declared.keys())
    draw_shapes(names - declared.keys())
    classes = list(cfg.DATASETS.CLASS_NAMES)
    for name, (spec, _) in declared.items():
        if name in DatasetCatalog:
            if not MetadataCatalog.get(name).get("prepared_from"):
                raise DataError(
                    f"'{spec}': a dataset '{name}' exists already, registered by detectron2 or by "
                    "other Python code. Choose another name"
                )
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        metadata = {"prepared_from": str(spec), **({"thing_classes": classes} if classes else {})}
        register_coco_instances(name, metadata, str(prepared_file(cfg, name)), spec.image_root)


def prepared_file(cfg: CfgNode, name: str) -> Path:
    """Where a dataset of `DATASETS.FILES` is written."""
    return Path(cfg.OUTPUT_DIR, "datasets", f"{name}.json")


def prepare_datasets(
    cfg: CfgNode, *, train: Sequence[str] = (), test: Sequence[str] = ()
) -> list[PreparedDataset]:
    """Check datasets, each on its own and training against test; write those of `DATASETS.FILES`.

    Nothing is written if there is an error. Also saves statistics (`read_statistics`) of what was
    checked. With `DATASETS.CHECK` False, only the classes are matched. Datasets of others that are
    not COCO json are skipped. Only the main process may call it.

    Args:
        cfg: a full config; the datasets of others are registered.
        train, test: registered names or names of `DATASETS.FILES`.

    Raises:
        DataError: a file cannot be read.
    """
    declared = declared_datasets(cfg)
    names = dict.fromkeys((*train, *test))
    classes = list(cfg.DATASETS.CLASS_NAMES)
    if not classes and not declared.keys().isdisjoint(names):
        classes = list(read_classes(cfg)[0])
    prepared = {
        name: _prepare_declared(name, declared[name], classes, cfg)
        if name in declared
        else _check_registered(name, cfg)
        for name in names
    }
    prepared = {name: dataset for name, dataset in prepared.items() if dataset}
    if cfg.DATASETS.CHECK:
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        for name, dataset in prepared.items():
            evaluated = name in test
            check_num_classes(dataset.content, dataset.findings, num_classes, evaluated=evaluated)
        _check_together(prepared, train, test)
    if not any(dataset.errors for dataset in prepared.values()):
        for dataset in prepared.values():
            _write(dataset, cfg)
    return list(prepared.values())


def _prepare_declared(
    name: str, declared: DeclaredDataset, classes: list[str], cfg: CfgNode
) -> PreparedDataset:
    spec, options = declared.spec, cfg.DATASETS
    content = _read_source(name, declared, cfg)
    findings = Findings(spec.json_file, drop_bad=options.DROP_BAD)
    if options.CROWDS_AS_OBJECTS:
        take_crowds_as_objects(content, findings)
    if options.CHECK:
        masks = cfg.MODEL.MASK_ON
        content = check_content(
            content, findings, spec.image_root, class_names=classes, masks=masks
        )
    else:
        content = drop_unusable(fit_categories(content, findings, classes), findings)
    return PreparedDataset(name, content, spec.image_root, findings, declared)


def _read_source(name: str, declared: DeclaredDataset, cfg: CfgNode) -> dict:
    """Read the part of a source that a dataset uses.

    If the source no longer exists, as with a resumed run whose directory was moved to another
    machine, the file that an earlier start wrote from it is used.
    """
    json_file, options = declared.spec.json_file, cfg.DATASETS
    written = prepared_file(cfg, name)
    if written.exists() and not PathManager.exists(json_file):
        content = read_coco_json(str(written))
        if content["info"]["prepared_from"] == _origin(declared, cfg):
            logger.warning(f"{json_file} does not exist. Using {written}, written from it before")
            return content
    content = read_coco_json(json_file)
    if declared.part:
        kept, held_out = split_images(content["images"], options.VAL_FRACTION, options.VAL_SEED)
        content = select_images(content, kept if declared.part == TRAIN_PART else held_out)
    return content


def _origin(declared: DeclaredDataset, cfg: CfgNode) -> str:
    """What a written json records about its source."""
    split = f", split {cfg.DATASETS.VAL_FRACTION}, seed {cfg.DATASETS.VAL_SEED}"
    return f"{declared.spec}{split if declared.part else ''}"


def _check_registered(name: str, cfg: CfgNode) -> PreparedDataset | None:
    metadata = MetadataCatalog.get(name)
    is_coco = metadata.get("json_file") and metadata.get("evaluator_type") == "coco"
    if not is_coco or not cfg.DATASETS.CHECK:
        return None
    content = read_coco_json(metadata.json_file)
    findings = Findings(metadata.json_file, as_is=True)
    content = check_content(content, findings, metadata.image_root, masks=cfg.MODEL.MASK_ON)
    return PreparedDataset(name, content, metadata.image_root, findings, None)


def _check_together(
    prepared: dict[str, PreparedDataset], train: Sequence[str], test: Sequence[str]
) -> None:
    trains = [prepared[name] for name in train if name in prepared]
    for val in (prepared[name] for name in test if name in prepared):
        if trains and len(trains) == len(train):
            check_unseen_classes([t.content for t in trains], val.content, val.findings)
        for one in trains:
            _check_pair(one, val)


def _check_pair(train: PreparedDataset, val: PreparedDataset) -> None:
    """Look for images of validation in training, unless both are the same dataset on purpose."""
    same_file = train.findings.json_file == val.findings.json_file
    both_parts = all(d.declared and d.declared.part for d in (train, val))
    if train.name == val.name or (same_file and not both_parts):
        fault = f"training '{train.name}' and validation '{val.name}' are the same data"
        val.findings.warning("train-is-val", fault, action="the AP measures memorisation")
        return
    overlap = check_overlap(
        train.content, train.image_root, val.content, val.image_root, train.findings
    )
    if overlap and train.declared and train.findings.drop_bad:
        kept = [image for image in train.content["images"] if image["id"] not in overlap]
        train.content = select_images(train.content, kept)


def _write(dataset: PreparedDataset, cfg: CfgNode) -> None:
    if dataset.declared:
        info = {"prepared_from": _origin(dataset.declared, cfg)}
        write_json({**dataset.content, "info": info}, prepared_file(cfg, dataset.name))
    if cfg.DATASETS.CHECK:
        save_statistics(coco_statistics(dataset.content), cfg.OUTPUT_DIR, dataset.name)
