"""The command `mrcnn`, with one module per subcommand."""
