"""Lets unmodified detectron2 programs find this plugin's components and config keys.

    DETECTRON2_ENV_MODULE=mrcnn_plugin.env python detectron2/tools/train_net.py --config-file ...

detectron2 calls `setup_environment` while it is imported.
"""


def setup_environment() -> None:
    """Register the components, and add the plugin's keys to detectron2's default config."""
    from detectron2.config.defaults import _C

    # From the module: the package may be what is importing detectron2 right now.
    from mrcnn_plugin.config import add_mrcnn_config

    add_mrcnn_config(_C)
