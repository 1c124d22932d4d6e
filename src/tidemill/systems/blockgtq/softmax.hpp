// The running softmax of flash decoding, in loops that the compiler turns into vectors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "exponent.hpp"

namespace tidemill::blockgtq {

inline constexpr float kNothing = -1e30f;

// Weighted sum of values with its running maximum (log2) and denominator, for some heads.
struct Partial {
  size_t dim;
  std::vector<float> top, sum, out;
  Partial(size_t heads, size_t dim_)
      : dim(dim_), top(heads, kNothing), sum(heads, 0.0f), out(heads * dim_, 0.0f) {}

  // Turns scores (log2) into weights below a common maximum; out and sum follow it. `count` is a
  // multiple of 8.
  void weigh(size_t head, float* scores, size_t count) {
    const float highest = highest_of(scores, count, top[head]);
    if (highest > top[head]) {
      const float factor = exp2_fast(top[head] - highest);
      sum[head] *= factor;
      float* at = out.data() + head * dim;
      for (size_t i = 0; i < dim; ++i) at[i] *= factor;
      top[head] = highest;
    }
    sum[head] += exponentials(scores, count, highest);
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
