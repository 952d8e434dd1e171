"""A training loader whose batches depend on the seed and the iteration only.

detectron2's loader cannot continue: its samplers start again, and augmentations draw from
generators that live in the workers. Here every image has a position in the endless stream of its
process, and its random numbers are seeded by that position. A resumed run therefore gets the
batches that it would have got, with any number of workers.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset

from ..data.reading import ReportingMapper
from ..errors import RunError
from .augmentation import training_mapper
from .rng import derived_seed, preserved_rng

logger = logging.getLogger(__name__)

_MOST_TRIES = 10  # images in a row that a mapper may skip


class LoadingError(RunError):
    """The next batch could not be loaded. Nothing has been computed with it."""


class TrainLoader:
    """The batches of `build_detection_train_loader`, as an iterable that can start anywhere.

    With one process, the images and their grouping by orientation are those of detectron2's loader
    with the same seed. Set `seed` and `start_iter` before the first iteration.

    Attributes:
        seed: determines the order of the images and all augmentations.
        start_iter: the training iteration that gets the first batch.
    """

    def __init__(
        self,
        images: list[dict],
        *,
        mapper: Callable[[dict], dict | None],
        build_sampler: Callable[[], Iterable[int]],
        seed: int,
        batch_size: int,
        group_by_orientation: bool,
        num_workers: int,
        timeout: float,
    ):
        """
        Args:
            images: dicts in detectron2's dataset format.
            mapper: turns such a dict into an input of the model, or into None to skip it.
            build_sampler: returns the endless indices of this process. detectron2's samplers draw
                their seed from numpy's generator, which has been seeded when this is called.
            seed: see the attribute.
            batch_size: images per batch of this process.
            group_by_orientation: whether a batch has either wide or tall images only.
            num_workers: processes that load images; 0 loads them in this one.
            timeout: the longest time in seconds to wait for the workers.
        """
        self.seed = seed
        self.start_iter = 0
        self._images = images
        self._mapped = _MappedImages(images, mapper)
        self._build_sampler = build_sampler
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._timeout = timeout if num_workers else 0
        self._is_wide = [group_by_orientation and d["width"] > d["height"] for d in images]

    def __iter__(self) -> Iterator[list[dict]]:
        """
        Raises:
            LoadingError: names the image that cannot be read, or the images that were being read
                when a worker died or did not answer within the timeout.
        """
        in_flight: deque[list[int]] = deque()  # the batches that are being loaded, oldest first

        def batches():
            for batch in islice(self._batches(), self.start_iter, None):
                in_flight.append([index for _, index in batch])
                yield batch

        self._mapped.seed = self.seed
        loader = DataLoader(
            self._mapped,
            batch_sampler=batches(),
            num_workers=self._num_workers,
            collate_fn=list,
            timeout=self._timeout,
            generator=torch.Generator(),  # it would draw from the generator of the model
        )
        try:
            for batch in loader:
                in_flight.popleft()
                for error in batch:
                    if isinstance(error, RunError):
                        raise LoadingError(str(error))
                yield batch
        except RuntimeError as error:
            if not str(error).startswith(("DataLoader worker", "DataLoader timed out")):
                raise
            raise LoadingError(self._describe(error, in_flight)) from error

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Endless batches of (position, index of the image), grouped by orientation."""
        buckets: tuple[list, list] = ([], [])
        for position, index in self._stream():
            bucket = buckets[self._is_wide[index]]
            bucket.append((position, index))
            if len(bucket) == self._batch_size:
                yield bucket.copy()
                bucket.clear()

    def _stream(self) -> Iterator[tuple[int, int]]:
        """Endless (position among all processes, index of the image) of this process."""
        with preserved_rng(self.seed):
            sampler = self._build_sampler()
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for count, index in enumerate(sampler):
            yield count * world_size + rank, index

    def _describe(self, error: RuntimeError, in_flight: deque[list[int]]) -> str:
        names = [self._images[i].get("file_name", f"image {i}") for b in in_flight for i in b]
        shown = "".join(f"\n    {name}" for name in names[:20])
        more = f"\n    and {len(names) - 20} more" if len(names) > 20 else ""
        return (
            f"The training images could not be loaded: {str(error).splitlines()[0]}\n"
            f"  images that were being loaded, the oldest first:{shown}{more}\n"
            "  A worker that is killed has often run out of memory: set DATALOADER.NUM_WORKERS "
            "lower. A worker that hangs often waits for a file system: DATALOADER.TIMEOUT is "
            f"{self._timeout} s."
        )


class _MappedImages(Dataset):
    """Maps the image of a (position, index), with random numbers that the position determines."""

    def __init__(self, images: list[dict], mapper):
        self._images = DatasetFromList(images, copy=False)
        self._mapper = PicklableWrapper(mapper)
        self.seed = 0

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> dict | RunError:
        """Returns an error: raised in a worker, it would arrive with a traceback as its text."""
        position, index = key
        try:
            with preserved_rng(derived_seed(self.seed, position)):
                for _ in range(_MOST_TRIES):
                    mapped = self._mapper(self._images[index])
                    if mapped is not None:
                        return mapped
                    index = int(torch.randint(len(self), ()))
        except RunError as error:
            return error
        return RunError(
            f"The mapper has skipped {_MOST_TRIES} images in a row, the last one is "
            f"{self._images[index].get('file_name', index)}. Check the dataset with "
            "`mrcnn dataset check --full`."
        )


def build_train_loader(cfg: CfgNode, *, mapper=None) -> TrainLoader | DataLoader:
    """`TrainLoader`, or detectron2's loader for a dataset that is not a list of dicts.

    Args:
        cfg: a full config. `DATALOADER.TIMEOUT` is the longest time in seconds to wait for workers.
        mapper: turns a dataset dict into a model's input; `training_mapper` if None.
    """
    mapper = mapper or training_mapper(cfg)
    parts = build_detection_train_loader.from_config(cfg, mapper=mapper)
    images, mapper = parts["dataset"], parts["mapper"]

    def build_sampler():
        return build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=images)[
            "sampler"
        ]

    if not isinstance(images, list):
        logger.warning(
            "The training dataset is not a list, so --resume does not restore its order: a resumed "
            "run starts a new pass over the data."
        )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=images)
    return TrainLoader(
        images,
        mapper=ReportingMapper(mapper, skip=cfg.DATALOADER.SKIP_BAD_IMAGES),
        build_sampler=build_sampler,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        batch_size=parts["total_batch_size"] // comm.get_world_size(),
        group_by_orientation=parts["aspect_ratio_grouping"],
        num_workers=parts["num_workers"],
        timeout=cfg.DATALOADER.TIMEOUT,
    )
