// The buffers of RoIAlign on the CPU, and the distribution of slabs to threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "cpu/kernels.h"

namespace mrcnn_plugin::cpu {

/// Uninitialised memory, aligned to a cache line.
template <typename E>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(allocate(count * sizeof(E))) {}
  E* data() const { return data_.get(); }

 private:
  static E* allocate(size_t bytes) {
    void* data = ::operator new(bytes, kAlignment, std::nothrow);
    STD_TORCH_CHECK(data != nullptr, "roi_align: could not allocate ", bytes,
                    " bytes of scratch memory; every thread needs up to ", kWideLanes,
                    " channels of the map. Lower the number of threads (torch.set_num_threads) or ",
                    "the size of the map");
    return static_cast<E*>(data);
  }

  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(E* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<E, Delete> data_;
};

/// torch's parallel_for, except that it throws what `work` throws. torch's own drops the message.
template <typename Work>
void parallel_for(int64_t count, int64_t grain, const Work& work) {
  std::exception_ptr error;
  std::mutex mutex;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    try {
      work(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

/// Channels [channel, channel + lanes) of an image. `image` is its position in the plan.
struct Slab {
  int64_t index, image, channel, lanes;
};

/// The slabs of a batch of maps, divided into tasks for threads.
struct SlabLoop {
  int64_t channels, lanes, slabs_per_image, slabs;
  bool narrow;

  SlabLoop(int64_t batch, int64_t channels)
      : channels(channels), narrow(channels <= 2 * kNarrowLanes) {
    lanes = narrow ? kNarrowLanes : kWideLanes;
    slabs_per_image = (channels + lanes - 1) / lanes;
    slabs = batch * slabs_per_image;
  }

  /// The number of parts into which the RoIs of a slab are divided. It is 1 unless there are more
  /// threads than slabs.
  int64_t parts() const {
    const int64_t threads = torch::stable::get_num_threads();
    return slabs == 0 || slabs >= threads ? 1 : (2 * threads + slabs - 1) / slabs;
  }

  /// Calls work(slab, part, space) for all parts of all slabs, in parallel if that is faster.
  /// `cost` is roughly the number of pixels and bins of a part. make_space() is called once per
  /// thread.
  template <typename MakeSpace, typename Work>
  void run(int64_t parts, int64_t cost, const MakeSpace& make_space, const Work& work) const {
    constexpr int64_t kSmall = int64_t{1} << 20;  // elements: a fraction of a millisecond
    const int64_t grain = 1 + kSmall / (1 + cost * lanes);
    const int64_t tasks = slabs * parts, threads = torch::stable::get_num_threads();
    // Threads take tasks from a shared counter, so a thread whose core is busy with another process
    // does not delay the others.
    std::atomic<int64_t> next{0};
    parallel_for(std::min(threads, tasks / grain + 1), 1, [&](int64_t, int64_t) {
      auto space = make_space();
      for (int64_t i = next++; i < tasks; i = next++) {
        const int64_t index = i / parts, channel = index % slabs_per_image * lanes;
        work(Slab{index, index / slabs_per_image, channel, std::min(lanes, channels - channel)},
             i % parts, space);
      }
#if defined(__x86_64__)
      _mm_sfence();  // orders the non-temporal stores
#endif
    });
  }
};

}  // namespace mrcnn_plugin::cpu
