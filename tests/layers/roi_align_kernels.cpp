// Compares the lists and the inner loops of RoIAlign with their definition, sample by sample in
// double. It does not need libtorch, so test_roi_align_builds.py can compile it for another
// processor and run it in an emulator.
#include <cstdio>
#include <cstring>
#include <random>
#include <typeinfo>

#include "cpu/plan.h"

using namespace mrcnn_plugin;
using namespace mrcnn_plugin::cpu;
using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kHeight = 11, kWidth = 19, kRows = 2, kColumns = 3;
constexpr int64_t kPixels = kHeight * kWidth, kBins = kRows * kColumns;
std::mt19937 engine;
int failures = 0;

template <typename T>
void expect(double got, double wanted, double tolerance, const char* what) {
  if (std::abs(got - wanted) <= tolerance * std::max(1.0, std::abs(wanted)) || got == wanted ||
      (std::isnan(got) && std::isnan(wanted)))
    return;
  if (++failures < 20)
    std::printf("%s <%s>: %.17g, expected %.17g\n", what, typeid(T).name(), got, wanted);
}

/// Maps of random numbers: contiguous, channels-last, or with gaps between all elements.
enum class Layout { kContiguous, kChannelsLast, kGaps };
template <typename T>
struct Maps {
  std::vector<T> data;
  Plane<T> plane;

  Maps(int64_t lanes, int64_t height, int64_t width, Layout layout) {
    const bool last = layout == Layout::kChannelsLast, gaps = layout == Layout::kGaps;
    const int64_t column = last ? lanes : 1 + gaps, row = width * column + 3 * gaps;
    data.resize((last ? 1 : lanes) * height * row);
    std::normal_distribution<float> normal;
    for (T& value : data) value = static_cast<T>(normal(engine));
    plane = {data.data(), lanes, height, width, last ? 1 : height * row, row, column, !gaps};
  }
  T& at(int64_t c, int64_t y, int64_t x) {
    return data[c * plane.channel_stride + y * plane.row_stride + x * plane.column_stride];
  }
  template <typename U = const T>
  operator Plane<U>() const {
    return {plane.data,           plane.lanes,      plane.height,        plane.width,
            plane.channel_stride, plane.row_stride, plane.column_stride, plane.streamed};
  }
};

/// Calls use(y, x, weight) for the neighbours of sample (s, t) of bin (p, q), if it is on the map.
template <typename Use>
void sample(const double (&box)[4], int64_t p, int64_t q, double s, double t, const Use& use) {
  double y = box[1] - 0.5 + (box[3] - box[1]) / kRows * (p + s);
  double x = box[0] - 0.5 + (box[2] - box[0]) / kColumns * (q + t);
  if (y < -1 || y > kHeight || x < -1 || x > kWidth) return;
  y = std::min(std::max(y, 0.0), kHeight - 1.0), x = std::min(std::max(x, 0.0), kWidth - 1.0);
  for (int64_t i = std::floor(y); i <= std::ceil(y); ++i) {
    for (int64_t j = std::floor(x); j <= std::ceil(x); ++j) {
      use(i, j, (1 - std::abs(y - i)) * (1 - std::abs(x - j)));
    }
  }
}

