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
  std::vector<char> cut;          // whether some sample of the bin is off the map
  int64_t begin = 0, end = 0;     // pixels read by any bin

  int64_t bins() const { return static_cast<int64_t>(cut.size()); }
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

/// Adds to the pixel's entry of this bin; runs meet at pixels, so it is among the last two. A pixel
/// of weight zero is not read at all, so what it holds (NaN, infinity) cannot leak into the bin.
template <typename acc_t>
void add(AxisPlan<Weight<acc_t>>& plan, int64_t pixel, acc_t weight) {
  if (weight == 0) return;
  plan.touch(pixel, pixel);
  const size_t size = plan.entries.size(), bin_start = plan.starts.back();
  for (size_t i = size; i > bin_start && i + 2 > size; --i) {
    if (plan.entries[i - 1].pixel != pixel) continue;
    plan.entries[i - 1].weight += weight;
    return;
  }
  plan.entries.push_back({pixel, weight});
}

template <typename acc_t, typename coord_t>
void append(AxisPlan<Weight<acc_t>>& plan, const Run<coord_t>& run, int64_t samples) {
  const coord_t half = static_cast<coord_t>(run.end - run.begin) / static_cast<coord_t>(samples) / 2;
  add(plan, run.first.lo, static_cast<acc_t>((run.first.w_lo + run.last.w_lo) * half));
  add(plan, run.first.hi, static_cast<acc_t>((run.first.w_hi + run.last.w_hi) * half));
}

template <typename acc_t, typename coord_t>
void append(AxisPlan<Sample<acc_t>>& plan, const Run<coord_t>& run, int64_t) {
  const auto push = [&](int64_t index, const Tap<coord_t>& tap) {
    plan.touch(tap.lo, tap.hi);
    plan.entries.push_back(
        {index, tap.lo, tap.hi, static_cast<acc_t>(tap.w_lo), static_cast<acc_t>(tap.w_hi)});
  };
  push(run.begin, run.first);
  if (run.end - run.begin > 1) push(run.end - 1, run.last);
}

template <typename Entry, typename coord_t>
AxisPlan<Entry> plan_axis(const Axis<coord_t>& axis, int64_t pooled, int64_t bin_stride) {
  AxisPlan<Entry> plan;
  for (int64_t bin = 0; bin < pooled; bin += bin_stride) {
    bool cut = false;
    for (int64_t sample = 0; sample < axis.samples;) {
      const Run<coord_t> run = run_from(axis, bin, sample);
      if (run.first.valid) append(plan, run, axis.samples);
      cut |= !run.first.valid;
      sample = run.end;
    }
    plan.starts.push_back(plan.entries.size());
    plan.cut.push_back(cut);
  }
  return plan;
}

template <typename Entry>
struct Plan {
  std::vector<RoiPlan<Entry>> rois;
  std::vector<std::vector<int64_t>> of_image;  // RoIs in their order
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
  torch::stable::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
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

/// Calls work(image, first channel, number of channels) for every slab, in parallel.
template <typename Work>
void for_each_slab(int64_t batch, int64_t channels, const Work& work) {
  const int64_t slabs = (channels + kLanes - 1) / kLanes;
  torch::stable::parallel_for(0, batch * slabs, 1, [&](int64_t begin, int64_t end) {
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

}  // namespace
}  // namespace mrcnn_plugin
