// RoIAlign on CUDA.
//
// Small kernels turn every RoI into a plan, which lists for each axis what is read and its weight
// (see roi_align_geometry.h). Then every thread gathers the elements that it owns: a few channels
// of one bin in the forward, of one pixel in the backward. The backward adds the RoIs in order
// without atomics, so it is deterministic. Nothing synchronizes with the device.
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "cuda/kernels.cuh"
#include "roi_align.h"

namespace mrcnn_plugin::cuda {
namespace {

constexpr int kThreads = 128, kPlanThreads = 64;    // per block; threads of a plan run long
constexpr int64_t kPlanBytes = int64_t{256} << 20;  // the forward makes a larger plan in parts

// ---- Plans -------------------------------------------------------------------------------------

Levels levels_of(const std::vector<Tensor>& features, const int64_t* level_of,
                 const std::vector<RoiAlignOptions>& options) {
  const auto count = static_cast<int64_t>(features.size());
  STD_TORCH_CHECK(count <= kMostLevels, "roi_align_levels: at most ", kMostLevels,
                  " maps on CUDA, got ", count);
  Levels levels{level_of, 0, count, features[0].size(0), {}, {}};
  for (int64_t i = 0; i < count; ++i) {
    for (int axis = 0; axis < 2; ++axis) levels.extents[axis][i] = features[i].size(2 + axis);
    levels.scales[i] = options[i].spatial_scale;
    STD_TORCH_CHECK(std::max({levels.batch, features[i].size(2), features[i].size(3)}) < INT32_MAX,
                    "roi_align: N, H and W must be less than 2^31 on CUDA");
  }
  return levels;
}

/// The most entries of a bin's list: its pixels, or the first and last sample of every run.
template <typename acc_t>
int64_t most_entries(const PlanTerm<acc_t>*, int64_t extent, int64_t sampling_ratio) {
  return sampling_ratio > 0 ? std::min(2 * sampling_ratio, extent) : extent;
}
template <typename acc_t>
int64_t most_entries(const PlanSample<acc_t>*, int64_t extent, int64_t sampling_ratio) {
  const int64_t most = 2 * (extent + 1);
  return sampling_ratio > 0 ? std::min(sampling_ratio, most) : most;
}

/// The number of bins per axis, and the most entries of the list of one bin.
template <typename Entry>
struct BinRoom {
  int64_t bins[2], room[2];

  BinRoom(const Levels& levels, const RoiAlignOptions& options) {
    const int64_t pooled[] = {options.pooled_height, options.pooled_width};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t* extents = levels.extents[axis];
      const int64_t extent = *std::max_element(extents, extents + levels.count);
      bins[axis] = kept_bins(pooled[axis], options.bin_stride);
      room[axis] = most_entries(static_cast<Entry*>(nullptr), extent, options.sampling_ratio);
    }
  }
  int64_t bytes() const {
    return (bins[0] * room[0] + bins[1] * room[1]) * static_cast<int64_t>(sizeof(Entry));
  }
};

/// The plan of the RoIs [first, first + count).
template <typename Entry, typename coord_t>
BinPlan<Entry> plan_bins(const Tensor& boxes, int64_t first, int64_t count, Levels levels,
                         const RoiAlignOptions& options, Scratch& scratch, cudaStream_t stream) {
  const BinRoom<Entry> of(levels, options);
  const BinPlan<Entry> plan{{make_lists<Entry>(scratch, count, of.bins[0], of.room[0]),
                             make_lists<Entry>(scratch, count, of.bins[1], of.room[1])},
                            scratch.take<Target>(count)};
  if (levels.level_of != nullptr) levels.level_of += first;
  launch(plan_bins_kernel<Entry, coord_t>, count * (of.bins[0] + of.bins[1]), kPlanThreads, stream,
         static_cast<const coord_t*>(boxes.const_data_ptr()) + 5 * first, count, levels, options,
         plan);
  return plan;
}

/// Calls pool(first, count, plan) for parts of the RoIs, of which there is one unless plans are
/// huge.
template <typename Entry, typename coord_t, typename Pool>
void for_each_plan(const LeveledRois& rois, const Levels& levels, const RoiAlignOptions& options,
                   cudaStream_t stream, const Pool& pool) {
  const int64_t all = rois.boxes.size(0);
  const int64_t bytes = 1 + BinRoom<Entry>(levels, options).bytes();
  const int64_t part = std::max<int64_t>(kPlanBytes / bytes, 1);
  for (int64_t first = 0; first < all; first += part) {
    const int64_t count = std::min(part, all - first);
    Scratch scratch(rois.boxes);
    pool(first, count,
         plan_bins<Entry, coord_t>(rois.boxes, first, count, levels, options, scratch, stream));
  }
}

/// Allocates the lists of the pixels of one axis.
template <typename acc_t>
Lists<PlanTerm<acc_t>> pixel_lists(int64_t rois, int64_t extent, int64_t pooled,
                                   const RoiAlignOptions& options, Scratch& scratch) {
  const int64_t bins = kept_bins(pooled, options.bin_stride);
  STD_TORCH_CHECK(bins <= INT32_MAX >> (options.max ? kArgmaxBits : 0),
                  "roi_align: too many bins for the gradient on CUDA");
  // Two runs of a bin read a pixel, one on each side of it, and each has a first and a last sample.
  const int64_t samples = options.sampling_ratio > 0 ? options.sampling_ratio : 4;
  return make_lists<PlanTerm<acc_t>>(scratch, rois, extent,
                                     bins * (options.max ? std::min<int64_t>(samples, 4) : 1));
}

template <typename Entry, typename acc_t, typename coord_t>
PixelPlan<acc_t> plan_pixels(const LeveledRois& rois, const Levels& levels,
                             const RoiAlignOptions& options, Scratch& scratch,
                             cudaStream_t stream) {
  const int64_t count = rois.boxes.size(0), height = levels.extents[0][0];
  const int64_t width = levels.extents[1][0], rows = levels.batch * height;
  const int64_t words = (count + kMaskBits - 1) / kMaskBits;
  const int64_t segments = (width + kSegment - 1) / kSegment;
  const PixelPlan<acc_t> plan{
      {pixel_lists<acc_t>(count, height, options.pooled_height, options, scratch),
       pixel_lists<acc_t>(count, width, options.pooled_width, options, scratch)},
      scratch.take<uint32_t>(rows * segments * words),
      segments,
      words};
  const BinPlan<Entry> bins =
      plan_bins<Entry, coord_t>(rois.boxes, 0, count, levels, options, scratch, stream);
  launch(plan_pixels_kernel<Entry, acc_t>, count * (height + width), kPlanThreads, stream, count,
         bins, plan);
  launch(plan_segments_kernel<acc_t>, rows * segments * words, kPlanThreads, stream, count, rows,
         bins.targets, plan);
  return plan;
}

// ---- The backend -------------------------------------------------------------------------------

template <typename T, typename coord_t>
void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
             const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
  const cudaStream_t stream = current_stream(features[0]);
  const Levels levels = levels_of(features, rois.level_of, options);
  Maps<const T> maps{};
  for (size_t i = 0; i < features.size(); ++i) maps.levels[i] = const_view<T>(features[i]);
  const auto entries = [](const auto& view, int64_t first) {
    auto part = view;
    part.data += first * view.stride[0];
    return part;
  };
  Tiling tiling(result.output);
  const View<T> output = mutable_view<T>(result.output);
  using acc_t = accumulate_t<T>;
  if (options[0].max) {
    const View<int32_t> argmax = mutable_view<int32_t>(result.argmax);
    for_each_plan<PlanSample<acc_t>, coord_t>(
        rois, levels, options[0], stream, [&](int64_t first, int64_t count, const auto& plan) {
          tiling.n = count;
          launch(maximum_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
                 entries(output, first), entries(argmax, first));
        });
  } else {
    for_each_plan<PlanTerm<acc_t>, coord_t>(
        rois, levels, options[0], stream, [&](int64_t first, int64_t count, const auto& plan) {
          tiling.n = count;
          launch(average_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
                 entries(output, first));
        });
  }
}

