// Memory of the large results of the CPU kernels.
//
// The first write to each page of fresh memory interrupts the program while the kernel clears the
// page. For a RoIAlign of 400 MB that takes as long as RoIAlign, and a training loop pays it in
// every iteration, since glibc returns blocks of this size to the system as soon as they are freed.
// Large results therefore live in blocks that are kept for the next one, up to a limit. An idle
// block is marked as free (MADV_FREE), so that the system takes its pages when it is short of
// memory. New memory has huge pages, cleared by all threads before they are written.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace mrcnn_plugin {

/// Results of at least so many bytes are kept for reuse, and too large for any processor's cache.
constexpr int64_t kLargeResult = int64_t{32} << 20;

/// An uninitialised contiguous or channels-last (N, C, H, W) tensor on the CPU. Throws when there
/// is no memory, or when MRCNN_PLUGIN_OUTPUT_CACHE_MB is not a whole number.
torch::stable::Tensor empty_cpu_maps(torch::headeronly::ScalarType type, int64_t n, int64_t c,
                                     int64_t h, int64_t w, bool channels_last);

/// Keeps at most so many MiB of idle blocks from now on, and frees those above. Returns the limit
/// until now; before the first call that is MRCNN_PLUGIN_OUTPUT_CACHE_MB, else 1024.
int64_t set_output_cache(int64_t megabytes);

}  // namespace mrcnn_plugin
