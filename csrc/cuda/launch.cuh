// Kernel launches on the current stream, scratch memory between kernels, and the division of a
// tensor among the threads of a kernel.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include <vector>

#include "tensor.h"

namespace mrcnn_plugin::cuda {

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// This uses cudaLaunchKernelEx instead of <<<...>>> so that any C++ compiler can compile the file:
// the tests run the kernels on the CPU (tests/layers/cuda_emulation).
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

/// Memory for kernels of the current stream. The block may be freed once they are launched, because
/// torch reuses it in stream order.
class Scratch {
 public:
  /// Returns arrange(scratch), which takes its arrays from one new block. It is called twice, first
  /// to add up their sizes.
  template <typename Arrange>
  static auto make(const Tensor& like, Tensor& block, const Arrange& arrange) {
    Scratch measured(nullptr);
    arrange(measured);
    block = torch::stable::new_empty(like, {measured.bytes_}, ScalarType::Byte);
    Scratch placed(static_cast<char*>(block.mutable_data_ptr()));
    return arrange(placed);
  }

  template <typename T>
  T* take(int64_t count) {
    constexpr int64_t kAlign = 256;  // bytes
    char* const array = base_ == nullptr ? nullptr : base_ + bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(array);
  }

 private:
  explicit Scratch(char* base) : base_(base) {}

  char* base_;
  int64_t bytes_ = 0;
};

// ---- Threads -----------------------------------------------------------------------------------

constexpr int kChannels =
    8;  // per thread, which share its reads of the plan; loops over them are unrolled

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// a * b + c, fused. The compiler must not fuse by itself, because coordinates must not be fused.
__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

/// Splits the index of a thread into positions along the axes of a grid, the innermost first.
class Digits {
 public:
  /// A 64-bit division costs as much as several 32-bit ones.
  __device__ Digits(int64_t index, int64_t threads) : left_(index), small_(threads <= UINT32_MAX) {}

  __device__ int64_t next(int64_t size) {
    const int64_t whole =
        small_ ? static_cast<uint32_t>(left_) / static_cast<uint32_t>(size) : left_ / size;
    const int64_t position = left_ - whole * size;
    left_ = whole;
    return position;
  }

 private:
  int64_t left_;
  bool small_;
};

/// The division of a tensor (n, channels, height, width) among threads. The channels of a thread
/// are `tiles` apart, so that neighbouring threads access neighbouring elements: along the channels
/// if they are innermost in memory (channels_last), otherwise along the width.
struct Tiling {
  int64_t n, channels, height, width, tiles;
  bool channels_last;

  explicit Tiling(const Tensor& t)
      : n(t.size(0)),
        channels(t.size(1)),
        height(t.size(2)),
        width(t.size(3)),
        tiles((channels + kChannels - 1) / kChannels),
        channels_last(t.stride(1) == 1) {}

  MRCNN_HOST_DEVICE int64_t threads() const { return n * tiles * height * width; }
};

/// The elements of one thread: [n, tile + k * tiles, y, x] for each k below `channels`.
struct Cell {
  int64_t n, tile, y, x, tiles;
  int channels;

  __device__ Cell(int64_t thread, const Tiling& tiling)
      : tile(0), tiles(tiling.tiles), channels(0) {
    Digits digits(thread, tiling.threads());
    if (tiling.channels_last) tile = digits.next(tiling.tiles);
    x = digits.next(tiling.width);
    y = digits.next(tiling.height);
    if (!tiling.channels_last) tile = digits.next(tiling.tiles);
    n = digits.next(tiling.n);
    for (int k = 0; k < kChannels; ++k) channels += tile + k * tiles < tiling.channels;
  }
};

/// The channels of a cell in a tensor. Channels past the end alias the first one, so loads need no
/// bounds check; their results are never stored.
template <typename T>
struct Channels {
  T* data;
  int64_t n_stride, row_stride, column_stride, offsets[kChannels];

  __device__ Channels(const View<T>& view, const Cell& cell)
      : data(view.data + cell.tile * view.stride[1]),
        n_stride(view.stride[0]),
        row_stride(view.stride[2]),
        column_stride(view.stride[3]) {
    for (int k = 0; k < kChannels; ++k) {
      offsets[k] = k < cell.channels ? k * cell.tiles * view.stride[1] : 0;
    }
  }

  __device__ T* at(int64_t n, int64_t y, int64_t x) const {
    return data + n * n_stride + y * row_stride + x * column_stride;
  }
};

/// Writes a value for each channel of the cell.
template <typename T, typename Values>
__device__ void store(const View<T>& view, const Cell& cell, const Values& values) {
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    if (k < cell.channels) view(cell.n, cell.tile + k * cell.tiles, cell.y, cell.x) = values[k];
  }
}

}  // namespace mrcnn_plugin::cuda
