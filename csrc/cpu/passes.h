// The forward and backward of RoIAlign on the CPU over all slabs and all RoIs of a plan.
#pragma once

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/plan.h"
#include "cpu/threads.h"
#include "roi_align.h"

namespace mrcnn_plugin::cpu {

/// A result of at least this many bytes does not fit the caches of any processor.
constexpr int64_t kLargeResult = int64_t{32} << 20;

template <typename Entry>
constexpr bool is_max = false;
template <typename acc_t>
constexpr bool is_max<Sample<acc_t>> = true;

template <typename T>
Kernels<T> kernels_for(bool narrow) {
  switch (current_isa()) {
#ifdef MRCNN_MULTIPLE_ISAS
    case Isa::kAvx512:
      return avx512::kernels<T>(narrow);
    case Isa::kAvx2:
      return avx2::kernels<T>(narrow);
#endif
    default:
      return baseline::kernels<T>(narrow);
  }
}

/// The buffers of one thread.
template <typename T, typename acc_t = accumulate_t<T>>
struct Workspace {
  Buffer<acc_t> slab, bins, scratch;
  Buffer<index_t<acc_t>> argmax;

  template <typename Entry>
  Workspace(const Plan<Entry>& plan, const Kernels<T>& kernels, int64_t slab_pixels,
            int64_t out_bins, int64_t out_width)
      : slab(slab_pixels * kernels.lanes),
        bins(out_bins * kernels.lanes),
        scratch(kernels.lanes *
                std::max(out_bins, kScratchRows * (1 + std::max(plan.widest(), out_width)))),
        argmax(is_max<Entry> ? out_bins * kernels.lanes : 0) {}
};

/// The part of a slab that a RoI reads. The slab covers the window of the RoI's image.
template <typename acc_t, typename Entry>
Grid<acc_t> reach(acc_t* slab, const Window& window, const RoiPlan<Entry>& roi, int64_t lanes) {
  const int64_t pixel = (roi.y.begin - window.y) * window.width + roi.x.begin - window.x;
  return {slab + pixel * lanes, window.width * lanes, roi.x.extent()};
}

/// Channels [channel, channel + lanes) of element n of a tensor, or of a window of it.
template <typename T>
Plane<T> plane(const View<T>& maps, int64_t n, const Slab& slab, const Window& window,
               bool streamed = false) {
  return {&maps(n, slab.channel, window.y, window.x),
          slab.lanes,
          window.height,
          window.width,
          maps.stride[1],
          maps.stride[2],
          maps.stride[3],
          streamed};
}

// ---- Forward -----------------------------------------------------------------------------------

template <typename T>
struct Forward {
  using acc_t = accumulate_t<T>;
  const Kernels<T>& kernels;
  View<const T> features;
  View<T> output;
  View<int32_t> argmax;
  Window bins;  // the whole of a RoI's output
  bool streamed;

  /// Packs the window of the slab's image.
  void pack(const ImagePlan& image, const Slab& slab, acc_t* to) const {
    if (image.window.height == 0) return;
    kernels.pack(plane(features, image.index, slab, image.window), to);
  }

  /// Pools part `part` of `parts` of an image's RoIs from the packed slab of its window.
  template <typename Entry>
  void operator()(const Plan<Entry>& plan, const ImagePlan& image, int64_t part, int64_t parts,
                  const Slab& slab, const acc_t* packed, Workspace<T>& space) const {
    const int64_t count = image.rois.size();
    for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
      const int64_t r = image.rois[i];
      const RoiPlan<Entry>& roi = plan.rois[r];
      const Grid<const acc_t> in = reach(packed, image.window, roi, kernels.lanes);
      if constexpr (is_max<Entry>) {
        kernels.maximum(view(roi.y), view(roi.x), in, space.scratch.data(), space.bins.data(),
                        space.argmax.data());
        kernels.unpack_argmax(space.argmax.data(), plane(argmax, r, slab, bins, streamed),
                              reinterpret_cast<int32_t*>(space.scratch.data()));
      } else {
        kernels.average(view(roi.y), view(roi.x), in, space.scratch.data(),
                        {space.bins.data(), bins.width * kernels.lanes, bins.width}, false);
      }
      kernels.unpack(space.bins.data(), plane(output, r, slab, bins, streamed),
                     space.scratch.data());
    }
  }
};

/// Every thread repacks its own slabs, so they are in its cache.
template <typename T, typename Entry>
void forward_own_slabs(const SlabLoop& loop, const Plan<Entry>& plan, const Forward<T>& compute) {
  const int64_t area = plan.largest_window(), out_bins = compute.bins.height * compute.bins.width;
  loop.run(
      1, area + plan.rois_per_image() * out_bins,
      [&] { return Workspace<T>(plan, compute.kernels, area, out_bins, compute.bins.width); },
      [&](const Slab& slab, int64_t, Workspace<T>& space) {
        const ImagePlan& image = plan.images[slab.image];
        compute.pack(image, slab, space.slab.data());
        compute(plan, image, 0, 1, slab, space.slab.data(), space);
      });
}

