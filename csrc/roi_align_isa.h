// The kernels for one instruction set. A source file includes this once, with MRCNN_ISA the name of
// the namespace, MRCNN_TARGET the attribute that chooses the instruction set and
// MRCNN_VECTOR_BYTES the size of its vectors.

namespace mrcnn_plugin {
namespace MRCNN_ISA {
namespace {

// In this order: each is written in the terms of those before it.
// clang-format off
#include "roi_align_vector.h"
#include "roi_align_slab.h"
#include "roi_align_average.h"
#include "roi_align_maximum.h"
// clang-format on

template <typename T, int lanes>
Kernels<T> table() {
  using acc_t = accumulate_t<T>;
  using winner_t = index_t<acc_t>;
  return {lanes,
          pack<T, acc_t, lanes>,
          unpack<T, acc_t, lanes>,
          pack<int32_t, winner_t, lanes>,
          unpack<int32_t, winner_t, lanes>,
          average<acc_t, lanes>,
          maximum<acc_t, lanes>,
          maximum_backward<acc_t, lanes>};
}

}  // namespace

template <typename T>
Kernels<T> kernels(bool narrow) {
  return narrow ? table<T, kNarrowLanes>() : table<T, kWideLanes>();
}

template Kernels<double> kernels(bool);
template Kernels<float> kernels(bool);
template Kernels<torch::headeronly::Half> kernels(bool);
template Kernels<torch::headeronly::BFloat16> kernels(bool);

}  // namespace MRCNN_ISA
}  // namespace mrcnn_plugin
