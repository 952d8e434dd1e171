"""RoIAlign in ONNX, as standard operators of opset 16 and later.

    from mrcnn_plugin.layers import onnx as roi_align_onnx

    torch.onnx.export(model, args, "model.onnx", dynamo=True,
                      custom_translation_table=roi_align_onnx.translation_table())
    torch.onnx.export(model, args, "model.onnx", dynamo=False, opset_version=16)

Importing this module is enough for the second form, the TorchScript exporter. The first form needs
onnxscript. `multiscale_roi_align` has no ONNX form.

ONNX's average RoiAlign has our coordinates. Its "max" differs: it is the maximum over *weighted
corners* instead of interpolated samples. Ours is therefore exported as an average over bins of one
sample each, followed by a MaxPool over the samples of a bin:

    max, P bins of s x s samples = MaxPool(s x s) of avg, P * s bins of 1 x 1 sample
"""

from __future__ import annotations

import torch

from ._arguments import MODES

OPSET = 16  # the first opset whose RoiAlign supports half-pixel centres

TRANSFORMATIONS = {True: "half_pixel", False: "output_half_pixel"}  # aligned -> transformation mode


def _translate(emit, constant, features, rois, dtypes, options):
    """Build the graph with emit(operator, *inputs, **attributes) and constant(int64 or a list)."""
    height, width, spatial_scale, sampling_ratio, aligned, mode, bin_stride = options
    maximum = MODES[mode] == "max"
    features_dtype, rois_dtype = dtypes
    if maximum and sampling_ratio == 0:
        raise ValueError(
            "RoIAlign(mode='max', sampling_ratio=0) cannot be exported to ONNX, where the number "
            "of samples must be fixed. Set sampling_ratio; 2 means four samples per bin."
        )
    # RoiAlign needs features and RoIs of one type. As in the op, neither is ever half.
    double = torch.float64 in (features_dtype, rois_dtype)
    compute = torch.float64 if double else torch.float32

    def cast(x, have, want):
        return x if have == want else emit("Cast", x, to=ONNX_TYPES[want])

    fine = sampling_ratio if maximum else 1
    output = emit(
        "RoiAlign",
        cast(features, features_dtype, compute),
        cast(emit("Gather", rois, constant([1, 2, 3, 4]), axis=1), rois_dtype, compute),
        emit("Cast", emit("Gather", rois, constant(0), axis=1), to=ONNX_TYPES[torch.int64]),
        coordinate_transformation_mode=TRANSFORMATIONS[aligned],
        mode="avg",
        output_height=height * fine,
        output_width=width * fine,
        sampling_ratio=1 if maximum else sampling_ratio,
        spatial_scale=float(spatial_scale),
    )
    if maximum:
        output = emit("MaxPool", output, kernel_shape=[fine] * 2, strides=[fine * bin_stride] * 2)
    elif bin_stride > 1:
        ends = constant([height, width])
        output = emit(
            "Slice", output, constant([0, 0]), ends, constant([2, 3]), constant([bin_stride] * 2)
        )
    argmax = constant([-1])  # an output for the backward, which is not exported
    return cast(output, compute, features_dtype), argmax


ONNX_TYPES = {  # onnx.TensorProto.DataType
    torch.float32: 1,
    torch.int64: 7,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}


# ---- The exporter for torch.export programs ------------------------------------------------------


def translation_table():
    """The argument for `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`."""
    from onnxscript import opset18 as opset

    dtypes = {number: dtype for dtype, number in ONNX_TYPES.items()}

    def emit(operator, *inputs, **attributes):
        result = getattr(opset, operator)(*inputs, **attributes)
        return result[0] if isinstance(result, tuple) else result

    def constant(value):
        key = "value_ints" if isinstance(value, list) else "value_int"
        return opset.Constant(**{key: value})

    def roi_align(features, rois, *options):
        pair = dtypes[int(features.dtype)], dtypes[int(rois.dtype)]
        return _translate(emit, constant, features, rois, pair, options)

    return {torch.ops.mrcnn_plugin.roi_align.default: roi_align}


# ---- The TorchScript exporter --------------------------------------------------------------------


@torch.onnx.symbolic_helper.parse_args("v", "v", "i", "i", "f", "i", "b", "i", "i")
def _symbolic(g, features, rois, height, width, scale, sampling_ratio, aligned, mode, bin_stride):
    def emit(operator, *inputs, **attributes):
        return g.op(operator, *inputs, **{name + _suffix(v): v for name, v in attributes.items()})

    def constant(value):
        return g.op("Constant", value_t=torch.tensor(value))

    dtypes = features.type().dtype(), rois.type().dtype()
    options = (height, width, scale, sampling_ratio, aligned, mode, bin_stride)
    return _translate(emit, constant, features, rois, dtypes, options)


def _suffix(value):
    """The suffix by which `g.op` recognizes the type of an attribute."""
    first = value[0] if isinstance(value, list) else value
    return {int: "_i", float: "_f", str: "_s"}[type(first)]


torch.onnx.register_custom_op_symbolic("mrcnn_plugin::roi_align", _symbolic, OPSET)
