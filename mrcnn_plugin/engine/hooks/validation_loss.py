"""Computes the training losses on held-out images without affecting the training.

detectron2's test loader drops annotations and its models return no losses in evaluation mode. Here
the held-out images have ground truth and test-time size. The model computes its losses as in
training, except that it computes no gradients, uses the running statistics of batch norm and
applies no dropout.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader

from ...errors import RunError
from ..distributed import unwrap
from ..rng import preserved_rng

logger = logging.getLogger(__name__)

# Anchors and proposals are sampled. With the same draws every time, changes are the model's.
_SEED = 0

# Layers that change state or draw random numbers in training mode.
_STOCHASTIC = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def build_validation_loader(cfg: CfgNode) -> DataLoader:
    """Batches of one image of `DATASETS.TEST` with its `instances`, resized as for testing.

    Images without annotations are skipped if `DATALOADER.FILTER_EMPTY_ANNOTATIONS` skips them in
    training. With several processes each gets a share.

    Raises:
        RunError: `DATASETS.TEST` is empty, or its images have no annotations.
    """
    if not cfg.DATASETS.TEST:
        raise RunError("TEST.VAL_LOSS needs DATASETS.TEST, which is empty")
    names = list(cfg.DATASETS.TEST)
    dataset = get_detection_dataset_dicts(names, filter_empty=False, check_consistency=False)
    annotated = all("annotations" in image for image in dataset)
    if annotated and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dataset = filter_images_with_only_crowd_annotations(dataset)
    if not annotated or not dataset:
        raise RunError(
            f"TEST.VAL_LOSS needs ground truth, but the images of {', '.join(names)} have none (a "
            "json without 'annotations'). Name annotated datasets in DATASETS.TEST, or set "
            "TEST.VAL_LOSS to False."
        )
    mapper = DatasetMapper(
        is_train=True,  # keeps the annotations; the augmentations are those of testing
        augmentations=utils.build_augmentation(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
    )
    return build_detection_test_loader(
        dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )


def validation_loss(model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """Mean losses over the images of a loader; weights, statistics and generators stay untouched.

    Args:
        model: a detectron2 model, also wrapped for distributed training.
        loader: batches of one image with `instances`; of each process its share.

    Returns:
        `{"total_loss": ..., "loss_cls": ..., ...}` over the images of all processes, each image
        with equal weight; empty on processes other than the first.
    """
    model = unwrap(model)
    sums, num_images = Counter(), 0
    with preserved_rng(_SEED), EventStorage(), torch.no_grad(), _computing_losses(model):
        for batch in loader:
            for name, value in model(batch).items():
                sums[name] += float(value) * len(batch)
            num_images += len(batch)
    gathered = comm.gather((dict(sums), num_images))
    if not comm.is_main_process():
        return {}
    num_images = sum(count for _, count in gathered)
    names = dict.fromkeys(name for part, _ in gathered for name in part)
    means = {name: sum(part.get(name, 0.0) for part, _ in gathered) / num_images for name in names}
    means = {"total_loss": sum(means.values()), **means}
    values = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    logger.info(f"Validation loss over {num_images} images: {values}")
    return means


@contextlib.contextmanager
def _computing_losses(model: nn.Module) -> Iterator[None]:
    """Training mode, except for the layers that would then change state or draw at random."""
    was_training = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, _STOCHASTIC):
            module.training = False
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
