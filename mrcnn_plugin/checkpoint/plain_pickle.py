"""Reads pickles of arrays and plain containers without executing anything that they name.

Python's `pickle` calls whatever function a file names. A subclass of its `Unpickler` can restrict
the names, but not the memory: ten bytes make it allocate tables of gigabytes. This module executes
the few instructions that weight files consist of itself, on top of `pickletools`, Python's parser.
"""

import os
import pickletools
from typing import Any, BinaryIO

import numpy as np

from .pickled_arrays import CALL, EXPECTED, NAMES, Dtype, Name, PickleError, as_dict, set_array

# A Model Zoo file of 600 tensors has about 10,000 instructions. An empty dict costs one instruction
# and about 100 bytes of memory.
_MAX_INSTRUCTIONS = 1_000_000
# Bytes that may be made of each byte of the file. Protocol 2 makes text, bytes and an array of it.
_MAX_GROWTH = 3
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


def read_plain_pickle(path: str | os.PathLike) -> Any:
    """Read a pickle that holds arrays of numbers and plain containers.

    Accepted are dicts, `OrderedDict` (as a dict), lists, tuples, str, bytes, numbers, None, and
    numpy arrays, scalars and dtypes of bool, integer, float and complex types, of any pickle
    protocol and of Python 2 (its `str` is read as latin1) and 3. Memory is bounded by the size of
    the file.

    Returns:
        the content; arrays are writable and have the byte order of this machine.

    Raises:
        PickleError: the file is not a pickle, is cut off, or holds anything else. Nothing in it was
            executed. The message has no subject: "names the Python object ...".
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _Machine(file).run()
        except PickleError:
            raise
        except _DAMAGE as error:
            raise PickleError("is not a pickle, or is damaged or cut off") from error


class _BoundedFile:
    """A file that allocates no more for a read than it can return."""

    def __init__(self, file: BinaryIO):
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size))


class _Machine:
    """Executes the instructions of one pickle, as `_EXECUTE` lists them."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.stack: list = []
        self.marks: list[list] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.allowance = _MAX_GROWTH * os.fstat(file.fileno()).st_size + 2**20

    def run(self) -> Any:
        instructions = pickletools.genops(_BoundedFile(self.file))
        for count, (opcode, argument, _) in enumerate(instructions):
            if count > _MAX_INSTRUCTIONS:
                raise PickleError(
                    f"has more than {_MAX_INSTRUCTIONS} instructions; a weight file has thousands"
                )
            if opcode.name == "STOP":
                return self.stack.pop()
            execute = _EXECUTE.get(opcode.name)
            if execute is None:
                raise PickleError(
                    f"uses the pickle instruction {opcode.name}, which creates or fetches a Python "
                    f"object; {EXPECTED}"
                )
            execute(self, argument)
        raise ValueError("no STOP")

    def push(self, value) -> None:
        self.stack.append(value)

    def mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop_tuple(self, size: int) -> None:
        items = [self.stack.pop() for _ in range(size)]
        self.push(tuple(items[::-1]))

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def count(self, made) -> None:
        """Data that a file names again and again must not become gigabytes."""
        size = made.nbytes if isinstance(made, (np.ndarray, np.generic)) else 0
        self.allowance -= size + (64 * len(made) if isinstance(made, dict) else 0)
        self.allowance -= len(made) if isinstance(made, bytes) else 0
        if self.allowance < 0:
            raise PickleError("makes far more data than it has bytes")

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("no list")
        target.extend(items)

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("no dict")
        target.update(as_dict(items))

    def name(self, name: str) -> None:
        if name not in NAMES:
            raise PickleError(f"names the Python object {name[:80]!r}; {EXPECTED}")
        self.push(Name(NAMES[name]))

    def stack_name(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("no name")
        self.name(f"{module}.{name}")

    def call(self, _) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise TypeError("no function")
        self.push(CALL[function.name](*arguments))
        self.count(self.stack[-1])

    def set_state(self, _) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is np.ndarray:
            set_array(target, *state)
            self.count(target)
        elif type(target) is Dtype:
            target.set_order(state)
        elif type(target) is not dict:  # of an OrderedDict: its attributes, which are not needed
            raise TypeError("no state")


_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

# What to do for each instruction, with the machine and the instruction's argument.
_EXECUTE = {
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "DICT": lambda m, _: m.push(as_dict(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.pop_tuple(1),
    "TUPLE2": lambda m, _: m.pop_tuple(2),
    "TUPLE3": lambda m, _: m.pop_tuple(3),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda m, name: m.name(name.replace(" ", ".")),
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.set_state,
}
