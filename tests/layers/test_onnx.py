"""RoIAlign in ONNX: onnxruntime gets the same numbers from standard operators."""

import io

import pytest
import torch
from roi_align_cases import MODES, SCALE, make_features, make_rois, reverse

import mrcnn_plugin.layers.onnx as roi_align_onnx
from mrcnn_plugin.layers.roi_align import RoIAlign

onnx = pytest.importorskip("onnx", reason="pip install 'mrcnn_plugin[export]'")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="pip install 'mrcnn_plugin[export]', or make setup"
)
pytest.importorskip("onnxscript", reason="pip install 'mrcnn_plugin[export]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
EXPORTERS = ("dynamo", "torchscript")


def export(module, features, rois, exporter, opset=None, batch="N"):
    """ONNX model of any batch, map size and number of RoIs."""
    if exporter == "dynamo":
        program = torch.onnx.export(
            module,
            (features, rois),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=["features", "rois"],
            dynamic_shapes=({0: batch, 2: "H", 3: "W"}, {0: "R"}),
            custom_translation_table=roi_align_onnx.translation_table(),
        )
        return program.model_proto
    file = io.BytesIO()
    torch.onnx.export(
        module,
        (features, rois),
        file,
        dynamo=False,
        opset_version=opset or roi_align_onnx.OPSET,
        input_names=["features", "rois"],
        dynamic_axes={"features": [0, 2, 3], "rois": [0]},
    )
    return onnx.load_from_string(file.getvalue())


def run(model, features, rois):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {"features": features.numpy(), "rois": rois.numpy()}
    return torch.from_numpy(session.run(None, inputs)[0])


def assert_same(model, module, features, rois, tolerance):
    expected = module(features, rois)
    output = run(model, features, rois)
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("bin_stride", [1, 2, 3])
@pytest.mark.parametrize("mode, sampling_ratio", [("avg", 0), ("avg", 2), ("max", 1), ("max", 3)])
def test_equals_onnxruntime(exporter, aligned, bin_stride, mode, sampling_ratio):
    """Several images; boxes across every border, off the map, tiny, huge, without area, reversed.

    Coordinates round differently on the finer grid of "max", so no sample may lie exactly on the
    edge of the map.
    """
    options = {"aligned": aligned, "mode": mode, "bin_stride": bin_stride}
    module = RoIAlign((5, 4), SCALE, sampling_ratio, **options)
    rois = make_rois(torch.float32)
    if sampling_ratio or not aligned:
        rois = torch.cat([rois, reverse(rois)])
    model = export(module, make_features(dtype=torch.float32), rois[:3], exporter)
    for height, width in ((9, 13), (3, 20)):
        features = torch.randn(3, 2, height, width)
        for count in (len(rois), 1, 0):
            assert_same(model, module, features, rois[:count], 2e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "features_dtype, rois_dtype, tolerance",
    [
        (torch.float16, torch.float32, 1e-3),
        (torch.float64, torch.float64, 1e-12),
        (torch.float64, torch.float32, 1e-12),
        (torch.float32, torch.float64, 1e-6),
    ],
)
def test_dtypes(exporter, mode, features_dtype, rois_dtype, tolerance):
    """RoiAlign needs one type: half features are widened, RoIs are never narrowed."""
    module = RoIAlign(3, 1 / 16, 2, mode=mode)
    features = torch.randn(1, 3, 60, 90).to(features_dtype)
    rois = torch.tensor([[0, 1201.3, 803.7, 1377.1, 911.9]], dtype=rois_dtype)
    model = export(module, features, rois, exporter)
    assert_same(model, module, features, rois, tolerance)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_document_example(exporter):
    features = torch.zeros(1, 1, 16, 16)
    features[0, 0, 6, 9], features[0, 0, 6, 10] = 0.1, 0.2
    features[0, 0, 7, 9], features[0, 0, 7, 10] = 1.0, 0.7
    box = torch.tensor([[0, 9.94 - 1, 6.50 - 1, 9.94 + 1, 6.50 + 1]])
    model = export(RoIAlign(1, 1.0, 1, mode="max"), features, box, exporter)
    assert run(model, features, box).item() == pytest.approx(0.144, abs=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("mode", MODES)
def test_only_standard_operators_inside_a_model(exporter, mode):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.roi_align = RoIAlign(7, 0.5, 2, mode=mode)

        def forward(self, image, boxes):
            return self.roi_align(self.convolution(image), [boxes, boxes + 1]).mean((2, 3))

    model, image, boxes = Model().eval(), torch.randn(2, 3, 32, 48), torch.rand(5, 4) * 20
    boxes[:, 2:] += boxes[:, :2]
    proto = export(model, image, boxes, exporter, batch=torch.export.Dim.STATIC)
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    for count in (5, 2):
        with torch.no_grad():
            assert_same(proto, model, image, boxes[:count], 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_adaptive_maximum_is_rejected(exporter):
    features, rois = make_features(dtype=torch.float32), make_rois(torch.float32)
    with pytest.raises(Exception) as info:
        export(RoIAlign(3, mode="max"), features, rois, exporter)
    error, messages = info.value, []
    while error:  # the exporter of torch.export programs wraps it
        messages.append(str(error))
        error = error.__cause__
    assert any(
        "Set sampling_ratio; 2 means four samples per bin." in message for message in messages
    )


def test_before_opset_16_there_is_no_translation():
    features, rois = make_features(dtype=torch.float32), make_rois(torch.float32)
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="added in version 16"):
        export(RoIAlign(3), features, rois, "torchscript", opset=15)
