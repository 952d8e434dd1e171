// Strided access to tensors, allocation, and dispatch on the element type, for every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "roi_align_geometry.h"

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

/// Channels-last if `t` is channels-last and not also contiguous, which is torch's own rule.
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

/// Calls use(T{}), where T is the element type of the maps.
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
