// Non-maximum suppression: what the devices share.
#pragma once

#include <cmath>
#include <limits>

namespace mrcnn_plugin {

/// The largest float that is not above `threshold`: a float exceeds both or neither.
inline float float_threshold(double threshold) {
  constexpr float kMost = std::numeric_limits<float>::max();
  if (std::isnan(threshold) || std::isinf(threshold)) return static_cast<float>(threshold);
  if (threshold >= kMost) return kMost;
  if (threshold < -kMost) return -std::numeric_limits<float>::infinity();
  const auto rounded = static_cast<float>(threshold);
  return rounded > threshold ? std::nextafter(rounded, -2 * kMost) : rounded;
}

}  // namespace mrcnn_plugin
