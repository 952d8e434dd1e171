"""detectron2's COCOEvaluator for json files that are almost COCO's. It also saves an analysis."""

import contextlib
import io

from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval

from ..data.coco_file import make_evaluable
from .analysis import analyse, save_analysis


class AnalysingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` that leaves `analysis.json`, for the report, next to its results.

    Json files that pycocotools cannot evaluate are repaired in memory (`make_evaluable`).
    """

    def __init__(self, *args, **kwargs):
        """Arguments as in detectron2's `COCOEvaluator`.

        `use_fast_impl` is False by default. The compiled evaluation keeps the matches of each image
        to itself, so with it the analysis evaluates once more with pycocotools.
        """
        kwargs.setdefault("use_fast_impl", False)
        super().__init__(*args, **kwargs)
        self._coco_api.dataset = make_evaluable(self._coco_api.dataset)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def evaluate(self, img_ids=None):
        """As in the base class; also writes `analysis.json` into the output directory."""
        self._evaluated = {}
        results = super().evaluate(img_ids)
        if self._evaluated and self._output_dir:
            category_ids = sorted(self._coco_api.getCatIds())
            names = self._metadata.get("thing_classes") or [str(i) for i in category_ids]
            evaluated = {task: with_matches(e) for task, e in self._evaluated.items()}
            save_analysis(analyse(evaluated, names, self._metadata.name), self._output_dir)
        return results

    def evaluate_saved(self, predictions: list[dict]):
        """Evaluate predictions that an earlier evaluation saved, instead of those of a model."""
        self._predictions = predictions
        return self.evaluate()

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        # What detectron2's subclasses override as well: nothing public gives the COCOeval.
        if coco_eval is not None and iou_type in ("bbox", "segm"):
            self._evaluated[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def with_matches(coco_eval: COCOeval) -> COCOeval:
    """An evaluation whose `evalImgs` has the matches of each image.

    Args:
        coco_eval: accumulated, by pycocotools or by an engine that fills `evalImgs` with nothing.
    """
    if len(coco_eval.evalImgs):
        return coco_eval
    again = COCOeval(coco_eval.cocoGt, coco_eval.cocoDt, coco_eval.params.iouType)
    again.params = coco_eval.params
    with contextlib.redirect_stdout(io.StringIO()):
        again.evaluate()
        again.accumulate()
    return again
