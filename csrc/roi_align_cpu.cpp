// RoIAlign on the CPU.
//
// Channels are taken kLanes at a time: a slab of kLanes channels of one image is repacked so that
// they are the innermost dimension, and every loop below runs over them. The two axes are separate
// (see roi_align_geometry.h): a bin row first gathers its rows of the map into one, then each bin
// its columns. A thread owns its slabs, in the backward too, so there are no atomics and the result
// does not depend on the number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "roi_align_arguments.h"

namespace mrcnn_plugin {
namespace {

constexpr int64_t kLanes = 32;

// ---- The plan: every RoI's bins as lists of what they read, the same for all channels -----------

/// A pixel's share of the average over a bin.
template <typename acc_t>
struct Weight {
  int64_t pixel;
  acc_t weight;
};

/// A sample of a bin, for the maximum.
template <typename acc_t>
struct Sample {
  int64_t index, lo, hi;
  acc_t w_lo, w_hi;
};

template <typename Entry>
struct Span {
  const Entry *first, *last;
  const Entry* begin() const { return first; }
  const Entry* end() const { return last; }
};

template <typename Entry>
struct AxisPlan {
  std::vector<Entry> entries;
  std::vector<size_t> starts{0};  // entries of kept bin k: [starts[k], starts[k + 1])
  std::vector<char> cut;          // whether a sample of bin k is off the map (Sample entries only)
  int64_t begin = 0, end = 0;     // pixels read by any bin

  int64_t bins() const { return static_cast<int64_t>(starts.size()) - 1; }
  Span<Entry> operator[](int64_t bin) const {
    return {entries.data() + starts[bin], entries.data() + starts[bin + 1]};
  }
  void touch(int64_t lo, int64_t hi) {
    begin = begin == end ? lo : std::min(begin, lo);
    end = std::max(end, hi + 1);
  }
};

template <typename Entry>
struct RoiPlan {
  AxisPlan<Entry> y, x;
};

/// Adds to the pixel's entry of this bin; runs meet at pixels, so it is among the last three. A
/// pixel of weight zero is not read at all, so what it holds (NaN, infinity) cannot leak into the
/// bin.
template <typename acc_t>
void add(AxisPlan<Weight<acc_t>>& plan, int64_t pixel, acc_t weight) {
  if (weight == 0) return;
  plan.touch(pixel, pixel);
  const size_t size = plan.entries.size(), bin_start = plan.starts.back();
  for (size_t i = size; i > bin_start && i + 3 > size; --i) {
    if (plan.entries[i - 1].pixel != pixel) continue;
    plan.entries[i - 1].weight += weight;
    return;
  }
  plan.entries.push_back({pixel, weight});
}

template <typename acc_t, typename coord_t>
void append_bin(AxisPlan<Weight<acc_t>>& plan, const Axis<coord_t>& axis, int64_t bin) {
  for (int64_t sample = 0; sample < axis.samples;) {
    const Run<coord_t> run = run_from(axis, bin, sample);
    const Tap<coord_t> mean = mean_tap(axis, run);
    add(plan, mean.lo, static_cast<acc_t>(mean.w_lo));
    add(plan, mean.hi, static_cast<acc_t>(mean.w_hi));
    sample = run.end;
  }
}

template <typename acc_t, typename coord_t>
void append_bin(AxisPlan<Sample<acc_t>>& plan, const Axis<coord_t>& axis, int64_t bin) {
  bool cut = false;
  for (ExtremeSamples<coord_t> sample(axis, bin); !sample.done(); sample.advance()) {
    const Tap<coord_t>& tap = sample.tap();
    cut |= !tap.valid;
    if (!tap.valid) continue;
    plan.touch(tap.lo, tap.hi);
    plan.entries.push_back({sample.index(), tap.lo, tap.hi, static_cast<acc_t>(tap.w_lo),
                            static_cast<acc_t>(tap.w_hi)});
  }
  plan.cut.push_back(cut);
}

template <typename Entry, typename coord_t>
AxisPlan<Entry> plan_axis(const Axis<coord_t>& axis, int64_t pooled, int64_t bin_stride) {
  AxisPlan<Entry> plan;
  for (int64_t bin = 0, kept = kept_bins(pooled, bin_stride); kept > 0; --kept, bin += bin_stride) {
    append_bin(plan, axis, bin);
    plan.starts.push_back(plan.entries.size());
  }
  return plan;
}

template <typename Entry>
struct Plan {
  std::vector<RoiPlan<Entry>> rois;
  std::vector<std::vector<int64_t>> of_image;  // RoIs in their order

