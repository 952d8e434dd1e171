"""Lets unmodified detectron2 programs use this plugin's components, config keys and datasets.

    DETECTRON2_ENV_MODULE=mrcnn_plugin.env python detectron2/tools/train_net.py --config-file ...

detectron2 calls `setup_environment` while it is imported, so this module imports nothing itself.
"""


def setup_environment() -> None:
    """Register the components and datasets, and add the plugin's keys to the default config."""
    from detectron2.config.defaults import _C

    from mrcnn_plugin.config import add_mrcnn_config
    from mrcnn_plugin.data.builtin import register_builtin_datasets

    add_mrcnn_config(_C)
    register_builtin_datasets()
