// RoIAlign on CUDA.
//
// One small kernel turns every RoI into a plan: for each bin the weights of the rows and of the
// columns it reads (see roi_align_geometry.h). Then every thread owns what it writes, kChannels
// channels of one bin forward and of one pixel backward, and gathers. The backward visits the RoIs
// in order and needs no atomics, so it is deterministic. Nothing waits for the device.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>

// The library must also load into a torch without CUDA, which lacks these three symbols.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <tuple>

#include "roi_align_arguments.h"

namespace mrcnn_plugin {
namespace {

constexpr int kThreads = 256;
constexpr int kChannels = 8;  // share a thread's plan look-ups; loops over them are unrolled

// ---- The plan ----------------------------------------------------------------------------------

/// Kept bin k of RoI r reads pixels ranges[r, k] = [begin, end) with weights[r, k, pixel].
template <typename acc_t>
struct AxisPlan {
  acc_t* weights;   // (R, bins, extent)
  int64_t* ranges;  // (R, bins, 2)
  int64_t bins, extent;

  __device__ acc_t* bin_weights(int64_t r, int64_t bin) const {
    return weights + (r * bins + bin) * extent;
  }
  __device__ int64_t* bin_range(int64_t r, int64_t bin) const {
    return ranges + (r * bins + bin) * 2;
  }
};

/// The pixels that any bin of a RoI reads; none for a RoI of no image.
struct Reach {
  int64_t image, begin[2], end[2];  // axis 0 is y, 1 is x
  __device__ bool covers(int64_t n, int64_t y, int64_t x) const {
    return image == n && y >= begin[0] && y < end[0] && x >= begin[1] && x < end[1];
  }
};

template <typename acc_t>
struct Plan {
  AxisPlan<acc_t> axes[2];
  Reach* reach;  // (R)
  int64_t rois;
};

/// boxes: (R, 5), contiguous.
template <typename coord_t>
__device__ Axis<coord_t> axis_of(const coord_t* boxes, int64_t r, int axis, int64_t extent,
                                 const RoiAlignOptions& options) {
  const coord_t* box = boxes + 5 * r + 1;
  return axis == 0 ? make_axis(box[1], box[3], options.pooled_height, extent, options)
                   : make_axis(box[0], box[2], options.pooled_width, extent, options);
}

/// The RoIs of one level of a pyramid: levels (R), or null where there is one map and all are its.
struct LevelFilter {
  const int64_t* levels;
  int64_t level, count;
};

constexpr int64_t kElsewhere = -2;  // the image of a RoI that belongs to another level

/// image_of, or kElsewhere. Level 0 answers for RoIs of no level: like those of no image, zero.
template <typename coord_t>
__device__ int64_t image_on_level(const coord_t* boxes, int64_t r, int64_t batch,
                                  const LevelFilter& filter) {
  if (filter.levels != nullptr && filter.levels[r] != filter.level) {
    const bool stray = filter.levels[r] < 0 || filter.levels[r] >= filter.count;
    return stray && filter.level == 0 ? -1 : kElsewhere;
  }
  return image_of(boxes[5 * r], batch);
}

template <typename acc_t, typename coord_t>
__global__ void plan_kernel(const coord_t* boxes, int64_t batch, LevelFilter filter,
                            RoiAlignOptions options, Plan<acc_t> plan) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= 2 * plan.rois) return;
  const int64_t r = i / 2;
  const int axis = static_cast<int>(i % 2);
  const AxisPlan<acc_t>& out = plan.axes[axis];
  Axis<coord_t> in = axis_of(boxes, r, axis, out.extent, options);
  const int64_t image = image_on_level(boxes, r, batch, filter);
  if (image < 0) in.samples = 0;
  int64_t reach_begin = out.extent, reach_end = 0;
  for (int64_t k = 0; k < out.bins; ++k) {
    acc_t* weights = out.bin_weights(r, k);
    int64_t begin = out.extent, end = 0;
    for (int64_t sample = 0; sample < in.samples;) {
      const Run<coord_t> run = run_from(in, k * options.bin_stride, sample);
      sample = run.end;
      if (!run.first.valid) continue;
      const Tap<coord_t> mean = mean_tap(in, run);
      weights[mean.lo] += static_cast<acc_t>(mean.w_lo);
      weights[mean.hi] += static_cast<acc_t>(mean.w_hi);
      begin = begin < mean.lo ? begin : mean.lo;
      end = end > mean.hi ? end : mean.hi + 1;
    }
    out.bin_range(r, k)[0] = begin;
    out.bin_range(r, k)[1] = end;
    reach_begin = reach_begin < begin ? reach_begin : begin;
    reach_end = reach_end > end ? reach_end : end;
  }
  plan.reach[r].begin[axis] = reach_begin;
  plan.reach[r].end[axis] = reach_end;
  if (axis == 0) plan.reach[r].image = image;
}

