// RoIAlign on CUDA.
//
// Small kernels turn every RoI into a plan, which lists for each axis what is read and its weight
// (see roi_align_geometry.h). Then every thread gathers the elements that it owns: a few channels
// of one bin in the forward, of one pixel in the backward. The backward adds the RoIs in order
// without atomics, so it is deterministic. Plans are made for as many RoIs at a time as fit into a
// fixed memory. Nothing synchronizes with the device.
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "cuda/backward.cuh"
#include "cuda/forward.cuh"
#include "roi_align.h"

namespace mrcnn_plugin::cuda {
namespace {

constexpr int kThreads = 128, kPlanThreads = 64;   // per block; threads of a plan run long
constexpr int64_t kPlanBytes = int64_t{64} << 20;  // more RoIs are processed in parts
constexpr int64_t kPackBytes = int64_t{128} << 20;

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
  /// For one RoI.
  int64_t bytes() const {
    return (bins[0] * room[0] + bins[1] * room[1]) * static_cast<int64_t>(sizeof(Entry));
  }
};

/// Fills the plan for the RoIs [first, first + count).
template <typename Entry, typename coord_t>
void plan_bins(const LeveledRois& rois, int64_t first, int64_t count, Levels levels,
               const RoiAlignOptions& options, const BinPlan<Entry>& plan, cudaStream_t stream) {
  if (levels.level_of != nullptr) levels.level_of += first;
  launch(plan_bins_kernel<Entry, coord_t>, count * (plan.axes[0].lists + plan.axes[1].lists),
         kPlanThreads, stream, static_cast<const coord_t*>(rois.boxes.const_data_ptr()) + 5 * first,
         count, levels, options, plan);
}

/// Fills the plan of the pixels from that of the bins.
template <typename Entry, typename acc_t>
void plan_pixels(int64_t rois, const BinPlan<Entry>& bins, const PixelPlan<acc_t>& pixels,
                 cudaStream_t stream) {
  launch(plan_pixels_kernel<Entry, acc_t>, rois * (pixels.y.lists + pixels.x.lists), kPlanThreads,
         stream, rois, bins, pixels);
  launch(plan_masks_kernel<acc_t>, words_of(rois) * pixels.segments, kPlanThreads, stream, rois,
         bins.targets, pixels);
}

/// Calls use(first, count) for parts of the RoIs, once if there are none.
template <typename Use>
void for_each_part(int64_t rois, int64_t part, const Use& use) {
  int64_t first = 0;
  do {
    use(first, std::min(part, rois - first));
    first += part;
  } while (first < rois);
}

/// The view from entry `first` on.
template <typename T>
View<T> from_entry(View<T> view, int64_t first) {
  view.data += first * view.stride[0];
  return view;
}

// ---- The backend -------------------------------------------------------------------------------

template <typename Entry, typename coord_t, typename Pool>
void forward_parts(const LeveledRois& rois, const Levels& levels, const RoiAlignOptions& options,
                   cudaStream_t stream, const Pool& pool) {
  const BinRoom<Entry> of(levels, options);
  const int64_t all = rois.boxes.size(0);
  const int64_t part = std::clamp<int64_t>(kPlanBytes / (1 + of.bytes()), 1, all);
  Tensor block;
  const auto plan = Scratch::make(rois.boxes, block, [&](Scratch& scratch) {
    return make_bin_plan<Entry>(scratch, part, of.bins, of.room);
  });
  for_each_part(all, part, [&](int64_t first, int64_t count) {
    plan_bins<Entry, coord_t>(rois, first, count, levels, options, plan, stream);
    pool(first, count, plan);
  });
}

template <typename T, typename coord_t>
void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
             const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
  using acc_t = accumulate_t<T>;
  const cudaStream_t stream = current_stream(features[0]);
  const Levels levels = levels_of(features, rois.level_of, options);
  Maps<const T> maps{};
  for (size_t i = 0; i < features.size(); ++i) maps.levels[i] = const_view<T>(features[i]);
  Tiling tiling(result.output);
  const View<T> output = mutable_view<T>(result.output);
  const auto average = [&](int64_t first, int64_t count, const auto& plan) {
    tiling.n = count;
    launch(average_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
           from_entry(output, first));
  };
  const auto maximum = [&](int64_t first, int64_t count, const auto& plan) {
    tiling.n = count;
    launch(maximum_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
           from_entry(output, first), from_entry(mutable_view<int32_t>(result.argmax), first));
  };
  if (options[0].max) {
    forward_parts<PlanSample<acc_t>, coord_t>(rois, levels, options[0], stream, maximum);
  } else {
    forward_parts<PlanTerm<acc_t>, coord_t>(rois, levels, options[0], stream, average);
  }
}

