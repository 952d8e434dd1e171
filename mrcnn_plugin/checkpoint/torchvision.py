"""`MODEL.WEIGHTS: torchvision://ResNet101_Weights.IMAGENET1K_V2`: torchvision nets as backbones."""

import os
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from .weights import read_weights

_PREFIX = "torchvision://"


class TorchvisionWeights(PathHandler):
    """Downloads with torchvision, renames to detectron2's names, keeps both in torch hub's cache.

    A torchvision net wants RGB, another mean and std, and its stride in the 3x3 convs:
    `mrcnn_plugin.weights.TORCHVISION_CONFIG` has the lines.
    """

    def _get_supported_prefixes(self):
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """
        Raises:
            ValueError: torchvision has no weights of that name.
            OSError: they are not in the cache and cannot be downloaded.
        """
        name = path.removeprefix(_PREFIX)
        try:
            weights = torchvision.models.get_weight(name)
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"torchvision {torchvision.__version__} has no weights '{name}'; expected a name "
                "like ResNet101_Weights.IMAGENET1K_V2"
            ) from error
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
        converted = cached.with_suffix(".detectron2.pth")
        if force or not converted.exists():
            self._download(weights, cached)
            partial = converted.with_suffix(f".{os.getpid()}")
            torch.save({"model": read_weights(str(cached)), "__author__": "torchvision"}, partial)
            partial.rename(converted)  # at once: another process may be reading
        return str(converted)

    @staticmethod
    def _download(weights, cached: Path) -> None:
        try:
            weights.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise OSError(
                f"{error}; without a network, download {weights.url} elsewhere and place it at "
                f"{cached}"
            ) from error

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs) -> bool:
        return os.path.isfile(self._get_local_path(path))


PathManager.register_handler(TorchvisionWeights())
