// RoIAlign's geometry (Mask R-CNN, Sec. 3): RoI -> bins -> samples -> weighted pixels.
//
// Average RoIAlign is separable. A sample at (y, x) weighs its four neighbours by the product of
// two linear interpolations, and it lies on the map when both of its coordinates do. Everything
// here is therefore written for one axis, and is the same code on CPU and GPU. It must be compiled
// without fused multiply-adds: the rules are discontinuous, so a single rounding decides whether a
// sample at the border counts.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define MRCNN_HOST_DEVICE __host__ __device__ inline
#else
#define MRCNN_HOST_DEVICE inline
#endif

namespace mrcnn_plugin {

/// The type of sums and weights: float32, or float64 for float64 features.
template <typename T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

struct RoiAlignOptions {
  int64_t pooled_height;  // bins of the full grid
  int64_t pooled_width;
  double spatial_scale;    // feature-map pixels per input-image pixel
  int64_t sampling_ratio;  // samples per bin and axis; 0: ceil(RoI size / bins)
  bool aligned;            // pixel (i, j) has its centre at (i + 0.5, j + 0.5)
  bool max;                // maximum of the samples, else their average
  int64_t bin_stride;      // bins 0, bin_stride, 2 * bin_stride, ... are computed
};

// A RoI with more samples than this per bin and axis is treated as one without samples, so its
// result is zero. (A double represents the number of samples of an average exactly. The argmax
// stores two sample indices in 31 bits.)
constexpr int64_t kMostSamplesAvg = int64_t{1} << 53;
constexpr int kArgmaxBits = 15;
constexpr int64_t kMostSamplesMax = (int64_t{1} << kArgmaxBits) - 1;

MRCNN_HOST_DEVICE int64_t kept_bins(int64_t pooled, int64_t bin_stride) {
  return (pooled - 1) / bin_stride + 1;
}

/// Returns the image of a RoI, or -1 if `index` is not the index of one of the `batch` images.
template <typename coord_t>
MRCNN_HOST_DEVICE int64_t image_of(coord_t index, int64_t batch) {
  if (!(index >= 0 && index < static_cast<coord_t>(batch))) return -1;
  const auto image = static_cast<int64_t>(index);
  return static_cast<coord_t>(image) == index && image < batch ? image : -1;
}

/// One sample on one axis: the two pixels on its sides and their weights, which sum to one. For a
/// sample outside the map (!valid), `lo` is -1 before the map and `extent` after it.
template <typename coord_t>
struct Tap {
  int64_t lo, hi;
  coord_t w_lo, w_hi;
  bool valid;
};

/// The bilinear rule. `at` is measured from the centre of pixel 0. The map extends one pixel beyond
/// its outermost centres and is constant there.
template <typename coord_t>
MRCNN_HOST_DEVICE Tap<coord_t> bilinear_tap(coord_t at, int64_t extent) {
  if (extent == 0 || !(at >= -1)) return {-1, -1, 0, 0, false};
  if (!(at <= static_cast<coord_t>(extent))) return {extent, extent, 0, 0, false};
  if (at <= 0) return {0, 0, 1, 0, true};
  const auto lo = static_cast<int64_t>(at);
  if (lo >= extent - 1) return {extent - 1, extent - 1, 1, 0, true};
  const coord_t w_hi = at - static_cast<coord_t>(lo);
  return {lo, lo + 1, 1 - w_hi, w_hi, true};
}

/// One axis of one RoI on a map of `extent` pixels.
template <typename coord_t>
struct Axis {
  coord_t start;     // the RoI's first edge, from the centre of pixel 0
  coord_t bin_size;  // negative for a reversed RoI
  int64_t samples;   // per bin
  int64_t extent;

