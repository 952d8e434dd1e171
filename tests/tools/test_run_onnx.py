"""The ONNX file of a model gives the detections of `Predictor` in tools/run_onnx.py."""

import ast
import importlib.util

import cv2
import numpy as np
import pytest
from builders import ROOT, tiny_model_file
from PIL import Image

from mrcnn_plugin import Predictor
from mrcnn_plugin.cli.export import main

onnx = pytest.importorskip("onnx", reason="pip install 'mrcnn_plugin[export]'")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="pip install 'mrcnn_plugin[export]', or make setup"
)
pytest.importorskip("onnxscript", reason="pip install 'mrcnn_plugin[export]'")

TOOL = ROOT / "tools/run_onnx.py"
REAL_IMAGES = (  # landscape, portrait, and one that the longer side limits
    "fruits_nuts/images/0.jpg",
    "coco_tiny/val2017/000000226111.jpg",
    "labelme_voc3/data_dataset_coco/JPEGImages/2011_000003.jpg",
)


@pytest.fixture(scope="module")
def run_onnx():
    spec = importlib.util.spec_from_file_location("run_onnx", TOOL)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def export(tmp_path, *opts):
    model = tiny_model_file(tmp_path / "model.pth", *opts, score_thresholds=[0.3, 0.4, 0.35])
    main([str(model), "--format", "onnx", "--out", str(tmp_path / "model.onnx"), "--check"])
    return Predictor(model, device="cpu"), tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "opts",
    [
        (),
        (
            *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.MRCNN.ROI_ALIGN_MODE", "max"),
            *("INPUT.FORMAT", "RGB", "INPUT.MIN_SIZE_TEST", 200, "INPUT.MAX_SIZE_TEST", 250),
        ),
    ],
    ids=["avg", "max-RGB"],
)
def test_real_images(opts, tmp_path, real_images, run_onnx, capsys):
    """From the file of an image to boxes and masks in its pixels."""
    predictor, path = export(tmp_path, *opts)
    proto = onnx.load(path)
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert [d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]] == [
        "height",
        "width",
    ]
    model = run_onnx.Model(str(path))
    assert model.about["class_names"] == ["apple", "cup", "pen"] and model.about["version"]
    for name in REAL_IMAGES:
        photo = real_images / name
        expected = predictor(photo)
        boxes, scores, classes, masks = model(cv2.imread(str(photo)))
        assert classes.tolist() == expected.pred_classes.tolist() and len(classes) > 0
        np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, atol=2e-3)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
        assert masks.shape == (len(classes), *cv2.imread(str(photo)).shape[:2])
        assert (masks != expected.pred_masks.tensor.numpy()).mean() < 1e-5
    assert_drawn(run_onnx, path, photo, tmp_path / "drawn.png", capsys)
    assert_empty_results(run_onnx, proto, tmp_path / "changed.onnx")


def test_openvino_reads_the_file(tmp_path, capsys):
    pytest.importorskip("openvino", reason="pip install 'mrcnn_plugin[openvino]'")
    export(tmp_path)
    assert capsys.readouterr().out.count("OpenVINO ") == 6


def assert_drawn(run_onnx, path, photo, drawn, capsys):
    capsys.readouterr()
    run_onnx.main(str(path), str(photo), str(drawn))
    printed = capsys.readouterr().out.splitlines()
    assert printed and printed[0].split()[0] in ("apple", "cup", "pen")
    assert (cv2.imread(str(drawn)) != cv2.imread(str(photo))).any()


def assert_empty_results(run_onnx, proto, path):
    """Scores that are NaN leave no detections, and deltas that are NaN leave no proposals."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    for suffix in ("cls_score.weight", "anchor_deltas.weight"):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        (weight,) = [t for t in changed.graph.initializer if t.name.endswith(suffix)]
        array = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, np.nan), weight.name))
        onnx.save_model(changed, path)
        boxes, scores, classes, masks = run_onnx.Model(str(path))(image)
        assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)
        assert masks.shape == (0, 90, 120)


def test_resize_is_that_of_pillow(run_onnx):
    image = np.random.default_rng(0).integers(0, 256, (61, 97, 3)).astype(np.uint8)
    for height, width in ((122, 194), (40, 64), (200, 318), (7, 11), (61, 97)):
        expected = Image.fromarray(image).resize((width, height), Image.BILINEAR)
        assert (run_onnx.resize(image, (height, width)) == np.asarray(expected)).all()


def test_the_tool_is_small_and_needs_three_packages():
    tree = ast.parse(TOOL.read_text())
    assert all(isinstance(n, ast.Import) for n in ast.walk(tree) if "Import" in type(n).__name__)
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"cv2", "json", "numpy", "onnxruntime", "sys"}
    assert len(TOOL.read_text().splitlines()) <= 120
