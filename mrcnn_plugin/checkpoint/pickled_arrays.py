"""The few functions that a pickle of arrays and plain containers calls, in a form that is safe.

`NAMES` are the only Python objects that a pickle may name. Nothing is imported for a name: `CALL`
has a function of this module in place of each, which checks its arguments.
"""

import math

import numpy as np

_NUMBERS = "biufc"  # kinds of numpy dtypes
_KEYS = (str, bytes, int, float, bool, type(None))  # of dicts

EXPECTED = (
    "a weight file needs numpy arrays of numbers and plain containers only. Nothing was executed. "
    "If you trust the file, convert it elsewhere: load it with its own library and write "
    "{name: array} with torch.save"
)


# The functions and classes that a file may name, and what they are called in `CALL`.
NAMES = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "collections.OrderedDict": "OrderedDict",
    "_codecs.encode": "encode",
    "__builtin__.bytes": "bytes",
    "builtins.bytes": "bytes",
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    for _name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer"):
        NAMES[f"{_core}.{_name}"] = _name.split(".")[1]


class PickleError(ValueError):
    """A pickle is damaged, or holds more than arrays and plain containers.

    The message is a predicate: the caller names the file before it.
    """


class Name:
    """A function or class that the file names. It can only be called through `CALL`."""

    def __init__(self, name: str):
        self.name = name


class Dtype:
    """A numpy dtype, of which a pickle gives first the type and then the byte order."""

    def __init__(self, code: str, *_):
        if type(code) is not str or len(code) > 8:
            raise TypeError("no dtype")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in _NUMBERS:
            raise PickleError(f"holds an array of dtype {self.dtype}; expected numbers")

    def set_order(self, state: tuple) -> None:
        _, order, *others = state
        if order not in ("<", ">", "|", "=") or any(o not in (None, -1, 0) for o in others[:6]):
            raise PickleError("holds a structured dtype; expected arrays of numbers")
        self.dtype = self.dtype.newbyteorder(order)


def as_dict(items: list) -> dict:
    keys = items[::2]
    if not all(type(key) in _KEYS for key in keys):
        raise PickleError("has a dict whose keys are not all text or numbers")
    return dict(zip(keys, items[1::2]))


def _encode(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write the bytes of Python 3."""
    if encoding not in ("latin1", "latin-1"):
        raise PickleError(f"encodes text as '{encoding[:20]}'; {EXPECTED}")
    return text.encode("latin1")


def _ordered_dict(pairs: list | tuple = ()) -> dict:
    return as_dict([item for key, value in pairs for item in (key, value)])


def _new_array(kind: Name, shape: tuple, code: bytes | str) -> np.ndarray:
    """An empty array, which gets its shape and data from `set_array`."""
    if type(kind) is not Name or kind.name != "ndarray" or shape != (0,):
        raise PickleError(f"holds an array of another class than numpy.ndarray; {EXPECTED}")
    return np.empty(0, np.uint8)


def set_array(array: np.ndarray, *state) -> None:
    *_, shape, dtype, is_fortran, data = state
    if type(data) is list or type(dtype) is not Dtype:
        raise PickleError("holds an array of Python objects; expected arrays of numbers")
    native, content = _checked(data, dtype, shape)
    array.__setstate__((1, shape, native, bool(is_fortran), content))


def _checked(data: bytes | bytearray | str, dtype: Dtype, shape: tuple) -> tuple[np.dtype, bytes]:
    """The dtype and the data of an array in this machine's byte order.

    The shape is checked against the size of the data before it is used.
    """
    # Python 2 pickles bytes as str, which pickletools decodes as latin1.
    data = data.encode("latin1") if isinstance(data, str) else data
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError("no shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise PickleError(f"holds {len(data)} bytes for an array of shape {shape[:8]}")
    native = dtype.dtype.newbyteorder("=")
    if not dtype.dtype.isnative:
        data = np.frombuffer(data, dtype.dtype).astype(native).tobytes()
    return native, bytes(data)


def _scalar(dtype: Dtype, data: bytes | str):
    native, content = _checked(data, dtype, ())
    return np.frombuffer(content, native)[0]


def _frombuffer(data: bytes, dtype: Dtype, shape: tuple, order: str) -> np.ndarray:
    """How protocol 5 writes contiguous arrays."""
    native, content = _checked(data, dtype, shape)
    return np.frombuffer(content, native).reshape(shape, order=order).copy("K")


CALL = {
    "dtype": Dtype,
    "OrderedDict": _ordered_dict,
    "encode": _encode,
    "bytes": lambda: b"",  # how protocols 0 to 2 write b""
    "_reconstruct": _new_array,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
}
