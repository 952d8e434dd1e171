// The instruction set that the kernels of the CPU use: the best that this processor has, or the one
// that the environment variable MRCNN_PLUGIN_ISA names (baseline, avx2, avx512).
#pragma once

#include <string>

namespace mrcnn_plugin::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa current_isa();
std::string isa_name();

}  // namespace mrcnn_plugin::cpu
