"""Passes hostile files to the commands and reports the answer and whether anything was executed.

Every file is made in a temporary folder and passed to `python -m mrcnn_plugin ...` in a new
process, two at a time. Those that carry code would create another file, the canary. As a control,
the same file is then read by the loader that a program would otherwise use (`pickle.load`,
`torch.load` without `weights_only`, `yaml.unsafe_load`), which has to create it. The other files
try to take memory, or to make a command read or write what is not part of a run. The memory is the
peak of the process, most of which is torch and detectron2 themselves.
"""

import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

CONFIG = "mask_rcnn_shapes_C4.yaml"
NO_DATA = ("DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "MODEL.DEVICE", "cpu")
LAUGHS = "a0: &a0 [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
_LOADERS = {
    "pickle": "import pickle; pickle.load(open(FILE, 'rb'))",
    "torch": "import torch; torch.load(FILE, weights_only=False)",
    "yaml": "import yaml; yaml.unsafe_load(open(FILE))",
}


class Case(NamedTuple):
    """A hostile file and the command that gets it.

    Attributes:
        command: arguments of `mrcnn`. `FOLDER` stands for the folder with the files.
        name: of the hostile file in that folder.
        make: writes it, given its path and the path of the canary.
        what: what it is, for the table.
        loader: of `_LOADERS`, which executes it; "" for a file without code.
    """

    command: tuple[str, ...]
    name: str
    make: Callable[[Path, Path], object]
    what: str
    loader: str = ""


class _Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _pickle(file: Path, canary: Path) -> None:
    file.write_bytes(pickle.dumps({"model": {"w": _Touch(canary)}, "__author__": "x"}, 2))


def _torch(file: Path, canary: Path) -> None:
    torch.save({"model": {"w": _Touch(canary)}, "model_state": {}}, file)


def _checkpoint(file: Path, canary: Path) -> None:
    """A pickle with a zip archive behind it, whose checksums are right, and a tag that names it."""
    _pickle(file, canary)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("data", b"0")
    file.with_name("model_0000001.pth").touch()
    file.with_name("last_checkpoint").write_text(file.name)


def _zip_bomb(file: Path, _: Path) -> None:
    torch.save({"w": torch.zeros(2**26)}, whole := file.with_name("whole"))
    with (
        zipfile.ZipFile(whole) as records,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in records.namelist():
            bomb.writestr(record, records.read(record))
    whole.unlink()


def _yaml(file: Path, canary: Path) -> None:
    file.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {canary}']\n")


def _yaml_base(file: Path, canary: Path) -> None:
    _yaml(file, canary)
    file.with_name("own.yaml").write_text(f"_BASE_: {file.name}\n")


def _bytes(content: bytes) -> Callable[[Path, Path], object]:
    return lambda file, _: file.write_bytes(content)


def _link(file: Path, canary: Path) -> None:
    """A run whose report.html would create or overwrite the canary."""
    file.with_name("config.yaml").touch()
    file.symlink_to(canary)


def _train(*more: str) -> tuple[str, ...]:
    return ("train", "--config-file", CONFIG, *more, "OUTPUT_DIR", "FOLDER/run", *NO_DATA)


def _convert(name: str) -> tuple[str, ...]:
    return ("weights", "--config-file", CONFIG, f"FOLDER/{name}", "FOLDER/out.pth")


CASES = (
    Case(_train("MODEL.WEIGHTS", "FOLDER/x.pkl"), "x.pkl", _pickle, "pickle with code", "pickle"),
    Case(
        _train("--eval-only", "MODEL.WEIGHTS", "FOLDER/x.pth"),
        "x.pth",
        _torch,
        "torch file with code",
        "torch",
    ),
    Case(
        _train("--eval-only", "--resume"),
        "run/x.pkl",
        _checkpoint,
        "pickle with code and valid checksums, named by `last_checkpoint`",
        "pickle",
    ),
    Case(_convert("x.pkl"), "x.pkl", _pickle, "pickle with code", "pickle"),
    Case(_convert("x.pyth"), "x.pyth", _torch, "torch file with code", "torch"),
    Case(("replay", "FOLDER/x.pth"), "x.pth", _torch, "torch file with code", "torch"),
    Case(("train", "--config-file", "FOLDER/x.yaml"), "x.yaml", _yaml, "yaml with code", "yaml"),
    Case(
        ("train", "--config-file", "FOLDER/own.yaml"),
        "x.yaml",
        _yaml_base,
        "yaml with code as a `_BASE_`",
        "yaml",
    ),
    Case(("report", "FOLDER"), "config.yaml", _yaml, "run whose config has code", "yaml"),
    Case(
        ("report", "FOLDER"),
        "config.yaml",
        _bytes(b"_BASE_: /etc/secret.yaml\n"),
        "run whose config names another file",
    ),
    Case(("report", "FOLDER"), "report.html", _link, "run whose report is a link to another file"),
    Case(
        ("train", "--config-file", "FOLDER/x.yaml"),
        "x.yaml",
        _bytes(b"_BASE_: /etc/passwd\n"),
        "`_BASE_: /etc/passwd`",
    ),
    Case(
        ("train", "--config-file", "FOLDER/x.yaml"),
        "x.yaml",
        _bytes(LAUGHS.encode()),
        "yaml whose aliases mean 9^10 values",
    ),
    Case(
        ("train", "--config-file", "FOLDER/x.yaml"),
        "x.yaml",
        _bytes(b"a: " + b"[" * 100_000),
        "yaml of 100,000 levels",
    ),
    Case(_convert("x.pkl"), "x.pkl", _bytes(b"}" * 20_000_000 + b"."), "20 million dicts, 20 MB"),
    Case(
        _convert("x.pkl"),
        "x.pkl",
        _bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"x."),
        "pickle of 13 bytes that declares 8 GB",
    ),
    Case(
        _convert("x.pkl"),
        "x.pkl",
        _bytes(b"\x80\x02Nr\xff\xff\xff\xff."),
        "pickle whose table would take 64 GB",
    ),
    Case(_convert("x.pth"), "x.pth", _zip_bomb, "torch file of 0.3 MB that unpacks to 268 MB"),
)


def table() -> str:
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(_row, CASES))
    head = "| command | file | answer | executed | by the usual loader | memory, MB |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _row(case: Case) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder, canary = Path(name, "given"), Path(name, "canary")
        file = folder / case.name
        file.parent.mkdir(parents=True)
        case.make(file, canary)
        command = [word.replace("FOLDER", str(folder)) for word in case.command]
        status, answer, memory = _run(["-m", "mrcnn_plugin", *command], folder)
        if status != 1:
            raise RuntimeError(f"mrcnn {' '.join(command)} exited with {status}: {answer}")
        executed = "yes" if canary.exists() else "no"
        control = "-"
        if case.loader:
            _run(["-c", _LOADERS[case.loader].replace("FILE", repr(str(file)))], folder)
            control = "yes" if canary.exists() else "no"
    shown = " ".join(case.command).replace(f"--config-file {CONFIG} ", "")
    shown = shown.partition(" OUTPUT_DIR")[0].replace("FOLDER/", "").replace("FOLDER", "RUN")
    cells = (f"`mrcnn {shown}`", case.what, answer, executed, control, f"{memory:.0f}")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _run(arguments: list[str], folder: Path) -> tuple[int, str, float]:
    """Exit status, last line of the errors without the folder, peak memory in MB."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
    answer = lines[-1] if lines else ""
    answer = answer.replace(f"{folder}/", "").replace(str(folder), "RUN")
    answer = answer.partition(": ")[2]
    short = answer if len(answer) <= 120 else answer[:117] + "..."
    return process.returncode, short, usage.ru_maxrss / 1024
