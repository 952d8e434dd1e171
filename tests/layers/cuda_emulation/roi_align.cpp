// Compiles csrc/cuda/roi_align.cu for the CPU and registers its kernels for CPU tensors.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda_runtime.h"

// Replaces the functions that need a GPU.
namespace torch::stable::accelerator {
struct EmulatedDeviceGuard {
  explicit EmulatedDeviceGuard(DeviceIndex) { ++cuda_emulation::guards; }
  ~EmulatedDeviceGuard() { --cuda_emulation::guards; }
};
}  // namespace torch::stable::accelerator

inline AOTITorchError emulated_current_stream(int32_t, void** stream) {
  *stream = cuda_emulation::current_stream();
  return AOTI_TORCH_SUCCESS;
}

#define DeviceGuard EmulatedDeviceGuard
#define aoti_torch_get_current_cuda_stream emulated_current_stream
#define CUDA CPU  // the dispatch key

#include "cuda/roi_align.cu"

// ---- For the tests -----------------------------------------------------------------------------

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t cuda_emulation_launches() { return cuda_emulation::launches; }

/// Writes n, tile, y, x and the number of channels of one thread to `at`.
EXPORT void cuda_emulation_cell(int64_t thread, const int64_t* shape, bool channels_last,
                                int64_t* at) {
  using namespace mrcnn_plugin::cuda;
  Tiling tiling(torch::stable::empty({1, 1, 1, 1}));
  tiling.n = shape[0], tiling.channels = shape[1], tiling.height = shape[2];
  tiling.width = shape[3], tiling.tiles = (shape[1] + kChannels - 1) / kChannels;
  tiling.channels_last = channels_last;
  const Cell cell(thread, tiling);
  at[0] = cell.n, at[1] = cell.tile, at[2] = cell.y, at[3] = cell.x, at[4] = cell.channels;
}
