// RoIAlign on the CPU.
//
// A slab is a few channels of one image, repacked so that the channel is the innermost dimension.
// It fits the L2 cache. All RoIs of the image are computed from it with vectors of channels. The
// two axes are separate (see roi_align_geometry.h): the rows of the map that a row of bins reads
// are combined into one, and then each bin combines its columns. The backward is the same with the
// transposed lists of weights. Each element of a result is computed by one thread, in the backward
// too, so there are no atomics and the result does not depend on the number of threads.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <vector>

#include "cpu/passes.h"
#include "roi_align.h"

namespace mrcnn_plugin::cpu {
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

/// Asks for huge pages for a large new tensor: writing it then causes one page fault per 2 MiB
/// instead of one per 4 KiB. This is a hint, so its return value is ignored.
void advise_huge_pages(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto bytes = static_cast<uintptr_t>(t.numel() * t.element_size());
  if (bytes < kLargeResult) return;
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t begin = (address + kPage - 1) & ~(kPage - 1),
                  end = (address + bytes) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

/// The interface is documented in roi_align.h.
struct Backend {
  struct Guard {
    explicit Guard(const Tensor&) {}
  };

  static void check_images(const Tensor& boxes, int64_t batch) {
    boxes.scalar_type() == ScalarType::Double ? cpu::check_images<double>(boxes, batch)
                                              : cpu::check_images<float>(boxes, batch);
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
    advise_huge_pages(result.output);
    advise_huge_pages(result.argmax);
    for (size_t level = 0; level < features.size(); ++level) {
      const Tensor& maps = features[level];
      const Rois on_level{rois.boxes, rois.level_of, static_cast<int64_t>(level)};
      dispatch_maps(maps, [&](auto zero) {
        using scalar_t = decltype(zero);
        with_plan<accumulate_t<scalar_t>>(
            on_level, maps.size(0), maps.size(2), maps.size(3), options[level], Direction::kForward,
            [&](const auto& plan) { cpu::forward<scalar_t>(maps, plan, result); });
      });
    }
  }

  static void backward(const Tensor& grad_output, const LeveledRois& rois, int64_t level,
                       const Tensor& argmax, const RoiAlignOptions& options,
                       const Tensor& grad_features) {
    advise_huge_pages(grad_features);
    dispatch_maps(grad_output, [&](auto zero) {
      using scalar_t = decltype(zero);
      with_plan<accumulate_t<scalar_t>>(
          Rois{rois.boxes, rois.level_of, level}, grad_features.size(0), grad_features.size(2),
          grad_features.size(3), options, Direction::kBackward,
          [&](auto& plan) { cpu::backward<scalar_t>(grad_output, argmax, plan, grad_features); });
    });
  }
};

}  // namespace
}  // namespace mrcnn_plugin::cpu

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  mrcnn_plugin::register_roi_align<mrcnn_plugin::cpu::Backend>(m);
}
