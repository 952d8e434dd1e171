// The plan of RoIAlign on CUDA lists for each RoI, axis and bin the pixels that the average reads,
// or the samples that can be the maximum. The plan of the backward is its transpose: it lists for
// each pixel the bins that read it. No thread has a long list to process.
//
// Every list has room for the most entries that it can have, because only the device knows their
// number. Unused entries are never accessed.
#pragma once

#include "cuda/launch.cuh"

namespace mrcnn_plugin::cuda {

constexpr int64_t kMostLevels = 8;  // of a pyramid, which is passed to kernels by value

/// The image and the level of a RoI. If it has none, image is -1 and the result is zero.
struct Target {
  int32_t image, level;
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
    if (level < 0 || level >= count) return {-1, 0};
    return {static_cast<int32_t>(image_of(boxes[5 * r], batch)), static_cast<int32_t>(level)};
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

/// A pixel (in the backward, a bin) and its weight.
template <typename acc_t>
struct PlanTerm {
  int32_t at;
  acc_t weight;
};

/// A sample between the pixels lo and lo + 1. The latter is not read if w_hi is zero.
template <typename acc_t>
struct PlanSample {
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
  const Target target = levels.target(boxes, r);
  if (list == 0) plan.targets[r] = target;
  int32_t count = 0;
  if (target.image >= 0) {
    const Axis<coord_t> in = axis_of(boxes, r, axis, levels, target.level, options);
    count = list_bin(out.entries_of(r, bin), in, bin * options.bin_stride);
  }
  out.count_of(r, bin) = count;
}

// ---- Backward ----------------------------------------------------------------------------------

constexpr int kMaskBits = 32;
constexpr int64_t kSegment = 32;  // pixels of a row

template <typename acc_t>
struct PixelPlan {
  Lists<PlanTerm<acc_t>> axes[2];  // one list per pixel
  uint32_t* masks;  // (N * height, segments, words): bit r % 32 of word r / 32 is RoI r's
  int64_t segments, words;

  /// Calls use(r) in order for all RoIs that read the segment of pixel x in a row of an image.
  template <typename Use>
  __device__ void each_roi(int64_t row, int64_t x, const Use& use) const {
    const uint32_t* mask = masks + (row * segments + x / kSegment) * words;
    for (int64_t word = 0; word < words; ++word) {
      for (uint32_t left = mask[word]; left != 0; left &= left - 1) {
        use(word * kMaskBits + __ffs(static_cast<int>(left)) - 1);
      }
    }
  }
};

/// Appends the bin to the pixel's list if the bin's average reads the pixel.
template <typename acc_t>
__device__ void append(PlanTerm<acc_t>* list, int32_t& count, const PlanTerm<acc_t>& term,
                       int32_t bin, int32_t pixel) {
  if (term.at == pixel) list[count++] = {bin, term.weight};
}

/// Does the same for a sample that can be the maximum: `at` then holds the bin and the sample.
template <typename acc_t>
__device__ void append(PlanTerm<acc_t>* list, int32_t& count, const PlanSample<acc_t>& sample,
                       int32_t bin, int32_t pixel) {
  const acc_t hi = sample.lo + 1 == pixel ? sample.w_hi : acc_t{0};
  const acc_t weight = sample.lo == pixel ? sample.w_lo : hi;
  if (weight != 0) list[count++] = {bin << kArgmaxBits | sample.index, weight};
}

/// One thread per RoI, axis and pixel.
template <typename Entry, typename acc_t>
__global__ void plan_pixels_kernel(int64_t rois, BinPlan<Entry> bins, PixelPlan<acc_t> plan) {
  const int64_t i = thread_index(), pixels = plan.axes[0].lists + plan.axes[1].lists;
  if (i >= rois * pixels) return;
  const int64_t r = i / pixels, first_x = plan.axes[0].lists, at = i % pixels;
  const int axis = at >= first_x;
  const auto pixel = static_cast<int32_t>(axis == 0 ? at : at - first_x);
  const Lists<Entry> from = axis == 0 ? bins.axes[0] : bins.axes[1];
  const Lists<PlanTerm<acc_t>> to = axis == 0 ? plan.axes[0] : plan.axes[1];
  PlanTerm<acc_t>* list = to.entries_of(r, pixel);
  int32_t count = 0;
  for (int32_t bin = 0; bin < from.lists; ++bin) {
    const List<Entry> read = from.list(r, bin);
    for (int32_t k = 0; k < read.count; ++k) append(list, count, read.entries[k], bin, pixel);
  }
  to.count_of(r, pixel) = count;
}

/// Whether the RoI reads a pixel of the segment.
template <typename acc_t>
__device__ bool reads_segment(const PixelPlan<acc_t>& plan, int64_t r, int64_t y, int64_t segment) {
  if (plan.axes[0].count_of(r, y) == 0) return false;
  const int64_t begin = segment * kSegment, width = plan.axes[1].lists;
  for (int64_t x = begin; x < begin + kSegment && x < width; ++x) {
    if (plan.axes[1].count_of(r, x) > 0) return true;
  }
  return false;
}

/// One thread per segment, row, image and group of 32 RoIs.
template <typename acc_t>
__global__ void plan_segments_kernel(int64_t rois, int64_t rows, const Target* targets,
                                     PixelPlan<acc_t> plan) {
  const int64_t i = thread_index();
  if (i >= rows * plan.segments * plan.words) return;
  const int64_t first = i % plan.words * kMaskBits, segment = i / plan.words % plan.segments;
  const int64_t row = i / (plan.words * plan.segments), height = plan.axes[0].lists;
  uint32_t mask = 0;
  for (int bit = 0; bit < kMaskBits && first + bit < rois; ++bit) {
    const bool reads = targets[first + bit].image == row / height &&
                       reads_segment(plan, first + bit, row % height, segment);
    mask |= static_cast<uint32_t>(reads) << bit;
  }
  plan.masks[i] = mask;
}

}  // namespace mrcnn_plugin::cuda
