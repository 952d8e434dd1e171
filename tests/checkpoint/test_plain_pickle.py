"""Pickles of arrays are read like Python's pickle reads them; all others execute nothing."""

import pickle
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hostile_files import Touch

from mrcnn_plugin.checkpoint.pickled_arrays import PickleError
from mrcnn_plugin.checkpoint.plain_pickle import read_plain_pickle

RNG = np.random.default_rng(0)
ARRAYS = {
    "fortran": np.asfortranarray(RNG.random((3, 4))),
    "strided": RNG.random((2, 6, 4))[:, ::2],
    "half": RNG.random(3).astype(np.float16),
    "double": RNG.random((2, 2)),
    "no dimension": np.array(3.5, np.float32),
    "no element": np.zeros((0, 3), np.float32),
    "big endian": np.arange(4, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "large": RNG.random((300, 100)).astype(np.float32),
}
PLAIN = {
    "float": np.float32(2.5),
    "int": np.int64(-5),
    "bytes": b"\xff\0\x80",
    "no bytes": b"",
    "text": "é" * 300,
    "numbers": [1, -300, 70000, 10**30, 2.5, True, None],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "ordered": OrderedDict(a=1, b=[1]),
    7: {"key": "of an int"},
}


@pytest.fixture
def read(tmp_path):
    """Reads a pickle from its bytes."""

    def read(content: bytes):
        (tmp_path / "file.pkl").write_bytes(content)
        return read_plain_pickle(tmp_path / "file.pkl")

    return read


@pytest.mark.parametrize("protocol", range(6))
def test_content_is_that_of_python(read, protocol):
    found = read(pickle.dumps({**ARRAYS, **PLAIN}, protocol))
    assert found.keys() == ARRAYS.keys() | PLAIN.keys()
    for name, value in PLAIN.items():
        assert found[name] == value, name
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].flags.writeable
    assert found["fortran"].flags.f_contiguous


def test_python_2_writes_data_as_text(read):
    """`pickle.dumps({'w': numpy.arange(3, dtype='<f4')}, 2)` of Python 2 and numpy 1."""
    data = np.arange(3, dtype="<f4").tobytes()
    content = (
        b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x03\x85q\x08cnumpy\ndtype\nq\t"
        b"U\x02f4q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tq\x0eb\x89U" + bytes([len(data)]) + data + b"q\x0ftq\x10bs."
    )
    np.testing.assert_array_equal(read(content)["w"], np.arange(3, dtype=np.float32))


@pytest.mark.parametrize("protocol", range(6))
def test_a_function_is_not_called(read, tmp_path, protocol):
    canary = tmp_path / "canary"
    content = pickle.dumps({"model": {"w": Touch(canary)}}, protocol)
    with pytest.raises(PickleError, match=r"names the Python object 'posix.system'.* torch.save"):
        read(content)
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists()  # the file was a hostile one


COMMAND = b"touch canary"
SYSTEM = b"cposix\nsystem\n"


@pytest.mark.parametrize(
    "content, problem",
    {
        "inst": (b"(S'" + COMMAND + b"'\niposix\nsystem\n.", "instruction INST"),
        "obj": (b"(" + SYSTEM + b"S'" + COMMAND + b"'\no.", "posix.system"),
        "newobj": (b"\x80\x02cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
        "extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
        "persistent": (b"P1\n.", "instruction PERSID"),
        "set": (pickle.dumps({1}), "instruction EMPTY_SET"),
        "attribute": (b"cnumpy\nndarray.__reduce__\n.", "ndarray.__reduce__"),
        "call of an array class": (b"cnumpy\nndarray\n((I1000000\ntR.", "not a pickle"),
        "codec": (b"c_codecs\nencode\n(Va\nVrot13\ntR.", "encodes text as 'rot13'"),
        "objects": (pickle.dumps(np.array([None, {}])), "dtype object"),
        "structure": (pickle.dumps(np.zeros(2, "f4,i4")), r"dtype \|V8|no pickle"),
        "text array": (pickle.dumps(np.array(["a"])), "dtype <U1"),
        "key": (pickle.dumps({(1, (2, 3)): 0}), "keys are not all text or numbers"),
        "name of a list": (b"]]\x93.", "not a pickle"),
        "nothing": (b"", "not a pickle"),
        "text": (b"these are no weights", "not a pickle"),
        "no stack": (b"R.", "not a pickle"),
        "cut off": (pickle.dumps(ARRAYS)[:-2000], "cut off"),
    }.values(),
)
def test_what_weight_files_do_not_need_is_an_error(read, tmp_path, monkeypatch, content, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError, match=problem):
        read(content)
    assert not (tmp_path / "canary").exists()


def array(shape: tuple, data: bytes) -> bytes:
    """A pickle of an array whose shape and data need not agree."""
    state = pickle.dumps((1, shape, np.dtype("f4"), False, data), 4)[2:-1]
    head = b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return head + state + b"b."


ENCODED = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20  # a megabyte of text
ENCODE_AGAIN = b"0c_codecs\nencode\n(h\x00Vlatin1\ntR"


@pytest.mark.parametrize(
    "content, problem",
    {
        "bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b"x.", "cut off"),
        "bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 2**45) + b"x.", "cut off"),
        "frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".", "not a pickle"),
        "shape": (array((2**40,), b"1234"), "4 bytes for an array of shape"),
        "negative shape": (array((-1, -1), b"1234"), "not a pickle"),
        "data made again and again": (ENCODED + b"q\x00" + ENCODE_AGAIN * 100 + b".", "far more"),
        "containers": (b"}" * 1_100_000 + b".", "more than 1000000 instructions"),
    }.values(),
)
def test_memory_is_bounded(read, content, problem):
    tracemalloc.start()
    with pytest.raises(PickleError, match=problem):
        read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (150 if content.startswith(b"}}") else 12) * 2**20


def test_ten_bytes_do_not_make_a_table_of_gigabytes(read):
    """Python's C unpickler allocates 64 GB of pointers for this index."""
    assert read(b"\x80\x02Nr\xff\xff\xff\xff.") is None


def test_deep_nesting_is_no_recursion(read):
    depth = 300_000
    assert isinstance(read(b"]" * depth + b"a" * (depth - 1) + b"."), list)
