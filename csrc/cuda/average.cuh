// The average of RoIAlign on CUDA and its gradient: the same sum over two lists of weights.
#pragma once

#include "cuda/plan_backward.cuh"

namespace mrcnn_plugin {

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

template <typename T>
__global__ void average_backward_kernel(View<const T> grad_output, PixelPlan<accumulate_t<T>> plan,
                                        Tiling tiling, View<T> grad_features) {
  using acc_t = accumulate_t<T>;
  const int64_t thread = thread_index();
  if (thread >= tiling.threads()) return;
  const Cell cell(thread, tiling);
  const Channels<const T> grads(grad_output, cell);
  acc_t sum[kChannels] = {};
  plan.each_roi(cell.n * tiling.height + cell.y, cell.x, [&](int64_t r) {
    const auto y = plan.axes[0].list(r, cell.y), x = plan.axes[1].list(r, cell.x);
    add_weighted(y, x, grads, r, sum);
  });
  store(grad_features, cell, sum);
}

}  // namespace mrcnn_plugin
