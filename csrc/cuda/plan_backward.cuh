// The plan of the backward of RoIAlign on CUDA: that of the forward transposed, so that each pixel
// lists the bins that read it. Everything has a thread of its own: no long walk is left to one.
#pragma once

#include "cuda/plan.cuh"

namespace mrcnn_plugin {

constexpr int kMaskBits = 32;
constexpr int64_t kSegment = 32;  // pixels of a row

template <typename acc_t>
struct PixelPlan {
  Lists<PlanTerm<acc_t>> axes[2];  // a list for each pixel
  uint32_t* masks;  // (N * height, segments, words): bit r % 32 of word r / 32 is RoI r's
  int64_t segments, words;

  /// Calls use(r) for the RoIs that read from the pixel's segment of a row of an image, in order.
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

/// Appends to a pixel's list what it gives to the bin's average, if anything.
template <typename acc_t>
__device__ void append(PlanTerm<acc_t>* list, int32_t& count, const PlanTerm<acc_t>& term,
                       int32_t bin, int32_t pixel) {
  if (term.at == pixel) list[count++] = {bin, term.weight};
}

/// The same for a sample that can be the maximum of the bin: `at` is then both.
template <typename acc_t>
__device__ void append(PlanTerm<acc_t>* list, int32_t& count, const PlanSample<acc_t>& sample,
                       int32_t bin, int32_t pixel) {
  const acc_t hi = sample.lo + 1 == pixel ? sample.w_hi : acc_t{0};
  const acc_t weight = sample.lo == pixel ? sample.w_lo : hi;
  if (weight != 0) list[count++] = {bin << kArgmaxBits | sample.index, weight};
}

/// A thread for each RoI, axis and pixel.
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

/// A thread for each segment of each row of each image and 32 RoIs.
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

}  // namespace mrcnn_plugin
