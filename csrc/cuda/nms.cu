// Non-maximum suppression on CUDA, of boxes that are sorted by descending score.
//
// One kernel computes which later boxes each box overlaps, as bits. Then one block of threads walks
// through the boxes, 64 at a time: it decides which of them are kept, and marks what these drop of
// all later ones. It ends at max_kept boxes. Overlaps are rounded as on the CPU, so the boxes that
// are kept are the same.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "cuda/launch.cuh"
#include "nms.h"

namespace mrcnn_plugin::cuda {
namespace {

using Bits = unsigned long long;  // the type of atomicOr

constexpr int kBits = 64;
constexpr int kOverlapThreads = 128, kWalkThreads = 1024;
constexpr int64_t kMostWords = 6000;  // fit into the 48 KiB of shared memory of any GPU

__device__ bool overlaps(const float* a, const float* b, float threshold) {
  const float left = a[0] < b[0] ? b[0] : a[0], top = a[1] < b[1] ? b[1] : a[1];
  const float right = a[2] > b[2] ? b[2] : a[2], bottom = a[3] > b[3] ? b[3] : a[3];
  const float width = right - left, height = bottom - top;
  const float intersection = (width > 0 ? width : 0) * (height > 0 ? height : 0);
  const float area_a = (a[2] - a[0]) * (a[3] - a[1]), area_b = (b[2] - b[0]) * (b[3] - b[1]);
  return intersection / (area_a + area_b - intersection) > threshold;
}

/// One thread per box and word of 64 boxes. Words before that of the box itself are not written.
__global__ void overlap_kernel(const float* boxes, int64_t count, int64_t words, float threshold,
                               Bits* dropped_by) {
  const int64_t thread = thread_index();
  // Neighbouring threads have neighbouring boxes and the same word, so they read the same others.
  const int64_t word = thread / count, box = thread % count;
  if (word >= words || word < box / kBits) return;
  const float own[] = {boxes[4 * box], boxes[4 * box + 1], boxes[4 * box + 2], boxes[4 * box + 3]};
  const int64_t first = word * kBits, end = first + kBits < count ? first + kBits : count;
  Bits bits = 0;
  for (int64_t other = first > box ? first : box + 1; other < end; ++other) {
    if (overlaps(own, boxes + 4 * other, threshold)) bits |= Bits{1} << (other - first);
  }
  dropped_by[box * words + word] = bits;
}

/// The boxes of a word that are kept: those that neither an earlier word nor an earlier kept box of
/// the word drops, at most `room`.
__device__ Bits keep_of_word(Bits dropped, const Bits* dropped_by, int64_t boxes, int64_t room) {
  Bits kept = 0;
  for (int i = 0; i < boxes && room > 0; ++i) {
    if (dropped >> i & 1) continue;
    kept |= Bits{1} << i;
    dropped |= dropped_by[i];
    --room;
  }
  return kept;
}

/// One block. kept: the indices of the kept boxes, ascending; kept_count: their number.
__global__ void walk_kernel(const Bits* dropped_by, int64_t count, int64_t words, int64_t most,
                            int64_t* kept, int64_t* kept_count) {
  extern __shared__ Bits shared[];
  Bits* const dropped = shared;       // (words), of all boxes
  Bits* const own = shared + words;   // (kBits), dropped_by of the current word
  Bits* const current = own + kBits;  // (1), the kept boxes of the word
  const int thread = threadIdx.x;
  for (int64_t word = thread; word < words; word += kWalkThreads) dropped[word] = 0;
  int64_t found = 0;
  for (int64_t word = 0; word < words && found < most; ++word) {
    const int64_t first = word * kBits;
    const int64_t boxes = count - first < kBits ? count - first : kBits;
    if (thread < boxes) own[thread] = dropped_by[(first + thread) * words + word];
    __syncthreads();
    if (thread == 0) *current = keep_of_word(dropped[word], own, boxes, most - found);
    __syncthreads();
    const Bits keep = *current;
    if (thread < kBits && (keep >> thread & 1)) {
      kept[found + __popcll(keep & ((Bits{1} << thread) - 1))] = first + thread;
    }
    found += __popcll(keep);
    const int later = static_cast<int>(words - word - 1), pairs = static_cast<int>(boxes) * later;
    for (int i = thread; i < pairs; i += kWalkThreads) {
      const int box = i / later;
      const int64_t at = word + 1 + i % later;
      if (!(keep >> box & 1)) continue;
      const Bits bits = dropped_by[(first + box) * words + at];
      if (bits != 0) atomicOr(dropped + at, bits);
    }
    __syncthreads();
  }
  if (thread == 0) *kept_count = found;
}

/// boxes: (N, 4) float32, contiguous. Returns the indices of the kept boxes, (N) of which the first
/// K are set, and K, both int64.
std::tuple<Tensor, Tensor> nms_sorted(const Tensor& boxes, double iou_threshold, int64_t max_kept) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_contiguous() &&
                      boxes.scalar_type() == ScalarType::Float,
                  "nms_sorted: boxes must be (N, 4), float32, contiguous");
  STD_TORCH_CHECK(max_kept >= -1, "nms_sorted: max_kept must be -1 (all) or at least 0, got ",
                  max_kept);
  const int64_t count = boxes.size(0), words = (count + kBits - 1) / kBits;
  STD_TORCH_CHECK(words <= kMostWords, "nms: at most ", kMostWords * kBits, " boxes on CUDA, got ",
                  count, ". Keep the best by `scores.topk` before.");
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor kept = torch::stable::new_empty(boxes, {count}, ScalarType::Long);
  const Tensor kept_count = torch::stable::new_zeros(boxes, {1}, ScalarType::Long);
  if (count == 0) return {kept, kept_count};
  const cudaStream_t stream = current_stream(boxes);
  Tensor block;
  Bits* const dropped_by = Scratch::make(
      boxes, block, [&](Scratch& scratch) { return scratch.take<Bits>(count * words); });
  launch(overlap_kernel, count * words, kOverlapThreads, stream,
         static_cast<const float*>(boxes.const_data_ptr()), count, words,
         float_threshold(iou_threshold), dropped_by);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(kWalkThreads);
  config.dynamicSmemBytes = (words + kBits + 1) * sizeof(Bits);
  config.stream = stream;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, walk_kernel, static_cast<const Bits*>(dropped_by),
                                    count, words, max_kept < 0 ? count : max_kept,
                                    static_cast<int64_t*>(kept.mutable_data_ptr()),
                                    static_cast<int64_t*>(kept_count.mutable_data_ptr())));
  return {kept, kept_count};
}

}  // namespace
}  // namespace mrcnn_plugin::cuda

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("nms_sorted", TORCH_BOX(&mrcnn_plugin::cuda::nms_sorted));
}
