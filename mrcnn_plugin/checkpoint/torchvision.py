"""Loads torchvision nets as backbones: `MODEL.WEIGHTS: torchvision://ResNet50_Weights.DEFAULT`."""

import os
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..errors import ConfigError
from .weights import read_weights

_PREFIX = "torchvision://"


class TorchvisionWeights(PathHandler):
    """Downloads weights with torchvision and converts them to detectron2's names.

    Both files stay in torch hub's cache. A torchvision net needs RGB images, its own mean and
    standard deviation, and the stride in the 3x3 convs. The config lines for that are in
    `mrcnn_plugin.checkpoint.weights.TORCHVISION_CONFIG`.
    """

    def _get_supported_prefixes(self):
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """
        Raises:
            ConfigError: torchvision has no weights of that name.
            OSError: they are not in the cache and cannot be downloaded.
        """
        weights, downloaded, converted = self._locate(path)
        if force or not converted.exists():
            if not downloaded.is_file():
                self._download(weights, downloaded)
            partial = converted.with_suffix(f".{os.getpid()}")
            content = {"model": read_weights(str(downloaded)), "__author__": "torchvision"}
            torch.save(content, partial)
            partial.rename(converted)  # in one step, as another process may read it
        return str(converted)

    @staticmethod
    def _locate(path: str) -> tuple[torchvision.models.WeightsEnum, Path, Path]:
        """The weights that a path names, their downloaded file and their converted file."""
        name = path.removeprefix(_PREFIX)
        try:
            weights = torchvision.models.get_weight(name)
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"torchvision {torchvision.__version__} has no weights '{name}'; expected a name "
                "such as ResNet101_Weights.IMAGENET1K_V2"
            ) from error
        folder = Path(torch.hub.get_dir(), "checkpoints")
        downloaded = folder / Path(urlparse(weights.url).path).name
        return weights, downloaded, downloaded.with_suffix(".detectron2.pth")

    @staticmethod
    def _download(weights: torchvision.models.WeightsEnum, file: Path) -> None:
        try:
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except OSError as error:
            raise OSError(
                f"{error}; without a network, download {weights.url} elsewhere and place it at "
                f"{file}"
            ) from error

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs) -> bool:
        """Whether the weights are in the cache. This does not download them."""
        try:
            _, downloaded, converted = self._locate(path)
        except ConfigError:
            return False
        return downloaded.is_file() or converted.is_file()


PathManager.register_handler(TorchvisionWeights())
