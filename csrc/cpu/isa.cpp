#include "cpu/isa.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>

#include "cpu/kernels.h"

namespace mrcnn_plugin::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_isa() {
#ifdef MRCNN_MULTIPLE_ISAS
  // Every processor with AVX2 also has F16C.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? Isa::kAvx512 : avx2 ? Isa::kAvx2 : Isa::kBaseline;
#else
  return Isa::kBaseline;
#endif
}

Isa choose_isa() {
  const Isa best = best_isa();
  const char* wanted = std::getenv("MRCNN_PLUGIN_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= best && std::string(wanted) == kNames[static_cast<int>(isa)]) return isa;
  }
  STD_TORCH_CHECK(
      false, "MRCNN_PLUGIN_ISA must be baseline, avx2 or avx512, and not more than this ",
      "processor and build have (", kNames[static_cast<int>(best)], "), got '", wanted, "'");
}

}  // namespace

Isa current_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

std::string isa_name() { return kNames[static_cast<int>(current_isa())]; }

}  // namespace mrcnn_plugin::cpu

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&mrcnn_plugin::cpu::isa_name));
}
