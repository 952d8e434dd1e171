// RoIAlign on CUDA.
//
// Small kernels turn every RoI into a plan: for each axis, lists of what is read and how much it
// weighs (see roi_align_geometry.h). Then every thread owns what it writes, a few channels of one
// bin forward and of one pixel backward, and gathers. The backward visits the RoIs in order and
// needs no atomics, so it is deterministic. Nothing waits for the device.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>

// The library must also load into a torch without CUDA, which lacks these three symbols.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

#include <torch/csrc/stable/macros.h>

#include <algorithm>

#include "roi_align_cuda_average.cuh"
#include "roi_align_cuda_maximum.cuh"
#include "roi_align_ops.h"

namespace mrcnn_plugin {
namespace {

constexpr int kThreads = 128, kPlanThreads = 64;    // in a block; plans have few threads, long ones
constexpr int64_t kPlanBytes = int64_t{256} << 20;  // a larger plan of a forward is made in parts

// ---- Launches and memory -----------------------------------------------------------------------

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// cudaLaunchKernelEx, not <<<...>>>: any C++ compiler can read this file, and the tests run its
// kernels on the CPU (tests/cuda_emulation).
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), int64_t threads, int block, cudaStream_t stream,
            const Args&... args) {
  if (threads == 0) return;
  const int64_t blocks = (threads + block - 1) / block;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "roi_align: too many elements for one CUDA launch");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.stream = stream;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

/// Memory for kernels of the current stream. It may be freed once they are launched: torch hands it
/// out again in the order of the stream.
class Scratch {
 public:
  explicit Scratch(const Tensor& like) : like_(like) {}

  template <typename T>
  T* take(int64_t count) {
    const auto bytes = count * static_cast<int64_t>(sizeof(T));
    held_.push_back(torch::stable::new_empty(like_, {bytes}, ScalarType::Byte));
    return static_cast<T*>(held_.back().mutable_data_ptr());
  }

  template <typename Entry>
  Lists<Entry> lists(int64_t rois, int64_t lists, int64_t room) {
    return {take<Entry>(rois * lists * room), take<int32_t>(rois * lists), lists, room};
  }

 private:
  const Tensor& like_;
  std::vector<Tensor> held_;
};

// ---- Plans -------------------------------------------------------------------------------------

Levels levels_of(const std::vector<Tensor>& features, const int64_t* level_of,
                 const std::vector<RoiAlignOptions>& options) {
  const auto count = static_cast<int64_t>(features.size());
  STD_TORCH_CHECK(count <= kMostLevels, "roi_align_levels: at most ", kMostLevels,
                  " maps on CUDA, got ", count);
  Levels levels{level_of, count, features[0].size(0), {}, {}};
  for (int64_t i = 0; i < count; ++i) {
    for (int axis = 0; axis < 2; ++axis) levels.extents[axis][i] = features[i].size(2 + axis);
    levels.scales[i] = options[i].spatial_scale;
    STD_TORCH_CHECK(std::max({levels.batch, features[i].size(2), features[i].size(3)}) < INT32_MAX,
                    "roi_align: N, H and W must be less than 2^31 on CUDA");
  }
  return levels;
}

/// The most entries of a bin's list: its pixels, or the first and last samples between any two.
template <typename acc_t>
int64_t most_entries(const PlanTerm<acc_t>*, int64_t extent, int64_t sampling_ratio) {
  return sampling_ratio > 0 ? std::min(2 * sampling_ratio, extent) : extent;
}
template <typename acc_t>
int64_t most_entries(const PlanSample<acc_t>*, int64_t extent, int64_t sampling_ratio) {
  const int64_t most = 2 * (extent + 1);
  return sampling_ratio > 0 ? std::min(sampling_ratio, most) : most;
}

/// Calls pool(first, count, plan) for parts of the RoIs, of which there is one unless plans are
/// huge.
template <typename Entry, typename coord_t, typename Pool>
void for_each_plan(const LeveledRois& rois, const Levels& levels, const RoiAlignOptions& options,
                   cudaStream_t stream, const Pool& pool) {
  const int64_t all = rois.boxes.size(0);
  const int64_t pooled[] = {options.pooled_height, options.pooled_width};
  int64_t bins[2], room[2], bytes = 1;
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t* extents = levels.extents[axis];
    const int64_t extent = *std::max_element(extents, extents + levels.count);
    bins[axis] = kept_bins(pooled[axis], options.bin_stride);
    room[axis] = most_entries(static_cast<Entry*>(nullptr), extent, options.sampling_ratio);
    bytes += bins[axis] * room[axis] * static_cast<int64_t>(sizeof(Entry));
  }
  const int64_t part = std::max<int64_t>(kPlanBytes / bytes, 1);
  for (int64_t first = 0; first < all; first += part) {
    const int64_t count = std::min(part, all - first);
    Scratch scratch(rois.boxes);
    const BinPlan<Entry> plan{{scratch.lists<Entry>(count, bins[0], room[0]),
                               scratch.lists<Entry>(count, bins[1], room[1])},
                              scratch.take<Target>(count)};
    Levels of_part = levels;
    if (levels.level_of != nullptr) of_part.level_of += first;
    const auto* boxes = static_cast<const coord_t*>(rois.boxes.const_data_ptr()) + 5 * first;
    launch(plan_bins_kernel<Entry, coord_t>, count * (bins[0] + bins[1]), kPlanThreads, stream,
           boxes, count, of_part, options, plan);
    pool(first, count, plan);
  }
}

