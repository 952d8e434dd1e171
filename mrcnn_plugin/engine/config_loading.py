"""Reads the configs of files and models, and `KEY VALUE` overrides; explains those it cannot."""

import ast
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.config import CfgNode, downgrade_config, get_cfg, upgrade_config
from detectron2.utils.file_io import PathManager

from ..checkpoint.class_rows import known_names
from ..checkpoint.model_file import SUFFIXES, read_model_file
from ..config import add_mrcnn_config, config_leaves
from ..config_file import get_config_file
from ..errors import RunError
from .config_reading import read_config_file


def load_config(
    config_file: str | None = None,
    opts: Sequence[str] = (),
    *,
    add_keys: Callable[[CfgNode], None] | None = None,
    follow_bases: bool = True,
) -> CfgNode:
    """detectron2's defaults and this plugin's keys, then a config file, then overrides.

    Args:
        config_file: a path, or the name of a config that is installed with the package, or a model
            file: see `load_model_config`. None skips the file.
        opts: `KEY, VALUE, ...`.
        add_keys: adds the keys of a project that builds on this one.
        follow_bases: False raises if the file has a `_BASE_`. Pass it for a file that somebody else
            may have written, such as the config.yaml of a run.

    Raises:
        RunError: as `merge_config`.
    """
    if config_file is not None and is_model_file(config_file):
        cfg = load_model_config(config_file, add_keys=add_keys)
    else:
        cfg = get_cfg()
        add_mrcnn_config(cfg)
        if add_keys is not None:
            add_keys(cfg)
        if config_file is not None:
            merge_config(cfg, file=find_config(config_file), follow_bases=follow_bases)
    merge_config(cfg, opts=opts)
    return cfg


def is_model_file(config_file: str) -> bool:
    """Whether `--config-file` is a model file, by its suffix."""
    return config_file.endswith(SUFFIXES)


def load_model_config(path: str, *, add_keys: Callable[[CfgNode], None] | None = None) -> CfgNode:
    """The config of a model file, to train its model further or to evaluate it.

    `MODEL.WEIGHTS` is the file itself, and `DATASETS.CLASS_NAMES` are its classes. What belongs to
    the data and the machine of the earlier run has its default: the other keys of `DATASETS`,
    `OUTPUT_DIR`, `MODEL.DEVICE` and `TEST.EXPECTED_RESULTS`. `SOLVER.MAX_ITER` is 0, so that the
    schedule is inferred from the new data as `epochs.fit_schedule` does.

    Args:
        path: a path or an address.
        add_keys: see `load_config`.

    Raises:
        ConfigError: it is not a model file, or its config is of another version.
    """
    content = read_model_file(PathManager.get_local_path(path), mmap=True)
    cfg = content.cfg(add_keys)
    add_mrcnn_config(defaults := get_cfg())
    cfg.MODEL.WEIGHTS = path
    cfg.MODEL.DEVICE = defaults.MODEL.DEVICE
    cfg.OUTPUT_DIR = defaults.OUTPUT_DIR
    cfg.DATASETS = defaults.DATASETS
    cfg.DATASETS.CLASS_NAMES = tuple(known_names(content.class_names) or ())
    cfg.SOLVER.MAX_ITER = 0
    cfg.TEST.EXPECTED_RESULTS = []
    return cfg


def find_config(name: str) -> str:
    """The path `name`, if there is such a file, else the installed config of this name.

    Raises:
        RunError: there is neither.
    """
    if not name:
        raise RunError("No --config-file is given. Pass a file or the name of an installed config.")
    if "://" in name or Path(name).exists():
        return name
    if Path(name).name != name and not name.startswith("quick_schedules/"):
        raise RunError(f"The config file '{name}' does not exist.")
    return get_config_file(name)


def merge_config(
    cfg: CfgNode,
    *,
    file: str | None = None,
    opts: Sequence[str] = (),
    follow_bases: bool = True,
) -> None:
    """Merge a config file, or `KEY, VALUE, ...` overrides, into `cfg`.

    An int is accepted for a float key. yaml tags that would run code are not accepted.

    Args:
        cfg: is changed in place.
        file: a path or an address of a yaml file.
        opts: the overrides.
        follow_bases: False raises if the file has a `_BASE_`.

    Raises:
        RunError: the file cannot be read, or a key is unknown (with the nearest existing ones), or
            a value has another type than the key.
    """
    check_overrides(opts)
    source = " ".join(map(str, opts)) if file is None else file
    content = None if file is None else read_config_file(file, follow_bases=follow_bases)
    try:
        if content is not None:
            _merge_values(cfg, content)
        cfg.merge_from_list(_ints_as_floats(cfg, opts))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise RunError(f"{source}: {text}{_nearest_keys(cfg, text)}") from error


def check_overrides(opts: Sequence[str]) -> None:
    """Check the shape of `KEY, VALUE, ...` as a user typed it.

    Raises:
        RunError: an option follows an override, or `KEY=VALUE` is written, or a value is missing.
    """
    flag = next((word for word in opts if str(word).startswith("--")), None)
    if flag:
        raise RunError(
            f"{flag} comes after the override {opts[0]}. Options come first: put {flag} before it."
        )
    joined = next((word for word in opts[::2] if "=" in str(word)), None)
    if joined:
        key, _, value = str(joined).partition("=")
        raise RunError(f"'{joined}' is not an override. Write it as two words: {key} {value}")
    if len(opts) % 2:
        text = " ".join(map(str, opts))
        raise RunError(f"The overrides must be a list of pairs KEY VALUE, got: {text}")


def _merge_values(cfg: CfgNode, content: dict) -> None:
    loaded = CfgNode(content)
    if loaded.get("VERSION", cfg.VERSION) != cfg.VERSION:
        old = downgrade_config(cfg, to_version=loaded.VERSION)
        old.merge_from_other_cfg(loaded)
        new = upgrade_config(old)
        cfg.clear()
        cfg.update(new)
        return
    floats = {key for key, value in config_leaves(cfg) if type(value) is float}
    for key, value in config_leaves(loaded):
        if key in floats and type(value) is int:
            *parents, name = key.split(".")
            node = loaded
            for parent in parents:
                node = node[parent]
            node[name] = float(value)
    cfg.merge_from_other_cfg(loaded)


def _ints_as_floats(cfg: CfgNode, opts: Sequence) -> list:
    values = dict(config_leaves(cfg))
    ret = list(opts)
    for index in range(0, len(ret), 2):
        key, value = ret[index], ret[index + 1]
        try:
            number = ast.literal_eval(value) if isinstance(value, str) else value
        except (ValueError, SyntaxError):
            continue
        if type(values.get(key)) is float and type(number) is int:
            ret[index + 1] = float(number)
    return ret


def _nearest_keys(cfg: CfgNode, text: str) -> str:
    unknown = re.search(r"Non-existent (?:config )?key: (\S+)", text)
    keys = [key for key, _ in config_leaves(cfg)]
    nearest = difflib.get_close_matches(unknown[1], keys, 2, 0.8) if unknown else []
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