/// Forward and backward of one RoI on one slab. Entry: Term for the average, Sample for the
/// maximum.
template <typename T, typename Entry, typename acc_t = accumulate_t<T>>
void test_roi(const double (&box)[4], int64_t ratio, int64_t lanes, Layout layout) {
  constexpr bool kMax = std::is_same_v<Entry, Sample<acc_t>>;
  const double epsilon = std::is_same_v<T, double>     ? 1e-12
                         : std::is_same_v<T, float>    ? 1e-5
                         : std::is_same_v<T, BFloat16> ? 1e-2
                                                       : 1e-3;
  const auto kernels = baseline::kernels<T>(lanes <= kNarrowLanes);
  const RoiAlignOptions options{kRows, kColumns, 1, ratio, true, kMax, 1};
  const auto y = make_axis(box[1], box[3], kRows, kHeight, options);
  const auto x = make_axis(box[0], box[2], kColumns, kWidth, options);
  std::vector<acc_t> slab(kPixels * kernels.lanes), bins(kBins * kernels.lanes);
  std::vector<acc_t> scratch(kernels.lanes * kScratchRows * (1 + kWidth));
  std::vector<index_t<acc_t>> winners(bins.size());
  Maps<T> features(lanes, kHeight, kWidth, layout), output(lanes, kRows, kColumns, layout);
  Maps<T> grad_output(lanes, kRows, kColumns, layout), grad(lanes, kHeight, kWidth, layout);
  Maps<int32_t> argmax(lanes, kRows, kColumns, layout);

  const auto run = [&](Direction direction, const auto& use) {
    const auto rows = plan_axis<Entry>(y, kRows, 1, direction, false);
    const auto columns = plan_axis<Entry>(x, kColumns, 1, direction, true);
    acc_t* begin = slab.data() + (rows.begin * kWidth + columns.begin) * kernels.lanes;
    use(view(rows), view(columns), Grid<acc_t>{begin, kWidth * kernels.lanes, columns.extent()},
        Grid<acc_t>{bins.data(), kColumns * kernels.lanes, kColumns});
  };
  kernels.pack(features, slab.data());
  run(Direction::kForward, [&](auto rows, auto columns, auto map, auto out) {
    const Grid<const acc_t> in{map.data, map.row_stride, map.width};
    if constexpr (kMax) {
      kernels.maximum(rows, columns, in, scratch.data(), out.data, winners.data());
      kernels.unpack_argmax(winners.data(), argmax.plane, (int32_t*)scratch.data());
    } else {
      kernels.average(rows, columns, in, scratch.data(), out, false);
    }
  });
  kernels.unpack(bins.data(), output.plane, scratch.data());

  kernels.pack(grad_output, bins.data());
  std::fill(slab.begin(), slab.end(), acc_t{1});  // the gradient is added to it
  run(Direction::kBackward, [&](auto rows, auto columns, auto map, auto in) {
    if constexpr (kMax) {
      kernels.pack_argmax(argmax, winners.data());
      kernels.maximum_backward(rows, columns, in.data, winners.data(), scratch.data(), map);
    } else {
      const Grid<const acc_t> from{in.data, in.row_stride, in.width};
      kernels.average(rows, columns, from, scratch.data(), map, true);
    }
  });
  grad.plane.streamed = false;
  kernels.unpack(slab.data(), grad.plane, scratch.data());

  for (int64_t c = 0; c < lanes; ++c) {
    double expected[kHeight][kWidth] = {};
    for (int64_t bin = 0; bin < kBins; ++bin) {
      const int64_t p = bin / kColumns, q = bin % kColumns, count = y.samples * x.samples;
      double mean = 0, most = count ? -INFINITY : 0, won = 0;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t s = k / x.samples, t = k % x.samples;
        const bool wins = kMax && argmax.at(c, p, q) == (s << kArgmaxBits | t);
        double value = 0;
        sample(box, p, q, (s + 0.5) / y.samples, (t + 0.5) / x.samples,
               [&](int64_t i, int64_t j, double weight) {
                 value += weight * features.at(c, i, j);
                 expected[i][j] += weight * grad_output.at(c, p, q) * (kMax ? wins : 1.0 / count);
               });
        mean += value / count, most = std::max(most, value), won += wins * value;
      }
      expect<T>(output.at(c, p, q), kMax ? most : mean, epsilon, kMax ? "maximum" : "average");
      if (kMax) expect<T>(output.at(c, p, q), won, epsilon, "value at the argmax");
    }
    for (int64_t i = 0; i < kPixels; ++i) {
      expect<T>(grad.at(c, i / kWidth, i % kWidth), 1 + expected[i / kWidth][i % kWidth],
                3 * epsilon, kMax ? "gradient of the maximum" : "gradient of the average");
    }
  }
}

template <typename T>
void test_rois() {
  const double boxes[][4] = {{3.3, 2.1, 14.9, 8.6},      {-4.2, -3.7, 6.1, 5.3},
                             {12.7, 6.2, 25.3, 16.9},    {7.3, 4.4, 7.9, 4.6},
                             {-30.1, -20.3, 50.7, 40.9}, {-40.3, 1.2, -30.1, 5.7}};
  for (const auto& box : boxes) {
    for (const int64_t ratio : {0, 2, 20}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast, Layout::kGaps}) {
        for (const int64_t lanes : {kWideLanes, kWideLanes - 3, kNarrowLanes, int64_t{1}}) {
          test_roi<T, Term<accumulate_t<T>>>(box, ratio, lanes, layout);
          test_roi<T, Sample<accumulate_t<T>>>(box, ratio, lanes, layout);
        }
      }
    }
  }
}

