// The interface of the inner loops on the CPU: plain structs, and one table of functions per
// instruction set (see cpu/kernels.inc).
//
// Those of RoIAlign work on slabs: `lanes` channels of a map or of a RoI's bins, repacked so that
// the channel is the innermost dimension. The unused lanes of a partial slab are zero.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "roi_align_geometry.h"

namespace mrcnn_plugin::cpu {

/// The argmax of a slab has the width of its values, so that both fill the same vectors.
template <typename acc_t>
using index_t = std::conditional_t<sizeof(acc_t) == 8, int64_t, int32_t>;

/// The strided source or destination of a slab: `lanes` channels of a height x width window of a
/// tensor.
template <typename T>
struct Plane {
  T* data;
  int64_t lanes, height, width;
  int64_t channel_stride, row_stride, column_stride;
  bool streamed;  // write with non-temporal stores
};

/// One term of a weighted sum.
template <typename acc_t>
struct Term {
  int64_t at;
  acc_t weight;
};

/// Weighted sums on one axis: sum i has the terms [starts[i], starts[i + 1]). If `each` > 0, every
/// sum has that many terms. The added ones have weight zero and point one past the input, where the
/// scratch memory has zeros.
template <typename acc_t>
struct Sums {
  const Term<acc_t>* terms;
  const int64_t* starts;
  int64_t count, each;
};

/// A sample on one axis, between the pixels lo and hi. A neighbour of weight zero is not read: on
/// the x axis hi is then one past the input, where the scratch memory has zeros.
template <typename acc_t>
struct Sample {
  int64_t index, lo, hi;
  acc_t w_lo, w_hi;
};

/// Bin i owns samples [starts[i], starts[i + 1]). cut[i] is set if it also has samples outside the
/// map.
template <typename acc_t>
struct Samples {
  const Sample<acc_t>* samples;
  const int64_t* starts;
  const char* cut;
  int64_t count, most;  // number of bins; most samples of any bin
};

/// A slab, or the part of one that a RoI reads.
template <typename acc_t>
struct Grid {
  acc_t* data;
  int64_t row_stride, width;  // in elements; in pixels
};

/// `scratch` below has room for this many rows of an input, each with a pixel of zeros at its end.
constexpr int64_t kScratchRows = 8;

template <typename T>
struct Kernels {
  using acc_t = accumulate_t<T>;

  int64_t lanes;
  void (*pack)(const Plane<const T>& from, acc_t* slab);
  void (*unpack)(const acc_t* slab, const Plane<T>& to, acc_t* scratch);
  void (*pack_argmax)(const Plane<const int32_t>& from, index_t<acc_t>* slab);
  void (*unpack_argmax)(const index_t<acc_t>* slab, const Plane<int32_t>& to, int32_t* scratch);
  /// out[i, j] (+)= the sum over the terms of y[i] and x[j] of weight * weight * in.
  void (*average)(const Sums<acc_t>& y, const Sums<acc_t>& x, const Grid<const acc_t>& in,
                  acc_t* scratch, const Grid<acc_t>& out, bool accumulate);
  void (*maximum)(const Samples<acc_t>& y, const Samples<acc_t>& x, const Grid<const acc_t>& in,
                  acc_t* scratch, acc_t* out, index_t<acc_t>* argmax);
  void (*maximum_backward)(const Samples<acc_t>& y, const Samples<acc_t>& x, const acc_t* grad_out,
                           const index_t<acc_t>* argmax, acc_t* scratch, const Grid<acc_t>& grad);
};

/// Boxes that non-maximum suppression has kept, one array per field. The arrays hold a multiple of
/// kBoxBlock elements; those past `count` are NaN, and a NaN box suppresses no other.
struct KeptBoxes {
  const float *x1, *y1, *x2, *y2, *area;
  int64_t count;
};
constexpr int64_t kBoxBlock = 64;

struct Box {
  float x1, y1, x2, y2, area;
};

/// Returns true if the intersection over union of `box` with any kept box is above the threshold.
using IsSuppressed = bool(const KeptBoxes& kept, const Box& box, float iou_threshold);

/// The two widths of a slab. The narrow one is for few channels, which would fill little of a wide
/// one.
constexpr int64_t kWideLanes = 32, kNarrowLanes = 4;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MRCNN_MULTIPLE_ISAS 1
#endif

namespace baseline {
template <typename T>
Kernels<T> kernels(bool narrow);
IsSuppressed is_suppressed;
}  // namespace baseline
#ifdef MRCNN_MULTIPLE_ISAS
namespace avx2 {
template <typename T>
Kernels<T> kernels(bool narrow);
IsSuppressed is_suppressed;
}  // namespace avx2
namespace avx512 {
template <typename T>
Kernels<T> kernels(bool narrow);
IsSuppressed is_suppressed;
}  // namespace avx512
#endif

}  // namespace mrcnn_plugin::cpu
