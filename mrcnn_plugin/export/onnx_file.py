"""ONNX files of standard operators, which onnxruntime and OpenVINO run without PyTorch."""

import json
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, RunError
from ..layers import onnx as roi_align_onnx
from .graph import InferenceGraph, Run
from .program import export_program

OPSET = 18  # RoiAlign has half-pixel centres from 16 on; PyTorch's operators are written in 18


def to_onnx(graph: InferenceGraph, about: dict) -> bytes:
    """The content of an ONNX file; every key of `about` is metadata, as json.

    Raises:
        RunError: a package is missing.
        ConfigError: RoIAlign has no ONNX form.
    """
    onnx, _ = _import_packages()
    roi_align = graph.model.roi_heads.pooler.roi_align
    if roi_align.mode == "max" and roi_align.sampling_ratio == 0:
        raise ConfigError(
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO of the model is 0; expected at least 1 for "
            "ONNX with MODEL.MRCNN.ROI_ALIGN_MODE 'max', where the number of samples must be "
            "fixed. Train with 2, or export another format."
        )
    names = ["boxes", "scores", "classes", "masks"]
    model = torch.onnx.export(
        export_program(graph),
        (),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=names if graph.model.roi_heads.mask_on else names[:3],
        custom_translation_table={
            **roi_align_onnx.translation_table(),
            torch.ops.mrcnn_plugin.nms.default: _nms,
        },
    ).model_proto
    _name_sizes(model.graph)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def runtimes_of_onnx(path: Path) -> dict[str, Run]:
    """onnxruntime and, if it is installed, OpenVINO, on the CPU in float32.

    Raises:
        RunError: a package is missing.
    """
    _, onnxruntime = _import_packages()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = {"onnxruntime": lambda image: session.run(None, {"image": image.numpy()})}
    if find_spec("openvino"):
        import openvino

        float32 = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", float32)
        found["OpenVINO"] = lambda image: compiled([image.numpy()]).to_tuple()
    return {name: _with_tensors(run) for name, run in found.items()}


def _with_tensors(run) -> Run:
    def with_tensors(image: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array.copy()) for array in run(image))

    return with_tensors


def _import_packages():
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError as error:
        raise RunError(
            f"--format onnx needs {error.name}, which is not installed: "
            "pip install 'mrcnn_plugin[export]'"
        ) from error
    return onnx, onnxruntime


def _nms(boxes, scores, iou_threshold, max_kept=-1):
    """`mrcnn_plugin::nms` as NonMaxSuppression, for which the boxes are of one image and class."""
    from onnxscript import opset18 as op

    first = op.Constant(value_ints=[0])
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, first),
        op.Unsqueeze(scores, op.Constant(value_ints=[0, 1])),
        op.Constant(value_ints=[2**31 if max_kept < 0 else max_kept]),
        op.Constant(value_floats=[float(iou_threshold)]),
    )
    return op.Gather(kept, op.Constant(value_int=2), axis=1)  # of (image, class, box)


def _name_sizes(graph) -> None:
    """Give the dynamic sizes of inputs and outputs names, instead of numbered symbols."""
    height, width = graph.input[0].type.tensor_type.shape.dim[1:]
    height.dim_param, width.dim_param = "height", "width"
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "instances"
    del graph.value_info[:]  # has the symbols; checkers infer shapes again
