// The schemas of every native op. Each backend registers its kernels; autograd and the shape
// functions are in mrcnn_plugin/layers/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) {
  // `mode` is a Mode of roi_align.h, not its name: torch's stable conversion leaks a str
  // argument, 48 bytes per call.
  //
  // `argmax` is the index of the sample that is the maximum of each bin. It is empty for
  // Mode::kAvg.
  m.def(
      "roi_align(Tensor features, Tensor rois, SymInt pooled_height, SymInt pooled_width, "
      "float spatial_scale, int sampling_ratio, bool aligned, int mode, int bin_stride) "
      "-> (Tensor output, Tensor argmax)");
  m.def(
      "roi_align_backward(Tensor grad_output, Tensor rois, Tensor argmax, SymInt batch, "
      "SymInt channels, SymInt height, SymInt width, SymInt pooled_height, SymInt pooled_width, "
      "float spatial_scale, int sampling_ratio, bool aligned, int mode, int bin_stride) "
      "-> Tensor");
  // Pools from a pyramid: RoI r from features[levels[r]]. `levels` is (R), int64.
  m.def(
      "roi_align_levels(Tensor[] features, Tensor rois, Tensor levels, SymInt pooled_height, "
      "SymInt pooled_width, float[] spatial_scales, int sampling_ratio, bool aligned, int mode, "
      "int bin_stride) -> (Tensor output, Tensor argmax)");
  // The gradient with respect to one level.
  m.def(
      "roi_align_levels_backward(Tensor grad_output, Tensor rois, Tensor levels, int level, "
      "Tensor argmax, SymInt batch, SymInt channels, SymInt height, SymInt width, "
      "SymInt pooled_height, SymInt pooled_width, float spatial_scale, int sampling_ratio, "
      "bool aligned, int mode, int bin_stride) -> Tensor");
  // Returns the indices of the boxes that non-maximum suppression keeps, by descending score: all
  // of them if max_kept is -1, else the first max_kept. `boxes` is (N, 4), `scores` is (N).
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold, int max_kept=-1) -> Tensor");
  // Of boxes that are sorted by descending score, on CUDA: the indices of the kept ones are the
  // first `count` elements of `kept`, which is (N), int64. `count` is (1), int64.
  m.def(
      "nms_sorted(Tensor boxes, float iou_threshold, int max_kept=-1) "
      "-> (Tensor kept, Tensor count)");
  // Returns the instruction set of the CPU kernels: baseline, avx2 or avx512.
  m.def("cpu_isa() -> str");
}
