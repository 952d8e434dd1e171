// The forward kernels of RoIAlign on CUDA, which gather from the lists of a plan.
#pragma once

#include "cuda/plan.cuh"

namespace mrcnn_plugin::cuda {

// ---- The average -------------------------------------------------------------------------------

/// Adds to sum[k], for each channel of entry n, all terms of y and x: weight * weight * value.
template <typename acc_t, typename T>
__device__ void add_weighted(const List<PlanTerm<acc_t>>& y, const List<PlanTerm<acc_t>>& x,
                             const Channels<const T>& values, int64_t n, acc_t* sum) {
  for (int32_t j = 0; j < x.count; ++j) {
    const PlanTerm<acc_t> x_term = x.entries[j];
    acc_t column[kChannels] = {};
#pragma unroll 1  // lists are short, and kChannels loads in flight are worth fewer registers
    for (int32_t i = 0; i < y.count; ++i) {
      const PlanTerm<acc_t> y_term = y.entries[i];
      const T* value = values.at(n, y_term.at, x_term.at);
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const auto here = static_cast<acc_t>(value[values.offsets[k]]);
        column[k] = multiply_add(y_term.weight, here, column[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < kChannels; ++k) sum[k] = multiply_add(x_term.weight, column[k], sum[k]);
  }
}

template <typename T>
__global__ void average_kernel(Maps<const T> maps, BinPlan<PlanTerm<accumulate_t<T>>> plan,
                               Tiling tiling, View<T> output) {
  using acc_t = accumulate_t<T>;
  const int64_t thread = thread_index();
  if (thread >= tiling.threads()) return;
  const Cell cell(thread, tiling);
  const Target target = plan.targets[cell.n];
  acc_t sum[kChannels] = {};
  if (target.image >= 0) {
    const auto y = plan.axes[0].list(cell.n, cell.y), x = plan.axes[1].list(cell.n, cell.x);
    const Channels<const T> map(maps.levels[target.level], cell);
    add_weighted(y, x, map, target.image, sum);
  }
  store(output, cell, sum);
}

// ---- The maximum -------------------------------------------------------------------------------

/// The value of a sample whose lower corner is the pixel `corner`. Neighbours of weight zero are
/// not read.
template <typename acc_t, typename T>
__device__ acc_t sample_value(const T* corner, int64_t row_stride, int64_t column_stride,
                              const PlanSample<acc_t>& y, const PlanSample<acc_t>& x) {
  const auto column = [&](const T* pixel) {
    const acc_t lo = static_cast<acc_t>(*pixel);
    if (y.w_hi == 0) return lo;
    return y.w_lo * lo + y.w_hi * static_cast<acc_t>(pixel[row_stride]);
  };
  const acc_t lo = column(corner);
  if (x.w_hi == 0) return lo;
  return x.w_lo * lo + x.w_hi * column(corner + column_stride);
}

/// Keeps the greater of `best` and `value`. The earlier of equal values wins, and a NaN wins over
/// any number.
template <typename acc_t>
__device__ void keep_greater(acc_t value, int32_t index, acc_t& best, int32_t& argmax) {
  if (argmax >= 0 && (value <= best || best != best)) return;
  best = value;
  argmax = index;
}

template <typename acc_t, typename T>
__device__ void find_maximum(const List<PlanSample<acc_t>>& y, const List<PlanSample<acc_t>>& x,
                             const Channels<const T>& map, int64_t n, acc_t* best,
                             int32_t* winner) {
  for (int32_t i = 0; i < y.count; ++i) {
    const PlanSample<acc_t> y_sample = y.entries[i];
    for (int32_t j = 0; j < x.count; ++j) {
      const PlanSample<acc_t> x_sample = x.entries[j];
      const T* corner = map.at(n, y_sample.lo, x_sample.lo);
      const int32_t index = y_sample.index << kArgmaxBits | x_sample.index;
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const acc_t value = sample_value(corner + map.offsets[k], map.row_stride, map.column_stride,
                                         y_sample, x_sample);
        keep_greater(value, index, best[k], winner[k]);
      }
    }
  }
}

/// Samples outside the map count as zero and have no index. If all samples on the map are negative,
/// the result is zero and the index is -1, which has no gradient.
template <typename T>
__global__ void maximum_kernel(Maps<const T> maps, BinPlan<PlanSample<accumulate_t<T>>> plan,
                               Tiling tiling, View<T> output, View<int32_t> argmax) {
  using acc_t = accumulate_t<T>;
  const int64_t thread = thread_index();
  if (thread >= tiling.threads()) return;
  const Cell cell(thread, tiling);
  const Target target = plan.targets[cell.n];
  acc_t best[kChannels] = {};
  int32_t winner[kChannels];
  for (int k = 0; k < kChannels; ++k) winner[k] = -1;
  if (target.image >= 0) {
    const Channels<const T> map(maps.levels[target.level], cell);
    const auto y = plan.axes[0].list(cell.n, cell.y), x = plan.axes[1].list(cell.n, cell.x);
    find_maximum(y, x, map, target.image, best, winner);
    for (int k = 0; k < kChannels; ++k) {
      if ((y.cut || x.cut) && best[k] < 0) best[k] = 0, winner[k] = -1;
    }
  }
  store(output, cell, best);
  store(argmax, cell, winner);
}

}  // namespace mrcnn_plugin::cuda
