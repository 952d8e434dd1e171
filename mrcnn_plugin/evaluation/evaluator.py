"""detectron2's COCOEvaluator for json files that are almost COCO's; it leaves an analysis too."""

import contextlib
import io

from detectron2.evaluation import COCOEvaluator

from ..data.declared import find_declared
from .analysis import analyse, save_analysis


class MendingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` that mends, in memory and with a warning, two faults of COCO-like json files.

    * no `info` or `licenses`: recent pycocotools copies them and raises `KeyError: 'info'`;
    * an annotation with id 0: COCOeval writes 0 for "unmatched", so this object counts as missed
      and perfect detections score below 100. Annotations are renumbered from 1.

    A data set of `DATASETS.FILES` is evaluated as it was loaded: checked, mended, split.
    """

    def __init__(self, *args, **kwargs):
        """Arguments as in detectron2's `COCOEvaluator`."""
        super().__init__(*args, **kwargs)
        declared = find_declared(self._metadata.name)
        if declared is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco_api = declared.ground_truth()
            return
        dataset = self._coco_api.dataset
        dataset.setdefault("info", {})
        dataset.setdefault("licenses", [])
        annotations = dataset.get("annotations", [])
        if any(annotation["id"] == 0 for annotation in annotations):
            self._logger.warning(
                f"{self._metadata.json_file} has an annotation with id 0, which COCOeval takes for "
                "'unmatched': annotations are renumbered from 1 in memory"
            )
            for new_id, annotation in enumerate(annotations, start=1):
                annotation["id"] = new_id
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco_api.createIndex()

    def evaluate(self, img_ids=None):
        """As in the base class; leaves `analysis.json`, for the report, in the output directory."""
        self._evaluated = {}
        results = super().evaluate(img_ids)
        if self._evaluated and self._output_dir:
            try:
                self._save_analysis()
            except Exception:  # a figure less is no reason to lose a run
                self._logger.exception("The predictions could not be analysed for the report")
        return results

    def _save_analysis(self):
        category_ids = sorted(self._coco_api.getCatIds())
        names = self._metadata.get("thing_classes") or [str(i) for i in category_ids]
        save_analysis(analyse(self._evaluated, names, self._metadata.name), self._output_dir)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is not None and iou_type in ("bbox", "segm"):
            self._evaluated[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, class_names)
