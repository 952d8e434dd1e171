"""The check of all data sets that a run uses, and of training against validation."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils import comm

from .check import (
    check_content,
    check_num_classes,
    check_overlap,
    check_unseen_classes,
)
from .coco_file import read_coco_json
from .declared import DeclaredDataset, find_declared
from .findings import Findings, Problem

logger = logging.getLogger(__name__)


@dataclass
class _Checked:
    """A data set after its own check."""

    name: str
    content: dict
    image_root: str
    findings: Findings
    declared: DeclaredDataset | None = None


def check_datasets(cfg: CfgNode, *, training: bool) -> dict[str, list[Problem]]:
    """Check the data sets of a config, each alone and training against validation.

    Those of `DATASETS.FILES` are mended in memory; what others registered (detectron2's
    names, your own Python) is loaded by others: the main process looks at it and only says what
    it finds. Data that are not COCO json are passed over.

    Args:
        cfg: a full config whose data sets are registered.
        training: True checks `DATASETS.TRAIN` too, False only `DATASETS.TEST`.

    Returns:
        the problems by data set, in the order of the config.

    Raises:
        DataError: a file cannot be used at all.
    """
    test = _checked(cfg.DATASETS.TEST, cfg)
    train = _checked(cfg.DATASETS.TRAIN, cfg) if training else {}
    checked = {**train, **test}
    for dataset in checked.values():
        check_num_classes(dataset.content, dataset.findings, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    for val in test.values():
        if train and len(train) == len(cfg.DATASETS.TRAIN):
            check_unseen_classes([t.content for t in train.values()], val.content, val.findings)
        for one in train.values():
            _check_pair(one, val)
    return {name: dataset.findings.problems for name, dataset in checked.items()}


def _checked(names: Iterable[str], cfg: CfgNode) -> dict[str, _Checked]:
    result = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        declared = find_declared(name)
        if declared:
            root = declared.spec.image_root
            content = declared.content()
            result[name] = _Checked(name, content, root, declared.findings, declared)
        elif comm.is_main_process() and _is_coco(metadata):
            content = read_coco_json(metadata.json_file)
            findings = Findings(metadata.json_file, repair=False)
            check_content(content, findings, metadata.image_root, masks=cfg.MODEL.MASK_ON)
            result[name] = _Checked(name, content, metadata.image_root, findings)
    return result


def _is_coco(metadata: Metadata) -> bool:
    return bool(metadata.get("json_file")) and metadata.get("evaluator_type") == "coco"


def _check_pair(train: _Checked, val: _Checked) -> None:
    """The same pictures in training and validation: meant where it is one data set twice."""
    same_file = train.findings.json_file == val.findings.json_file
    if train.name == val.name or (same_file and not _are_parts(train, val)):
        fault = f"training '{train.name}' and validation '{val.name}' are the same data"
        val.findings.warning("train-is-val", fault, action="AP tells how well it is remembered")
        return
    overlap = check_overlap(
        train.content, train.image_root, val.content, val.image_root, train.findings
    )
    if overlap and train.declared and train.findings.drop_bad:
        train.declared.leave_out(overlap)


def _are_parts(train: _Checked, val: _Checked) -> bool:
    return bool(train.declared and val.declared) and bool(train.declared.part and val.declared.part)
