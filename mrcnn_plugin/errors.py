"""The base class of errors that end a program with one sentence, and the place that prints them."""

import errno
import sys
from collections.abc import Callable, Sequence


class RunError(Exception):
    """A run cannot start or continue.

    The message says what was found, what was expected and what to do. `mrcnn` and `train_net.py`
    print it and exit with status 1, whatever the number of processes.
    """


class ConfigError(RunError, ValueError):
    """A config key has a value that no model can be built from."""


def is_disk_error(error: BaseException) -> bool:
    """Whether a file could not be written because of the disk: full, read-only or broken."""
    numbers = ("ENOSPC", "EDQUOT", "EROFS", "EFBIG", "EIO", "ESTALE")  # Windows lacks some
    known = {getattr(errno, name) for name in numbers if hasattr(errno, name)}
    return isinstance(error, OSError) and error.errno in known


def one_sentence(program: str, function: Callable, argv: Sequence[str]) -> int | str | None:
    """Call `function(argv)`. A `RunError` is printed as `program: sentence` and gives status 1.

    So is a full or read-only disk.
    """
    try:
        return function(argv)
    except RunError as error:
        text = str(error)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if not is_disk_error(error):
            raise
        text = f"a file could not be written ({error}). Free space or make the folder writable."
    print(f"{program}: {text}", file=sys.stderr)
    return 1
