// RoIAlign on the CPU.
//
// A slab of channels of one image is repacked so that they are the innermost dimension, small
// enough for the L2 cache; then every RoI of the image is computed from it with vectors of
// channels. The two axes are separate (see roi_align_geometry.h): a bin row first gathers its rows
// of the map into one, then each bin its columns; the backward is the same with the two lists of
// weights transposed. A thread owns its slabs, in the backward too, so there are no atomics and the
// result does not depend on the number of threads.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "roi_align_passes.h"

namespace mrcnn_plugin {
namespace {

/// Calls use(plan) with the plan of the mode in `options`.
template <typename acc_t, typename Use>
void with_plan(const Rois& rois, int64_t batch, int64_t height, int64_t width,
               const RoiAlignOptions& options, Direction direction, const Use& use) {
  if (options.max) {
    auto plan = make_plan<Sample<acc_t>>(rois, batch, height, width, options, direction);
    use(plan);
  } else {
    auto plan = make_plan<Term<acc_t>>(rois, batch, height, width, options, direction);
    use(plan);
  }
}

/// Fills the part of `result` that belongs to `rois`.
void forward_any(const Tensor& features, const Rois& rois, const RoiAlignOptions& options,
                 const ForwardResult& result) {
  dispatch_maps(features, [&](auto zero) {
    using scalar_t = decltype(zero);
    with_plan<accumulate_t<scalar_t>>(
        rois, features.size(0), features.size(2), features.size(3), options, Direction::kForward,
        [&](const auto& plan) { forward<scalar_t>(features, plan, result); });
  });
}

std::tuple<Tensor, Tensor> roi_align_cpu(const Tensor& features, const Tensor& rois,
                                         int64_t pooled_height, int64_t pooled_width,
                                         double spatial_scale, int64_t sampling_ratio, bool aligned,
                                         const std::string& mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(features, "features");
  const Tensor boxes = prepare_rois(rois, features);
  const ForwardResult result = empty_result(features, boxes, options);
  forward_any(features, {boxes}, options, result);
  return {result.output, result.argmax};
}

std::tuple<Tensor, Tensor> roi_align_levels_cpu(std::vector<Tensor> features, const Tensor& rois,
                                                const Tensor& levels, int64_t pooled_height,
                                                int64_t pooled_width,
                                                std::vector<double> spatial_scales,
                                                int64_t sampling_ratio, bool aligned,
                                                const std::string& mode, int64_t bin_stride) {
  check_pyramid(features, spatial_scales);
  const Tensor boxes = prepare_rois(rois, features[0]);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  const auto count = static_cast<int64_t>(features.size());
  for (int64_t r = 0; r < boxes.size(0); ++r) {
    STD_TORCH_CHECK(level_of[r] >= 0 && level_of[r] < count, "roi_align_levels: the level of rois[",
                    r, "] is ", level_of[r], "; expected 0 to ", count - 1);
  }
  const auto options_of = [&](double scale) {
    return parse_options(pooled_height, pooled_width, scale, sampling_ratio, aligned, mode,
                         bin_stride);
  };
  const ForwardResult result = empty_result(features[0], boxes, options_of(spatial_scales[0]));
  for (int64_t level = 0; level < count; ++level) {
    forward_any(features[level], {boxes, level_of, level}, options_of(spatial_scales[level]),
                result);
  }
  return {result.output, result.argmax};
}

Tensor backward_any(const Tensor& grad_output, const Rois& rois, const Tensor& argmax,
                    int64_t batch, int64_t channels, int64_t height, int64_t width,
                    const RoiAlignOptions& options) {
  check_backward(grad_output, rois.boxes, argmax, channels, options);
  const Tensor grad_features =
      empty_maps(grad_output, grad_output.scalar_type(), batch, channels, height, width);
  dispatch_maps(grad_output, [&](auto zero) {
    using scalar_t = decltype(zero);
    with_plan<accumulate_t<scalar_t>>(
        rois, batch, height, width, options, Direction::kBackward,
        [&](auto& plan) { backward<scalar_t>(grad_output, argmax, plan, grad_features); });
  });
  return grad_features;
}

Tensor roi_align_backward_cpu(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                              int64_t batch, int64_t channels, int64_t height, int64_t width,
                              int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                              int64_t sampling_ratio, bool aligned, const std::string& mode,
                              int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const Tensor boxes = prepare_rois(rois, grad_output);
  return backward_any(grad_output, {boxes}, argmax, batch, channels, height, width, options);
}

Tensor roi_align_levels_backward_cpu(const Tensor& grad_output, const Tensor& rois,
                                     const Tensor& levels, int64_t level, const Tensor& argmax,
                                     int64_t batch, int64_t channels, int64_t height, int64_t width,
                                     int64_t pooled_height, int64_t pooled_width,
                                     double spatial_scale, int64_t sampling_ratio, bool aligned,
                                     const std::string& mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const Tensor boxes = prepare_rois(rois, grad_output);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  return backward_any(grad_output, {boxes, level_of, level}, argmax, batch, channels, height, width,
                      options);
}

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&mrcnn_plugin::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&mrcnn_plugin::roi_align_backward_cpu));
  m.impl("roi_align_levels", TORCH_BOX(&mrcnn_plugin::roi_align_levels_cpu));
  m.impl("roi_align_levels_backward", TORCH_BOX(&mrcnn_plugin::roi_align_levels_backward_cpu));
}
