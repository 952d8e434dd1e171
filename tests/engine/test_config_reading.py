"""Config files: what is read, in which order, and the hostile ones."""

import os
import time

import pytest
import yaml
from detectron2.config import CfgNode

from mrcnn_plugin.config_text import parse_config
from mrcnn_plugin.engine import load_config
from mrcnn_plugin.engine.config_reading import read_config_file
from mrcnn_plugin.errors import RunError


@pytest.fixture
def write(tmp_path):
    """Writes files given as `name=text`, with `__` for a folder; returns the path of the first."""

    def write(**files):
        paths = [tmp_path / f"{name.replace('__', '/')}.yaml" for name in files]
        for path, text in zip(paths, files.values()):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(paths[0])

    return write


def read(path):
    return read_config_file(path, follow_bases=True)


def test_a_base_is_below_the_file_and_relative_to_it(write):
    path = write(
        own__a="_BASE_: ../b.yaml\nMODEL: {DEPTH: 1, NAME: own}\n",
        b="_BASE_: other/c.yaml\nMODEL: {DEPTH: 2, WIDTH: 2}\n",
        other__c="MODEL: {WIDTH: 3, NORM: c}\nSEED: 3\n",
    )
    model = {"WIDTH": 2, "NORM": "c", "DEPTH": 1, "NAME": "own"}
    assert read(path) == {"MODEL": model, "SEED": 3}
    assert read(path) == load_yaml_of_detectron2(path)


def test_of_several_bases_the_last_one_wins(write):
    path = write(
        a="_BASE_: [b.yaml, c.yaml]\nX: {P: 1}", b="X: {P: 2, Q: 2}", c="X: {Q: 3}\nY: [4]"
    )
    assert read(path) == {"X": {"P": 1, "Q": 3}, "Y": [4]} == load_yaml_of_detectron2(path)
    absolute = write(d=f"_BASE_: {path}\nY: [5]")
    assert read(absolute) == {"X": {"P": 1, "Q": 3}, "Y": [5]} == load_yaml_of_detectron2(absolute)


def load_yaml_of_detectron2(path):
    return CfgNode.load_yaml_with_base(path)


def test_an_old_version_is_upgraded(write):
    path = write(a="VERSION: 1\nMODEL: {WEIGHT: old.pth}\n")
    cfg = load_config(path)
    assert cfg.VERSION == 2 and cfg.MODEL.WEIGHTS == "old.pth"


@pytest.mark.parametrize("tag", ["object/apply:os.system", "name:os.system", "module:os", "tuple"])
@pytest.mark.parametrize("where", ["file", "base", "text"])
def test_tags_execute_nothing(write, tmp_path, tag, where):
    text = f"OUTPUT_DIR: !!python/{tag} ['touch {tmp_path}/canary']\n"
    with pytest.raises(
        RunError, match=r"not yaml of plain values in line 1: could not det"
    ) as error:
        if where == "text":
            parse_config(text, "the text")
        else:
            read(write(a="_BASE_: b.yaml", b=text) if where == "base" else write(a=text))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


LAUGHS = "a0: &a0 [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))


@pytest.mark.parametrize(
    "text, problem",
    {
        "laughs": (LAUGHS, "too many values"),
        "merges": (MERGES, "too many values"),
        "chain": (CHAIN, "nested too deeply"),
        "itself": ("a: &a [*a]", "an alias that contains itself"),
        "deep list": ("a: " + "[" * 100_000, "nested too deeply"),
        "deep dict": ("a: " + "{a: " * 60 + "1" + "}" * 60, "nested too deeply"),
        "large": ("a: " + "x" * 1_000_001, "more than 1000000 characters"),
        "digits": ("a: " + "9" * 10_000, "not yaml of plain values"),
        "list": ("- a", "found list"),
        "text": ("root:x:0:0:root", "found str"),
        "keys": ("1: 2", "found dict"),
        "unhashable key": ("? [a]\n: b", "not yaml of plain values"),
        "bytes": ("a: \0", "not yaml of plain values"),
    }.values(),
)
def test_a_file_that_would_take_memory_or_time_is_one_sentence(write, text, problem):
    start = time.perf_counter()
    with pytest.raises(RunError, match=problem) as error:
        load_config(write(a=text))
    assert time.perf_counter() - start < 10
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_aliases_of_a_saved_config_are_read(write):
    """yaml.dump writes an object that occurs twice as an alias."""
    sizes = [32, 64]
    text = yaml.safe_dump({"MODEL": {"A": sizes, "B": sizes}})
    assert "*id001" in text and read(write(a=text)) == {"MODEL": {"A": sizes, "B": sizes}}


@pytest.mark.parametrize(
    "base, problem",
    {
        "text": ("/etc/passwd", r"_BASE_ is '/etc/passwd'; expected the path of a .yaml file"),
        "url": ("https://example.com/a.yaml", "expected the path of a .yaml file"),
        "number": ("3", "_BASE_ is a int; expected"),
        "mapping": ("{a: b}", "_BASE_ is a dict; expected"),
        "missing": ("gone.yaml", "gone.yaml does not exist or is no file"),
        "itself": ("./a.yaml", "include each other"),
        "loop": ("b.yaml", "include each other"),
        "too many": ("[c.yaml, c.yaml, c.yaml]", "more than 50 files"),
        "fifo": ("fifo.yaml", "fifo.yaml does not exist or is no file"),
        "passwd under another name": ("link.yaml", "link.yaml: .*found str|link.yaml.* line "),
    }.values(),
)
def test_bases_that_are_not_followed(write, tmp_path, base, problem):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "link.yaml").symlink_to("/etc/passwd")
    files = {f"c{i}": f"_BASE_: [c{i + 1}.yaml, c{i + 1}.yaml]" for i in range(1, 9)}
    path = write(
        a=f"_BASE_: {base}", b="_BASE_: a.yaml", c="_BASE_: [c1.yaml, c1.yaml]", c9="", **files
    )
    with pytest.raises(RunError, match=problem) as error:
        load_config(path)
    assert "\n" not in str(error.value) and "root:" not in str(error.value)


def test_the_config_of_somebody_else_chooses_no_file(write):
    path = write(a="_BASE_: b.yaml", b="SEED: 1")
    assert load_config(path).SEED == 1
    with pytest.raises(RunError, match=r"a.yaml has a _BASE_, which is not followed here"):
        load_config(path, follow_bases=False)
    with pytest.raises(RunError, match="the step has a _BASE_"):
        parse_config("_BASE_: b.yaml", "the step")
