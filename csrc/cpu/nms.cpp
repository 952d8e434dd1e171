// Non-maximum suppression on the CPU: equal to torchvision's, and it stops at max_kept boxes.
//
// torchvision compares each kept box with all later ones. Here each box is compared with the kept
// ones, which suppresses the same boxes: only kept boxes suppress. The loop over the kept boxes can
// stop at the first that overlaps, and no box after the last kept one is compared at all.
#include "nms.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace mrcnn_plugin::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

IsSuppressed* is_suppressed_for(Isa isa) {
  switch (isa) {
#ifdef MRCNN_MULTIPLE_ISAS
    case Isa::kAvx512:
      return avx512::is_suppressed;
    case Isa::kAvx2:
      return avx2::is_suppressed;
#endif
    default:
      return baseline::is_suppressed;
  }
}

void check(const Tensor& boxes, const Tensor& scores, int64_t max_kept) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && scores.dim() == 1 &&
                      scores.size(0) == boxes.size(0),
                  "nms: boxes must be (N, 4) and scores (N)");
  STD_TORCH_CHECK(
      boxes.scalar_type() == ScalarType::Float && scores.scalar_type() == ScalarType::Float,
      "nms: boxes and scores must be float32, got ",
      torch::headeronly::toString(boxes.scalar_type()), " and ",
      torch::headeronly::toString(scores.scalar_type()));
  STD_TORCH_CHECK(boxes.size(0) <= UINT32_MAX, "nms: there are more than 2^32 - 1 boxes");
  STD_TORCH_CHECK(max_kept >= -1, "nms: max_kept must be -1 (all) or at least 0, got ", max_kept);
}

/// A key that ascends where the score descends, then the index. NaN comes first, as in torch.sort.
uint64_t sort_key(float score, uint32_t index) {
  if (std::isnan(score)) return index;
  score += 0.0f;  // -0 is equal to 0
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const uint32_t descending = bits >> 31 ? bits : ~bits ^ 0x80000000u;
  return uint64_t{descending} << 32 | index;
}

std::vector<uint64_t> sorted_keys(const Tensor& scores) {
  const auto* data = static_cast<const float*>(scores.const_data_ptr());
  std::vector<uint64_t> keys(scores.size(0));
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = sort_key(data[static_cast<int64_t>(i) * scores.stride(0)], static_cast<uint32_t>(i));
  }
  if (!std::is_sorted(keys.begin(), keys.end())) std::sort(keys.begin(), keys.end());
  return keys;
}

/// The kept boxes as KeptBoxes needs them.
class Kept {
 public:
  void add(const Box& box) {
    const float values[] = {box.x1, box.y1, box.x2, box.y2, box.area};
    for (size_t field = 0; field < fields_.size(); ++field) {
      std::vector<float>& array = fields_[field];
      if (count_ % kBoxBlock == 0) array.resize(count_ + kBoxBlock, std::nanf(""));
      array[count_] = values[field];
    }
    ++count_;
  }
  KeptBoxes view() const {
    return {fields_[0].data(), fields_[1].data(), fields_[2].data(),
            fields_[3].data(), fields_[4].data(), count_};
  }

 private:
  std::array<std::vector<float>, 5> fields_;
  int64_t count_ = 0;
};

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, int64_t max_kept) {
  check(boxes, scores, max_kept);
  const size_t most = max_kept < 0 ? SIZE_MAX : static_cast<size_t>(max_kept);
  const auto* data = static_cast<const float*>(boxes.const_data_ptr());
  const float threshold = float_threshold(iou_threshold);
  IsSuppressed* const is_suppressed = is_suppressed_for(current_isa());
  Kept kept;
  std::vector<int64_t> indices;
  for (const uint64_t key : sorted_keys(scores)) {
    if (indices.size() >= most) break;
    const auto index = static_cast<int64_t>(key & UINT32_MAX);
    const float* at = data + index * boxes.stride(0);
    const int64_t step = boxes.stride(1);
    const float x1 = at[0], y1 = at[step], x2 = at[2 * step], y2 = at[3 * step];
    const Box box{x1, y1, x2, y2, (x2 - x1) * (y2 - y1)};
    if (is_suppressed(kept.view(), box, threshold)) continue;
    kept.add(box);
    indices.push_back(index);
  }
  const Tensor result =
      torch::stable::new_empty(boxes, {static_cast<int64_t>(indices.size())}, ScalarType::Long);
  if (!indices.empty()) {
    std::memcpy(result.mutable_data_ptr(), indices.data(), indices.size() * sizeof(int64_t));
  }
  return result;
}

}  // namespace
}  // namespace mrcnn_plugin::cpu

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("nms", TORCH_BOX(&mrcnn_plugin::cpu::nms));
}
