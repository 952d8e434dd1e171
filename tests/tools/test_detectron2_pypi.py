"""The import alias for detectron2's copy on PyPI."""

import importlib.util

import pytest
from builders import ROOT, run_python

ALIAS = ROOT / "tools/detectron2_pypi"


@pytest.mark.skipif(
    importlib.util.find_spec("LabGym") is None,
    reason="needs the PyPI copy: run `make setup DETECTRON2=`",
)
def test_log_records_have_the_name_of_detectron2():
    code = (
        "import detectron2, logging\n"
        "assert detectron2.__name__ == 'LabGym.detectron2', 'the alias is not in use'\n"
        "record = logging.getLogRecordFactory()\n"
        "print(record('LabGym.detectron2.data', 20, '', 1, '', (), None).name)\n"
        "print(record('other.LabGym.detectron2', 20, '', 1, '', (), None).name)\n"
        "print(logging.makeLogRecord({'name': 'a'}).name)\n"  # its first name is None
    )
    done = run_python("-c", code, PYTHONPATH=f"{ALIAS}:{ROOT}")
    assert done.stdout.split() == ["detectron2.data", "other.LabGym.detectron2", "a"], done.stderr
