// The running softmax of flash decoding, in loops that the compiler turns into vectors.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidemill::blockgtq {

inline constexpr float kNothing = -1e30f;

// 2^x for x <= 127, relative error below 3e-7; 0 below 2^-126.
inline float exp2_fast(float x) {
  const float bounded = x < -126.0f ? -126.0f : x;
  const float shifted = bounded + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest whole number
  const float rest = bounded - (shifted - 12582912.0f);
  float power = 1.5403530e-4f;
  power = power * rest + 1.3333558e-3f;
  power = power * rest + 9.6181291e-3f;
  power = power * rest + 5.5504109e-2f;
  power = power * rest + 2.4022651e-1f;
  power = power * rest + 6.9314718e-1f;
  power = power * rest + 1.0f;
  const int32_t whole = std::bit_cast<int32_t>(shifted) - 0x4b400000;
  const float scaled = std::bit_cast<float>(std::bit_cast<int32_t>(power) + (whole << 23));
  return x < -126.0f ? 0.0f : scaled;
}

// Weighted sum of values with its running maximum (log2) and denominator, for some heads.
struct Partial {
  size_t dim;
  std::vector<float> top, sum, out;
  Partial(size_t heads, size_t dim_)
      : dim(dim_), top(heads, kNothing), sum(heads, 0.0f), out(heads * dim_, 0.0f) {}

  // Turns scores (log2) into weights below a common maximum; out and sum follow it. `count` is a
  // multiple of 8: lanes of their own, because the compiler may not reorder floating-point sums.
  void weigh(size_t head, float* scores, size_t count) {
    float lanes[8], highest = top[head];
    std::fill_n(lanes, 8, highest);
    for (size_t t = 0; t < count; t += 8)
      for (size_t i = 0; i < 8; ++i) lanes[i] = lanes[i] < scores[t + i] ? scores[t + i] : lanes[i];
    for (const float lane : lanes) highest = std::max(highest, lane);
    if (highest > top[head]) {
      const float factor = exp2_fast(top[head] - highest);
      sum[head] *= factor;
      float* at = out.data() + head * dim;
      for (size_t i = 0; i < dim; ++i) at[i] *= factor;
      top[head] = highest;
    }
    std::fill_n(lanes, 8, 0.0f);
    for (size_t t = 0; t < count; t += 8)
      for (size_t i = 0; i < 8; ++i) {
        scores[t + i] = exp2_fast(scores[t + i] - highest);
        lanes[i] += scores[t + i];
      }
    for (const float lane : lanes) sum[head] += lane;
  }

  void merge(const Partial& other) {
    for (size_t head = 0; head < top.size(); ++head) {
      const float highest = std::max(top[head], other.top[head]);
      const float mine = exp2_fast(top[head] - highest), its = exp2_fast(other.top[head] - highest);
      top[head] = highest;
      sum[head] = sum[head] * mine + other.sum[head] * its;
      for (size_t i = head * dim; i < (head + 1) * dim; ++i)
        out[i] = out[i] * mine + other.out[i] * its;
    }
  }
};

}  // namespace tidemill::blockgtq
