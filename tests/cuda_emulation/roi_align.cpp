// csrc/roi_align_cuda.cu as a library for the CPU: its kernels become those of CPU tensors.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda_runtime.h"

// What only a machine with a card can answer.
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

#include "../../csrc/roi_align_cuda.cu"

extern "C" __attribute__((visibility("default"))) int64_t cuda_emulation_launches() {
  return cuda_emulation::launches;
}
