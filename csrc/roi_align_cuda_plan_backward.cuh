// The plan of the backward of RoIAlign on CUDA: for each pixel the bins that read it.
#pragma once

#include "roi_align_cuda_plan.cuh"

namespace mrcnn_plugin {

/// The pixels that any bin of a RoI reads.
struct Reach {
  int32_t image;  // -1: none
  int32_t begin[2], end[2];
};

template <typename acc_t>
struct PixelPlan {
  Lists<PlanTerm<acc_t>> axes[2];  // a list for each pixel, meaningful within the reach
  Reach* reaches;                  // (R)
  Lists<int32_t> rows;             // for each row of each image the RoIs that reach it, in order

  /// Calls use(r) for each RoI that reads the pixel.
  template <typename Use>
  __device__ void each_roi(int64_t row, int64_t x, const Use& use) const {
    const int32_t* rois = rows.entries_of(0, row);
    for (int32_t i = 0; i < rows.count_of(0, row); ++i) {
      const int32_t r = rois[i];
      if (x >= reaches[r].begin[1] && x < reaches[r].end[1]) use(r);
    }
  }
};

/// The lists of the pixels of one RoI and axis, growing.
template <typename acc_t>
struct PixelLists {
  Lists<PlanTerm<acc_t>> lists;
  int64_t r;
  int32_t begin = 0, end = 0;  // the reach

  __device__ PixelLists(const Lists<PlanTerm<acc_t>>& lists, int64_t r) : lists(lists), r(r) {}

  __device__ void add(int64_t pixel, int64_t at, acc_t weight, bool merge) {
    if (weight == 0) return;
    reach(static_cast<int32_t>(pixel));
    PlanTerm<acc_t>* terms = lists.entries_of(r, pixel);
    int32_t& count = lists.count_of(r, pixel);
    if (merge && count > 0 && terms[count - 1].at == at) {
      terms[count - 1].weight += weight;
    } else {
      terms[count++] = {static_cast<int32_t>(at), weight};
    }
  }

 private:
  __device__ void reach(int32_t pixel) {
    if (begin == end) begin = end = pixel;
    while (end <= pixel) lists.count_of(r, end++) = 0;
    while (begin > pixel) lists.count_of(r, --begin) = 0;
  }
};

/// What each pixel gives to the average over the bin.
template <typename acc_t, typename coord_t>
__device__ void list_average(PixelLists<acc_t>& pixels, const Axis<coord_t>& axis, int64_t bin,
                             int64_t stride) {
  for (int64_t sample = 0; sample < axis.samples;) {
    const Run<coord_t> run = run_from(axis, bin * stride, sample);
    const Tap<coord_t> mean = mean_tap(axis, run);
    pixels.add(mean.lo, bin, static_cast<acc_t>(mean.w_lo), true);
    pixels.add(mean.hi, bin, static_cast<acc_t>(mean.w_hi), true);
    sample = run.end;
  }
}

/// What each pixel gives to each sample that can be the maximum of the bin: `at` has both.
template <typename acc_t, typename coord_t>
__device__ void list_maximum(PixelLists<acc_t>& pixels, const Axis<coord_t>& axis, int64_t bin,
                             int64_t stride) {
  for (ExtremeSamples<coord_t> sample(axis, bin * stride); !sample.done(); sample.advance()) {
    const Tap<coord_t>& tap = sample.tap();
    const int64_t at = bin << kArgmaxBits | sample.index();
    pixels.add(tap.lo, at, static_cast<acc_t>(tap.w_lo), false);
    pixels.add(tap.hi, at, static_cast<acc_t>(tap.w_hi), false);
  }
}

/// A thread for each RoI and axis. `level` is that of the map whose pixels are listed.
template <typename acc_t, typename coord_t>
__global__ void plan_pixels_kernel(const coord_t* boxes, int64_t rois, Levels levels, int64_t level,
                                   RoiAlignOptions options, PixelPlan<acc_t> plan) {
  const int64_t i = thread_index();
  if (i >= 2 * rois) return;
  const int64_t r = i / 2;
  const int axis = static_cast<int>(i % 2);
  const bool here = levels.level_of == nullptr || levels.level_of[r] == level;
  const int64_t image = here ? image_of(boxes[5 * r], levels.batch) : -1;
  PixelLists<acc_t> pixels(axis == 0 ? plan.axes[0] : plan.axes[1], r);
  if (image >= 0) {
    const Axis<coord_t> in = axis_of(boxes, r, axis, levels, 0, options);
    const int64_t pooled = axis == 0 ? options.pooled_height : options.pooled_width;
    const int64_t bins = kept_bins(pooled, options.bin_stride);
    for (int64_t bin = 0; bin < bins; ++bin) {
      options.max ? list_maximum(pixels, in, bin, options.bin_stride)
                  : list_average(pixels, in, bin, options.bin_stride);
    }
  }
  plan.reaches[r].begin[axis] = pixels.begin;
  plan.reaches[r].end[axis] = pixels.end;
  if (axis == 0) plan.reaches[r].image = static_cast<int32_t>(image);
}

/// A thread for each row of each image. Done once here, no pixel looks at RoIs elsewhere.
template <typename acc_t>
__global__ void plan_rows_kernel(int64_t rois, int64_t height, PixelPlan<acc_t> plan) {
  const int64_t row = thread_index();
  if (row >= plan.rows.lists) return;
  const int64_t image = row / height, y = row % height;
  int32_t* reaching = plan.rows.entries_of(0, row);
  int32_t count = 0;
  for (int64_t r = 0; r < rois; ++r) {
    const Reach& reach = plan.reaches[r];
    if (reach.image != image || y < reach.begin[0] || y >= reach.end[0]) continue;
    reaching[count++] = static_cast<int32_t>(r);
  }
  plan.rows.count_of(0, row) = count;
}

}  // namespace mrcnn_plugin
