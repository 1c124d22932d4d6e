// The inner loops: codes out of bit-planes, products out of a 16-entry table, sums in int16.
#include "gemv.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::grinqh {

#ifdef __AVX2__

namespace {

__m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

__m256i load_table(const int8_t* at) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

// Bit `from` of every byte at place `to`, alone.
template <int from, int to>
__m256i bit(__m256i bytes) {
  const __m256i moved =
      from >= to ? _mm256_srli_epi16(bytes, from - to) : _mm256_slli_epi16(bytes, to - from);
  return _mm256_and_si256(moved, _mm256_set1_epi8(1 << to));
}

// The products of 32 outputs with one column: field `f` of half `v` of a group.
template <int planes, int v, int f>
__m256i products(const Quad& quad, size_t k, size_t group) {
  const __m256i two = load(quad.column[0][k] + group * 64 + v * 32);
  __m256i code = _mm256_and_si256(_mm256_srli_epi16(two, 2 * f), _mm256_set1_epi8(3));
  if constexpr (planes > 1)
    code = _mm256_or_si256(code, bit<4 * v + f, 2>(load(quad.column[1][k] + group * 32)));
  if constexpr (planes > 2)
    code = _mm256_or_si256(code, bit<4 * v + f, 3>(load(quad.column[2][k] + group * 32)));
  const int8_t* table = quad.products[k];
  const __m256i first = _mm256_shuffle_epi8(load_table(table), code);
  if constexpr (planes < 4) return first;
  const __m256i last = load(quad.column[3][k] + group * 64 + v * 32);
  const __m256i low = _mm256_slli_epi16(last, 7 - 2 * f), high = _mm256_slli_epi16(last, 6 - 2 * f);
  const __m256i lower =
      _mm256_blendv_epi8(first, _mm256_shuffle_epi8(load_table(table + 16), code), low);
  const __m256i upper = _mm256_blendv_epi8(_mm256_shuffle_epi8(load_table(table + 32), code),
                                           _mm256_shuffle_epi8(load_table(table + 48), code), low);
  return _mm256_blendv_epi8(lower, upper, high);
}

template <int planes, int v, int f>
void add_32(const Quad& quad, size_t group, int16_t* sums) {
  const __m256i a = products<planes, v, f>(quad, 0, group),
                b = products<planes, v, f>(quad, 1, group);
  const __m256i c = products<planes, v, f>(quad, 2, group),
                d = products<planes, v, f>(quad, 3, group);
  const __m256i one = _mm256_set1_epi8(1);
  const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_unpacklo_epi8(a, b)),
                                       _mm256_maddubs_epi16(one, _mm256_unpacklo_epi8(c, d)));
  const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_unpackhi_epi8(a, b)),
                                        _mm256_maddubs_epi16(one, _mm256_unpackhi_epi8(c, d)));
  auto* at = reinterpret_cast<__m256i*>(sums + group * kGroup + v * 128 + f * 32);
  _mm256_storeu_si256(at, _mm256_add_epi16(load(at), low));
  _mm256_storeu_si256(at + 1, _mm256_add_epi16(load(at + 1), high));
}

template <int planes>
void add_groups(const Quad& quad, size_t groups, int16_t* sums) {
  for (size_t group = 0; group < groups; ++group) {
    for (size_t k = 0; k < 4; ++k) {
      _mm_prefetch(quad.next[0][k] + group * 64, _MM_HINT_T0);
      if constexpr (planes > 1)
        if (group % 2 == 0) _mm_prefetch(quad.next[1][k] + group * 32, _MM_HINT_T0);
      if constexpr (planes > 2)
        if (group % 2 == 0) _mm_prefetch(quad.next[2][k] + group * 32, _MM_HINT_T0);
      if constexpr (planes > 3) _mm_prefetch(quad.next[3][k] + group * 64, _MM_HINT_T0);
    }
    add_32<planes, 0, 0>(quad, group, sums);
    add_32<planes, 0, 1>(quad, group, sums);
    add_32<planes, 0, 2>(quad, group, sums);
    add_32<planes, 0, 3>(quad, group, sums);
    add_32<planes, 1, 0>(quad, group, sums);
    add_32<planes, 1, 1>(quad, group, sums);
    add_32<planes, 1, 2>(quad, group, sums);
    add_32<planes, 1, 3>(quad, group, sums);
  }
}

}  // namespace

