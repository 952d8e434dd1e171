#include "cpu_memory.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

// Since torch 2.11. With 2.10 every result is a tensor of torch's own.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* result,
    int32_t layout, const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
    void (*deleter)(void* data, void* context), void* context);

namespace mrcnn_plugin {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMegabyte = int64_t{1} << 20;

// ---- Blocks ------------------------------------------------------------------------------------

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)
#define MRCNN_OUTPUT_CACHE 1

#ifndef MADV_POPULATE_WRITE  // Linux 5.14
#define MADV_POPULATE_WRITE 23
#endif

constexpr int64_t kHugePage = 2 * kMegabyte;

/// Whole huge pages.
struct Block {
  char* data;
  int64_t bytes;
};

void unmap(const Block& block) { munmap(block.data, block.bytes); }

/// A block at the address of a huge page; of no data when there is no memory.
Block map(int64_t bytes) {
  const int64_t mapped = bytes + kHugePage;
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return {nullptr, 0};
  auto* begin = static_cast<char*>(at);
  const int64_t head = -reinterpret_cast<uintptr_t>(begin) & (kHugePage - 1);
  if (head > 0) unmap({begin, head});
  unmap({begin + head + bytes, kHugePage - head});
  return {begin + head, bytes};
}

/// Clears the pages before the first write: results are written past the caches, and that is slow
/// where the kernel has just left a cleared page in them. Advice: nothing depends on it.
void populate(char* data, int64_t bytes) {
  constexpr int64_t kChunk = 8 * kHugePage;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(page - 1);
  auto* first = reinterpret_cast<char*>(begin);
  const auto size = static_cast<int64_t>(end - begin);
  madvise(first, size, MADV_HUGEPAGE);
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
    const int64_t last = std::min(to * kChunk, size);
    madvise(first + from * kChunk, last - from * kChunk, MADV_POPULATE_WRITE);
  });
}

// ---- The cache ---------------------------------------------------------------------------------

int64_t limit_from_environment() {
  const char* text = std::getenv("MRCNN_PLUGIN_OUTPUT_CACHE_MB");
  if (text == nullptr || *text == '\0') return 1024;
  const std::string digits = text;
  STD_TORCH_CHECK(digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string::npos,
                  "MRCNN_PLUGIN_OUTPUT_CACHE_MB must be a whole number of MiB (0: no cache), got '",
                  digits, "'");
  return std::stoll(digits);
}

/// Nobody ever waits for its lock: who does not get it does without the cache. So a process that
/// was forked while another thread had the lock goes on.
class OutputCache {
 public:
  /// Never destroyed: tensors may outlive every other static object.
  static OutputCache& instance() {
    static auto* cache = new OutputCache;
    return *cache;
  }

  Block take(int64_t bytes) {
    Block block = take_idle(bytes);
    if (block.data != nullptr) return block;
    block = map(bytes);
    if (block.data == nullptr) {
      trim(0);
      block = map(bytes);
      STD_TORCH_CHECK(block.data != nullptr, "roi_align: no memory for a result of ", bytes,
                      " bytes");
    }
    populate(block.data, block.bytes);
    return block;
  }

  void put(const Block& block) {
    madvise(block.data, block.bytes, MADV_FREE);
    {
      std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock()) return unmap(block);
      idle_.push_back(block);
    }
    trim(limit_ * kMegabyte);
  }

  int64_t set_limit(int64_t megabytes) {
    const int64_t before = limit_.exchange(megabytes);
    for (int attempt = 0; attempt < 1000 && !trim(megabytes * kMegabyte); ++attempt) sched_yield();
    return before;
  }

  bool on() const { return limit_ > 0; }

 private:
  /// The smallest idle block that is large enough and not twice too large.
  Block take_idle(int64_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return {nullptr, 0};
    auto best = idle_.end();
    for (auto it = idle_.begin(); it != idle_.end(); ++it) {
      const bool fits = it->bytes >= bytes && it->bytes <= 2 * bytes;
      if (fits && (best == idle_.end() || it->bytes < best->bytes)) best = it;
    }
    if (best == idle_.end()) return {nullptr, 0};
    const Block block = *best;
    idle_.erase(best);
    return block;
  }

  /// Returns the blocks that have been idle longest, until no more than `bytes` are. False: the
  /// lock was taken.
  bool trim(int64_t bytes) {
    std::vector<Block> surplus;
    {
      std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock()) return false;
      int64_t idle = 0;
      for (const Block& block : idle_) idle += block.bytes;
      for (; idle > bytes; idle -= surplus.back().bytes) {
        surplus.push_back(idle_.front());
        idle_.erase(idle_.begin());
      }
    }
    for (const Block& block : surplus) unmap(block);
    return true;
  }

  std::mutex mutex_;
  std::vector<Block> idle_;  // idle longest first
  std::atomic<int64_t> limit_{limit_from_environment()};
};

