"""`import detectron2` where only a PyPI mirror is reachable: an alias for the copy inside `LabGym`.

detectron2 itself is not on PyPI; the wheel of LabGym 3.1.2 carries its pure-Python code (version
0.6, Apache-2.0, imports renamed) as `LabGym.detectron2`. With this directory on the path,
`detectron2` and each of its submodules *are* the modules of that copy, each loaded once.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys

_COPY = "LabGym.detectron2"


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("detectron2."):
            return None
        real = importlib.util.find_spec(_COPY + name.removeprefix("detectron2"))
        return real and importlib.machinery.ModuleSpec(name, self, origin=real.origin)

    def create_module(self, spec):
        module = importlib.import_module(_COPY + spec.name.removeprefix("detectron2"))
        spec.loader_state = module.__spec__  # the import system is about to overwrite it
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state


_make_record = logging.getLogRecordFactory()


def _record_named_detectron2(*args, **kwargs):
    """Log under the names that detectron2's modules have everywhere else."""
    record = _make_record(*args, **kwargs)
    if record.name and record.name.startswith(_COPY):  # logging.makeLogRecord has no name yet
        record.name = "detectron2" + record.name.removeprefix(_COPY)
    return record


logging.setLogRecordFactory(_record_named_detectron2)
sys.meta_path.insert(0, _AliasFinder())
try:
    sys.modules[__name__] = importlib.import_module(_COPY)
except ModuleNotFoundError as error:
    if error.name not in ("LabGym", _COPY):
        raise
    raise ImportError(
        "detectron2's PyPI copy is not installed. Run `make setup`, or "
        "`pip install --no-deps --ignore-requires-python LabGym==3.1.2`."
    ) from None
