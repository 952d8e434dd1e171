// The plan of RoIAlign on CUDA lists for each RoI, axis and bin the pixels that the average reads,
// or the samples that can be the maximum. The plan of the backward is its transpose: it lists for
// each pixel the bins that read it. No thread has a long list to process.
//
// Every list has room for the most entries that it can have, because only the device knows their
// number. Unused entries are never accessed.
#pragma once

#include <cmath>

#include "cuda/launch.cuh"

namespace mrcnn_plugin::cuda {

constexpr int64_t kMostLevels = 8;  // of a pyramid, which is passed to kernels by value

/// The image and the level of a RoI. If it has none, image is -1 and the result is zero. No sample
/// of the RoI reads a pixel outside [first, last] (axis 0 is y, 1 is x).
struct Target {
  int32_t image, level, first[2], last[2];
};

/// The sizes of the maps of a call, and the map of each RoI.
struct Levels {
  const int64_t* level_of;  // (R), or null: all RoIs are on the first map
  int64_t first;            // what level_of calls the first map
  int64_t count, batch;
  int64_t extents[2][kMostLevels];  // axis 0 is y, 1 is x
  double scales[kMostLevels];

  template <typename coord_t>
  __device__ Target target(const coord_t* boxes, int64_t r) const {
    const int64_t level = level_of == nullptr ? 0 : level_of[r] - first;
    if (level < 0 || level >= count) return {-1, 0, {}, {}};
    return {
        static_cast<int32_t>(image_of(boxes[5 * r], batch)), static_cast<int32_t>(level), {}, {}};
  }
};

/// The data of the same maps.
template <typename T>
struct Maps {
  View<T> levels[kMostLevels];
};

/// boxes: (R, 5), contiguous.
template <typename coord_t>
__device__ Axis<coord_t> axis_of(const coord_t* boxes, int64_t r, int axis, const Levels& levels,
                                 int64_t level, RoiAlignOptions options) {
  const coord_t* box = boxes + 5 * r + 1;
  options.spatial_scale = levels.scales[level];
  const int64_t pooled = axis == 0 ? options.pooled_height : options.pooled_width;
  return make_axis(box[1 - axis], box[3 - axis], pooled, levels.extents[axis][level], options);
}

template <typename Entry>
struct List {
  const Entry* entries;
  int32_t count;
  bool cut;  // whether the bin has samples outside the map (PlanSample entries only)
};

/// `lists` lists per RoI, of up to `room` entries each.
template <typename Entry>
struct Lists {
  Entry* entries;   // (R, lists, room)
  int32_t* counts;  // (R, lists); -1 - count where the list is cut
  int64_t lists, room;

