"""detectron2's COCOEvaluator for json files that are almost COCO's."""

import contextlib
import io

from detectron2.evaluation import COCOEvaluator

from ..data.declared import find_declared


class MendingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` that mends, in memory and with a warning, two faults of COCO-like json files.

    * no `info` or `licenses`: recent pycocotools copies them and raises `KeyError: 'info'`;
    * an annotation with id 0: COCOeval writes 0 for "unmatched", so this object counts as missed
      and perfect detections score below 100. Annotations are renumbered from 1.

    A data set of `MODEL.MRCNN.DATASETS` is evaluated as it was loaded: checked, mended, split.
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