void add_quad(size_t planes, const Quad& quad, size_t groups, int16_t* sums) {
  if (planes == 1) return add_groups<1>(quad, groups, sums);
  if (planes == 2) return add_groups<2>(quad, groups, sums);
  if (planes == 3) return add_groups<3>(quad, groups, sums);
  add_groups<4>(quad, groups, sums);
}

void flush(size_t groups, float scale, int16_t* sums, float* y) {
  const __m256 by = _mm256_set1_ps(scale);
  const auto add = [&](__m128i eight, float* to) {
    const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(value, by)));
  };
  for (size_t i = 0; i < groups * kGroup; i += 32) {
    // unpacking left outputs 0-7, 16-23 in the first vector, 8-15, 24-31 in the second
    const __m256i first = load(sums + i), second = load(sums + i + 16);
    add(_mm256_castsi256_si128(first), y + i);
    add(_mm256_castsi256_si128(second), y + i + 8);
    add(_mm256_extracti128_si256(first, 1), y + i + 16);
    add(_mm256_extracti128_si256(second, 1), y + i + 24);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), _mm256_setzero_si256());
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i + 16), _mm256_setzero_si256());
  }
}

void make_products(const Table& table, size_t planes, int16_t x, int8_t* products) {
  const __m256i by = _mm256_set1_epi16(x), half = _mm256_set1_epi16(128);
  for (size_t i = 0; i < (planes == 4 ? 64u : 16u); i += 16) {
    const __m256i fine = _mm256_mulhrs_epi16(load(table.scaled.data() + i), by);
    const __m256i whole = _mm256_srai_epi16(_mm256_add_epi16(fine, half), 8);
    const __m128i packed =
        _mm_packs_epi16(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(products + i), packed);
  }
}

#else

namespace {

int8_t product(int16_t scaled, int16_t x) {
  const int fine = ((static_cast<int>(scaled) * x >> 14) + 1) >> 1;
  return static_cast<int8_t>((fine + 128) >> 8);
}

}  // namespace

void add_quad(size_t planes, const Quad& quad, size_t groups, int16_t* sums) {
  for (size_t group = 0; group < groups; ++group)
    for (size_t k = 0; k < 4; ++k)
      for (size_t i = 0; i < kGroup; ++i) {
        const size_t lane = i % 32, block = i / 32;
        const size_t wide = group * 64 + block / 4 * 32 + lane, shift = 2 * (block % 4);
        size_t code = quad.column[0][k][wide] >> shift & 3;
        if (planes > 1) code |= (quad.column[1][k][group * 32 + lane] >> block & 1) << 2;
        if (planes > 2) code |= (quad.column[2][k][group * 32 + lane] >> block & 1) << 3;
        if (planes > 3) code |= (quad.column[3][k][wide] >> shift & 3) << 4;
        sums[group * kGroup + i] =
            static_cast<int16_t>(sums[group * kGroup + i] + quad.products[k][code]);
      }
}

void flush(size_t groups, float scale, int16_t* sums, float* y) {
  for (size_t i = 0; i < groups * kGroup; ++i) {
    y[i] += static_cast<float>(sums[i]) * scale;
    sums[i] = 0;
  }
}

void make_products(const Table& table, size_t planes, int16_t x, int8_t* products) {
  const size_t count = size_t{1} << kWidth[planes - 1];
  for (size_t i = 0; i < count; ++i) products[i] = product(table.scaled[i], x);
}

#endif

}  // namespace tidemill::grinqh
