"""The report of a small run: its contents, rebuilt without the model, opened in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from builders import evaluate, forget, noisy_predictions, perfect_predictions, run_python, train
from detectron2.data import DatasetCatalog, MetadataCatalog

from mrcnn_plugin.cli.report import load_run, main
from mrcnn_plugin.engine import MRCNNTrainer, check_data, write_report
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import build_comparison, build_report, rebuild_analysis
from mrcnn_plugin.evaluation.analysis import load_analysis
from mrcnn_plugin.evaluation.report.ap_tables import cell, previous_of, with_interval
from mrcnn_plugin.evaluation.report.build import render
from mrcnn_plugin.evaluation.report.comparison import config_differences, short_names
from mrcnn_plugin.evaluation.report.intervals import ap_intervals
from mrcnn_plugin.evaluation.report.metrics_log import evaluations, read_metrics, series

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


def test_the_report_of_a_run_is_complete_and_needs_no_other_file(run):
    page = Path(run.OUTPUT_DIR, "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    images = images_of(page)
    assert all(image.startswith("data:image/") for image in images)
    assert sum("jpeg" in image for image in images) == 6  # three images, truth and prediction
    assert len(images) == 6 + 6 + 4 + 2  # drawings; accuracy; training; data
    for word in ("iteration 6 of 6", "drawn_val", "triangle", "iteration 3.", "BASE_LR", "torch"):
        assert word in page, word
    logged = evaluations(read_metrics(Path(run.OUTPUT_DIR, "metrics.json")))
    assert [iteration for iteration, _ in logged] == [1, 3, 6]
    analysis = json.loads(Path(run.OUTPUT_DIR, "inference/analysis.json").read_text())
    for task in ("bbox", "segm"):
        assert analysis["ap"][task]["all"]["AP"] == pytest.approx(logged[-1][1][f"{task}/AP"])


def test_a_report_rebuilt_from_predictions_is_the_same(run):
    folder = Path(run.OUTPUT_DIR)
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "inference/analysis.json").unlink()  # coco_instances_results.json stays
    assert rebuild_analysis(run) == ["drawn_val"]
    assert build_report(run).read_text() == page


def test_datasets_without_coco_predictions_are_not_evaluated_again(shapes_cfg):
    """A dataset of another evaluator may not even be loadable as COCO json."""
    assert rebuild_analysis(shapes_cfg("DATASETS.TEST", ("not_registered",))) == []


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


def test_no_report_without_the_option(shapes_cfg):
    cfg = shapes_cfg("TEST.REPORT", False, "SOLVER.MAX_ITER", 1)
    train(cfg)
    assert not Path(cfg.OUTPUT_DIR, "report.html").exists()


def test_a_report_that_fails_does_not_end_the_run(shapes_cfg, monkeypatch, caplog, report_may_fail):
    def fail(cfg):
        raise OSError("disk full")

    monkeypatch.setattr("mrcnn_plugin.engine.hooks.report.build_report", fail)
    cfg = shapes_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    assert "The report could not be made" in caplog.text and "disk full" in caplog.text
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").exists()


def test_evaluation_without_the_training_data_makes_a_report(shapes_cfg, caplog):
    """`--eval-only` on a machine that has the test images only."""

    def fail():
        raise FileNotFoundError("train.json")

    DatasetCatalog.register("absent_train", fail)
    MetadataCatalog.get("absent_train").json_file = "absent/train.json"
    try:
        cfg = shapes_cfg("DATASETS.TRAIN", ("absent_train",))
        check_data(cfg, training=False)
        MRCNNTrainer.test(cfg, MRCNNTrainer.build_model(cfg))
        write_report(cfg)
    finally:
        forget("absent_train")
    assert "could not be made" not in caplog.text
    page = Path(cfg.OUTPUT_DIR, "report.html").read_text()
    assert "Accuracy on drawn_val" in page
    assert "<tr><th>drawn_val</th><td>3</td>" in page  # statistics
    assert "<tr><th>absent_train</th>" not in page


def test_the_command_compares_runs_that_have_been_moved(run, tmp_path):
    """The dataset is not registered in its process, so the pages have no images."""
    other = tmp_path / "moved/other"
    shutil.copytree(run.OUTPUT_DIR, other)
    config = (other / "config.yaml").read_text().replace("MAX_ITER: 6", "MAX_ITER: 8")
    (other / "config.yaml").write_text(config)
    done = run_python("-m", "mrcnn_plugin", "report", other, run.OUTPUT_DIR)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(other / "comparison.html")
    page = (other / "comparison.html").read_text()
    assert len(images_of(page)) == 2 and "other" in page
    differing = page.split("Differences of the configs")[1]
    assert "SOLVER.MAX_ITER" in differing and "SOLVER.BASE_LR" not in differing

    done = run_python("-m", "mrcnn_plugin", "report", tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        f"mrcnn report: {tmp_path} has no config.yaml. Pass the OUTPUT_DIR of a run."
    )


def test_the_command_rejects_options_that_do_not_fit_the_number_of_runs():
    with pytest.raises(RunError, match="--image draws a single run, but 2 runs are given"):
        main(["a", "b", "--image", "a.png"])
    with pytest.raises(RunError, match="--output names the file of a comparison"):
        main(["a", "-o", "a.html"])


@pytest.mark.parametrize(
    "content",
    ["MODEL: [", "NO_SUCH_KEY: 1", "MODEL: !!python/object/apply:os.mkdir ['{}']"],
    ids=["yaml", "key", "code"],
)
def test_a_config_that_cannot_be_read_is_one_error_and_runs_no_code(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content.format(tmp_path / "made"))
    with pytest.raises(RunError, match=r"config\.yaml"):
        load_run(str(tmp_path))
    assert not (tmp_path / "made").exists()


def evaluated_run(shapes_cfg, predictions):
    cfg = shapes_cfg()
    evaluate("drawn_val", predictions("drawn_val"), Path(cfg.OUTPUT_DIR, "inference"))
    return cfg


def test_the_report_draws_probable_label_errors(shapes_cfg):
    def of_another_class(name):
        inputs, outputs = perfect_predictions(name)
        classes = outputs[0]["instances"].pred_classes
        classes[0] = (classes[0] + 1) % 3
        return inputs, outputs

    cfg = evaluated_run(shapes_cfg, of_another_class)
    (error,) = load_analysis(Path(cfg.OUTPUT_DIR, "inference"))["label_errors"]
    page = build_report(cfg).read_text().split("Probable label errors of drawn_val")[1]
    sentence = f"{error['predicted']} ({error['score']:.2f}) is labelled {error['labelled']}"
    assert f"<span>{sentence}</span>" in page and error["predicted"] != error["labelled"]
    assert len(images_of(page.split("</section>")[0])) == 2  # labels and prediction


def test_a_comparison_has_intervals(shapes_cfg, tmp_path, caplog):
    cfgs = [evaluated_run(shapes_cfg, p) for p in (perfect_predictions, noisy_predictions)]
    first, other = ap_intervals(cfgs, "drawn_val")
    aps = [load_analysis(Path(c.OUTPUT_DIR, "inference"))["ap"]["segm"]["all"]["AP"] for c in cfgs]
    assert first == {} and other["segm/AP"]["difference"] == pytest.approx(aps[1] - aps[0])
    assert other["segm/AP"]["upper"] < 0
    page = build_comparison(cfgs, tmp_path / "comparison.html").read_text()
    text = with_interval(cell(aps[1], aps[0]), other["segm/AP"])["interval"]
    assert f'<span class="interval">{text}</span>' in page and "bootstrap" in page

    file = Path(cfgs[1].OUTPUT_DIR, "inference/analysis.json")  # as with other annotations
    content = json.loads(file.read_text())
    content["ap"]["segm"]["all"]["AP"] += 1
    file.write_text(json.dumps(content))
    assert ap_intervals(cfgs, "drawn_val") == [{}, {}]
    assert "compared without intervals: its segm AP is" in caplog.text


def test_short_names_are_unique():
    assert short_names(["/a/x", "/b/x"]) == ["a/x", "b/x"]
    assert short_names(["/a/x", "/a/y"]) == ["x", "y"]
    assert short_names(["/a/x", "/a/x"]) == ["x (1)", "x (2)"]


def test_a_comparison_of_one_run_raises(shapes_cfg, tmp_path):
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        build_comparison([shapes_cfg()], tmp_path / "one.html")


def test_config_differences(shapes_cfg):
    cfgs = [shapes_cfg(), shapes_cfg("SOLVER.BASE_LR", 0.5)]
    assert config_differences(cfgs) == [{"key": "SOLVER.BASE_LR", "of_runs": ["0.02", "0.5"]}]


def test_names_of_runs_are_escaped():
    empty = {"runs": ["<b>", "b"], "tables": [], "curves": [], "differences": []}
    assert "<b>" not in render("comparison.html.j2", **empty)


def lines(*content):
    return "\n".join(json.dumps({"iteration": i, **values}) for i, values in content)


def test_metrics_of_a_resumed_run_replace_later_ones(tmp_path):
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


def test_damaged_lines_of_metrics_are_skipped_and_counted(tmp_path, caplog):
    """A full disk tears a line, and the next one is glued to it."""
    good = '{"iteration": 19, "total_loss": 3.0}'
    torn = '{"iteration": 39, "total_lo{"iteration": 59, "total_loss": 1.5}'
    last = '{"iteration": 79, "total_loss": 1.0}'
    content = "\n".join([good, torn, "12", last, last[:20]])
    (tmp_path / "metrics.json").write_text(content)
    metrics = read_metrics(tmp_path / "metrics.json")
    assert series(metrics, "total_loss") == ([19, 79], [3.0, 1.0])
    assert "3 of 5 lines are damaged" in caplog.text


def test_a_difference_that_may_be_chance_has_no_trend():
    up = cell(51.0, 50.0)
    assert with_interval(up, {"lower": -0.52, "upper": 2.5}) == {
        **up,
        "interval": "\N{MINUS SIGN}0.5 to +2.5",
        "trend": "same",
    }
    assert with_interval(up, {"lower": 0.1, "upper": 2.5})["trend"] == "up"
    assert with_interval(up, None) == {**up, "interval": ""}


def test_cells():
    up, down = cell(51.26, 50.0), cell(50.0, 51.26)
    assert (up["text"], up["delta"], up["trend"]) == ("51.3", "+1.3", "up")
    assert (down["delta"], down["trend"]) == ("\N{MINUS SIGN}1.3", "down")
    assert cell(50.0, 50.01)["trend"] == "same" and cell(50.0)["delta"] == ""
    assert cell(float("nan"), 3.0)["text"] == cell(None)["text"] == "\N{EN DASH}"


def test_the_previous_evaluation_is_not_the_current_one():
    logged = [(1, {"segm/AP": 10.0}), (3, {"segm/AP": 20.0})]
    assert previous_of({"segm/AP": 20.0}, logged)[0] == 1
    assert previous_of({"segm/AP": 25.0}, logged)[0] == 3  # evaluated by itself, not logged
    assert previous_of({"segm/AP": 25.0}, []) == (None, {})


# Inserted into a copy of the page, which itself has no script, to count what the browser shows.
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
    """What headless Chromium counts: images, visible ones, errors; page and window width."""
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
        pytest.skip("chromium is not installed: apt-get install chromium")
    pages = [Path(run.OUTPUT_DIR, "report.html")]
    pages.append(build_comparison([run, run], tmp_path / "comparison.html"))
    for number, page in enumerate(pages):
        images, shown, faults, content, window = probe(
            chromium, page, tmp_path / f"profile{number}", width
        )
        assert images == len(images_of(page.read_text())) and shown == images and faults == 0
        assert window == width and content <= window  # nothing to scroll sideways
