"""The report of a small run: what is in it, made again without the model, opened in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from builders import run_python, train

from mrcnn_plugin.engine import check_data
from mrcnn_plugin.evaluation import build_comparison, build_report, rebuild_analysis
from mrcnn_plugin.evaluation.report.build import render
from mrcnn_plugin.evaluation.report.comparison import config_differences, short_names
from mrcnn_plugin.evaluation.report.metrics_log import evaluations, read_metrics, series
from mrcnn_plugin.evaluation.report.tables import cell, previous_of

RUN = (
    *("SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 2, "TEST.VAL_LOSS", True),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
)


@pytest.fixture
def run(shapes_cfg):
    """The config of a run of six iterations that was evaluated three times."""
    cfg = shapes_cfg(*RUN)
    check_data(cfg, training=True)  # saves the statistics of the data
    train(cfg)
    return cfg


def images_of(page):
    return re.findall(r'<img src="([^"]*)', page)


def test_a_run_leaves_a_report_that_needs_nothing_else(run):
    page = Path(run.OUTPUT_DIR, "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    images = images_of(page)
    assert all(image.startswith("data:image/") for image in images)
    assert sum("jpeg" in image for image in images) == 6  # three images, truth and prediction
    assert len(images) == 6 + 4 + 4 + 2  # photographs; accuracy; training; data
    for word in ("iteration 6 of 6", "drawn_val", "triangle", "iteration 3.", "BASE_LR", "torch"):
        assert word in page, word
    logged = evaluations(read_metrics(Path(run.OUTPUT_DIR, "metrics.json")))
    assert [iteration for iteration, _ in logged] == [1, 3, 6]
    analysis = json.loads(Path(run.OUTPUT_DIR, "inference/analysis.json").read_text())
    for task in ("bbox", "segm"):
        assert analysis["ap"][task]["all"]["AP"] == pytest.approx(logged[-1][1][f"{task}/AP"])


def test_rebuilt_from_predictions_it_is_the_same(run):
    folder = Path(run.OUTPUT_DIR)
    page = (folder / "report.html").read_text()
    files = [folder / "inference" / name for name in ("analysis.json", "instances_predictions.pth")]
    (folder / "report.html").unlink()
    for file in files:  # in the second round only coco_instances_results.json is left
        file.unlink()
        assert rebuild_analysis(run) == ["drawn_val"]
        again = build_report(run).read_text()
        assert images_of(again)[:4] == images_of(page)[:4]
        assert strip(again) == strip(page)


def strip(page):
    """Without pictures, whose colours are jittered."""
    return re.sub(r'src="[^"]*"', "", page)


def test_two_test_sets_have_a_section_each(shapes_cfg):
    cfg = shapes_cfg("DATASETS.TEST", ("drawn_train", "drawn_val"), "SOLVER.MAX_ITER", 1)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    train(cfg)
    page = Path(cfg.OUTPUT_DIR, "report.html").read_text()
    for name in cfg.DATASETS.TEST:
        assert f"Accuracy on {name}" in page and f"Images of {name}" in page
        folder = Path(cfg.OUTPUT_DIR, "inference", name)
        assert (folder / "analysis.json").exists()
    assert "Not evaluated yet" not in page


def test_no_report_where_none_is_wanted(shapes_cfg):
    cfg = shapes_cfg("TEST.REPORT", False, "SOLVER.MAX_ITER", 1)
    train(cfg)
    assert not Path(cfg.OUTPUT_DIR, "report.html").exists()


def test_a_report_that_fails_does_not_end_the_run(shapes_cfg, monkeypatch, caplog):
    def fail(cfg):
        raise OSError("disk full")

    monkeypatch.setattr("mrcnn_plugin.engine.hooks.report.build_report", fail)
    cfg = shapes_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    assert "The report could not be made" in caplog.text and "disk full" in caplog.text
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").exists()


def test_the_tool_compares_runs_that_have_been_moved(run, tmp_path):
    """Its process does not know the data set: pages are made without pictures."""
    other = tmp_path / "moved/other"
    shutil.copytree(run.OUTPUT_DIR, other)
    config = (other / "config.yaml").read_text().replace("MAX_ITER: 6", "MAX_ITER: 8")
    (other / "config.yaml").write_text(config)
    done = run_python(
        "-m", "mrcnn_plugin", "report", run.OUTPUT_DIR, other, "-o", tmp_path / "both.html"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert len(images_of(page)) == 2 and "other" in page
    differing = page.split("what differs")[1]
    assert "SOLVER.MAX_ITER" in differing and "SOLVER.BASE_LR" not in differing

    done = run_python("-m", "mrcnn_plugin", "report", run.OUTPUT_DIR, other)
    assert done.stdout.splitlines()[-1] == str(Path(run.OUTPUT_DIR, "comparison.html"))

    done = run_python("-m", "mrcnn_plugin", "report", tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        f"mrcnn report: {tmp_path} has no config.yaml. Pass the OUTPUT_DIR of a run."
    )


def test_names_are_as_short_as_they_may_be():
    assert short_names(["/a/x", "/b/x"]) == ["a/x", "b/x"]
    assert short_names(["/a/x", "/a/y"]) == ["x", "y"]
    assert short_names(["/a/x", "/a/x"]) == ["x (1)", "x (2)"]


def test_a_comparison_of_one_run_is_refused(shapes_cfg, tmp_path):
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        build_comparison([shapes_cfg()], tmp_path / "one.html")


def test_config_differences(shapes_cfg):
    cfgs = [shapes_cfg(), shapes_cfg("SOLVER.BASE_LR", 0.5)]
    assert config_differences(cfgs) == [{"key": "SOLVER.BASE_LR", "of_runs": ["0.02", "0.5"]}]


def test_what_users_name_is_escaped():
    empty = {"runs": ["<b>", "b"], "tables": [], "curves": [], "differences": []}
    assert "<b>" not in render("comparison.html.j2", **empty)


def lines(*content):
    return "\n".join(json.dumps({"iteration": i, **values}) for i, values in content)


def test_lines_that_were_cut_off_are_skipped_and_counted(tmp_path, caplog):
    whole = lines((19, {"total_loss": 3.0}), (39, {"total_loss": 2.0}))
    torn = whole[:-12] + '{"iteration": 59, "total_loss": 1.0}'  # glued to the next line
    (tmp_path / "metrics.json").write_text(f"{torn}\nnull\n{lines((79, {'total_loss': 0.5}))}\n")
    assert read_metrics(tmp_path / "metrics.json") == {
        19: {"total_loss": 3.0},
        79: {"total_loss": 0.5},
    }
    assert "metrics.json: 2 lines are no JSON objects" in caplog.text


def test_metrics_of_a_resumed_run_replace_what_came_after(tmp_path):
    (tmp_path / "metrics.json").write_text(
        lines(
            (19, {"total_loss": 3.0}),
            (39, {"total_loss": 2.0}),
            (30, {"segm/AP": 10.0}),  # evaluations may be written late
            (59, {"total_loss": 1.0}),
            (39, {"total_loss": 2.5}),  # resumed from iteration 20
        )
    )
    metrics = read_metrics(tmp_path / "metrics.json")
    assert series(metrics, "total_loss") == ([19, 39], [3.0, 2.5])
    assert evaluations(metrics) == [(30, {"segm/AP": 10.0})]
    assert read_metrics(tmp_path / "missing.json") == {}


def test_cells():
    up, down = cell(51.26, 50.0), cell(50.0, 51.26)
    assert (up["text"], up["delta"], up["trend"]) == ("51.3", "+1.3", "up")
    assert (down["delta"], down["trend"]) == ("\N{MINUS SIGN}1.3", "down")
    assert cell(50.0, 50.01)["trend"] == "same" and cell(50.0)["delta"] == ""
    assert cell(float("nan"), 3.0)["text"] == cell(None)["text"] == "\N{EN DASH}"


def test_the_evaluation_before_is_not_the_current_one():
    logged = [(1, {"segm/AP": 10.0}), (3, {"segm/AP": 20.0})]
    assert previous_of({"segm/AP": 20.0}, logged)[0] == 1
    assert previous_of({"segm/AP": 25.0}, logged)[0] == 3  # evaluated by itself, not logged
    assert previous_of({"segm/AP": 25.0}, []) == (None, {})


# Written into a copy of the page, which itself needs no script: what the browser made of it.
_PROBE = """<script>
const faults = [];
window.addEventListener("error", event => faults.push(String(event.message)), true);
window.addEventListener("load", () => {
  const images = [...document.images];
  const shown = images.filter(i => i.naturalWidth > 0 && i.getBoundingClientRect().width > 60);
  document.body.dataset.probe = [images.length, shown.length, faults.length,
    document.documentElement.scrollWidth, window.innerWidth].join(" ");
});
</script></head>"""


def probe(chromium, file, profile, width):
    """What a headless Chromium counts on a page: images, visible ones, faults, width, window."""
    page = file.read_text().replace("</head>", _PROBE)
    # A phone's width inside a frame: Chromium's own windows are at least 500 pixels wide.
    inner = profile.with_suffix(".html")
    inner.write_text(page)
    frame = profile.with_suffix(".frame.html")
    frame.write_text(
        f'<iframe id="f" src="{inner.name}" style="width:{width}px;height:900px;border:0"></iframe>'
        '<script>addEventListener("load", () => document.body.dataset.probe ='
        'document.getElementById("f").contentDocument.body.dataset.probe)</script>'
    )
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={profile}", "--allow-file-access-from-files"),
            *("--enable-logging=stderr", "--v=0", "--window-size=1300,900", "--dump-dom"),
            frame.as_uri(),
        ],
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return [int(n) for n in re.search(r'<body data-probe="([\d ]+)"', done.stdout)[1].split()]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_it_opens_in_a_browser(run, tmp_path, width):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("there is no chromium: apt-get install chromium")
    pages = [Path(run.OUTPUT_DIR, "report.html")]
    pages.append(build_comparison([run, run], tmp_path / "comparison.html"))
    for number, page in enumerate(pages):
        images, shown, faults, content, window = probe(
            chromium, page, tmp_path / f"profile{number}", width
        )
        assert images == len(images_of(page.read_text())) and shown == images and faults == 0
        assert window == width and content <= window  # nothing to scroll sideways