  int64_t rois_per_image() const { return rois.size() / std::max<size_t>(of_image.size(), 1); }
};

template <typename Entry, typename coord_t>
Plan<Entry> plan_rois(const Tensor& rois, int64_t batch, int64_t height, int64_t width,
                      const RoiAlignOptions& options) {
  const auto* boxes = static_cast<const coord_t*>(rois.const_data_ptr());
  const int64_t count = rois.size(0);
  Plan<Entry> plan{std::vector<RoiPlan<Entry>>(count), std::vector<std::vector<int64_t>>(batch)};
  for (int64_t r = 0; r < count; ++r) {
    const int64_t image = image_of(boxes[5 * r], batch);
    STD_TORCH_CHECK(image >= 0, "roi_align: the batch index of rois[", r, "] is ", boxes[5 * r],
                    "; expected an integer from 0 to N - 1 for features of N = ", batch, " images");
    plan.of_image[image].push_back(r);
  }
  torch::stable::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const coord_t* box = boxes + 5 * r + 1;
      const auto y = make_axis(box[1], box[3], options.pooled_height, height, options);
      const auto x = make_axis(box[0], box[2], options.pooled_width, width, options);
      plan.rois[r] = {plan_axis<Entry>(y, options.pooled_height, options.bin_stride),
                      plan_axis<Entry>(x, options.pooled_width, options.bin_stride)};
    }
  });
  return plan;
}

template <typename Entry>
Plan<Entry> make_plan(const Tensor& rois, int64_t batch, int64_t height, int64_t width,
                      const RoiAlignOptions& options) {
  return rois.scalar_type() == ScalarType::Double
             ? plan_rois<Entry, double>(rois, batch, height, width, options)
             : plan_rois<Entry, float>(rois, batch, height, width, options);
}

// ---- Slabs: (y, x, lane) copies of kLanes channels --------------------------------------------

/// Channels [channel, channel + lanes) of one image or RoI.
struct Slice {
  int64_t n, channel, lanes, height, width;
};

/// Calls copy(slab element, map element) for all of `slice`, in tiles that stay in the L1 cache:
/// neighbours are kLanes elements apart in the one, usually a whole channel apart in the other.
template <typename Copy>
void for_each_element(const Slice& slice, const Copy& copy) {
  constexpr int64_t kTile = 16;
  for (int64_t y = 0; y < slice.height; ++y) {
    for (int64_t tile = 0; tile < slice.width; tile += kTile) {
      const int64_t tile_end = std::min(tile + kTile, slice.width);
      for (int64_t lane = 0; lane < slice.lanes; ++lane) {
        for (int64_t x = tile; x < tile_end; ++x) {
          copy((y * slice.width + x) * kLanes + lane, lane + slice.channel, y, x);
        }
      }
    }
  }
}

template <typename T, typename acc_t>
void pack(const View<const T>& from, const Slice& slice, acc_t* slab) {
  for_each_element(slice, [&](int64_t i, int64_t c, int64_t y, int64_t x) {
    slab[i] = static_cast<acc_t>(from(slice.n, c, y, x));
  });
}

template <typename T, typename acc_t>
void unpack(const acc_t* slab, const Slice& slice, const View<T>& to) {
  for_each_element(slice, [&](int64_t i, int64_t c, int64_t y, int64_t x) {
    to(slice.n, c, y, x) = static_cast<T>(slab[i]);
  });
}

