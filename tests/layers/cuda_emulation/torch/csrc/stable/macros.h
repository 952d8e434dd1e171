// A stand-in for torch's header of the same name, whose check asks the CUDA runtime for words.
#pragma once

#include <torch/headeronly/util/Exception.h>

#define STD_CUDA_CHECK(call) \
  STD_TORCH_CHECK((call) == cudaSuccess, "cuda_emulation: the launch failed")