// ---- Forward -----------------------------------------------------------------------------------

/// One thread's share of a (N or R, C, height, width) tensor: kChannels channels of one element.
struct Cell {
  int64_t n, channel, y, x;
  int channels;

  __device__ Cell(int64_t i, int64_t all_channels, int64_t height, int64_t width) {
    const int64_t tiles = (all_channels + kChannels - 1) / kChannels;
    x = i % width;
    y = i / width % height;
    channel = i / (width * height) % tiles * kChannels;
    n = i / (width * height * tiles);
    const int64_t left = all_channels - channel;
    channels = left < kChannels ? static_cast<int>(left) : kChannels;
  }
};

struct Shape {
  int64_t n, channels, height, width;
  int64_t cells() const { return n * ((channels + kChannels - 1) / kChannels) * height * width; }
};

template <typename T>
__global__ void average_kernel(View<const T> features, Plan<accumulate_t<T>> plan, Shape shape,
                               int64_t cells, View<T> output) {
  using acc_t = accumulate_t<T>;
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= cells) return;
  const Cell cell(i, shape.channels, shape.height, shape.width);
  const int64_t image = plan.reach[cell.n].image;
  if (image == kElsewhere) return;
  const acc_t* y_weights = plan.axes[0].bin_weights(cell.n, cell.y);
  const acc_t* x_weights = plan.axes[1].bin_weights(cell.n, cell.x);
  const int64_t* y_range = plan.axes[0].bin_range(cell.n, cell.y);
  const int64_t* x_range = plan.axes[1].bin_range(cell.n, cell.x);
  acc_t sum[kChannels] = {};
  for (int64_t x = x_range[0]; x < x_range[1]; ++x) {
    if (x_weights[x] == 0) continue;
    acc_t column[kChannels] = {};
    for (int64_t y = y_range[0]; y < y_range[1]; ++y) {
      if (y_weights[y] == 0) continue;  // not read: NaN * 0 is NaN
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        if (k >= cell.channels) break;
        column[k] += y_weights[y] * static_cast<acc_t>(features(image, cell.channel + k, y, x));
      }
    }
    for (int k = 0; k < kChannels; ++k) sum[k] += x_weights[x] * column[k];
  }
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    if (k >= cell.channels) break;
    output(cell.n, cell.channel + k, cell.y, cell.x) = static_cast<T>(sum[k]);
  }
}

/// The value of a sample; neighbours of weight zero are not read.
template <typename acc_t, typename T, typename coord_t>
__device__ acc_t sample_value(const View<const T>& map, int64_t n, int64_t c,
                              const Tap<coord_t>& ty, const Tap<coord_t>& tx) {
  const auto column = [&](int64_t x) {
    const acc_t lo = static_cast<acc_t>(map(n, c, ty.lo, x));
    if (ty.w_hi == 0) return lo;
    return static_cast<acc_t>(ty.w_lo) * lo +
           static_cast<acc_t>(ty.w_hi) * static_cast<acc_t>(map(n, c, ty.hi, x));
  };
  const acc_t lo = column(tx.lo);
  if (tx.w_hi == 0) return lo;
  return static_cast<acc_t>(tx.w_lo) * lo + static_cast<acc_t>(tx.w_hi) * column(tx.hi);
}

/// Keeps the greater of `best` and `value`; the earlier of equals; a NaN over any number.
template <typename acc_t>
__device__ void keep_greater(acc_t value, int32_t index, acc_t& best, int32_t& argmax) {
  if (argmax >= 0 && (value <= best || best != best)) return;
  best = value;
  argmax = index;
}

