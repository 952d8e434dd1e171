// The plan of RoIAlign on the CPU lists for each RoI and axis what each bin reads, with weights. It
// is made once per call and is the same for all channels.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/threads.h"
#include "tensor.h"

namespace mrcnn_plugin::cpu {

/// Lists of entries: list i is [starts[i], starts[i + 1]). Positions count from `begin`.
template <typename Entry>
struct AxisPlan {
  std::vector<Entry> entries;
  std::vector<int64_t> starts{0};
  std::vector<char> cut;       // whether bin i has samples outside the map (Sample entries only)
  int64_t begin = 0, end = 0;  // pixels read by any bin
  int64_t each = 0;            // entries of the longest list; of all after `pad`

  int64_t lists() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t extent() const { return end - begin; }
  void touch(int64_t lo, int64_t hi) {
    begin = begin == end ? lo : std::min(begin, lo);
    end = std::max(end, hi + 1);
  }
  void end_list() {
    const auto size = static_cast<int64_t>(entries.size());
    each = std::max(each, size - starts.back());
    starts.push_back(size);
  }
};

template <typename acc_t>
Sums<acc_t> view(const AxisPlan<Term<acc_t>>& plan) {
  return {plan.entries.data(), plan.starts.data(), plan.lists(), plan.each};
}

template <typename acc_t>
Samples<acc_t> view(const AxisPlan<Sample<acc_t>>& plan) {
  return {plan.entries.data(), plan.starts.data(), plan.cut.data(), plan.lists(), plan.each};
}

// ---- The average -------------------------------------------------------------------------------

template <typename acc_t, typename coord_t>
void append_bin(AxisPlan<Term<acc_t>>& plan, const Axis<coord_t>& axis, int64_t bin) {
  for_each_term<acc_t>(axis, bin, [&](int64_t pixel, acc_t weight) {
    plan.touch(pixel, pixel);
    plan.entries.push_back({pixel, weight});
  });
  plan.end_list();
}

/// Replaces the terms of each bin by the terms of each pixel, in the order of the bins.
template <typename acc_t>
void transpose(AxisPlan<Term<acc_t>>& plan) {
  AxisPlan<Term<acc_t>> out;
  std::vector<int64_t> next(plan.extent() + 1, 0);
  for (const auto& term : plan.entries) ++next[term.at + 1];
  for (int64_t i = 0; i < plan.extent(); ++i) {
    out.each = std::max(out.each, next[i + 1]);
    next[i + 1] += next[i];
  }
  out.starts = next;
  out.entries.resize(plan.entries.size());
  for (int64_t bin = 0; bin < plan.lists(); ++bin) {
    for (int64_t i = plan.starts[bin]; i < plan.starts[bin + 1]; ++i) {
      out.entries[next[plan.entries[i].at]++] = {bin, plan.entries[i].weight};
    }
  }
  out.begin = plan.begin, out.end = plan.end;
  plan = std::move(out);
}

/// Pads all lists to the length of the longest, because a loop of constant length needs no branch
/// prediction.
template <typename acc_t>
void pad(AxisPlan<Term<acc_t>>& plan, int64_t zero) {
  if (plan.each * plan.lists() == static_cast<int64_t>(plan.entries.size())) return;
  std::vector<Term<acc_t>> padded(plan.each * plan.lists(), {zero, 0});
  for (int64_t i = 0; i < plan.lists(); ++i) {
    std::copy(plan.entries.begin() + plan.starts[i], plan.entries.begin() + plan.starts[i + 1],
              padded.begin() + plan.each * i);
  }
  plan.entries = std::move(padded);
}

// ---- The maximum -------------------------------------------------------------------------------

template <typename acc_t, typename coord_t>
void append_bin(AxisPlan<Sample<acc_t>>& plan, const Axis<coord_t>& axis, int64_t bin) {
  const bool cut = for_each_sample(axis, bin, [&](int64_t index, const Tap<coord_t>& tap) {
    plan.touch(tap.lo, tap.hi);
    plan.entries.push_back(
        {index, tap.lo, tap.hi, static_cast<acc_t>(tap.w_lo), static_cast<acc_t>(tap.w_hi)});
  });
  plan.cut.push_back(cut);
  plan.end_list();
}

// ---- Both --------------------------------------------------------------------------------------

enum class Direction { kForward, kBackward };

template <typename acc_t>
void finish(AxisPlan<Term<acc_t>>& plan, Direction direction, bool is_x) {
  for (auto& term : plan.entries) term.at -= plan.begin;
  const int64_t input = direction == Direction::kForward ? plan.extent() : plan.lists();
  if (direction == Direction::kBackward) transpose(plan);
  if (is_x) pad(plan, input);
}

template <typename acc_t>
void finish(AxisPlan<Sample<acc_t>>& plan, Direction, bool is_x) {
  for (auto& sample : plan.entries) {
    sample.lo -= plan.begin;
    sample.hi = sample.w_hi != 0 ? sample.hi - plan.begin : is_x ? plan.extent() : sample.lo;
  }
}

template <typename Entry, typename coord_t>
AxisPlan<Entry> plan_axis(const Axis<coord_t>& axis, int64_t pooled, int64_t bin_stride,
                          Direction direction, bool is_x) {
  AxisPlan<Entry> plan;
  const int64_t kept = kept_bins(pooled, bin_stride);
  plan.starts.reserve(kept + 1);
  plan.entries.reserve(4 * kept);
  for (int64_t k = 0; k < kept; ++k) append_bin(plan, axis, k * bin_stride);
  finish(plan, direction, is_x);
  return plan;
}

template <typename Entry>
struct RoiPlan {
  AxisPlan<Entry> y, x;
  bool empty() const { return y.extent() == 0 || x.extent() == 0; }
};

/// The part of a map that is repacked.
struct Window {
  int64_t y = 0, x = 0, height = 0, width = 0;
};

/// The RoIs of one image in their order, and a window that contains all pixels that they read.
struct ImagePlan {
  int64_t index = 0;  // of the image, if it has RoIs
  std::vector<int64_t> rois;
  Window window;
};

template <typename Entry>
struct Plan {
  std::vector<RoiPlan<Entry>> rois;
  std::vector<ImagePlan> images;  // forward: those with RoIs; backward: all

