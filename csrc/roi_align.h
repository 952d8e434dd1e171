// Checks the arguments of the RoIAlign ops, allocates the results and calls the backend of the
// device. The Python functions report most errors first; these checks make direct calls of
// torch.ops safe.
//
// A Backend is a struct of
//   Guard(tensor)
//       makes the tensor's device the current one during its lifetime
//   check_images(rois, batch), check_level_of(level_of, rois, levels)
//       reject a batch index or level that is out of range, if checking it needs no
//       synchronization; they run before anything is allocated
//   forward(features, rois, options, result)
//       fills the result, which is not empty; RoI r reads map rois.level_of[r]
//   backward(grad_output, rois, level, argmax, options, grad_features)
//       fills the gradient, which is not empty
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "tensor.h"

namespace mrcnn_plugin {

/// What an op's `mode` means. MODES in mrcnn_plugin/layers/_arguments.py has the same order.
enum class Mode : int64_t { kAvg = 0, kMax = 1 };

struct ForwardResult {
  Tensor output, argmax;
};

/// The RoIs of a call. level_of is null if there is only one map.
struct LeveledRois {
  Tensor boxes;             // (R, 5), contiguous
  const int64_t* level_of;  // (R)
};

// ---- Checks ------------------------------------------------------------------------------------

inline RoiAlignOptions parse_options(int64_t pooled_height, int64_t pooled_width,
                                     double spatial_scale, int64_t sampling_ratio, bool aligned,
                                     int64_t mode, int64_t bin_stride) {
  STD_TORCH_CHECK(pooled_height > 0 && pooled_width > 0,
                  "roi_align: output_size must be positive, got ", pooled_height, " x ",
                  pooled_width);
  STD_TORCH_CHECK(std::isfinite(spatial_scale) && spatial_scale > 0,
                  "roi_align: spatial_scale must be finite and positive, got ", spatial_scale);
  STD_TORCH_CHECK(
      mode == static_cast<int64_t>(Mode::kAvg) || mode == static_cast<int64_t>(Mode::kMax),
      "roi_align: mode must be 0 (average) or 1 (maximum), got ", mode);
  const bool max = mode == static_cast<int64_t>(Mode::kMax);
  STD_TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio <= (max ? kMostSamplesMax : INT32_MAX),
                  "roi_align: sampling_ratio must be 0 to ", max ? kMostSamplesMax : INT32_MAX,
                  " for mode ", max ? "'max'" : "'avg'", ", got ", sampling_ratio);
  STD_TORCH_CHECK(bin_stride >= 1, "roi_align: bin_stride must be at least 1, got ", bin_stride);
  return {pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned, max, bin_stride};
}

inline void check_maps(const Tensor& maps, const char* name) {
  const ScalarType type = maps.scalar_type();
  STD_TORCH_CHECK(maps.dim() == 4, "roi_align: ", name, " must be (N, C, H, W), got ", maps.dim(),
                  " dimensions");
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float ||
                      type == ScalarType::Half || type == ScalarType::BFloat16,
                  "roi_align: ", name, " must be float64, float32, float16 or bfloat16, got ",
                  torch::headeronly::toString(type));
}

/// Returns contiguous RoIs in the type of the coordinates: float64 if the RoIs or the features are,
/// otherwise float32. It is never half.
inline Tensor prepare_rois(const Tensor& rois, const Tensor& maps) {
  const ScalarType type = rois.scalar_type();
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5,
                  "roi_align: rois must be (R, 5): batch index, x1, y1, x2, y2");
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float,
                  "roi_align: rois must be float32 or float64, got ",
                  torch::headeronly::toString(type));
  STD_TORCH_CHECK(rois.device() == maps.device(),
                  "roi_align: rois and features are on different devices");
  const bool widen = maps.scalar_type() == ScalarType::Double && type == ScalarType::Float;
  return torch::stable::contiguous(widen ? torch::stable::to(rois, ScalarType::Double) : rois);
}

inline void check_levels(const Tensor& levels, const Tensor& rois) {
  STD_TORCH_CHECK(levels.dim() == 1 && levels.size(0) == rois.size(0) &&
                      levels.scalar_type() == ScalarType::Long &&
                      levels.device() == rois.device() && levels.is_contiguous(),
                  "roi_align_levels: levels must be (R), int64, contiguous, on the device of rois");
}

/// The maps of a pyramid may differ only in height and width.
inline void check_pyramid(const std::vector<Tensor>& features, const std::vector<double>& scales) {
  STD_TORCH_CHECK(!features.empty() && features.size() == scales.size(),
                  "roi_align_levels: needs one spatial_scale for each of one or more maps, got ",
                  scales.size(), " for ", features.size());
  for (const Tensor& maps : features) {
    check_maps(maps, "features");
    STD_TORCH_CHECK(maps.size(0) == features[0].size(0) && maps.size(1) == features[0].size(1) &&
                        maps.scalar_type() == features[0].scalar_type() &&
                        maps.device() == features[0].device(),
                    "roi_align_levels: all maps must have the same N, C, dtype and device");
  }
}

inline void check_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                           int64_t channels, const RoiAlignOptions& options) {
  const int64_t expected[] = {rois.size(0), channels,
                              kept_bins(options.pooled_height, options.bin_stride),
                              kept_bins(options.pooled_width, options.bin_stride)};
  const auto same_shape = [&](const Tensor& t) {
    if (t.dim() != 4) return false;
    for (int d = 0; d < 4; ++d) {
      if (t.size(d) != expected[d]) return false;
    }
    return true;
  };
  STD_TORCH_CHECK(same_shape(grad_output), "roi_align_backward: grad_output must be (", expected[0],
                  ", ", expected[1], ", ", expected[2], ", ", expected[3], ")");
  STD_TORCH_CHECK(!options.max || (same_shape(argmax) && argmax.scalar_type() == ScalarType::Int &&
                                   argmax.device() == grad_output.device()),
                  "roi_align_backward: argmax must be the forward's second result");
}

// ---- Ops ---------------------------------------------------------------------------------------

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
                                     int64_t mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(features, "features");
  const typename Backend::Guard guard(features);
  const Tensor boxes = prepare_rois(rois, features);
  Backend::check_images(boxes, features.size(0));
  const ForwardResult result = empty_result(features, boxes, options);
  if (result.output.numel() > 0) {
    Backend::forward({features}, {boxes, nullptr}, {options}, result);
  }
  return {result.output, result.argmax};
}

template <typename Backend>
std::tuple<Tensor, Tensor> roi_align_levels(std::vector<Tensor> features, const Tensor& rois,
                                            const Tensor& levels, int64_t pooled_height,
                                            int64_t pooled_width,
                                            std::vector<double> spatial_scales,
                                            int64_t sampling_ratio, bool aligned, int64_t mode,
                                            int64_t bin_stride) {
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
  if (result.output.numel() > 0) Backend::forward(features, {boxes, level_of}, options, result);
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
  if (grad_features.numel() > 0) {
    Backend::backward(grad_output, rois, level, argmax, options, grad_features);
  }
  return grad_features;
}

template <typename Backend>
Tensor roi_align_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                          int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                          int64_t sampling_ratio, bool aligned, int64_t mode, int64_t bin_stride) {
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
                                 int64_t sampling_ratio, bool aligned, int64_t mode,
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