/// For more threads than slabs: all slabs are repacked first, then the threads divide the RoIs.
template <typename T, typename Entry>
void forward_shared_slabs(const SlabLoop& loop, int64_t parts, const Plan<Entry>& plan,
                          const Forward<T>& compute) {
  using acc_t = accumulate_t<T>;
  const int64_t area = plan.largest_window(), out_bins = compute.bins.height * compute.bins.width;
  Buffer<acc_t> shared(loop.slabs * area * loop.lanes);
  const auto packed = [&](const Slab& slab) {
    return shared.data() + slab.index * area * loop.lanes;
  };
  loop.run(
      1, area, [] { return 0; },
      [&](const Slab& slab, int64_t, int) {
        compute.pack(plan.images[slab.image], slab, packed(slab));
      });
  loop.run(
      parts, plan.rois_per_image() * out_bins / parts,
      [&] { return Workspace<T>(plan, compute.kernels, 0, out_bins, compute.bins.width); },
      [&](const Slab& slab, int64_t part, Workspace<T>& space) {
        compute(plan, plan.images[slab.image], part, parts, slab, packed(slab), space);
      });
}

template <typename T, typename Entry>
void forward(const Tensor& features, const Plan<Entry>& plan, const ForwardResult& result) {
  const SlabLoop loop(plan.images.size(), features.size(1));
  const Kernels<T> kernels = kernels_for<T>(loop.narrow);
  const int64_t result_bytes = result.output.numel() * sizeof(T), parts = loop.parts();
  const Forward<T> compute{kernels,
                           const_view<T>(features),
                           mutable_view<T>(result.output),
                           is_max<Entry> ? mutable_view<int32_t>(result.argmax) : View<int32_t>{},
                           {0, 0, result.output.size(2), result.output.size(3)},
                           result_bytes >= kLargeResult};
  parts == 1 ? forward_own_slabs(loop, plan, compute)
             : forward_shared_slabs(loop, parts, plan, compute);
}

// ---- Backward ----------------------------------------------------------------------------------

/// Writes zeros outside the window. `maps` is contiguous, or the window is the whole map.
template <typename T>
void zero_around(const Plane<T>& maps, const Window& window) {
  const int64_t area = maps.height * maps.width;
  if (window.height * window.width == area) return;
  const bool whole_rows = window.width == maps.width;
  const int64_t begin = whole_rows ? window.y * maps.width : area;
  const int64_t end = whole_rows ? begin + window.height * maps.width : area;
  for (int64_t lane = 0; lane < maps.lanes; ++lane) {
    T* map = maps.data + lane * area;
    std::fill(map, map + begin, T(0));
    std::fill(map + end, map + area, T(0));
  }
}

template <typename T>
struct Backward {
  using acc_t = accumulate_t<T>;
  const Kernels<T>& kernels;
  View<const T> grad_output;
  View<const int32_t> argmax;
  View<T> grad_features;
  Window bins, map;

  /// Prefetches the gradient of the next RoI, which is far from that of the current one.
  void prefetch(const Plane<const T>& grad) const {
    if (grad.channel_stride != bins.height * bins.width || grad.column_stride != 1) return;
    const auto* begin = reinterpret_cast<const char*>(grad.data);
    const auto* end = reinterpret_cast<const char*>(grad.data + grad.lanes * grad.channel_stride);
    for (; begin < end; begin += 64) __builtin_prefetch(begin, 0, 2);
  }

  template <typename Entry>
  void operator()(const Plan<Entry>& plan, const Slab& slab, Workspace<T>& space) const {
    const ImagePlan& image = plan.images[slab.image];
    const Window& window = image.window;
    std::fill_n(space.slab.data(), window.height * window.width * kernels.lanes, acc_t{0});
    for (size_t i = 0; i < image.rois.size(); ++i) {
      const int64_t r = image.rois[i];
      const RoiPlan<Entry>& roi = plan.rois[r];
      if (i + 1 < image.rois.size()) prefetch(plane(grad_output, image.rois[i + 1], slab, bins));
      if (roi.empty()) continue;
      kernels.pack(plane(grad_output, r, slab, bins), space.bins.data());
      const auto to = reach(space.slab.data(), window, roi, kernels.lanes);
      if constexpr (is_max<Entry>) {
        kernels.pack_argmax(plane(argmax, r, slab, bins), space.argmax.data());
        kernels.maximum_backward(view(roi.y), view(roi.x), space.bins.data(), space.argmax.data(),
                                 space.scratch.data(), to);
      } else {
        kernels.average(view(roi.y), view(roi.x),
                        {space.bins.data(), bins.width * kernels.lanes, bins.width},
                        space.scratch.data(), to, true);
      }
    }
    zero_around(plane(grad_features, slab.image, slab, map), window);
    if (window.height == 0) return;
    kernels.unpack(space.slab.data(), plane(grad_features, slab.image, slab, window),
                   space.scratch.data());
  }
};

template <typename T, typename Entry>
void backward(const Tensor& grad_output, const Tensor& argmax, Plan<Entry>& plan,
              const Tensor& grad_features) {
  const Window map{0, 0, grad_features.size(2), grad_features.size(3)};
  const Window bins{0, 0, grad_output.size(2), grad_output.size(3)};
  if (!grad_features.is_contiguous()) {
    for (auto& image : plan.images) image.window = map;
  }
  const SlabLoop loop(grad_features.size(0), grad_features.size(1));
  const Kernels<T> kernels = kernels_for<T>(loop.narrow);
  const Backward<T> compute{kernels,
                            const_view<T>(grad_output),
                            is_max<Entry> ? const_view<int32_t>(argmax) : View<const int32_t>{},
                            mutable_view<T>(grad_features),
                            bins,
                            map};
  const int64_t area = plan.largest_window(), out_bins = bins.height * bins.width;
  loop.run(
      1, map.height * map.width + plan.rois_per_image() * out_bins,
      [&] { return Workspace<T>(plan, kernels, area, out_bins, bins.width); },
      [&](const Slab& slab, int64_t, Workspace<T>& space) { compute(plan, slab, space); });
}

}  // namespace mrcnn_plugin::cpu
