"""RoIAlign in ONNX, as standard operators of opset 16 and later.

    from mrcnn_plugin.layers import onnx as roi_align_onnx

    torch.onnx.export(model, args, "model.onnx", dynamo=True,
                      custom_translation_table=roi_align_onnx.translation_table())
    torch.onnx.export(model, args, "model.onnx", dynamo=False, opset_version=16)

The import alone serves the second, the TorchScript exporter. The first needs onnxscript.

ONNX has an average RoiAlign with our coordinates. Its "max" is another thing (the maximum over
*weighted corners* instead of interpolated samples), so ours is written as an average over bins that
hold one sample each, and a MaxPool over the samples of a bin:

    max, P bins of s x s samples = MaxPool(s x s) of avg, P * s bins of 1 x 1 sample
"""

from __future__ import annotations

import torch

OPSET = 16  # the first whose RoiAlign knows half-pixel centres

MODES = {True: "half_pixel", False: "output_half_pixel"}  # of `aligned`


def _translate(emit, constant, features, rois, dtypes, options):
    """The graph, by emit(operator, *inputs, **attributes) and constant(int64 list or number)."""
    height, width, spatial_scale, sampling_ratio, aligned, mode, bin_stride = options
    features_dtype, rois_dtype = dtypes
    if mode == "max" and sampling_ratio == 0:
        raise ValueError(
            "RoIAlign(mode='max', sampling_ratio=0) cannot be exported to ONNX, where the number "
            "of samples must be fixed: set sampling_ratio (2 is four samples a bin)"
        )
    # RoiAlign takes features and RoIs of one type. As in the op, neither is ever half.
    double = torch.float64 in (features_dtype, rois_dtype)
    compute = torch.float64 if double else torch.float32
    cast = lambda x, have, want: x if have == want else emit("Cast", x, to=ONNX_TYPES[want])  # noqa: E731
    maximum = mode == "max"
    fine = sampling_ratio if maximum else 1
    output = emit(
        "RoiAlign",
        cast(features, features_dtype, compute),
        cast(emit("Gather", rois, constant([1, 2, 3, 4]), axis=1), rois_dtype, compute),
        emit("Cast", emit("Gather", rois, constant(0), axis=1), to=ONNX_TYPES[torch.int64]),
        coordinate_transformation_mode=MODES[aligned],
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
    argmax = constant([-1])  # for the backward, which is not exported: nothing reads it
    return cast(output, compute, features_dtype), argmax


ONNX_TYPES = {  # onnx.TensorProto.DataType
    torch.float32: 1,
    torch.int64: 7,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}


# ---- The exporter of torch.export programs -------------------------------------------------------


def translation_table():
    """For `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`."""
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


@torch.onnx.symbolic_helper.parse_args("v", "v", "i", "i", "f", "i", "b", "s", "i")
def _symbolic(g, features, rois, height, width, scale, sampling_ratio, aligned, mode, bin_stride):
    def emit(operator, *inputs, **attributes):
        return g.op(operator, *inputs, **{name + _suffix(v): v for name, v in attributes.items()})

    def constant(value):
        return g.op("Constant", value_t=torch.tensor(value))

    dtypes = features.type().dtype(), rois.type().dtype()
    options = (height, width, scale, sampling_ratio, aligned, mode, bin_stride)
    return _translate(emit, constant, features, rois, dtypes, options)


def _suffix(value):
    """How g.op learns the type of an attribute."""
    one = value[0] if isinstance(value, list) else value
    return {int: "_i", float: "_f", str: "_s"}[type(one)]


torch.onnx.register_custom_op_symbolic("mrcnn_plugin::roi_align", _symbolic, OPSET)
