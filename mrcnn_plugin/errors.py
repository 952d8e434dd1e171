"""The base class of errors that end a program with one sentence instead of a traceback."""


class RunError(Exception):
    """A run cannot start or continue.

    The message says what was found, what was expected and what to do. `mrcnn` and `train_net.py`
    print it and exit with status 1, whatever the number of processes.
    """


class ConfigError(RunError, ValueError):
    """A config key has a value that no model can be built from."""