  __device__ Entry* entries_of(int64_t r, int64_t i) const {
    return entries + (r * lists + i) * room;
  }
  __device__ int32_t& count_of(int64_t r, int64_t i) const { return counts[r * lists + i]; }
  __device__ List<Entry> list(int64_t r, int64_t i) const {
    const int32_t count = count_of(r, i);
    return {entries_of(r, i), count < 0 ? -1 - count : count, count < 0};
  }
};

/// Uninitialised lists, in scratch memory.
template <typename Entry>
Lists<Entry> make_lists(Scratch& scratch, int64_t rois, int64_t lists, int64_t room) {
  return {scratch.take<Entry>(rois * lists * room), scratch.take<int32_t>(rois * lists), lists,
          room};
}

/// A pixel and its weight.
template <typename acc_t>
struct alignas(2 * sizeof(acc_t)) PlanTerm {
  int32_t at;
  acc_t weight;
};

/// A sample between the pixels lo and lo + 1. The latter is not read if w_hi is zero.
template <typename acc_t>
struct alignas(sizeof(acc_t) == 4 ? 16 : 8) PlanSample {
  int32_t index, lo;
  acc_t w_lo, w_hi;
};

template <typename acc_t, typename coord_t>
__device__ int32_t list_bin(PlanTerm<acc_t>* terms, const Axis<coord_t>& axis, int64_t bin) {
  int32_t count = 0;
  for_each_term<acc_t>(axis, bin, [&](int64_t pixel, acc_t weight) {
    terms[count++] = {static_cast<int32_t>(pixel), weight};
  });
  return count;
}

/// Returns -1 - count if the bin also has samples outside the map.
template <typename acc_t, typename coord_t>
__device__ int32_t list_bin(PlanSample<acc_t>* samples, const Axis<coord_t>& axis, int64_t bin) {
  int32_t count = 0;
  const bool cut = for_each_sample(axis, bin, [&](int64_t index, const Tap<coord_t>& tap) {
    samples[count++] = {static_cast<int32_t>(index), static_cast<int32_t>(tap.lo),
                        static_cast<acc_t>(tap.w_lo), static_cast<acc_t>(tap.w_hi)};
  });
  return cut ? -1 - count : count;
}

template <typename Entry>
struct BinPlan {
  Lists<Entry> axes[2];  // one list per bin
  Target* targets;       // (R)
};

template <typename Entry>
BinPlan<Entry> make_bin_plan(Scratch& scratch, int64_t rois, const int64_t* bins,
                             const int64_t* room) {
  return {{make_lists<Entry>(scratch, rois, bins[0], room[0]),
           make_lists<Entry>(scratch, rois, bins[1], room[1])},
          scratch.take<Target>(rois)};
}

/// Fills in what the RoI can read along one axis. Samples lie between its edges. The margin is more
/// than rounding and interpolation need.
template <typename coord_t>
__device__ void set_reach(Target& target, int axis, const Axis<coord_t>& of, int64_t bins) {
  const coord_t end = of.start + static_cast<coord_t>(bins) * of.bin_size;
  const coord_t margin = 2 + (std::abs(of.start) + std::abs(end)) / (1 << 20);
  const bool reversed = end < of.start;
  const auto clamped = [&](coord_t at) {
    if (!(at > 0)) return int32_t{0};
    const int64_t most = of.extent - 1;
    return static_cast<int32_t>(at < static_cast<coord_t>(most) ? static_cast<int64_t>(at) : most);
  };
  target.first[axis] = clamped((reversed ? end : of.start) - margin);
  target.last[axis] = clamped((reversed ? of.start : end) + margin);
}

/// One thread per RoI, axis and bin.
template <typename Entry, typename coord_t>
__global__ void plan_bins_kernel(const coord_t* boxes, int64_t rois, Levels levels,
                                 RoiAlignOptions options, BinPlan<Entry> plan) {
  const int64_t i = thread_index(), bins = plan.axes[0].lists + plan.axes[1].lists;
  if (i >= rois * bins) return;
  const int64_t r = i / bins, first_x = plan.axes[0].lists, list = i % bins;
  const int axis = list >= first_x;
  const Lists<Entry> out = axis == 0 ? plan.axes[0] : plan.axes[1];
  const int64_t bin = axis == 0 ? list : list - first_x;
  Target target = levels.target(boxes, r);
  if (list == 0) {
    for (int k = 0; target.image >= 0 && k < 2; ++k) {
      const Axis<coord_t> of = axis_of(boxes, r, k, levels, target.level, options);
      set_reach(target, k, of, k == 0 ? options.pooled_height : options.pooled_width);
    }
    plan.targets[r] = target;
  }
  int32_t count = 0;
  if (target.image >= 0) {
    const Axis<coord_t> in = axis_of(boxes, r, axis, levels, target.level, options);
    count = list_bin(out.entries_of(r, bin), in, bin * options.bin_stride);
  }
  out.count_of(r, bin) = count;
}

// ---- Backward ----------------------------------------------------------------------------------

constexpr int kMaskBits = 32;
constexpr int kQuad = 4;                // neighbouring pixels of a row, of which a thread owns all
constexpr int64_t kMostPlanned = 1024;  // RoIs: every thread looks at the masks of all of them

/// What reads some of kPixels neighbouring pixels, and its weights. `at` is a bin, or with the
/// maximum a bin and its sample: see `reader`.
template <typename acc_t, int kPixels>
struct alignas(16) PlanReader {
  acc_t weights[kPixels];
  int32_t at;
};

/// A bin and a sample in one number.
MRCNN_HOST_DEVICE int32_t reader(int32_t bin, int32_t sample) {
  return bin << kArgmaxBits | sample;
}

template <typename acc_t>
struct PixelPlan {
  Lists<PlanReader<acc_t, 1>> y;      // one list per row
  Lists<PlanReader<acc_t, kQuad>> x;  // one list per quad of columns
  // (words, N * height, quads): bit r % 32 of word r / 32 is set if RoI r may read the quad.
  uint32_t* masks;
  int64_t segments;  // N * height * quads