/// The most readers of `pixels` neighbouring pixels along an axis.
int64_t most_readers(int64_t bins, int64_t pixels, const RoiAlignOptions& options) {
  STD_TORCH_CHECK(bins <= INT32_MAX >> (options.max ? kArgmaxBits : 0),
                  "roi_align: too many bins for the gradient on CUDA");
  // A run of a bin is between two pixels, and can win by its first and by its last sample.
  const int64_t most = 2 * (pixels + 1);
  const int64_t samples = options.sampling_ratio > 0 ? options.sampling_ratio : most;
  return bins * (options.max ? std::min(samples, most) : 1);
}

/// Values (R, C, height, width) of the bins, as packs. Parts of them are copied, unless they have
/// the layout of packs.
template <typename T>
class BinValues {
 public:
  explicit BinValues(const Tensor& t)
      : view_(const_view<T>(t)), tiling_(t), packed_(is_packed(view_, tiling_.channels)), copy_{} {}

  /// Of the copy of one RoI.
  int64_t bytes() const {
    const int64_t channels = packs_of(tiling_.channels) * kPack;
    return packed_ ? 0 : tiling_.height * tiling_.width * channels * int64_t{sizeof(T)};
  }
  void take(Scratch& scratch, int64_t rois) {
    if (packed_) return;
    copy_ = make_packs<T>(scratch, rois, tiling_.height, tiling_.width, tiling_.channels);
  }
  Packs<const T> part(int64_t first, int64_t count, const Target* targets,
                      cudaStream_t stream) const {
    const View<const T> from = from_entry(view_, first);
    if (packed_) return as_packs(from);
    PackTiling tiling = tiling_;
    tiling.n = count;
    launch(pack_kernel<T>, tiling.threads(), kThreads, stream, from, targets, tiling, copy_);
    return {copy_.data, {copy_.stride[0], copy_.stride[1], copy_.stride[2]}};
  }

 private:
  View<const T> view_;
  PackTiling tiling_;
  bool packed_;
  Packs<T> copy_;
};

/// What the backward of a map stores.
template <typename Entry, typename T>
struct Gathering {
  using acc_t = accumulate_t<T>;
  BinPlan<Entry> bins;
  PixelPlan<acc_t> pixels;
  Packs<acc_t> result;
  QuadTiling tiling;
  bool direct;  // the result is the gradient itself
};

/// How many RoIs are planned, and how many of them are packed, at a time.
struct Parts {
  int64_t planned, packed;

  Parts(int64_t rois, int64_t plan_bytes, int64_t pack_bytes)
      : planned(std::max<int64_t>(1, std::min({rois, kMostPlanned, kPlanBytes / plan_bytes}))),
        packed(planned) {
    if (pack_bytes == 0) return;
    const int64_t words = std::max<int64_t>(1, kPackBytes / pack_bytes / kMaskBits);
    packed = std::min(planned, words * kMaskBits);
  }
};

