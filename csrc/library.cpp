// The schemas of every native op. Each backend registers its kernels; autograd and the shape
// functions are in mrcnn_plugin/layers/roi_align.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) {
  // `argmax` says for mode="max" which sample won each bin; it has no elements for mode="avg".
  m.def(
      "roi_align(Tensor features, Tensor rois, SymInt pooled_height, SymInt pooled_width, "
      "float spatial_scale, int sampling_ratio, bool aligned, str mode, int bin_stride) "
      "-> (Tensor output, Tensor argmax)");
  m.def(
      "roi_align_backward(Tensor grad_output, Tensor rois, Tensor argmax, SymInt batch, "
      "SymInt channels, SymInt height, SymInt width, SymInt pooled_height, SymInt pooled_width, "
      "float spatial_scale, int sampling_ratio, bool aligned, str mode, int bin_stride) "
      "-> Tensor");
  // The same on the levels of a pyramid: RoI r on features[levels[r]]; levels is (R), int64.
  m.def(
      "roi_align_levels(Tensor[] features, Tensor rois, Tensor levels, SymInt pooled_height, "
      "SymInt pooled_width, float[] spatial_scales, int sampling_ratio, bool aligned, str mode, "
      "int bin_stride) -> (Tensor output, Tensor argmax)");
  // The gradient to one of the levels.
  m.def(
      "roi_align_levels_backward(Tensor grad_output, Tensor rois, Tensor levels, int level, "
      "Tensor argmax, SymInt batch, SymInt channels, SymInt height, SymInt width, "
      "SymInt pooled_height, SymInt pooled_width, float spatial_scale, int sampling_ratio, "
      "bool aligned, str mode, int bin_stride) -> Tensor");
  // The instruction set that the CPU kernels use: baseline, avx2 or avx512.
  m.def("cpu_isa() -> str");
}
