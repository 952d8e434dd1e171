// Replaces the CUDA header of the same name and runs kernels on the CPU, one thread after another.
//
// CUDA does not define the order of the threads of a launch, so a kernel must be correct in any
// order: CUDA_EMULATION_ORDER is forward (default), reversed or shuffled. There is no shared memory
// and no __syncthreads, because no kernel of RoIAlign uses them. NMS does: it is tested on GPUs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline int __ffs(int x) { return __builtin_ffs(x); }

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_emulation {

// The number of active device guards, of which every launch needs one, and of launches so far.
inline thread_local int guards = 0;
inline int64_t launches = 0;

inline cudaStream_t current_stream() {
  static int stream;
  return &stream;
}

inline std::vector<int64_t> order_of(int64_t threads) {
  std::vector<int64_t> order(threads);
  std::iota(order.begin(), order.end(), 0);
  const char* wanted = std::getenv("CUDA_EMULATION_ORDER");
  const std::string name = wanted == nullptr ? "forward" : wanted;
  if (name == "reversed") std::reverse(order.begin(), order.end());
  if (name == "shuffled") std::shuffle(order.begin(), order.end(), std::mt19937_64(threads));
  return order;
}

inline bool fits_a_card(const cudaLaunchConfig_t& config) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return grid.x >= 1 && grid.x <= INT32_MAX && grid.y == 1 && grid.z == 1 && block.y == 1 &&
         block.z == 1 && threads >= 1 && threads <= 1024;
}

}  // namespace cuda_emulation

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  using namespace cuda_emulation;
  if (!fits_a_card(*config)) return cudaErrorInvalidConfiguration;
  if (guards == 0 || config->stream != current_stream()) return cudaErrorInvalidValue;
  ++launches;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  for (const int64_t thread : order_of(int64_t{gridDim.x} * blockDim.x)) {
    blockIdx.x = static_cast<unsigned>(thread / blockDim.x);
    threadIdx.x = static_cast<unsigned>(thread % blockDim.x);
    kernel(args...);
  }
  return cudaSuccess;
}