/// Only samples on the map have an index; those off it count as zero, which wins when all others
/// are negative (index -1: no gradient).
template <typename T, typename coord_t>
__global__ void maximum_kernel(View<const T> features, const coord_t* boxes, int64_t batch,
                               LevelFilter filter, int64_t map_height, int64_t map_width,
                               RoiAlignOptions options, Shape shape, int64_t cells, View<T> output,
                               View<int32_t> argmax) {
  using acc_t = accumulate_t<T>;
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= cells) return;
  const Cell cell(i, shape.channels, shape.height, shape.width);
  const int64_t image = image_on_level(boxes, cell.n, batch, filter);
  if (image == kElsewhere) return;
  Axis<coord_t> ay = axis_of(boxes, cell.n, 0, map_height, options);
  const Axis<coord_t> ax = axis_of(boxes, cell.n, 1, map_width, options);
  if (image < 0) ay.samples = 0;
  acc_t best[kChannels] = {};
  int32_t winner[kChannels];
  for (int k = 0; k < kChannels; ++k) winner[k] = -1;
  bool cut = false;
  for (ExtremeSamples<coord_t> y(ay, cell.y * options.bin_stride); !y.done(); y.advance()) {
    for (ExtremeSamples<coord_t> x(ax, cell.x * options.bin_stride); !x.done(); x.advance()) {
      const bool on_map = y.tap().valid && x.tap().valid;
      cut |= !on_map;
      if (!on_map) continue;
      const auto index = static_cast<int32_t>(y.index() << kArgmaxBits | x.index());
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        if (k >= cell.channels) break;
        const int64_t c = cell.channel + k;
        const auto value = sample_value<acc_t>(features, image, c, y.tap(), x.tap());
        keep_greater(value, index, best[k], winner[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    if (k >= cell.channels) break;
    const bool off_map = cut && best[k] < 0;
    output(cell.n, cell.channel + k, cell.y, cell.x) = static_cast<T>(off_map ? 0 : best[k]);
    argmax(cell.n, cell.channel + k, cell.y, cell.x) = off_map ? -1 : winner[k];
  }
}

// ---- Backward ----------------------------------------------------------------------------------

/// What a sample's value takes from `pixel`, on one axis.
template <typename coord_t>
__device__ coord_t share(const Tap<coord_t>& tap, int64_t pixel) {
  return (tap.lo == pixel ? tap.w_lo : 0) + (tap.hi == pixel ? tap.w_hi : 0);
}

template <typename T>
__global__ void average_backward_kernel(View<const T> grad_output, Plan<accumulate_t<T>> plan,
                                        Shape shape, int64_t cells, View<T> grad_features) {
  using acc_t = accumulate_t<T>;
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= cells) return;
  const Cell cell(i, shape.channels, shape.height, shape.width);
  acc_t sum[kChannels] = {};
  for (int64_t r = 0; r < plan.rois; ++r) {
    if (!plan.reach[r].covers(cell.n, cell.y, cell.x)) continue;
    for (int64_t p = 0; p < plan.axes[0].bins; ++p) {
      const acc_t y_weight = plan.axes[0].bin_weights(r, p)[cell.y];
      if (y_weight == 0) continue;
      for (int64_t q = 0; q < plan.axes[1].bins; ++q) {
        const acc_t weight = y_weight * plan.axes[1].bin_weights(r, q)[cell.x];
        if (weight == 0) continue;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          if (k >= cell.channels) break;
          sum[k] += weight * static_cast<acc_t>(grad_output(r, cell.channel + k, p, q));
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    if (k >= cell.channels) break;
    grad_features(cell.n, cell.channel + k, cell.y, cell.x) = static_cast<T>(sum[k]);
  }
}

template <typename T, typename coord_t>
__global__ void maximum_backward_kernel(View<const T> grad_output, View<const int32_t> argmax,
                                        const coord_t* boxes, Plan<accumulate_t<T>> plan,
                                        RoiAlignOptions options, Shape shape, int64_t cells,
                                        View<T> grad_features) {
  using acc_t = accumulate_t<T>;
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= cells) return;
  const Cell cell(i, shape.channels, shape.height, shape.width);
  acc_t sum[kChannels] = {};
  for (int64_t r = 0; r < plan.rois; ++r) {
    if (!plan.reach[r].covers(cell.n, cell.y, cell.x)) continue;
    const Axis<coord_t> ay = axis_of(boxes, r, 0, shape.height, options);
    const Axis<coord_t> ax = axis_of(boxes, r, 1, shape.width, options);
    for (int64_t p = 0; p < plan.axes[0].bins; ++p) {
      if (plan.axes[0].bin_weights(r, p)[cell.y] == 0) continue;
      for (int64_t q = 0; q < plan.axes[1].bins; ++q) {
        if (plan.axes[1].bin_weights(r, q)[cell.x] == 0) continue;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          if (k >= cell.channels) break;
          const int32_t winner = argmax(r, cell.channel + k, p, q);
          if (winner < 0) continue;
          const Tap<coord_t> ty = ay.tap(p * options.bin_stride, winner >> kArgmaxBits);
          const Tap<coord_t> tx = ax.tap(q * options.bin_stride, winner & kMostSamplesMax);
          const auto y_share = static_cast<acc_t>(share(ty, cell.y));
          const auto x_share = static_cast<acc_t>(share(tx, cell.x));
          sum[k] += y_share * x_share * static_cast<acc_t>(grad_output(r, cell.channel + k, p, q));
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    if (k >= cell.channels) break;
    grad_features(cell.n, cell.channel + k, cell.y, cell.x) = static_cast<T>(sum[k]);
  }
}

// ---- Launches ----------------------------------------------------------------------------------

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// cudaLaunchKernelEx, not <<<...>>>: any C++ compiler can read this file, and the tests run its
// kernels on the CPU (tests/cuda_emulation).
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), int64_t threads, cudaStream_t stream, const Args&... args) {
  if (threads == 0) return;
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "roi_align: too many elements for one CUDA launch");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

/// Owns what a Plan points to.
template <typename acc_t>
struct PlanStorage {
  Tensor weights[2], ranges[2], reach;
  Plan<acc_t> plan;

  template <typename coord_t>
  PlanStorage(const Tensor& rois, const coord_t* boxes, const LevelFilter& filter, int64_t batch,
              int64_t height, int64_t width, const RoiAlignOptions& options, cudaStream_t stream) {
    const int64_t count = rois.size(0);
    const int64_t pooled[] = {options.pooled_height, options.pooled_width};
    const int64_t extent[] = {height, width};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t bins = kept_bins(pooled[axis], options.bin_stride);
      constexpr auto type = std::is_same_v<acc_t, double> ? ScalarType::Double : ScalarType::Float;
      weights[axis] = torch::stable::new_zeros(rois, {count, bins, extent[axis]}, type);
      ranges[axis] = torch::stable::new_empty(rois, {count, bins, 2}, ScalarType::Long);
      plan.axes[axis] = {static_cast<acc_t*>(weights[axis].mutable_data_ptr()),
                         static_cast<int64_t*>(ranges[axis].mutable_data_ptr()), bins,
                         extent[axis]};
    }
    static_assert(sizeof(Reach) == 5 * sizeof(int64_t));
    reach = torch::stable::new_empty(rois, {count, 5}, ScalarType::Long);
    plan.reach = static_cast<Reach*>(reach.mutable_data_ptr());
    plan.rois = count;
    launch(plan_kernel<acc_t, coord_t>, 2 * count, stream, boxes, batch, filter, options, plan);
  }
};

template <typename T, typename coord_t>
void forward(const Tensor& features, const Tensor& rois, const LevelFilter& filter,
             const RoiAlignOptions& options, const ForwardResult& result) {
  const cudaStream_t stream = current_stream(features);
  const auto* boxes = static_cast<const coord_t*>(rois.const_data_ptr());
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  const Tensor& output = result.output;
  const Shape shape{output.size(0), output.size(1), output.size(2), output.size(3)};
  if (options.max) {
    launch(maximum_kernel<T, coord_t>, shape.cells(), stream, const_view<T>(features), boxes, batch,
           filter, height, width, options, shape, shape.cells(), mutable_view<T>(output),
           mutable_view<int32_t>(result.argmax));
  } else {
    const PlanStorage<accumulate_t<T>> storage(rois, boxes, filter, batch, height, width, options,
                                               stream);
    launch(average_kernel<T>, shape.cells(), stream, const_view<T>(features), storage.plan, shape,
           shape.cells(), mutable_view<T>(output));
  }
}

template <typename T, typename coord_t>
void backward(const Tensor& grad_output, const Tensor& rois, const LevelFilter& filter,
              const Tensor& argmax, const RoiAlignOptions& options, const Tensor& grad_features) {
  const cudaStream_t stream = current_stream(grad_output);
  const auto* boxes = static_cast<const coord_t*>(rois.const_data_ptr());
  const Shape shape{grad_features.size(0), grad_features.size(1), grad_features.size(2),
                    grad_features.size(3)};
  const PlanStorage<accumulate_t<T>> storage(rois, boxes, filter, shape.n, shape.height,
                                             shape.width, options, stream);
  if (options.max) {
    launch(maximum_backward_kernel<T, coord_t>, shape.cells(), stream, const_view<T>(grad_output),
           const_view<int32_t>(argmax), boxes, storage.plan, options, shape, shape.cells(),
           mutable_view<T>(grad_features));
  } else {
    launch(average_backward_kernel<T>, shape.cells(), stream, const_view<T>(grad_output),
           storage.plan, shape, shape.cells(), mutable_view<T>(grad_features));
  }
}

// ---- The ops -----------------------------------------------------------------------------------

void forward_any(const Tensor& features, const Tensor& boxes, const LevelFilter& filter,
                 const RoiAlignOptions& options, const ForwardResult& result) {
  dispatch_maps(features, [&](auto zero) {
    using scalar_t = decltype(zero);
    if (boxes.scalar_type() == ScalarType::Double) {
      forward<scalar_t, double>(features, boxes, filter, options, result);
    } else if constexpr (!std::is_same_v<scalar_t, double>) {
      forward<scalar_t, float>(features, boxes, filter, options, result);
    }
  });
}

std::tuple<Tensor, Tensor> roi_align_cuda(const Tensor& features, const Tensor& rois,
                                          int64_t pooled_height, int64_t pooled_width,
                                          double spatial_scale, int64_t sampling_ratio,
                                          bool aligned, const std::string& mode,
                                          int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(features, "features");
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  const Tensor boxes = prepare_rois(rois, features);
  const ForwardResult result = empty_result(features, boxes, options);
  forward_any(features, boxes, {}, options, result);
  return {result.output, result.argmax};
}

std::tuple<Tensor, Tensor> roi_align_levels_cuda(std::vector<Tensor> features, const Tensor& rois,
                                                 const Tensor& levels, int64_t pooled_height,
                                                 int64_t pooled_width,
                                                 std::vector<double> spatial_scales,
                                                 int64_t sampling_ratio, bool aligned,
                                                 const std::string& mode, int64_t bin_stride) {
  check_pyramid(features, spatial_scales);
  const torch::stable::accelerator::DeviceGuard guard(features[0].get_device_index());
  const Tensor boxes = prepare_rois(rois, features[0]);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  const auto count = static_cast<int64_t>(features.size());
  const auto options_of = [&](double scale) {
    return parse_options(pooled_height, pooled_width, scale, sampling_ratio, aligned, mode,
                         bin_stride);
  };
  const ForwardResult result = empty_result(features[0], boxes, options_of(spatial_scales[0]));
  for (int64_t level = 0; level < count; ++level) {
    forward_any(features[level], boxes, {level_of, level, count}, options_of(spatial_scales[level]),
                result);
  }
  return {result.output, result.argmax};
}

Tensor backward_any(const Tensor& grad_output, const Tensor& boxes, const LevelFilter& filter,
                    const Tensor& argmax, int64_t batch, int64_t channels, int64_t height,
                    int64_t width, const RoiAlignOptions& options) {
  check_backward(grad_output, boxes, argmax, channels, options);
  const Tensor grad_features =
      empty_maps(grad_output, grad_output.scalar_type(), batch, channels, height, width);
  dispatch_maps(grad_output, [&](auto zero) {
    using scalar_t = decltype(zero);
    if (boxes.scalar_type() == ScalarType::Double) {
      backward<scalar_t, double>(grad_output, boxes, filter, argmax, options, grad_features);
    } else if constexpr (!std::is_same_v<scalar_t, double>) {
      backward<scalar_t, float>(grad_output, boxes, filter, argmax, options, grad_features);
    }
  });
  return grad_features;
}

Tensor roi_align_backward_cuda(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                               int64_t batch, int64_t channels, int64_t height, int64_t width,
                               int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                               int64_t sampling_ratio, bool aligned, const std::string& mode,
                               int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const torch::stable::accelerator::DeviceGuard guard(grad_output.get_device_index());
  const Tensor boxes = prepare_rois(rois, grad_output);
  return backward_any(grad_output, boxes, {}, argmax, batch, channels, height, width, options);
}

Tensor roi_align_levels_backward_cuda(const Tensor& grad_output, const Tensor& rois,
                                      const Tensor& levels, int64_t level, const Tensor& argmax,
                                      int64_t batch, int64_t channels, int64_t height,
                                      int64_t width, int64_t pooled_height, int64_t pooled_width,
                                      double spatial_scale, int64_t sampling_ratio, bool aligned,
                                      const std::string& mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const torch::stable::accelerator::DeviceGuard guard(grad_output.get_device_index());
  const Tensor boxes = prepare_rois(rois, grad_output);
  check_levels(levels, boxes);
  const auto* level_of = static_cast<const int64_t*>(levels.const_data_ptr());
  return backward_any(grad_output, boxes, {level_of, level, level + 1}, argmax, batch, channels,
                      height, width, options);
}

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&mrcnn_plugin::roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&mrcnn_plugin::roi_align_backward_cuda));
  m.impl("roi_align_levels", TORCH_BOX(&mrcnn_plugin::roi_align_levels_cuda));
  m.impl("roi_align_levels_backward", TORCH_BOX(&mrcnn_plugin::roi_align_levels_backward_cuda));
}