/// Widens every half, and narrows floats at, next to and between all halves.
template <typename T>
void test_halves(uint32_t last_place) {
  const auto kernels = baseline::kernels<T>(true);
  Maps<T> halves(kNarrowLanes, 1, 65536 / kNarrowLanes, Layout::kChannelsLast);
  std::vector<float> slab(65536), scratch(65536);
  const auto beyond_half = [](uint32_t i, uint32_t places) {
    float value = T(i, T::from_bits());
    uint32_t bits;
    std::memcpy(&bits, &value, 4), bits += places, std::memcpy(&value, &bits, 4);
    return value;
  };
  for (uint32_t i = 0; i < 65536; ++i) halves.data[i] = T(i, T::from_bits());
  kernels.pack(halves, slab.data());
  for (uint32_t i = 0; i < 65536; ++i) expect<T>(slab[i], beyond_half(i, 0), 0, "widening");
  for (const uint32_t half : {0u, last_place / 2}) {
    for (const uint32_t places : {half - 1, half, half + 1}) {
      for (uint32_t i = 0; i < 65536; ++i) slab[i] = beyond_half(i, places);
      kernels.unpack(slab.data(), halves.plane, scratch.data());
      for (uint32_t i = 0; i < 65536; ++i) {
        expect<T>(halves.data[i], T(slab[i]), 0, "narrowing");
      }
    }
  }
}

/// The lists of one bin whose samples are at 0.5 and 1.5, by hand; then lists of random bins.
void test_lists() {
  const Axis<double> by_hand{0, 2, 2, 4};
  std::vector<Term<double>> terms;
  for_each_term<double>(by_hand, 0, [&](int64_t at, double w) { terms.push_back({at, w}); });
  expect<double>(terms.size(), 3, 0, "number of terms");
  for (int64_t i = 0; i < 3; ++i) {
    expect<double>(terms[i].at, i, 0, "pixel of a term");
    expect<double>(terms[i].weight, i == 1 ? 0.5 : 0.25, 0, "weight of a term");
  }
  std::uniform_real_distribution<double> start(-9, 20), size(-15, 15);
  for (int trial = 0; trial < 2000; ++trial) {
    const Axis<double> axis{start(engine), size(engine), 1 + trial % 40, kWidth};
    double expected[kWidth] = {}, found[kWidth] = {}, best = -INFINITY, most = -INFINITY;
    int64_t times[kWidth] = {}, outside = 0;
    for (int64_t s = 0; s < axis.samples; ++s) {
      double at = axis.start + (s + 0.5) * axis.bin_size / axis.samples;
      if (at < -1 || at > kWidth) {
        ++outside;
        continue;
      }
      at = std::min(std::max(at, 0.0), kWidth - 1.0);
      for (int64_t i = std::floor(at); i <= std::ceil(at); ++i) {
        expected[i] += (1 - std::abs(at - i)) / axis.samples;
      }
      best = std::max(best, at);  // the maximum on the map f(x) = x
    }
    for_each_term<double>(axis, 0, [&](int64_t i, double w) { found[i] += w, ++times[i]; });
    const bool cut = for_each_sample(axis, 0, [&](int64_t, const Tap<double>& tap) {
      most = std::max(most, tap.w_lo * tap.lo + tap.w_hi * tap.hi);
    });
    for (int64_t i = 0; i < kWidth; ++i) {
      expect<double>(found[i], expected[i], 1e-12, "weight of a random bin");
      expect<double>(times[i] <= 1, true, 0, "a pixel is emitted at most once");
    }
    expect<double>(cut, outside > 0, 0, "cut");
    expect<double>(most, best, 1e-12, "maximum of a random bin");
  }
}

int main() {
  test_lists();
  test_rois<double>();
  test_rois<float>();
  test_rois<Half>();
  test_rois<BFloat16>();
  test_halves<Half>(1 << 13);
  test_halves<BFloat16>(1 << 16);
  std::printf("%d failures\n", failures);
  return failures > 0;
}