/// Calls work(image, first channel, number of channels) for every slab, in parallel if that pays:
/// `cost` is about the number of elements of a slab that the work reads or writes.
template <typename Work>
void for_each_slab(int64_t batch, int64_t channels, int64_t cost, const Work& work) {
  constexpr int64_t kSmall = int64_t{1} << 17;  // well below a millisecond
  const int64_t slabs = (channels + kLanes - 1) / kLanes;
  const int64_t grain = 1 + kSmall / (1 + cost * kLanes);
  torch::stable::parallel_for(0, batch * slabs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % slabs * kLanes;
      work(i / slabs, channel, std::min(kLanes, channels - channel));
    }
  });
}

// ---- One RoI on one slab -----------------------------------------------------------------------

template <typename acc_t>
void add_scaled(acc_t* __restrict to, const acc_t* __restrict from, acc_t scale, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += scale * from[i];
}

/// out (bins, lane) = A_y map A_x^T. `row` holds one row of the map.
template <typename acc_t>
void average(const RoiPlan<Weight<acc_t>>& roi, const acc_t* map, int64_t width, acc_t* row,
             acc_t* out) {
  const int64_t begin = roi.x.begin * kLanes, count = roi.x.end * kLanes - begin;
  for (int64_t p = 0; p < roi.y.bins(); ++p) {
    std::fill_n(row + begin, count, acc_t{0});
    for (const auto& tap : roi.y[p]) {
      add_scaled(row + begin, map + tap.pixel * width * kLanes + begin, tap.weight, count);
    }
    for (int64_t q = 0; q < roi.x.bins(); ++q, out += kLanes) {
      std::fill_n(out, kLanes, acc_t{0});
      for (const auto& tap : roi.x[q]) {
        add_scaled(out, row + tap.pixel * kLanes, tap.weight, kLanes);
      }
    }
  }
}

/// grad_map += A_y^T grad_out A_x, the transpose of `average`.
template <typename acc_t>
void average_backward(const RoiPlan<Weight<acc_t>>& roi, const acc_t* grad_out, int64_t width,
                      acc_t* row, acc_t* grad_map) {
  const int64_t begin = roi.x.begin * kLanes, count = roi.x.end * kLanes - begin;
  for (int64_t p = 0; p < roi.y.bins(); ++p) {
    std::fill_n(row + begin, count, acc_t{0});
    for (int64_t q = 0; q < roi.x.bins(); ++q, grad_out += kLanes) {
      for (const auto& tap : roi.x[q]) {
        add_scaled(row + tap.pixel * kLanes, grad_out, tap.weight, kLanes);
      }
    }
    for (const auto& tap : roi.y[p]) {
      add_scaled(grad_map + tap.pixel * width * kLanes + begin, row + begin, tap.weight, count);
    }
  }
}