  int64_t largest_window() const {
    int64_t area = 0;
    for (const auto& image : images) {
      area = std::max(area, image.window.height * image.window.width);
    }
    return area;
  }
  int64_t rois_per_image() const { return rois.size() / std::max<size_t>(images.size(), 1); }
  int64_t widest() const {
    int64_t width = 0;
    for (const auto& roi : rois) width = std::max(width, roi.x.extent());
    return width;
  }
};

/// The smallest window that contains all RoIs, widened to whole vectors of pixels where the map has
/// them, and to whole rows if it is almost as wide.
template <typename Entry>
Window window_of(const std::vector<RoiPlan<Entry>>& plans, const std::vector<int64_t>& rois,
                 int64_t map_width) {
  constexpr int64_t kPixels = 16;
  int64_t top = INT64_MAX, left = INT64_MAX, bottom = 0, right = 0;
  for (const int64_t r : rois) {
    if (plans[r].empty()) continue;
    top = std::min(top, plans[r].y.begin), bottom = std::max(bottom, plans[r].y.end);
    left = std::min(left, plans[r].x.begin), right = std::max(right, plans[r].x.end);
  }
  if (bottom == 0) return {};
  int64_t width = (right - left + kPixels - 1) / kPixels * kPixels;
  if (width + kPixels > map_width) width = map_width;
  return {top, std::min(left, map_width - width), bottom - top, width};
}

/// The RoIs to process: all of them, or those assigned to one pyramid level.
struct Rois {
  const Tensor& boxes;              // (R, 5)
  const int64_t* levels = nullptr;  // (R)
  int64_t level = 0;

  bool has(int64_t r) const { return levels == nullptr || levels[r] == level; }
};

/// Throws if a batch index is not that of an image. Must be called before a plan is made.
template <typename coord_t>
void check_images(const Tensor& rois, int64_t batch) {
  const auto* boxes = static_cast<const coord_t*>(rois.const_data_ptr());
  for (int64_t r = 0; r < rois.size(0); ++r) {
    STD_TORCH_CHECK(image_of(boxes[5 * r], batch) >= 0, "roi_align: the batch index of rois[", r,
                    "] is ", boxes[5 * r],
                    "; expected an integer from 0 to N - 1 for features of N = ", batch, " images");
  }
}

/// The images of a call with their RoIs. The forward skips images without RoIs; the backward fills
/// their gradient, so there every image is at its own index.
template <typename coord_t>
std::vector<ImagePlan> group_by_image(const Rois& rois, int64_t batch, Direction direction) {
  const auto* boxes = static_cast<const coord_t*>(rois.boxes.const_data_ptr());
  const auto image = [&](int64_t r) { return image_of(boxes[5 * r], batch); };
  std::vector<int64_t> order;
  for (int64_t r = 0; r < rois.boxes.size(0); ++r) {
    if (rois.has(r)) order.push_back(r);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return image(a) < image(b); });
  const bool all = direction == Direction::kBackward;
  std::vector<ImagePlan> images(all ? batch : 0);
  for (const int64_t r : order) {
    const bool is_new = images.empty() || images.back().index != image(r);
    if (!all && is_new) images.emplace_back();
    ImagePlan& plan = all ? images[image(r)] : images.back();
    plan.index = image(r);
    plan.rois.push_back(r);
  }
  return images;
}

template <typename Entry, typename coord_t>
Plan<Entry> plan_rois(const Rois& rois, int64_t batch, int64_t height, int64_t width,
                      const RoiAlignOptions& options, Direction direction) {
  const auto* boxes = static_cast<const coord_t*>(rois.boxes.const_data_ptr());
  const int64_t count = rois.boxes.size(0);
  Plan<Entry> plan{std::vector<RoiPlan<Entry>>(count),
                   group_by_image<coord_t>(rois, batch, direction)};
  constexpr int64_t kGrain = 1024;  // RoIs: about a millisecond
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (!rois.has(r)) continue;
      const coord_t* box = boxes + 5 * r + 1;
      const auto y = make_axis(box[1], box[3], options.pooled_height, height, options);
      const auto x = make_axis(box[0], box[2], options.pooled_width, width, options);
      plan.rois[r].y =
          plan_axis<Entry>(y, options.pooled_height, options.bin_stride, direction, false);
      plan.rois[r].x =
          plan_axis<Entry>(x, options.pooled_width, options.bin_stride, direction, true);
    }
  });
  for (auto& image : plan.images) image.window = window_of(plan.rois, image.rois, width);
  return plan;
}

template <typename Entry>
Plan<Entry> make_plan(const Rois& rois, int64_t batch, int64_t height, int64_t width,
                      const RoiAlignOptions& options, Direction direction) {
  try {
    return rois.boxes.scalar_type() == ScalarType::Double
               ? plan_rois<Entry, double>(rois, batch, height, width, options, direction)
               : plan_rois<Entry, float>(rois, batch, height, width, options, direction);
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, "roi_align: could not allocate the lists of the pixels that ",
                    rois.boxes.size(0), " RoIs of ", options.pooled_height, " x ",
                    options.pooled_width, " bins read. Pass fewer RoIs per call, or a smaller ",
                    "output_size");
  }
}

}  // namespace mrcnn_plugin::cpu