  /// Calls use(r) in order for all RoIs of the words [first, end) that may read a segment.
  template <typename Use>
  __device__ void each_roi(int64_t segment, int64_t first, int64_t end, const Use& use) const {
#pragma unroll 4  // loads in flight
    for (int64_t word = first; word < end; ++word) {
      for (uint32_t mask = masks[word * segments + segment]; mask != 0; mask &= mask - 1) {
        use(word * kMaskBits + __ffs(static_cast<int>(mask)) - 1);
      }
    }
  }
};

MRCNN_HOST_DEVICE int64_t words_of(int64_t rois) { return (rois + kMaskBits - 1) / kMaskBits; }

/// room: of the lists of a row and of a quad.
template <typename acc_t>
PixelPlan<acc_t> make_pixel_plan(Scratch& scratch, int64_t rois, int64_t images,
                                 const int64_t* extents, const int64_t* room) {
  const int64_t quads = (extents[1] + kQuad - 1) / kQuad;
  const int64_t segments = images * extents[0] * quads;
  return {make_lists<PlanReader<acc_t, 1>>(scratch, rois, extents[0], room[0]),
          make_lists<PlanReader<acc_t, kQuad>>(scratch, rois, quads, room[1]),
          scratch.take<uint32_t>(words_of(rois) * segments), segments};
}

/// Adds a weight to the reader `at`, which is the last of the list or new.
template <typename acc_t, int kPixels>
__device__ void add_reader(PlanReader<acc_t, kPixels>* list, int32_t& count, int32_t at,
                           int64_t pixel, acc_t weight) {
  if (pixel < 0 || pixel >= kPixels || weight == 0) return;
  if (count == 0 || list[count - 1].at != at) list[count++] = {{}, at};
  list[count - 1].weights[pixel] = weight;
}

/// Adds what the entry of a bin's list reads of the pixels from `first` on.
template <typename acc_t, int kPixels>
__device__ void add_entry(PlanReader<acc_t, kPixels>* list, int32_t& count,
                          const PlanTerm<acc_t>& term, int32_t bin, int64_t first) {
  add_reader(list, count, bin, term.at - first, term.weight);
}
template <typename acc_t, int kPixels>
__device__ void add_entry(PlanReader<acc_t, kPixels>* list, int32_t& count,
                          const PlanSample<acc_t>& sample, int32_t bin, int64_t first) {
  const int32_t at = reader(bin, sample.index);
  add_reader(list, count, at, sample.lo - first, sample.w_lo);
  add_reader(list, count, at, sample.lo + 1 - first, sample.w_hi);
}

/// Lists the readers of the pixels [i * kPixels, (i + 1) * kPixels) of an axis.
template <typename Entry, typename acc_t, int kPixels>
__device__ void list_readers(const Lists<Entry>& bins, int64_t r, int64_t i,
                             const Lists<PlanReader<acc_t, kPixels>>& out) {
  PlanReader<acc_t, kPixels>* const list = out.entries_of(r, i);
  int32_t count = 0;
  for (int32_t bin = 0; bin < bins.lists; ++bin) {
    const List<Entry> read = bins.list(r, bin);
    for (int32_t k = 0; k < read.count; ++k) {
      add_entry(list, count, read.entries[k], bin, i * kPixels);
    }
  }
  out.count_of(r, i) = count;
}

/// One thread per RoI and list.
template <typename Entry, typename acc_t>
__global__ void plan_pixels_kernel(int64_t rois, BinPlan<Entry> bins, PixelPlan<acc_t> plan) {
  const int64_t i = thread_index(), lists = plan.y.lists + plan.x.lists;
  if (i >= rois * lists) return;
  const int64_t r = i / lists, at = i % lists;
  if (at < plan.y.lists) {
    list_readers(bins.axes[0], r, at, plan.y);
  } else {
    list_readers(bins.axes[1], r, at - plan.y.lists, plan.x);
  }
}

/// One thread per segment and group of 32 RoIs.
template <typename acc_t>
__global__ void plan_masks_kernel(int64_t rois, const Target* targets, PixelPlan<acc_t> plan) {
  const int64_t i = thread_index();
  if (i >= words_of(rois) * plan.segments) return;
  const int64_t first = i / plan.segments * kMaskBits, segment = i % plan.segments;
  const int64_t row = segment / plan.x.lists, height = plan.y.lists;
  const auto image = static_cast<int32_t>(row / height), y = static_cast<int32_t>(row % height);
  const auto begin = static_cast<int32_t>(segment % plan.x.lists * kQuad);
  uint32_t mask = 0;
#pragma unroll 8  // loads in flight
  for (int bit = 0; bit < kMaskBits; ++bit) {
    const Target of = targets[first + bit < rois ? first + bit : first];
    const bool reads = of.image == image && of.first[0] <= y && y <= of.last[0] &&
                       of.first[1] < begin + kQuad && begin <= of.last[1];
    mask |= static_cast<uint32_t>(reads && first + bit < rois) << bit;
  }
  plan.masks[i] = mask;
}

}  // namespace mrcnn_plugin::cuda