/// to = the linear interpolation between two rows or columns of slab elements. A neighbour of
/// weight zero is not read.
template <typename acc_t>
void interpolate(const Sample<acc_t>& sample, const acc_t* lo, const acc_t* hi,
                 acc_t* __restrict to, int64_t count) {
  if (sample.w_hi == 0) {
    std::copy_n(lo, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = sample.w_lo * lo[i] + sample.w_hi * hi[i];
  }
}

/// Keeps the greater of `best` and `value`; the earlier of equals; a NaN over any number.
template <typename acc_t>
void keep_greater(const acc_t* __restrict value, int32_t index, acc_t* __restrict best,
                  int32_t* __restrict argmax) {
  for (int64_t i = 0; i < kLanes; ++i) {
    const bool greater = !(value[i] <= best[i]) & (best[i] == best[i]);
    const bool take = (argmax[i] < 0) | greater;
    best[i] = take ? value[i] : best[i];
    argmax[i] = take ? index : argmax[i];
  }
}

/// One row of bins of the maximum. Only samples on the map have an index; those off it count as
/// zero, which wins when all others are negative (index -1: no gradient).
template <typename acc_t>
void maximum_row(const RoiPlan<Sample<acc_t>>& roi, int64_t p, const acc_t* map, int64_t width,
                 acc_t* row, acc_t* best, int32_t* argmax) {
  const int64_t bins = roi.x.bins(), begin = roi.x.begin * kLanes;
  std::fill_n(best, bins * kLanes, acc_t{0});
  std::fill_n(argmax, bins * kLanes, -1);
  for (const auto& sy : roi.y[p]) {
    const acc_t *lo = map + sy.lo * width * kLanes, *hi = map + sy.hi * width * kLanes;
    interpolate(sy, lo + begin, hi + begin, row + begin, roi.x.end * kLanes - begin);
    for (int64_t q = 0; q < bins; ++q) {
      for (const auto& sx : roi.x[q]) {
        acc_t value[kLanes];
        interpolate(sx, row + sx.lo * kLanes, row + sx.hi * kLanes, value, kLanes);
        const auto index = static_cast<int32_t>(sy.index << kArgmaxBits | sx.index);
        keep_greater(value, index, best + q * kLanes, argmax + q * kLanes);
      }
    }
  }
  for (int64_t q = 0; q < bins; ++q) {
    if (!roi.y.cut[p] && !roi.x.cut[q]) continue;
    for (int64_t i = q * kLanes; i < (q + 1) * kLanes; ++i) {
      if (best[i] < 0) best[i] = 0, argmax[i] = -1;
    }
  }
}

template <typename acc_t>
const Sample<acc_t>* find_sample(const Span<Sample<acc_t>>& samples, int64_t index) {
  for (const auto& sample : samples) {
    if (sample.index == index) return &sample;
  }
  return nullptr;
}

template <typename acc_t>
void maximum_backward(const RoiPlan<Sample<acc_t>>& roi, const acc_t* grad_out,
                      const int32_t* argmax, int64_t width, acc_t* grad_map) {
  for (int64_t p = 0; p < roi.y.bins(); ++p) {
    for (int64_t q = 0; q < roi.x.bins(); ++q, grad_out += kLanes, argmax += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        if (argmax[lane] < 0) continue;
        const auto* sy = find_sample(roi.y[p], argmax[lane] >> kArgmaxBits);
        const auto* sx = find_sample(roi.x[q], argmax[lane] & kMostSamplesMax);
        if (sy == nullptr || sx == nullptr) continue;
        const auto pixel = [&](int64_t y, int64_t x) -> acc_t& {
          return grad_map[(y * width + x) * kLanes + lane];
        };
        pixel(sy->lo, sx->lo) += sy->w_lo * sx->w_lo * grad_out[lane];
        pixel(sy->lo, sx->hi) += sy->w_lo * sx->w_hi * grad_out[lane];
        pixel(sy->hi, sx->lo) += sy->w_hi * sx->w_lo * grad_out[lane];
        pixel(sy->hi, sx->hi) += sy->w_hi * sx->w_hi * grad_out[lane];
      }
    }
  }
}

// ---- All RoIs on all slabs ---------------------------------------------------------------------

template <typename T, typename Entry>
void forward(const Tensor& features, const Plan<Entry>& plan, const ForwardResult& result) {
  using acc_t = accumulate_t<T>;
  constexpr bool kMax = std::is_same_v<Entry, Sample<acc_t>>;
  const int64_t height = features.size(2), width = features.size(3);
  const int64_t out_height = result.output.size(2), out_width = result.output.size(3);
  const auto maps = const_view<T>(features);
  const auto output = mutable_view<T>(result.output);
  const int64_t cost = height * width + plan.rois_per_image() * out_height * out_width;
  for_each_slab(
      features.size(0), features.size(1), cost, [&](int64_t n, int64_t channel, int64_t lanes) {
        if (plan.of_image[n].empty()) return;
        std::vector<acc_t> map(height * width * kLanes), row(width * kLanes);
        std::vector<acc_t> out(out_height * out_width * kLanes);
        std::vector<int32_t> argmax(kMax ? out.size() : 0);
        pack(maps, {n, channel, lanes, height, width}, map.data());
        for (const int64_t r : plan.of_image[n]) {
          const Slice slice{r, channel, lanes, out_height, out_width};
          if constexpr (kMax) {
            for (int64_t p = 0, i = 0; p < out_height; ++p, i += out_width * kLanes) {
              maximum_row(plan.rois[r], p, map.data(), width, row.data(), &out[i], &argmax[i]);
            }
            unpack(argmax.data(), slice, mutable_view<int32_t>(result.argmax));
          } else {
            average(plan.rois[r], map.data(), width, row.data(), out.data());
          }
          unpack(out.data(), slice, output);
        }
      });
}