template <typename T, typename coord_t>
void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
              const Tensor& argmax, const RoiAlignOptions& options, const Tensor& grad_features) {
  const cudaStream_t stream = current_stream(grad_output);
  const Tiling tiling(grad_features);
  const View<const T> grads = const_view<T>(grad_output);
  const View<T> out = mutable_view<T>(grad_features);
  Levels levels = levels_of({grad_features}, rois.level_of, {options});
  levels.first = level;
  Scratch scratch(grad_output);
  using acc_t = accumulate_t<T>;
  if (options.max) {
    const auto plan =
        plan_pixels<PlanSample<acc_t>, acc_t, coord_t>(rois, levels, options, scratch, stream);
    launch(maximum_backward_kernel<T>, tiling.threads(), kThreads, stream, grads,
           const_view<int32_t>(argmax), plan, tiling, out);
  } else {
    const auto plan =
        plan_pixels<PlanTerm<acc_t>, acc_t, coord_t>(rois, levels, options, scratch, stream);
    launch(average_backward_kernel<T>, tiling.threads(), kThreads, stream, grads, plan, tiling,
           out);
  }
}

/// Calls use(T{}, coord_t{}) with the types of the maps and of the coordinates.
template <typename Use>
void dispatch(const Tensor& maps, const Tensor& boxes, const Use& use) {
  dispatch_maps(maps, [&](auto zero) {
    if (boxes.scalar_type() == ScalarType::Double) {
      use(zero, double{});
    } else if constexpr (!std::is_same_v<decltype(zero), double>) {
      use(zero, float{});
    }
  });
}

/// The interface is documented in roi_align.h.
struct Backend {
  struct Guard {
    torch::stable::accelerator::DeviceGuard guard;
    explicit Guard(const Tensor& t) : guard(t.get_device_index()) {}
  };

  /// Checking would require a synchronization, so such a RoI yields zeros and no gradient.
  static void check_images(const Tensor&, int64_t) {}
  static void check_level_of(const int64_t*, int64_t, int64_t) {}

  static void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
                      const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
    dispatch(features[0], rois.boxes, [&](auto zero, auto coordinate) {
      cuda::forward<decltype(zero), decltype(coordinate)>(features, rois, options, result);
    });
  }

  static void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
                       const Tensor& argmax, const RoiAlignOptions& options,
                       const Tensor& grad_features) {
    dispatch(grad_output, rois.boxes, [&](auto zero, auto coordinate) {
      cuda::backward<decltype(zero), decltype(coordinate)>(grad_output, rois, level, argmax,
                                                           options, grad_features);
    });
  }
};

}  // namespace
}  // namespace mrcnn_plugin::cuda

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  mrcnn_plugin::register_roi_align<mrcnn_plugin::cuda::Backend>(m);
}
