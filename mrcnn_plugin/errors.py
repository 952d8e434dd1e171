"""The base class of errors that end a program with one sentence, and the place that prints them."""

import sys
from collections.abc import Callable, Sequence


class RunError(Exception):
    """A run cannot start or continue.

    The message says what was found, what was expected and what to do. `mrcnn` and `train_net.py`
    print it and exit with status 1, whatever the number of processes.
    """


class ConfigError(RunError, ValueError):
    """A config key has a value that no model can be built from."""


def one_sentence(program: str, function: Callable, argv: Sequence[str]) -> int | str | None:
    """Call `function(argv)`. A `RunError` is printed as `program: sentence` and gives status 1."""
    try:
        return function(argv)
    except RunError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