template <typename T, typename Entry>
void backward(const Tensor& grad_output, const Tensor& argmax, const Plan<Entry>& plan,
              const Tensor& grad_features) {
  using acc_t = accumulate_t<T>;
  constexpr bool kMax = std::is_same_v<Entry, Sample<acc_t>>;
  const int64_t height = grad_features.size(2), width = grad_features.size(3);
  const int64_t out_height = grad_output.size(2), out_width = grad_output.size(3);
  const int64_t batch = grad_features.size(0), channels = grad_features.size(1);
  const auto grad = const_view<T>(grad_output);
  const int64_t cost = height * width + plan.rois_per_image() * out_height * out_width;
  for_each_slab(batch, channels, cost, [&](int64_t n, int64_t channel, int64_t lanes) {
    std::vector<acc_t> map(height * width * kLanes), row(width * kLanes);
    std::vector<acc_t> out(out_height * out_width * kLanes);
    std::vector<int32_t> winners(kMax ? out.size() : 0, -1);
    for (const int64_t r : plan.of_image[n]) {
      const Slice slice{r, channel, lanes, out_height, out_width};
      pack(grad, slice, out.data());
      if constexpr (kMax) {
        pack(const_view<int32_t>(argmax), slice, winners.data());
        maximum_backward(plan.rois[r], out.data(), winners.data(), width, map.data());
      } else {
        average_backward(plan.rois[r], out.data(), width, row.data(), map.data());
      }
    }
    unpack(map.data(), {n, channel, lanes, height, width}, mutable_view<T>(grad_features));
  });
}

// ---- The ops -----------------------------------------------------------------------------------

/// Calls use(plan) with the plan of the mode in `options`.
template <typename acc_t, typename Use>
void with_plan(const Tensor& rois, int64_t batch, int64_t height, int64_t width,
               const RoiAlignOptions& options, const Use& use) {
  if (options.max) {
    use(make_plan<Sample<acc_t>>(rois, batch, height, width, options));
  } else {
    use(make_plan<Weight<acc_t>>(rois, batch, height, width, options));
  }
}

std::tuple<Tensor, Tensor> roi_align_cpu(const Tensor& features, const Tensor& rois,
                                         int64_t pooled_height, int64_t pooled_width,
                                         double spatial_scale, int64_t sampling_ratio, bool aligned,
                                         const std::string& mode, int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(features, "features");
  const Tensor boxes = prepare_rois(rois, features);
  const ForwardResult result = empty_result(features, boxes, options);
  dispatch_maps(features, [&](auto zero) {
    using scalar_t = decltype(zero);
    with_plan<accumulate_t<scalar_t>>(
        boxes, features.size(0), features.size(2), features.size(3), options,
        [&](const auto& plan) { forward<scalar_t>(features, plan, result); });
  });
  return {result.output, result.argmax};
}

Tensor roi_align_backward_cpu(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                              int64_t batch, int64_t channels, int64_t height, int64_t width,
                              int64_t pooled_height, int64_t pooled_width, double spatial_scale,
                              int64_t sampling_ratio, bool aligned, const std::string& mode,
                              int64_t bin_stride) {
  const RoiAlignOptions options = parse_options(pooled_height, pooled_width, spatial_scale,
                                                sampling_ratio, aligned, mode, bin_stride);
  check_maps(grad_output, "grad_output");
  const Tensor boxes = prepare_rois(rois, grad_output);
  check_backward(grad_output, boxes, argmax, channels, options);
  const Tensor grad_features =
      empty_maps(grad_output, grad_output.scalar_type(), batch, channels, height, width);
  dispatch_maps(grad_output, [&](auto zero) {
    using scalar_t = decltype(zero);
    with_plan<accumulate_t<scalar_t>>(boxes, batch, height, width, options, [&](const auto& plan) {
      backward<scalar_t>(grad_output, argmax, plan, grad_features);
    });
  });
  return grad_features;
}

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&mrcnn_plugin::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&mrcnn_plugin::roi_align_backward_cpu));
}