/// Calls add(first, count, planned, words, gathering) to add the gradients of RoIs to the result,
/// after it has called take(scratch, count) to take memory for as many packed RoIs, pack_bytes for
/// each. planned is the index of the first of them in the plan.
template <typename Entry, typename T, typename coord_t, typename Take, typename Add>
void backward_parts(const LeveledRois& rois, const Levels& levels, const RoiAlignOptions& options,
                    const Tensor& grad_features, int64_t pack_bytes, cudaStream_t stream,
                    const Take& take, const Add& add) {
  using acc_t = accumulate_t<T>;
  const BinRoom<Entry> of(levels, options);
  const PackTiling maps(grad_features);
  const View<T> out = mutable_view<T>(grad_features);
  const int64_t extents[] = {maps.height, maps.width};
  const int64_t room[] = {most_readers(of.bins[0], 1, options),
                          most_readers(of.bins[1], kQuad, options)};
  const int64_t all = rois.boxes.size(0);
  const int64_t readers =
      extents[0] * room[0] * int64_t{sizeof(PlanReader<acc_t, 1>)} +
      (extents[1] / kQuad + 1) * room[1] * int64_t{sizeof(PlanReader<acc_t, kQuad>)};
  const Parts parts(all, of.bytes() + readers, pack_bytes);

  Tensor block;
  const auto to = Scratch::make(rois.boxes, block, [&](Scratch& scratch) {
    take(scratch, parts.packed);
    Gathering<Entry, T> made{make_bin_plan<Entry>(scratch, parts.planned, of.bins, of.room),
                             make_pixel_plan<acc_t>(scratch, parts.planned, maps.n, extents, room),
                             {},
                             {maps.n, maps.height, maps.width, packs_of(maps.channels)},
                             std::is_same_v<T, acc_t> && is_packed(out, maps.channels)};
    if constexpr (std::is_same_v<T, acc_t>) made.result = as_packs(out);
    if (!made.direct) {
      made.result = make_packs<acc_t>(scratch, maps.n, maps.height, maps.width, maps.channels);
    }
    return made;
  });
  for_each_part(all, parts.planned, [&](int64_t first, int64_t count) {
    plan_bins<Entry, coord_t>(rois, first, count, levels, options, to.bins, stream);
    plan_pixels(count, to.bins, to.pixels, stream);
    for_each_part(count, parts.packed, [&](int64_t from, int64_t some) {
      add(first + from, some, from, Words{from / kMaskBits, words_of(from + some)}, to);
    });
  });
  if (to.direct) return;
  launch(unpack_kernel<acc_t, T>, maps.threads(), kThreads, stream, to.result, maps, out);
}

template <typename T, typename coord_t>
void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
              const Tensor& argmax, const RoiAlignOptions& options, const Tensor& grad_features) {
  using acc_t = accumulate_t<T>;
  const cudaStream_t stream = current_stream(grad_output);
  Levels levels = levels_of({grad_features}, rois.level_of, {options});
  levels.first = level;
  BinValues<T> grads(grad_output);
  if (options.max) {
    BinValues<int32_t> winners(argmax);
    const auto take = [&](Scratch& scratch, int64_t count) {
      grads.take(scratch, count);
      winners.take(scratch, count);
    };
    const auto add = [&](int64_t first, int64_t count, int64_t planned, Words words,
                         const auto& to) {
      const Target* const targets = to.bins.targets + planned;
      launch(maximum_backward_kernel<T>, to.tiling.threads(), kThreads, stream,
             grads.part(first, count, targets, stream), winners.part(first, count, targets, stream),
             to.pixels, to.tiling, words, first == 0, to.result);
    };
    backward_parts<PlanSample<acc_t>, T, coord_t>(
        rois, levels, options, grad_features, grads.bytes() + winners.bytes(), stream, take, add);
  } else {
    const auto take = [&](Scratch& scratch, int64_t count) { grads.take(scratch, count); };
    const auto add = [&](int64_t first, int64_t count, int64_t planned, Words words,
                         const auto& to) {
      launch(average_backward_kernel<T>, to.tiling.threads(), kThreads, stream,
             grads.part(first, count, to.bins.targets + planned, stream), to.pixels, to.tiling,
             words, first == 0, to.result);
    };
    backward_parts<PlanTerm<acc_t>, T, coord_t>(rois, levels, options, grad_features, grads.bytes(),
                                                stream, take, add);
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
