"""detectron2's COCOEvaluator for json files that are almost COCO's; it leaves an analysis too."""

import contextlib
import io

from detectron2.evaluation import COCOEvaluator

from ..data.coco_file import make_evaluable
from .analysis import analyse, save_analysis


class MendingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` for COCO-like json files, which `make_evaluable` repairs in memory."""

    def __init__(self, *args, **kwargs):
        """Arguments as in detectron2's `COCOEvaluator`."""
        super().__init__(*args, **kwargs)
        self._coco_api.dataset = make_evaluable(self._coco_api.dataset)
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
