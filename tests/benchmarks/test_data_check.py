"""benchmarks/data_check.py finds no problem in the data that it generates."""

from builders import run_python


def test_it_runs_on_a_small_dataset():
    sizes = ("--num-images", 20, "--num-annotations", 100)
    done = run_python("benchmarks/data_check.py", *sizes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 images, 100 annotations, 0 MB: read in ")
    assert done.stdout.endswith(" 0 problems\n")
