// The plan of RoIAlign on CUDA: for each RoI and axis, lists of what is read and how much it
// weighs. Here for each bin its pixels, or its samples for a maximum.
//
// Every list has room for the most it can hold, as the device alone knows how much that is; what is
// not used is never touched.
#pragma once

#include "cuda/threads.cuh"

namespace mrcnn_plugin {

constexpr int64_t kMostLevels = 8;  // of a pyramid: they are passed by value

/// A RoI's image and level; image -1: it has none, and is zero.
struct Target {
  int32_t image, level;
};

/// The maps of a call, and to which of them a RoI belongs.
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

/// The same maps, to be read.
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
  bool cut;  // whether a bin has samples off the map (PlanSample entries only)
};

/// `lists` lists for each RoI, of up to `room` entries each.
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

/// A pixel, or in the backward a bin, and its weight.
template <typename acc_t>
struct PlanTerm {
  int32_t at;
  acc_t weight;
};

/// A sample between the pixels lo and lo + 1; the latter is not read where it weighs nothing.
template <typename acc_t>
struct PlanSample {
  int32_t index, lo;
  acc_t w_lo, w_hi;
};

/// Adds to the pixel's term; runs meet at pixels, so it is among the last three. A pixel of weight
/// zero is not read at all, so what it holds (NaN, infinity) cannot leak into the bin.
template <typename acc_t>
__device__ void add(PlanTerm<acc_t>* terms, int32_t& count, int64_t pixel, acc_t weight) {
  if (weight == 0) return;
  for (int32_t i = count - 1; i >= 0 && i >= count - 3; --i) {
    if (terms[i].at != pixel) continue;
    terms[i].weight += weight;
    return;
  }
  terms[count++] = {static_cast<int32_t>(pixel), weight};
}

template <typename acc_t, typename coord_t>
__device__ int32_t list_bin(PlanTerm<acc_t>* terms, const Axis<coord_t>& axis, int64_t bin) {
  int32_t count = 0;
  for (int64_t sample = 0; sample < axis.samples;) {
    const Run<coord_t> run = run_from(axis, bin, sample);
    const Tap<coord_t> mean = mean_tap(axis, run);
    add(terms, count, mean.lo, static_cast<acc_t>(mean.w_lo));
    add(terms, count, mean.hi, static_cast<acc_t>(mean.w_hi));
    sample = run.end;
  }
  return count;
}

/// As the count of a cut list where there are samples off the map too.
template <typename acc_t, typename coord_t>
__device__ int32_t list_bin(PlanSample<acc_t>* samples, const Axis<coord_t>& axis, int64_t bin) {
  int32_t count = 0;
  bool cut = false;
  for (ExtremeSamples<coord_t> sample(axis, bin); !sample.done(); sample.advance()) {
    const Tap<coord_t>& tap = sample.tap();
    cut |= !tap.valid;
    if (!tap.valid) continue;
    samples[count++] = {static_cast<int32_t>(sample.index()), static_cast<int32_t>(tap.lo),
                        static_cast<acc_t>(tap.w_lo), static_cast<acc_t>(tap.w_hi)};
  }
  return cut ? -1 - count : count;
}

template <typename Entry>
struct BinPlan {
  Lists<Entry> axes[2];  // a list for each bin
  Target* targets;       // (R)
};

/// A thread for each RoI, axis and bin.
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

}  // namespace mrcnn_plugin
