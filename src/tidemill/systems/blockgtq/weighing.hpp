// The running softmax of packed attention: a tile's scores become bytes that weigh its values.
// Maxima over lanes are taken for eight heads at a time, sums of weights only at the end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "exponent.hpp"
#include "products.hpp"
#include "softmax.hpp"

namespace tidemill::blockgtq {

// 2^x for -126 <= x <= 127 (below it counts as -126), relative error below 4e-6: a byte tells 2e-3.
inline constexpr float kNearPowers[] = {9.666368e-3f, 5.592198e-2f, 2.402235e-1f, 6.931210e-1f,
                                        1.0f};

class Weighing {
 public:
  Weighing(size_t heads, size_t dim) : heads_(heads), dim_(dim) {
    std::fill_n(top_, kHeads, kNothing);
  }

  // Level * factor[head] becomes weight * norm; `out` (heads x dim) follows a maximum that rises.
  void weigh(float* scores, const float* norms, uint8_t* levels, float* factor, float* out);

  void finish(Partial& partial) const {
    for (size_t h = 0; h < heads_; ++h) {
      const float* lanes = lanes_ + 8 * h;
      const auto pair = [&](int i) { return lanes[i] + lanes[i + 4]; };
      partial.top[h] = top_[h];
      partial.sum[h] = (pair(0) + pair(2)) + (pair(1) + pair(3));
    }
  }

 private:
  void raise(size_t head, float highest, float* out) {
    const float factor = exp2_fast(top_[head] - highest);
    for (size_t i = 0; i < 8; ++i) lanes_[8 * head + i] *= factor;
    for (size_t i = 0; i < dim_; ++i) out[head * dim_ + i] *= factor;
    top_[head] = highest;
  }

  size_t heads_, dim_;
  alignas(32) float top_[kHeads];
  alignas(32) float lanes_[8 * kHeads] = {};
};

#ifdef __AVX2__

inline __m256 exp2_near(__m256 x) {
  const __m256 bounded = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
  const __m256 shifted = _mm256_add_ps(bounded, _mm256_set1_ps(kRound));
  const __m256 rest = _mm256_sub_ps(bounded, _mm256_sub_ps(shifted, _mm256_set1_ps(kRound)));
  __m256 power = _mm256_set1_ps(kNearPowers[0]);
  for (int i = 1; i < 5; ++i) power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(kNearPowers[i]));
  const __m256i whole = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), whole));
}

// The highest lane of each of eight registers.
inline __m256 highest_lanes(const __m256* x) {
  __m256 four[2];
  for (size_t i = 0; i < 2; ++i) {
    const __m256 *a = x + 4 * i, *b = a + 2;
    const __m256 one =
        _mm256_max_ps(_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
    const __m256 two =
        _mm256_max_ps(_mm256_unpacklo_ps(b[0], b[1]), _mm256_unpackhi_ps(b[0], b[1]));
    four[i] = _mm256_max_ps(_mm256_shuffle_ps(one, two, 0x44), _mm256_shuffle_ps(one, two, 0xee));
  }
  return _mm256_max_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20),
                       _mm256_permute2f128_ps(four[0], four[1], 0x31));
}

inline __m256 highest_of_four(const __m256* x) {
  return _mm256_max_ps(_mm256_max_ps(x[0], x[1]), _mm256_max_ps(x[2], x[3]));
}

inline void to_bytes(const float* products, __m256 inverse, uint8_t* levels) {
  __m256i whole[4];
  for (size_t i = 0; i < 4; ++i)
    whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(products + 8 * i), inverse));
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                            _mm256_packs_epi32(whole[2], whole[3]));
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(levels),
      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

inline void Weighing::weigh(float* scores, const float* norms, uint8_t* levels, float* factor,
                            float* out) {
  __m256 most[kHeads], row[4];
  for (size_t h = 0; h < kHeads; ++h) most[h] = _mm256_set1_ps(kNothing);
  for (size_t h = 0; h < heads_; ++h) {
    for (size_t i = 0; i < 4; ++i) row[i] = _mm256_load_ps(scores + h * kTile + 8 * i);
    most[h] = highest_of_four(row);
  }
  const __m256 highest = highest_lanes(most), top = _mm256_load_ps(top_);
  if (_mm256_movemask_ps(_mm256_cmp_ps(highest, top, _CMP_GT_OQ)) != 0) {
    alignas(32) float found[kHeads];
    _mm256_store_ps(found, highest);
    for (size_t h = 0; h < heads_; ++h)
      if (found[h] > top_[h]) raise(h, found[h], out);
  }
  for (size_t h = 0; h < heads_; ++h) {
    const __m256 below = _mm256_set1_ps(top_[h]);
    float *at = scores + h * kTile, *lanes = lanes_ + 8 * h;
    for (size_t i = 0; i < 4; ++i)
      row[i] = exp2_near(_mm256_sub_ps(_mm256_load_ps(at + 8 * i), below));
    const __m256 sum = _mm256_add_ps(_mm256_add_ps(row[0], row[1]), _mm256_add_ps(row[2], row[3]));
    _mm256_store_ps(lanes, _mm256_add_ps(_mm256_load_ps(lanes), sum));
    for (size_t i = 0; i < 4; ++i) {
      row[i] = _mm256_mul_ps(row[i], _mm256_load_ps(norms + 8 * i));
      _mm256_store_ps(at + 8 * i, row[i]);
    }
    most[h] = highest_of_four(row);
  }
  // where all is zero the inverse does not matter, but must be finite
  const __m256 reach = _mm256_max_ps(highest_lanes(most), _mm256_set1_ps(1e-30f));
  const __m256 full = _mm256_set1_ps(255.0f);
  alignas(32) float inverse[kHeads];
  _mm256_store_ps(inverse, _mm256_div_ps(full, reach));
  _mm256_storeu_ps(factor, _mm256_div_ps(reach, full));
  for (size_t h = 0; h < heads_; ++h)
    to_bytes(scores + h * kTile, _mm256_set1_ps(inverse[h]), levels + h * kTile);
}

#else

inline float exp2_near(float x) {
  const float bounded = x < -126.0f ? -126.0f : x;
  const float shifted = bounded + kRound, rest = bounded - (shifted - kRound);
  float power = kNearPowers[0];
  for (int i = 1; i < 5; ++i) power = power * rest + kNearPowers[i];
  return std::bit_cast<float>(std::bit_cast<int32_t>(power) +
                              (std::bit_cast<int32_t>(shifted) << 23));
}

inline void Weighing::weigh(float* scores, const float* norms, uint8_t* levels, float* factor,
                            float* out) {
  for (size_t h = 0; h < heads_; ++h) {
    float *at = scores + h * kTile, reach = 1e-30f;
    const float highest = highest_of(at, kTile, top_[h]);
    if (highest > top_[h]) raise(h, highest, out);
    for (size_t t = 0; t < kTile; ++t) {
      const float weight = exp2_near(at[t] - highest);
      lanes_[8 * h + t % 8] += weight;
      at[t] = weight * norms[t];
      reach = std::max(reach, at[t]);
    }
    const float inverse = 255.0f / reach;
    for (size_t t = 0; t < kTile; ++t) {
      const float level = at[t] * inverse + kRound;  // rounds half to even
      levels[h * kTile + t] = static_cast<uint8_t>(static_cast<int32_t>(level - kRound));
    }
    factor[h] = reach / 255.0f;
  }
}

#endif

}  // namespace tidemill::blockgtq