template <typename acc_t, typename coord_t>
PixelPlan<acc_t> plan_pixels(const LeveledRois& rois, int64_t level, const Levels& levels,
                             const RoiAlignOptions& options, Scratch& scratch,
                             cudaStream_t stream) {
  const int64_t count = rois.boxes.size(0), height = levels.extents[0][0];
  STD_TORCH_CHECK(count < INT32_MAX, "roi_align: too many RoIs for CUDA");
  const int64_t pooled[] = {options.pooled_height, options.pooled_width};
  const auto lists_of = [&](int axis) {
    // A pixel is beside the first and last samples of two runs of a bin, one each side of it.
    const int64_t samples = options.sampling_ratio > 0 ? options.sampling_ratio : 4;
    const int64_t bins = kept_bins(pooled[axis], options.bin_stride);
    STD_TORCH_CHECK(bins <= INT32_MAX >> (options.max ? kArgmaxBits : 0),
                    "roi_align: too many bins for the gradient on CUDA");
    const int64_t room = bins * (options.max ? std::min<int64_t>(samples, 4) : 1);
    return scratch.lists<PlanTerm<acc_t>>(count, levels.extents[axis][0], room);
  };
  const int64_t rows = levels.batch * height;
  const PixelPlan<acc_t> plan{
      {lists_of(0), lists_of(1)},
      scratch.take<Reach>(count),
      {scratch.take<int32_t>(rows * count), scratch.take<int32_t>(rows), rows, count}};
  const auto* boxes = static_cast<const coord_t*>(rois.boxes.const_data_ptr());
  launch(plan_pixels_kernel<acc_t, coord_t>, 2 * count, kPlanThreads, stream, boxes, count, levels,
         level, options, plan);
  launch(plan_rows_kernel<acc_t>, rows, kPlanThreads, stream, count, height, plan);
  return plan;
}

// ---- The backend -------------------------------------------------------------------------------

template <typename T, typename coord_t>
void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
             const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
  const cudaStream_t stream = current_stream(features[0]);
  const Levels levels = levels_of(features, rois.level_of, options);
  Maps<const T> maps{};
  for (size_t i = 0; i < features.size(); ++i) maps.levels[i] = const_view<T>(features[i]);
  const auto entries = [](const auto& view, int64_t first) {
    auto part = view;
    part.data += first * view.stride[0];
    return part;
  };
  Tiling tiling(result.output);
  const View<T> output = mutable_view<T>(result.output);
  using acc_t = accumulate_t<T>;
  if (options[0].max) {
    const View<int32_t> argmax = mutable_view<int32_t>(result.argmax);
    for_each_plan<PlanSample<acc_t>, coord_t>(
        rois, levels, options[0], stream, [&](int64_t first, int64_t count, const auto& plan) {
          tiling.n = count;
          launch(maximum_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
                 entries(output, first), entries(argmax, first));
        });
  } else {
    for_each_plan<PlanTerm<acc_t>, coord_t>(
        rois, levels, options[0], stream, [&](int64_t first, int64_t count, const auto& plan) {
          tiling.n = count;
          launch(average_kernel<T>, tiling.threads(), kThreads, stream, maps, plan, tiling,
                 entries(output, first));
        });
  }
}

template <typename T, typename coord_t>
void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
              const Tensor& argmax, const RoiAlignOptions& options, const Tensor& grad_features) {
  const cudaStream_t stream = current_stream(grad_output);
  const Tiling tiling(grad_features);
  const View<const T> grads = const_view<T>(grad_output);
  const View<T> out = mutable_view<T>(grad_features);
  Scratch scratch(grad_output);
  const auto plan = plan_pixels<accumulate_t<T>, coord_t>(
      rois, level, levels_of({grad_features}, rois.level_of, {options}), options, scratch, stream);
  if (options.max) {
    launch(maximum_backward_kernel<T>, tiling.threads(), kThreads, stream, grads,
           const_view<int32_t>(argmax), plan, tiling, out);
  } else {
    launch(average_backward_kernel<T>, tiling.threads(), kThreads, stream, grads, plan, tiling,
           out);
  }
}

/// Calls use(T{}, coord_t{}) for the type of the maps and that of coordinates.
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

/// What roi_align_ops.h asks of a device.
struct Cuda {
  struct Guard {
    torch::stable::accelerator::DeviceGuard guard;
    explicit Guard(const Tensor& t) : guard(t.get_device_index()) {}
  };

  static Tensor empty_maps(const Tensor& like, ScalarType type, int64_t n, int64_t c, int64_t h,
                           int64_t w) {
    return mrcnn_plugin::empty_maps(like, type, n, c, h, w);
  }

  /// To look would be to wait for the device: such a RoI is zero instead.
  static void check_level_of(const int64_t*, int64_t, int64_t) {}

  static void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
                      const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
    dispatch(features[0], rois.boxes, [&](auto zero, auto coordinate) {
      mrcnn_plugin::forward<decltype(zero), decltype(coordinate)>(features, rois, options, result);
    });
  }

  static void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
                       const Tensor& argmax, const RoiAlignOptions& options,
                       const Tensor& grad_features) {
    dispatch(grad_output, rois.boxes, [&](auto zero, auto coordinate) {
      mrcnn_plugin::backward<decltype(zero), decltype(coordinate)>(grad_output, rois, level, argmax,
                                                                   options, grad_features);
    });
  }
};

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  mrcnn_plugin::register_roi_align<mrcnn_plugin::Cuda>(m);
}
