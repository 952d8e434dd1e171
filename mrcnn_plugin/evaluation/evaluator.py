"""detectron2's COCOEvaluator, extended to accept COCO-like json files and to save an analysis."""

import contextlib
import io
import json
import logging
from collections import defaultdict
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator

from ..data.coco_file import make_evaluable
from .analysis import FILE_NAME, analyse, save_analysis

RESULTS_FILE = "coco_instances_results.json"  # detectron2's name

logger = logging.getLogger(__name__)


class AnalysingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` that accepts COCO-like json files and saves `analysis.json` for the report.

    The json file is not changed. Only the copy in memory gets what pycocotools needs, see
    `make_evaluable`.

    It always runs pycocotools' COCOeval. A compiled detectron2 would run its own `COCOeval_opt`,
    which is faster but keeps the matches between detections and ground truth in C++, where the
    analysis cannot read them.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: tuple[float, ...] = (),
    ):
        """The arguments are those of detectron2's `COCOEvaluator`, without `use_fast_impl`."""
        super().__init__(
            dataset_name,
            tasks=tasks,
            distributed=distributed,
            output_dir=output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,
            kpt_oks_sigmas=kpt_oks_sigmas,
        )
        if self._do_evaluation:
            self._make_evaluable()

    def _make_evaluable(self):
        content = self._coco_api.dataset
        self._coco_api.dataset = make_evaluable(content)
        if self._coco_api.dataset["annotations"] is not content["annotations"]:
            logger.warning(
                f"{self._metadata.json_file} has annotation ids that COCOeval cannot use (0, "
                "duplicates or no integers). The annotations are renumbered in memory."
            )
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco_api.createIndex()

    def load_predictions(self) -> None:
        """Load what an earlier evaluation saved in `output_dir`, in place of `process`."""
        file = Path(self._output_dir, RESULTS_FILE)
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        by_image = defaultdict(list)
        for result in json.loads(file.read_text()):
            category = result["category_id"]
            result["category_id"] = contiguous.get(category, category)
            by_image[result["image_id"]].append(result)
        self._predictions = [{"image_id": i, "instances": r} for i, r in by_image.items()]

    def evaluate(self, img_ids=None):
        """Evaluate as the base class does, and save `analysis.json` in the output directory."""
        self._evaluated = {}
        results = super().evaluate(img_ids)
        if self._evaluated and self._output_dir:
            category_ids = sorted(self._coco_api.getCatIds())
            names = self._metadata.get("thing_classes") or [str(i) for i in category_ids]
            save_analysis(analyse(self._evaluated, names, self._metadata.name), self._output_dir)
        return results

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        # detectron2 offers no public access to its COCOeval objects. Overriding this method is how
        # other projects reach them.
        if coco_eval is not None and iou_type in ("bbox", "segm"):
            self._evaluated[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def inference_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """The folder of a dataset's predictions: `inference/`, or a subfolder if there are several."""
    folder = Path(cfg.OUTPUT_DIR, "inference")
    return folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder


def has_analysis(cfg: CfgNode) -> bool:
    """Whether every dataset of `DATASETS.TEST` has an analysis."""
    return all((inference_folder(cfg, name) / FILE_NAME).exists() for name in cfg.DATASETS.TEST)


def rebuild_analysis(cfg: CfgNode) -> list[str]:
    """Evaluate the saved predictions of a run again, for all of `DATASETS.TEST`, without the model.

    Returns:
        names of the datasets that have saved predictions.
    """
    done = []
    for name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, name)
        if (folder / RESULTS_FILE).exists():  # datasets with other evaluators have no such file
            evaluator = AnalysingCOCOEvaluator(name, output_dir=str(folder), distributed=False)
            evaluator.load_predictions()
            evaluator.evaluate()
            done.append(name)
    return done
