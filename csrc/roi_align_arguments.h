// What the RoIAlign kernels of every device check, convert and allocate before they start. The
// Python face gives friendlier messages; these make a direct torch.ops call safe.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"

namespace mrcnn_plugin {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// A 4-d tensor of any layout.
template <typename T>
struct View {
  T* data;
  int64_t stride[4];

  MRCNN_HOST_DEVICE T& operator()(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return data[n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3]];
  }
};

template <typename T>
View<T> mutable_view(const Tensor& t) {
  return {static_cast<T*>(t.mutable_data_ptr()),
          {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}

template <typename T>
View<const T> const_view(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()),
          {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}

inline RoiAlignOptions parse_options(int64_t pooled_height, int64_t pooled_width,
                                     double spatial_scale, int64_t sampling_ratio, bool aligned,
                                     const std::string& mode, int64_t bin_stride) {
  STD_TORCH_CHECK(pooled_height > 0 && pooled_width > 0,
                  "roi_align: output_size must be positive, got ", pooled_height, " x ",
                  pooled_width);
  STD_TORCH_CHECK(std::isfinite(spatial_scale) && spatial_scale > 0,
                  "roi_align: spatial_scale must be finite and positive, got ", spatial_scale);
  STD_TORCH_CHECK(mode == "avg" || mode == "max", "roi_align: mode must be 'avg' or 'max', got '",
                  mode, "'");
  const bool max = mode == "max";
  STD_TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio <= (max ? kMostSamplesMax : INT32_MAX),
                  "roi_align: sampling_ratio must be 0 to ", max ? kMostSamplesMax : INT32_MAX,
                  " for mode '", mode, "', got ", sampling_ratio);
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

/// RoIs as the kernels read them: contiguous, and in the type in which coordinates are computed:
/// float64 if either the RoIs or the features are, else float32. Never half.
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

/// The maps of a pyramid differ in height and width alone.
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

/// Channels-last when `t` is that and not also contiguous, as torch's own operators decide.
inline MemoryFormat suggested_format(const Tensor& t) {
  if (t.is_contiguous()) return MemoryFormat::Contiguous;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return MemoryFormat::Contiguous;
    expected *= t.size(d);
  }
  return MemoryFormat::ChannelsLast;
}

/// An uninitialised tensor on the device and in the layout of `like`.
inline Tensor empty_maps(const Tensor& like, ScalarType type, int64_t n, int64_t c, int64_t h,
                         int64_t w) {
  return torch::stable::empty({n, c, h, w}, type, std::nullopt, like.device(), std::nullopt,
                              suggested_format(like));
}

struct ForwardResult {
  Tensor output, argmax;
};

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

/// Calls use(T{}) with a zero of the maps' element type.
template <typename Use>
void dispatch_maps(const Tensor& maps, const Use& use) {
  switch (maps.scalar_type()) {
    case ScalarType::Double:
      return use(double{});
    case ScalarType::Float:
      return use(float{});
    case ScalarType::Half:
      return use(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return use(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "roi_align: unsupported dtype");
  }
}

}  // namespace mrcnn_plugin
