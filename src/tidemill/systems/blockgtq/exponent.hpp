// Powers of two, maxima and sums over lanes of eight: the compiler may not reorder floating-point
// sums by itself, so the order is written down, the same with and without AVX2.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::blockgtq {

inline constexpr float kPowers[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                                    2.4022651e-1f, 6.9314718e-1f, 1.0f};
inline constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number

// 2^(low + step * (code - 1)) as entries of three tables: bits 0-2, 3-5 and 6-7 of the code.
struct NormTables {
  alignas(32) float low[8] = {}, middle[8] = {}, high[8] = {};
};

// 2^x for x <= 127, relative error below 3e-7; 0 below 2^-126.
inline float exp2_fast(float x) {
  const float bounded = x < -126.0f ? -126.0f : x;
  const float shifted = bounded + kRound, rest = bounded - (shifted - kRound);
  float power = kPowers[0];
  for (int i = 1; i < 7; ++i) power = power * rest + kPowers[i];
  const int32_t whole = std::bit_cast<int32_t>(shifted) << 23;
  const float scaled = std::bit_cast<float>(std::bit_cast<int32_t>(power) + whole);
  return x < -126.0f ? 0.0f : scaled;
}

#ifdef __AVX2__

inline __m256 exp2_fast(__m256 x) {
  const __m256 least = _mm256_set1_ps(-126.0f), round = _mm256_set1_ps(kRound);
  const __m256 bounded = _mm256_max_ps(x, least), shifted = _mm256_add_ps(bounded, round);
  const __m256 rest = _mm256_sub_ps(bounded, _mm256_sub_ps(shifted, round));
  __m256 power = _mm256_set1_ps(kPowers[0]);
  for (int i = 1; i < 7; ++i) power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(kPowers[i]));
  const __m256i whole = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), whole));
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, least, _CMP_GE_OQ));
}

inline float highest_lane(__m256 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

inline float highest_of(const float* x, size_t count, float start) {
  __m256 lanes = _mm256_set1_ps(start);
  for (size_t t = 0; t < count; t += 8) lanes = _mm256_max_ps(lanes, _mm256_loadu_ps(x + t));
  return highest_lane(lanes);
}

// x = 2^(x - top); returns the sum.
inline float exponentials(float* x, size_t count, float top) {
  __m256 lanes = _mm256_setzero_ps();
  for (size_t t = 0; t < count; t += 8) {
    const __m256 made = exp2_fast(_mm256_sub_ps(_mm256_loadu_ps(x + t), _mm256_set1_ps(top)));
    _mm256_storeu_ps(x + t, made);
    lanes = _mm256_add_ps(lanes, made);
  }
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// Norms from their 8-bit codes: 0, or the product of three small tables' entries.
inline void norms_of(const uint8_t* codes, const NormTables& tables, float* norms) {
  const __m256 low = _mm256_load_ps(tables.low), middle = _mm256_load_ps(tables.middle);
  const __m256 high = _mm256_load_ps(tables.high);
  for (size_t t = 0; t < 32; t += 8) {
    const __m256i code =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + t)));
    const __m256 ends = _mm256_mul_ps(_mm256_permutevar8x32_ps(low, code),
                                      _mm256_permutevar8x32_ps(high, _mm256_srli_epi32(code, 6)));
    const __m256 norm =
        _mm256_mul_ps(ends, _mm256_permutevar8x32_ps(middle, _mm256_srli_epi32(code, 3)));
    const __m256i some = _mm256_cmpgt_epi32(code, _mm256_setzero_si256());
    _mm256_storeu_ps(norms + t, _mm256_and_ps(norm, _mm256_castsi256_ps(some)));
  }
}

#else

inline float highest_of(const float* x, size_t count, float start) {
  for (size_t t = 0; t < count; ++t) start = std::max(start, x[t]);
  return start;
}

inline float exponentials(float* x, size_t count, float top) {
  float lanes[8] = {};
  for (size_t t = 0; t < count; ++t) {
    x[t] = exp2_fast(x[t] - top);
    lanes[t % 8] += x[t];
  }
  const auto pair = [&](int i) { return lanes[i] + lanes[i + 4]; };
  return (pair(0) + pair(2)) + (pair(1) + pair(3));
}

inline void norms_of(const uint8_t* codes, const NormTables& tables, float* norms) {
  for (size_t t = 0; t < 32; ++t) {
    const unsigned code = codes[t];
    norms[t] =
        code ? tables.low[code & 7] * tables.high[code >> 6] * tables.middle[code >> 3 & 7] : 0;
  }
}

#endif

}  // namespace tidemill::blockgtq
