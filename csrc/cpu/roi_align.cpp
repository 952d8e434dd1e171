// RoIAlign on the CPU.
//
// A slab of channels of one image is repacked so that they are the innermost dimension, small
// enough for the L2 cache; then every RoI of the image is computed from it with vectors of
// channels. The two axes are separate (see roi_align_geometry.h): a bin row first gathers its rows
// of the map into one, then each bin its columns; the backward is the same with the two lists of
// weights transposed. A thread owns its slabs, in the backward too, so there are no atomics and the
// result does not depend on the number of threads.
#include <vector>

#include "cpu_memory.h"
#include "roi_align.h"
#include "cpu/passes.h"

namespace mrcnn_plugin {
namespace {

/// Calls use(plan) with the plan of the mode in `options`.
template <typename acc_t, typename Use>
void with_plan(const Rois& rois, int64_t batch, int64_t height, int64_t width,
               const RoiAlignOptions& options, Direction direction, const Use& use) {
  if (options.max) {
    auto plan = make_plan<Sample<acc_t>>(rois, batch, height, width, options, direction);
    use(plan);
  } else {
    auto plan = make_plan<Term<acc_t>>(rois, batch, height, width, options, direction);
    use(plan);
  }
}

/// What roi_align.h asks of a device.
struct Cpu {
  struct Guard {
    explicit Guard(const Tensor&) {}
  };

  static Tensor empty_maps(const Tensor& like, ScalarType type, int64_t n, int64_t c, int64_t h,
                           int64_t w) {
    const bool channels_last = suggested_format(like) == MemoryFormat::ChannelsLast;
    return empty_cpu_maps(type, n, c, h, w, channels_last);
  }

  static void check_images(const Tensor& boxes, int64_t batch) {
    boxes.scalar_type() == ScalarType::Double ? mrcnn_plugin::check_images<double>(boxes, batch)
                                              : mrcnn_plugin::check_images<float>(boxes, batch);
  }

  static void check_level_of(const int64_t* level_of, int64_t rois, int64_t levels) {
    for (int64_t r = 0; r < rois; ++r) {
      STD_TORCH_CHECK(level_of[r] >= 0 && level_of[r] < levels,
                      "roi_align_levels: the level of rois[", r, "] is ", level_of[r],
                      "; expected 0 to ", levels - 1);
    }
  }

  static void forward(const std::vector<Tensor>& features, const LeveledRois& rois,
                      const std::vector<RoiAlignOptions>& options, const ForwardResult& result) {
    for (size_t level = 0; level < features.size(); ++level) {
      const Tensor& maps = features[level];
      const Rois on_level{rois.boxes, rois.level_of, static_cast<int64_t>(level)};
      dispatch_maps(maps, [&](auto zero) {
        using scalar_t = decltype(zero);
        with_plan<accumulate_t<scalar_t>>(
            on_level, maps.size(0), maps.size(2), maps.size(3), options[level], Direction::kForward,
            [&](const auto& plan) { mrcnn_plugin::forward<scalar_t>(maps, plan, result); });
      });
    }
  }

  static void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
                       const Tensor& argmax, const RoiAlignOptions& options,
                       const Tensor& grad_features) {
    dispatch_maps(grad_output, [&](auto zero) {
      using scalar_t = decltype(zero);
      with_plan<accumulate_t<scalar_t>>(
          Rois{rois.boxes, rois.level_of, level}, grad_features.size(0), grad_features.size(2),
          grad_features.size(3), options, Direction::kBackward, [&](auto& plan) {
            mrcnn_plugin::backward<scalar_t>(grad_output, argmax, plan, grad_features);
          });
    });
  }
};

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  mrcnn_plugin::register_roi_align<mrcnn_plugin::Cpu>(m);
}