  MRCNN_HOST_DEVICE Tap<coord_t> tap(int64_t bin, int64_t sample) const {
    const coord_t bin_start = start + static_cast<coord_t>(bin) * bin_size;
    const coord_t in_bins = static_cast<coord_t>(sample) + static_cast<coord_t>(0.5);
    return bilinear_tap(bin_start + in_bins * bin_size / static_cast<coord_t>(samples), extent);
  }
};

template <typename coord_t>
MRCNN_HOST_DEVICE Axis<coord_t> make_axis(coord_t from, coord_t to, int64_t pooled, int64_t extent,
                                          const RoiAlignOptions& options) {
  const auto scale = static_cast<coord_t>(options.spatial_scale);
  const auto offset = static_cast<coord_t>(options.aligned ? 0.5 : 0);
  const coord_t start = from * scale - offset, end = to * scale - offset;
  coord_t size = end - start;
  if (!options.aligned && size < 1) size = 1;
  const coord_t bin_size = size / static_cast<coord_t>(pooled);
  const coord_t samples = options.sampling_ratio > 0 ? static_cast<coord_t>(options.sampling_ratio)
                                                     : std::ceil(bin_size);
  const auto most = static_cast<coord_t>(options.max ? kMostSamplesMax : kMostSamplesAvg);
  const bool finite = start - start == 0 && end - end == 0 && size - size == 0;
  const bool countable = samples >= 1 && samples <= most;
  return {start, bin_size, finite && countable ? static_cast<int64_t>(samples) : 0, extent};
}

/// Consecutive samples [begin, end) of a bin between the same two pixels, or outside the same side
/// of the map. Their taps change linearly, so the first and the last determine all of them. A bin
/// has at most extent + 3 runs, which bounds its cost for a RoI of any size.
template <typename coord_t>
struct Run {
  int64_t begin, end;
  Tap<coord_t> first, last;
};

template <typename coord_t>
MRCNN_HOST_DEVICE Run<coord_t> run_from(const Axis<coord_t>& axis, int64_t bin, int64_t begin) {
  const Tap<coord_t> first = axis.tap(bin, begin);
  const auto outside = [&](int64_t sample) {
    const Tap<coord_t> tap = axis.tap(bin, sample);
    return tap.lo != first.lo || tap.hi != first.hi;
  };
  // Samples are monotonic: double the step until it leaves the run, then bisect.
  int64_t inside = begin, end = begin + 1;
  for (int64_t step = 1; end < axis.samples && !outside(end); step *= 2) {
    inside = end;
    end = end + step < axis.samples ? end + step : axis.samples;
  }
  while (end - inside > 1) {
    const int64_t middle = inside + (end - inside) / 2;
    (outside(middle) ? end : inside) = middle;
  }
  return {begin, end, first, inside == begin ? first : axis.tap(bin, inside)};
}

/// The contribution of a run to the average of its bin as one tap (an arithmetic series).
template <typename coord_t>
MRCNN_HOST_DEVICE Tap<coord_t> mean_tap(const Axis<coord_t>& axis, const Run<coord_t>& run) {
  const auto count = static_cast<coord_t>(run.end - run.begin);
  const coord_t half = count / static_cast<coord_t>(axis.samples) / 2;
  return {run.first.lo, run.first.hi, (run.first.w_lo + run.last.w_lo) * half,
          (run.first.w_hi + run.last.w_hi) * half, run.first.valid};
}

/// Calls emit(pixel, weight) for every pixel that the average of a bin reads, in the order in which
/// the samples reach them. A pixel of weight zero is never emitted, so a NaN or an infinity in it
/// cannot reach the bin.
template <typename acc_t, typename coord_t, typename Emit>
MRCNN_HOST_DEVICE void for_each_term(const Axis<coord_t>& axis, int64_t bin, const Emit& emit) {
  constexpr int kPending = 3;  // consecutive runs share a pixel, which is among the last three
  int64_t pixels[kPending];
  acc_t weights[kPending];
  int pending = 0;
  const auto add = [&](int64_t pixel, acc_t weight) {
    if (weight == 0) return;
    for (int i = pending - 1; i >= 0; --i) {
      if (pixels[i] != pixel) continue;
      weights[i] += weight;
      return;
    }
    if (pending == kPending) {
      emit(pixels[0], weights[0]);
      for (int i = 1; i < kPending; ++i) pixels[i - 1] = pixels[i], weights[i - 1] = weights[i];
      --pending;
    }
    pixels[pending] = pixel, weights[pending] = weight;
    ++pending;
  };
  for (int64_t sample = 0; sample < axis.samples;) {
    const Run<coord_t> run = run_from(axis, bin, sample);
    const Tap<coord_t> mean = mean_tap(axis, run);
    add(mean.lo, static_cast<acc_t>(mean.w_lo));
    add(mean.hi, static_cast<acc_t>(mean.w_hi));
    sample = run.end;
  }
  for (int i = 0; i < pending; ++i) emit(pixels[i], weights[i]);
}

/// Calls emit(sample, tap) for every sample on the map that can be the maximum of a bin: the first
/// and the last of each run. Returns whether the bin also has samples outside the map.
template <typename coord_t, typename Emit>
MRCNN_HOST_DEVICE bool for_each_sample(const Axis<coord_t>& axis, int64_t bin, const Emit& emit) {
  bool cut = false;
  for (int64_t sample = 0; sample < axis.samples;) {
    const Run<coord_t> run = run_from(axis, bin, sample);
    if (run.first.valid) {
      emit(run.begin, run.first);
      if (run.end - run.begin > 1) emit(run.end - 1, run.last);
    } else {
      cut = true;
    }
    sample = run.end;
  }
  return cut;
}

}  // namespace mrcnn_plugin
