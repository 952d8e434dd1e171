"""The subcommands of `mrcnn`, one module each with a `main(argv)`; see mrcnn_command.py."""
