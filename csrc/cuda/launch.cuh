// Launching a kernel on the current stream, and memory for what kernels leave to each other.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

// The library must also load into a torch without CUDA, which lacks these three symbols.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

#include <torch/csrc/stable/macros.h>

#include <vector>

#include "cuda/plan.cuh"

namespace mrcnn_plugin {

inline cudaStream_t current_stream(const Tensor& t) {
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

}  // namespace mrcnn_plugin
