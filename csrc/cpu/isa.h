// The instruction set of the CPU kernels: the best one that the processor supports, or the value of
// the environment variable MRCNN_PLUGIN_ISA (baseline, avx2, avx512).
#pragma once

#include <string>

namespace mrcnn_plugin::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa current_isa();
std::string isa_name();

}  // namespace mrcnn_plugin::cpu
