"""detectron2's COCOEvaluator for COCO-like json files and bounded memory, with an analysis."""

import contextlib
import copy
import io
import itertools
import json
import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from ..data.coco_file import make_evaluable
from ..errors import RunError
from .analysis import RESULTS_FILE, analyse, save_analysis
from .coco_eval import Evaluation, check_engine, run_coco_eval, tasks_of
from .heartbeat import run_on_rank_0
from .hotcoco_eval import HotcocoEvaluation
from .hotcoco_eval import evaluate as evaluate_with_hotcoco
from .prediction_files import (
    Part,
    PredictionWriter,
    bring_to_rank_0,
    read_lines,
    remove_leftovers,
    with_category_ids,
    write_results,
)

logger = logging.getLogger(__name__)


class AnalysingCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` that accepts COCO-like json files and saves `analysis.json` for the report.

    The json file is not changed. Only the copy in memory gets what pycocotools needs, see
    `make_evaluable`.

    Predictions go to a temporary file per process in `output_dir` (the system's temporary folder
    without one) as inference goes on. Rank 0 merges the files in the order of image ids, so results
    do not depend on the number of processes, and evaluates. The other ranks wait, see
    `run_on_rank_0`. An image that is predicted several times counts once. detectron2's
    `instances_predictions.pth`, which has the content of `coco_instances_results.json`, is not
    written.

    The numbers are those of pycocotools' COCOeval, or of hotcoco with `engine="hotcoco"`, which
    computes the same ones faster (docs/benchmarks.md). The analysis is computed by hotcoco. A
    compiled detectron2's own `COCOeval_opt` is not used.
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
        engine: str = "pycocotools",
    ):
        """The arguments are those of detectron2's `COCOEvaluator`, without `use_fast_impl`.

        Args:
            engine: "pycocotools" or "hotcoco" (`TEST.COCO_EVAL`).

        Raises:
            ConfigError: there is no such engine.
            RunError: hotcoco is not installed.
        """
        check_engine(engine)
        super().__init__(
            dataset_name,
            tasks=tasks,
            distributed=distributed,
            output_dir=output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,
            kpt_oks_sigmas=kpt_oks_sigmas,
        )
        self._engine = engine
        self._joint = distributed and comm.get_world_size() > 1
        self._writer = PredictionWriter(output_dir)
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

    def reset(self) -> None:
        """Forget all predictions and remove temporary files, also those of killed processes."""
        self._writer.remove()
        if self._output_dir:
            remove_leftovers(self._output_dir)
        self._writer = PredictionWriter(self._output_dir)
        self._error = ""
        self._predictions = []  # box proposals only

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the predictions of some images to the file of this process.

        Args:
            inputs: with `image_id`.
            outputs: of the same images, with `instances` on any device, or `proposals`.

        Raises:
            RunError: the file cannot be written, or a class is not one of the dataset. With several
                processes it is raised by `evaluate`, on all ranks.
        """
        if self._error:
            return
        for input_, output in zip(inputs, outputs):
            image_id = input_["image_id"]
            if "proposals" in output:
                proposals = output["proposals"].to(self._cpu_device)
                self._predictions.append({"image_id": image_id, "proposals": proposals})
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                results = instances_to_coco_json(instances, image_id)
                with self._deferred_errors():
                    # Loading the dataset sets its mapping, maybe after the evaluator is created.
                    self._writer.write(image_id, with_category_ids(results, self._metadata))

    @contextlib.contextmanager
    def _deferred_errors(self):
        """With several processes, keep an error for `evaluate`, which raises it on all of them."""
        try:
            yield
        except RunError as error:
            if not self._joint:
                raise
            logger.error(f"{error}. The evaluation will fail at its end.")
            self._error = str(error)

    def evaluate(self, img_ids: list[int] | None = None) -> dict:
        """Evaluate the predictions of all ranks, and save results and analysis in `output_dir`.

        Args:
            img_ids: images to evaluate. None stands for the whole dataset.

        Returns:
            numbers by task and name on rank 0, an empty dict on the other ranks. Every rank gets
            the numbers of its own predictions if the evaluator is not distributed.

        Raises:
            RunError: a process could not write its predictions, or rank 0 failed. Every rank of a
                distributed evaluator raises it.
        """
        self._results = OrderedDict()
        try:
            with self._deferred_errors():
                self._writer.flush()
            part = replace(self._writer.part(), error=self._error)
            if not self._joint:
                return self._evaluate_parts([part], self._predictions, img_ids)
            return self._evaluate_jointly(part, img_ids)
        except BaseException:
            self._writer.remove()
            raise

    def _evaluate_jointly(self, part: Part, img_ids: list[int] | None) -> dict:
        parts, has_proposals = zip(*comm.all_gather((part, bool(self._predictions))))
        for failed in parts:
            if failed.error:
                raise RunError(failed.error)
        proposals = comm.gather(self._predictions) if any(has_proposals) else []
        parts = bring_to_rank_0(parts, self._writer)
        proposals = list(itertools.chain(*proposals))
        results = run_on_rank_0(lambda: self._evaluate_parts(parts, proposals, img_ids))
        return {} if results is None else results

    def _evaluate_parts(self, parts: list[Part], proposals: list[dict], img_ids) -> dict:
        if proposals:
            if self._output_dir:
                Path(self._output_dir).mkdir(parents=True, exist_ok=True)
            self._eval_box_proposals(proposals)
        if any(part.lines for part in parts):
            if self._output_dir:
                write_results(read_lines(parts), Path(self._output_dir, RESULTS_FILE))
            if self._do_evaluation:
                lists = map(json.loads, read_lines(parts))
                self._evaluate_results(list(itertools.chain.from_iterable(lists)), img_ids)
            else:
                logger.info("Annotations are not available for evaluation.")
        elif not proposals:
            logger.warning("The evaluator did not receive predictions.")
        return copy.deepcopy(self._results)

    def evaluate_saved(self) -> dict:
        """Evaluate what an earlier evaluation saved in `output_dir`, as `evaluate` does."""
        self._results = OrderedDict()
        self._evaluate_results(json.loads(Path(self._output_dir, RESULTS_FILE).read_text()), None)
        return copy.deepcopy(self._results)

    def saved_details(self) -> dict[str, HotcocoEvaluation]:
        """Evaluate the boxes and masks that were saved in `output_dir` with hotcoco only, by task.

        Nothing is printed, logged or written.
        """
        results = json.loads(Path(self._output_dir, RESULTS_FILE).read_text())
        tasks = [task for task in tasks_of(results) if task != "keypoints"] if results else []
        max_dets = self._max_dets_per_image
        return {
            task: evaluate_with_hotcoco(self._coco_api, results, task, max_dets=max_dets)
            for task in tasks
        }

    def _evaluate_results(self, results: list[dict], img_ids: list[int] | None) -> None:
        """Add the numbers of COCO results to `self._results` and save the analysis."""
        logger.info(f"Evaluating {len(results)} predictions with {self._engine} ...")
        evaluated: dict[str, Evaluation] = {}
        for task in sorted(self._tasks or tasks_of(results)):
            if results:  # COCOeval does not accept an empty list
                evaluated[task] = run_coco_eval(
                    self._coco_api,
                    results,
                    task,
                    max_dets=self._max_dets_per_image,
                    image_ids=img_ids,
                    oks_sigmas=self._kpt_oks_sigmas,
                    engine=self._engine,
                )
            self._results[task] = self._derive_coco_results(
                evaluated.get(task), task, class_names=self._metadata.get("thing_classes")
            )
        evaluated.pop("keypoints", None)
        if evaluated and self._output_dir:
            names = self._metadata.get("thing_classes")
            if not names:  # the dataset has not been loaded
                names = [str(c.get("name", i)) for i, c in sorted(self._coco_api.cats.items())]
            analysis = analyse(evaluated, self._coco_api, names, self._metadata.name)
            save_analysis(analysis, self._output_dir)
