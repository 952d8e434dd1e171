"""A model in one file: weights, config, class names, score thresholds and version.

    model_final.pth, model_best.pth, model_ema.pth    plain values: torch.load(weights_only=True)
    <name>.safetensors                                tensors; everything else in its metadata

The config in a file is parsed as yaml data by yacs. It cannot name other files, and no code runs.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..config import add_mrcnn_config
from ..config_text import parse_config
from ..errors import ConfigError, RunError
from .files import damage, save_whole, write_atomically
from .weight_files import import_safetensors, load_safetensors, load_torch_file

SUFFIXES = (".pth", ".safetensors")


@dataclass
class ModelFile:
    """The content of a model file.

    Attributes:
        weights: the state dict.
        config: the full config as yaml text.
        class_names: in the order of the class indices.
        score_thresholds: of each class, the score from which on detections are kept, or None for a
            class without a correct detection; None if they have not been measured.
        version: of mrcnn_plugin when the file was written.
    """

    weights: dict[str, Tensor]
    config: str
    class_names: list[str]
    score_thresholds: list[float] | None
    version: str

    def thresholds(self) -> list[float]:
        """The score of each class from which on detections are kept; 0.5 where none is known."""
        known = self.score_thresholds or [None] * len(self.class_names)
        return [0.5 if value is None else value for value in known]

    def cfg(self, add_keys: Callable[[CfgNode], None] | None = None) -> CfgNode:
        """The config, with `MODEL.WEIGHTS` empty.

        Args:
            add_keys: adds the keys of a project that builds on this one.

        Raises:
            ConfigError: the text is not a config of this version.
        """
        cfg = get_cfg()
        add_mrcnn_config(cfg)
        if add_keys is not None:
            add_keys(cfg)
        try:
            cfg.merge_from_other_cfg(CfgNode(parse_config(self.config, "its text")))
        except Exception as error:  # yaml and yacs raise many kinds
            raise ConfigError(
                f"the config in the model file cannot be read ({error}). It was written by "
                f"mrcnn_plugin {self.version}; install that version."
            ) from error
        cfg.MODEL.WEIGHTS = ""
        return cfg


def description(cfg: CfgNode, score_thresholds: list[float] | None = None) -> dict:
    """What a model file has in addition to the weights, as plain values.

    Args:
        cfg: the config of the run, whose training datasets are registered.
        score_thresholds: see `ModelFile`.
    """
    from .. import __version__

    saved = cfg.clone()
    saved.defrost()
    saved.MODEL.WEIGHTS = ""  # a path of this machine
    return {
        "config": saved.dump(),
        "class_names": class_names(cfg),
        "score_thresholds": score_thresholds,
        "version": __version__,
        "preprocessing": {
            "channels": cfg.INPUT.FORMAT,
            "shortest_side": cfg.INPUT.MIN_SIZE_TEST,
            "longest_side": cfg.INPUT.MAX_SIZE_TEST,
            "mean": list(cfg.MODEL.PIXEL_MEAN),
            "std": list(cfg.MODEL.PIXEL_STD),
        },
    }


def class_names(cfg: CfgNode) -> list[str]:
    """The names of the classes in order, of the config or its data; else "class 0" and so on."""
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = list(cfg.DATASETS.CLASS_NAMES)
    known = MetadataCatalog.list()  # asking for another name would register it
    for dataset in (n for n in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if n in known):
        names = names or list(MetadataCatalog.get(dataset).get("thing_classes", ()))
    return names if len(names) == count else [f"class {i}" for i in range(count)]


def read_model_file(path: str | Path, *, mmap: bool = False) -> ModelFile:
    """Read a model file.

    Args:
        path: a local file; the suffix determines the format.
        mmap: whether the tensors of a `.pth` file are read when they are first used.

    Raises:
        ConfigError: it cannot be read, or has weights only.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"the model file '{path}' does not exist")
    try:
        if path.suffix == ".safetensors":
            content = load_safetensors(path, what="a model file")
        else:
            content = load_torch_file(path, mmap=mmap, what="a model file")
    except (OSError, RunError) as error:
        raise ConfigError(str(error)) from error
    content = content if isinstance(content, dict) else {}
    missing = [k for k in ("model", "config", "class_names") if k not in content]
    if missing:
        raise ConfigError(
            f"'{path}' has no {', '.join(missing)}; expected a model_final.pth or model_best.pth "
            "that mrcnn_plugin has written. Convert other weights with `mrcnn weights`."
        )
    if path.suffix != ".safetensors" and (problem := damage(path)):  # torch ignores checksums
        raise ConfigError(f"the model file '{path}' is damaged: {problem}. Copy it again.")
    _check_values(path, content)
    return ModelFile(
        weights=content["model"],
        config=str(content["config"]),
        class_names=list(content["class_names"]),
        score_thresholds=content.get("score_thresholds"),
        version=str(content.get("version", "unknown")),
    )


def _check_values(path: Path, content: dict) -> None:
    """Check the types of a model file's entries.

    Raises:
        ConfigError: one has another type or length than `description` writes.
    """
    names, thresholds = content["class_names"], content.get("score_thresholds")
    weights = content["model"]
    is_valid = {
        "model": isinstance(weights, dict) and all(map(torch.is_tensor, weights.values())),
        "class_names": isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names),
    }
    is_valid["score_thresholds"] = thresholds is None or (
        isinstance(thresholds, (list, tuple))
        and is_valid["class_names"]
        and len(thresholds) == len(names)
        and all(value is None or isinstance(value, (int, float)) for value in thresholds)
    )
    for key, valid in is_valid.items():
        if not valid:
            raise ConfigError(
                f"'{path}' is not a model file: '{key}' has another type or length than "
                "mrcnn_plugin writes. Convert other weights with `mrcnn weights`."
            )


def write_model_file(path: str | Path, weights: dict[str, Tensor], about: dict) -> None:
    """Write a `.pth` or `.safetensors` file whole or not at all.

    Args:
        path: the suffix determines the format.
        weights: the state dict.
        about: what `description` returns, with further plain values.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        save = import_safetensors().torch.save
        tensors = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()
        }
        data = save(tensors, metadata={key: json.dumps(value) for key, value in about.items()})
        write_atomically(path, lambda file: file.write(data))
    elif path.suffix == ".pth":
        save_whole(path, {"model": weights, **about})
    else:
        raise ConfigError(f"'{path}' ends in '{path.suffix}'; expected {' or '.join(SUFFIXES)}")
