"""Data sets that a config declares in `DATASETS.FILES`, loaded through the check."""

import logging
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO

from .check import check_content, fit_categories
from .coco_file import DataError, read_coco_json, select_images, split_images, to_detectron2
from .findings import Findings, Severity, format_problems
from .spec import DatasetSpec

logger = logging.getLogger(__name__)

TRAIN_PART, VAL_PART = "_split_train", "_split_val"

_KEPT_IN_MEMORY = 100_000  # annotations: a larger json is read again when it is needed again


class DeclaredDataset:
    """A COCO json, or one part of its split, with the options of the config that declares it.

    Args:
        name: registered name.
        spec: the files.
        part: "" (all of it), `TRAIN_PART` or `VAL_PART`.
        options: `DATASETS` of the config.
        masks: `MODEL.MASK_ON`.
    """

    def __init__(self, name: str, spec: DatasetSpec, part: str, options: CfgNode, masks: bool):
        self.name = name
        self.spec = spec
        self.findings = Findings(spec.json_file, drop_bad=options.DROP_BAD)
        self.class_names = list(options.CLASS_NAMES) or None
        self.part = part
        self._split = options.VAL_FRACTION, options.VAL_SEED
        self._check = options.CHECK
        self._masks = masks
        self._left_out = set()
        self._raw = self._content = None

    def raw(self) -> dict:
        """The json as it is, reduced to this part of the split."""
        if self._raw is None:
            content = read_coco_json(self.spec.json_file)
            if self.part:
                kept, held_out = split_images(content["images"], *self._split)
                content = select_images(content, kept if self.part == TRAIN_PART else held_out)
            self._raw = content
        return self._raw

    def keep_raw(self, content: dict) -> None:
        """Use this, read a moment ago, as what `raw` would read."""
        self._raw = content

    def content(self) -> dict:
        """The json checked, mended and fitted to the classes of the run; `findings` says how.

        Where the check is off, only the classes are fitted.
        """
        if self._content is None:
            content, self._raw = self.raw(), None
            drop_bad = self.findings.drop_bad
            self.findings = Findings(self.spec.json_file, drop_bad=drop_bad)
            if self._check:
                content = check_content(
                    content,
                    self.findings,
                    self.spec.image_root,
                    class_names=self.class_names,
                    masks=self._masks,
                )
            elif self.class_names:
                content = fit_categories(content, self.findings, self.class_names)
            self._content = self._without(content, self._left_out)
        return self._content

    def leave_out(self, image_ids: set) -> None:
        """Use the data without these images."""
        self._left_out |= image_ids
        self._content = self._without(self.content(), image_ids)

    @staticmethod
    def _without(content: dict, image_ids: set) -> dict:
        if not image_ids:
            return content
        kept = [image for image in content["images"] if image["id"] not in image_ids]
        return select_images(content, kept)

    def dataset_dicts(self) -> list[dict]:
        """What `DatasetCatalog.get` returns.

        Raises:
            DataError: the data have an error that is neither mended nor left out.
        """
        content = self.content()
        errors = [p for p in self.findings.problems if p.severity is Severity.ERROR]
        if errors:
            raise DataError(f"data set '{self.name}':\n{format_problems(errors, limit=10)}")
        dicts = to_detectron2(content, self.spec.image_root, self.name)
        logger.info(
            f"data set '{self.name}': {len(dicts)} images, {len(content['annotations'])} "
            f"annotations of {self.spec.json_file}"
        )
        if len(content["annotations"]) > _KEPT_IN_MEMORY:
            self._content = None
        return dicts

    def ground_truth(self) -> COCO:
        """The content for pycocotools, which writes into what it is given: a copy."""
        content = self.content()
        api = COCO()
        annotations = [dict(annotation) for annotation in content["annotations"]]
        api.dataset = {"info": {}, "licenses": [], **content, "annotations": annotations}
        api.createIndex()
        return api


_DECLARED: dict[str, DeclaredDataset] = {}


def find_declared(name: str) -> DeclaredDataset | None:
    """The data set of this name if a config declared it."""
    return _DECLARED.get(name)


def declared_names(cfg: CfgNode) -> dict[str, tuple[DatasetSpec, str]]:
    """(files, part) by registered name, of everything that the config declares.

    With `VAL_FRACTION` every data set also has the parts `<name>_split_train` and
    `<name>_split_val`.

    Raises:
        DataError: a text of `DATASETS.FILES` is malformed, or a name is there twice.
    """
    names = {}
    for text in cfg.DATASETS.FILES:
        try:
            spec = DatasetSpec.parse(text)
        except ValueError as error:
            raise DataError(f"DATASETS.FILES: {error}") from error
        if spec.name in names:
            raise DataError(f"two data sets are called '{spec.name}': write other=path.json:images")
        for part in ("", TRAIN_PART, VAL_PART) if cfg.DATASETS.VAL_FRACTION else ("",):
            names[spec.name + part] = spec, part
    return names


def register_declared(cfg: CfgNode) -> None:
    """Register what `DATASETS.FILES` declares; again, with another config, replaces it.

    Raises:
        DataError: a declaration is malformed, or its name is that of another data set.
    """
    for name, (spec, part) in declared_names(cfg).items():
        if name in _DECLARED:
            forget_declared(name)
        if name in DatasetCatalog:
            raise DataError(
                f"'{spec}': a data set '{name}' exists already (detectron2 or Python code of yours "
                "registered it): choose another name"
            )
        dataset = DeclaredDataset(name, spec, part, cfg.DATASETS, cfg.MODEL.MASK_ON)
        _DECLARED[name] = dataset
        DatasetCatalog.register(name, dataset.dataset_dicts)
        MetadataCatalog.get(name).set(
            json_file=os.fspath(spec.json_file), image_root=spec.image_root, evaluator_type="coco"
        )
        if dataset.class_names:
            MetadataCatalog.get(name).thing_classes = dataset.class_names


def forget_declared(name: str) -> None:
    """Undo the registration of a declared data set."""
    del _DECLARED[name]
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)