int64_t element_size(ScalarType type) {
  if (type == ScalarType::Double) return 8;
  return type == ScalarType::Float || type == ScalarType::Int ? 4 : 2;
}

/// 0 where the size overflows or is negative: torch says so in its own words.
int64_t byte_count(ScalarType type, const int64_t (&sizes)[4]) {
  int64_t bytes = element_size(type);
  for (const int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return 0;
  }
  return bytes <= INT64_MAX - 2 * kHugePage ? bytes : 0;
}

/// What torch calls when the tensor is gone, and perhaps also when there never is one: then the
/// block is not the tensor's yet.
struct Owner {
  Block block;
  bool owns;

  static void release(void*, void* context) {
    auto* owner = static_cast<Owner*>(context);
    if (!owner->owns) return;
    OutputCache::instance().put(owner->block);
    delete owner;
  }
};

Tensor empty_in_block(ScalarType type, const int64_t* sizes, const int64_t* strides,
                      int64_t bytes) {
  auto owner = std::make_unique<Owner>();
  owner->block = OutputCache::instance().take((bytes + kHugePage - 1) & ~(kHugePage - 1));
  AtenTensorHandle handle;
  const AOTITorchError error =
      torch_from_blob(owner->block.data, 4, sizes, strides, 0,
                      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                      aoti_torch_device_type_cpu(), -1, &handle, aoti_torch_layout_strided(),
                      nullptr, 0, Owner::release, owner.get());
  if (error != AOTI_TORCH_SUCCESS) OutputCache::instance().put(owner->block);
  TORCH_ERROR_CODE_CHECK(error);
  owner.release()->owns = true;
  return Tensor(handle);
}
#endif

}  // namespace

Tensor empty_cpu_maps(ScalarType type, int64_t n, int64_t c, int64_t h, int64_t w,
                      bool channels_last) {
  const auto cpu = torch::stable::Device(torch::headeronly::DeviceType::CPU);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const auto empty = [&] {
    return torch::stable::empty({n, c, h, w}, type, std::nullopt, cpu, std::nullopt, format);
  };
#ifdef MRCNN_OUTPUT_CACHE
  const int64_t sizes[4] = {n, c, h, w}, bytes = byte_count(type, sizes);
  if (bytes < kLargeResult) return empty();
  if (torch_from_blob != nullptr && OutputCache::instance().on()) {
    const int64_t planes[] = {c * h * w, h * w, w, 1}, pixels[] = {c * h * w, 1, c * w, c};
    return empty_in_block(type, sizes, channels_last ? pixels : planes, bytes);
  }
  const Tensor result = empty();
  populate(static_cast<char*>(result.mutable_data_ptr()), bytes);
  return result;
#else
  return empty();
#endif
}

int64_t set_output_cache(int64_t megabytes) {
  STD_TORCH_CHECK(megabytes >= 0 && megabytes <= INT64_MAX / kMegabyte,
                  "set_output_cache: expected MiB, 0 for no cache, got ", megabytes);
#ifdef MRCNN_OUTPUT_CACHE
  if (torch_from_blob != nullptr) return OutputCache::instance().set_limit(megabytes);
#endif
  return 0;
}

}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CompositeExplicitAutograd, m) {
  m.impl("set_output_cache", TORCH_BOX(&mrcnn_plugin::set_output_cache));
}
