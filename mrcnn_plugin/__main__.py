"""`python -m mrcnn_plugin` is the command `mrcnn`."""

from mrcnn_plugin.cli.main import main

main()
