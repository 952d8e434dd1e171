"""Checks before the first iteration that a run has what it needs: device, folder, data, weights."""

import difflib
import importlib.util
import logging
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.utils.file_io import PathManager

from ..checkpoint.files import has_checkpoint
from ..checkpoint.weight_files import load_weight_file
from ..errors import RunError

logger = logging.getLogger(__name__)


def use_available_device(cfg: CfgNode) -> None:
    """Change `MODEL.DEVICE: cuda` to `cpu`, in place and with a warning, if there is no GPU.

    Raises:
        RunError: torch does not know the device.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise RunError(f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}'; expected 'cuda' or 'cpu'") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning(
            f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}' but torch {torch.__version__} finds no CUDA "
            "device: running on the CPU. Set MODEL.DEVICE to 'cpu' to silence this warning."
        )
        cfg.MODEL.DEVICE = "cpu"


def check_output_dir(folder: str) -> None:
    """Create `OUTPUT_DIR` and check that files can be written there.

    Raises:
        RunError: it is a file, or it cannot be created or written to.
    """
    if "://" in folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if Path(folder).is_file() else error.strerror
        raise RunError(
            f"OUTPUT_DIR '{folder}' cannot be written to ({reason}). Set OUTPUT_DIR to another "
            "folder."
        ) from error


def check_inputs(cfg: CfgNode, *, training: bool) -> None:
    """Check that the datasets and the weights can be read. Weights are downloaded now.

    Args:
        cfg: a full config.
        training: True checks `DATASETS.TRAIN` too, False only `DATASETS.TEST`.

    Raises:
        RunError: names the first thing that is missing and what to do.
    """
    _check_components(cfg)
    for name in (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST):
        _check_dataset(name)
    if cfg.MODEL.LOAD_PROPOSALS:
        raise RunError(
            "MODEL.LOAD_PROPOSALS is True, but detectron2 reads proposal files with pickle, which "
            "executes what they name. Set it to False: the RPN computes the proposals."
        )
    if cfg.MODEL.WEIGHTS:
        _check_weights(cfg.MODEL.WEIGHTS)
    if cfg.WANDB_PROJECT and "wandb" not in sys.modules and not importlib.util.find_spec("wandb"):
        raise RunError(
            f"WANDB_PROJECT is '{cfg.WANDB_PROJECT}', but wandb is not installed. Run `pip install "
            "wandb`, or set WANDB_PROJECT to ''."
        )


def _check_components(cfg: CfgNode) -> None:
    """Check that the parts that a config names are registered."""
    model = cfg.MODEL
    names = [
        ("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
    ]
    if model.META_ARCHITECTURE == "GeneralizedRCNN":
        names += [
            ("MODEL.RPN.HEAD_NAME", model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY),
            ("MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        ]
    for key, name, registry in names:
        if name not in registry:
            known = [registered for registered, _ in registry]
            near = difflib.get_close_matches(name, known, 2, 0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
            raise RunError(f"{key} is '{name}', which is not registered. {hint}")


def check_start(cfg: CfgNode, *, training: bool, resume: bool) -> None:
    """Check what the weights will be at the start: those of a checkpoint, of a file, or random.

    Raises:
        RunError: evaluation would use random weights.
    """
    folder = Path(cfg.OUTPUT_DIR)
    resumes = resume and has_checkpoint(folder)
    if resume and not resumes:
        logger.warning(
            f"--resume finds no checkpoint in {folder}: starting from "
            f"{cfg.MODEL.WEIGHTS or 'random weights'}"
        )
    if resumes or cfg.MODEL.WEIGHTS:
        return
    if not training:
        raise RunError(
            "--eval-only would evaluate random weights, because MODEL.WEIGHTS is ''. Set "
            "MODEL.WEIGHTS to a weight file, or pass --resume to evaluate the last checkpoint in "
            "OUTPUT_DIR."
        )
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        logger.warning(
            "MODEL.WEIGHTS is '' and MODEL.RESNETS.NORM is 'FrozenBN', whose statistics stay at "
            "their initial values: activations grow from layer to layer and training diverges. Set "
            "MODEL.WEIGHTS to pretrained weights, or MODEL.RESNETS.NORM to 'BN'."
        )


def _check_dataset(name: str) -> None:
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, list(DatasetCatalog), 2, 0.6)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise RunError(
            f"The dataset '{name}' is not registered. {hint}Pass files as --train "
            "name=annotations.json:images, or register the dataset with detectron2 first."
        )
    metadata = MetadataCatalog.get(name)
    is_on_files = metadata.get("prepared_from")  # of DATASETS.FILES; check_data writes its json
    for kind in ("image_root",) if is_on_files else ("json_file", "image_root"):
        path = metadata.get(kind)
        if path and not PathManager.exists(path):
            if is_on_files:
                raise RunError(f"The dataset '{name}' needs {path}, which does not exist.")
            root = os.environ.get("DETECTRON2_DATASETS")
            raise RunError(
                f"The dataset '{name}' needs {path}, which does not exist. Built-in datasets are "
                "expected under the environment variable DETECTRON2_DATASETS ("
                + (f"now '{root}'" if root else "not set, so ./datasets")
                + "), laid out as docs/training.md shows."
            )


def _check_weights(path: str) -> None:
    url = urlparse(path)._replace(query="").geturl()
    expected = (
        "Set MODEL.WEIGHTS to a .pth, .safetensors or .pkl file, to a detectron2:// or https:// "
        "address, or to '' to start from random weights."
    )
    try:
        local = PathManager.get_local_path(url)
        found = PathManager.isfile(local)
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise RunError(
            f"MODEL.WEIGHTS '{path}' could not be fetched ({error}). Download the file on a "
            "machine with a network and set MODEL.WEIGHTS to its path."
        ) from error
    if not found:
        raise RunError(f"MODEL.WEIGHTS '{path}' does not exist. {expected}")
    try:
        load_weight_file(local, mmap=True)
    except (OSError, RunError) as error:
        raise RunError(f"MODEL.WEIGHTS is '{path}', but {error}. {expected}") from error
