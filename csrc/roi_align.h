// The ops of RoIAlign, written once for every device: arguments in, checks, results out.
//
// A Backend is a struct of
//   Guard(tensor)      makes the tensor's device the current one while it lives
//   check_images(rois, batch), check_level_of(level_of, rois, levels)
//                      refuse a batch index or level out of range, where that can be seen; before
//                      anything is allocated
//   forward(features, rois, options, result)   fills the result; RoI r is on map rois.level_of[r]
//   backward(grad_output, rois, level, argmax, options, grad_features)   fills the gradient
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "roi_align_arguments.h"

namespace mrcnn_plugin {

/// The RoIs of a call; level_of is null where there is one map and all are its.
struct LeveledRois {
  Tensor boxes;             // (R, 5), contiguous
  const int64_t* level_of;  // (R)
};

inline ForwardResult empty_result(const Tensor& features, const Tensor& boxes,
                                  const RoiAlignOptions& options) {
  const int64_t height = kept_bins(options.pooled_height, options.bin_stride);
  const int64_t width = kept_bins(options.pooled_width, options.bin_stride);
  const int64_t r = boxes.size(0), c = features.size(1);
  return {empty_maps(features, features.scalar_type(), r, c, height, width),
          options.max ? empty_maps(features, ScalarType::Int, r, c, height, width)
                      : torch::stable::new_empty(features, {0}, ScalarType::Int)};
}

template <typename Backend>
std::tuple<Tensor, Tensor> roi_align(const Tensor& features, const Tensor& rois,
                                     int64_t pooled_height, int64_t pooled_width,
                                     double spatial_scale, int64_t sampling_ratio, bool aligned,
                                     const std::string& mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(features, "features");
  const typename Backend::Guard guard(features);
  const Tensor boxes = prepare_rois(rois, features);
  Backend::check_images(boxes, features.size(0));
  const ForwardResult result = empty_result(features, boxes, options);
  Backend::forward({features}, {boxes, nullptr}, {options}, result);
  return {result.output, result.argmax};
}

template <typename Backend>
std::tuple<Tensor, Tensor> roi_align_levels(std::vector<Tensor> features, const Tensor& rois,
                                            const Tensor& levels, int64_t pooled_height,
                                            int64_t pooled_width,
                                            std::vector<double> spatial_scales,
                                            int64_t sampling_ratio, bool aligned,
                                            const std::string& mode, int64_t bin_stride) {
  check_pyramid(features, spatial_scales);
  std::vector<RoiAlignOptions> options;
  for (const double scale : spatial_scales) {
    options.push_back(parse_options(pooled_height, pooled_width, scale, sampling_ratio, aligned,
                                    mode, bin_stride));
  }
  const typename Backend::Guard guard(features[0]);
  const Tensor boxes = prepare_rois(rois, features[0]);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  Backend::check_images(boxes, features[0].size(0));
  Backend::check_level_of(level_of, boxes.size(0), static_cast<int64_t>(features.size()));
  const ForwardResult result = empty_result(features[0], boxes, options[0]);
  Backend::forward(features, {boxes, level_of}, options, result);
  return {result.output, result.argmax};
}

template <typename Backend>
Tensor roi_align_level_backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
                                const Tensor& argmax, int64_t batch, int64_t channels,
                                int64_t height, int64_t width, const RoiAlignOptions& options) {
  check_backward(grad_output, rois.boxes, argmax, channels, options);
  Backend::check_images(rois.boxes, batch);
  const Tensor grad_features =
      empty_maps(grad_output, grad_output.scalar_type(), batch, channels, height, width);
  Backend::backward(grad_output, rois, level, argmax, options, grad_features);
  return grad_features;
}

template <typename Backend>
Tensor roi_align_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                          int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                          int64_t sampling_ratio, bool aligned, const std::string& mode,
                          int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const typename Backend::Guard guard(grad_output);
  return roi_align_level_backward<Backend>(grad_output, {prepare_rois(rois, grad_output), nullptr},
                                           0, argmax, batch, channels, height, width, options);
}

template <typename Backend>
Tensor roi_align_levels_backward(const Tensor& grad_output, const Tensor& rois,
                                 const Tensor& levels, int64_t level, const Tensor& argmax,
                                 int64_t batch, int64_t channels, int64_t height, int64_t width,
                                 int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                                 int64_t sampling_ratio, bool aligned, const std::string& mode,
                                 int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const typename Backend::Guard guard(grad_output);
  const Tensor boxes = prepare_rois(rois, grad_output);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  return roi_align_level_backward<Backend>(grad_output, {boxes, level_of}, level, argmax, batch,
                                           channels, height, width, options);
}

/// The body of STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, <the backend's key>, library).
template <typename Backend, typename Library>
void register_roi_align(Library& library) {
  library.impl("roi_align", TORCH_BOX(&roi_align<Backend>));
  library.impl("roi_align_backward", TORCH_BOX(&roi_align_backward<Backend>));
  library.impl("roi_align_levels", TORCH_BOX(&roi_align_levels<Backend>));
  library.impl("roi_align_levels_backward", TORCH_BOX(&roi_align_levels_backward<Backend>));
}

}  // namespace mrcnn_plugin
