// The inner loops: codes out of bit-planes, products out of a 16-entry table, sums in int16.
#include "gemv.hpp"

#include <algorithm>
#include <cmath>

#include "../../models/layout.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::grinqh {

namespace {

// The codes of the outputs of one half, one a byte.
void codes_of(const Half& half, uint8_t* codes) {
  const size_t v = half.index % 2, group = half.index / 2;
  const auto add_bits = [&](const uint8_t* bytes, size_t from, size_t to) {
    for (size_t f = 0; f < 4; ++f)
      for (size_t lane = 0; lane < 32; ++lane)
        codes[32 * f + lane] |= static_cast<uint8_t>((bytes[lane] >> (from + f) & 1) << to);
  };
  for (size_t f = 0; f < 4; ++f)
    for (size_t lane = 0; lane < 32; ++lane)
      codes[32 * f + lane] = half.column[0][32 * half.index + lane] >> (2 * f) & 3;
  if (half.planes > 1) add_bits(half.column[1] + 32 * group, 4 * v, 2);
  if (half.planes > 2 && half.is_alone) add_bits(half.column[1] + 32 * group, 4, 3);
  if (half.planes > 2 && !half.is_alone) add_bits(half.column[2] + 32 * group, 4 * v, 3);
  if (half.planes < 4) return;
  for (size_t f = 0; f < 4; ++f)
    for (size_t lane = 0; lane < 32; ++lane)
      codes[32 * f + lane] |=
          static_cast<uint8_t>((half.column[3][32 * half.index + lane] >> (2 * f) & 3) << 4);
}

}  // namespace

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

// The products of 32 outputs with one column: field `f` of half `v` of a group, or of its only one.
template <int planes, int v, int f, bool is_alone>
__m256i products(const Quad& quad, size_t k, size_t group) {
  const __m256i two = load(quad.column[0][k] + group * 64 + v * 32);
  __m256i code = _mm256_and_si256(_mm256_srli_epi16(two, 2 * f), _mm256_set1_epi8(3));
  if constexpr (planes > 1)
    code = _mm256_or_si256(code, bit<4 * v + f, 2>(load(quad.column[1][k] + group * 32)));
  if constexpr (planes > 2 && is_alone)
    code = _mm256_or_si256(code, bit<4 + f, 3>(load(quad.column[1][k] + group * 32)));
  if constexpr (planes > 2 && !is_alone)
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

template <int planes, int v, int f, bool is_alone>
void add_32(const Quad& quad, size_t group, int16_t* sums) {
  const __m256i a = products<planes, v, f, is_alone>(quad, 0, group),
                b = products<planes, v, f, is_alone>(quad, 1, group);
  const __m256i c = products<planes, v, f, is_alone>(quad, 2, group),
                d = products<planes, v, f, is_alone>(quad, 3, group);
  const __m256i one = _mm256_set1_epi8(1);
  const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_unpacklo_epi8(a, b)),
                                       _mm256_maddubs_epi16(one, _mm256_unpacklo_epi8(c, d)));
  const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_unpackhi_epi8(a, b)),
                                        _mm256_maddubs_epi16(one, _mm256_unpackhi_epi8(c, d)));
  auto* at = reinterpret_cast<__m256i*>(sums + group * kGroup + v * 128 + f * 32);
  _mm256_storeu_si256(at, _mm256_add_epi16(load(at), low));
  _mm256_storeu_si256(at + 1, _mm256_add_epi16(load(at + 1), high));
}

template <int planes, int v, bool is_alone = false>
void add_half(const Quad& quad, size_t group, int16_t* sums) {
  add_32<planes, v, 0, is_alone>(quad, group, sums);
  add_32<planes, v, 1, is_alone>(quad, group, sums);
  add_32<planes, v, 2, is_alone>(quad, group, sums);
  add_32<planes, v, 3, is_alone>(quad, group, sums);
}

template <int planes>
void add_groups(const Quad& quad, size_t halves, int16_t* sums) {
  for (size_t group = 0; group < halves / 2; ++group) {
    for (size_t k = 0; k < 4; ++k) {
      _mm_prefetch(quad.next[0][k] + group * 64, _MM_HINT_T0);
      if constexpr (planes > 1)
        if (group % 2 == 0) _mm_prefetch(quad.next[1][k] + group * 32, _MM_HINT_T0);
      if constexpr (planes > 2)
        if (group % 2 == 0) _mm_prefetch(quad.next[2][k] + group * 32, _MM_HINT_T0);
      if constexpr (planes > 3) _mm_prefetch(quad.next[3][k] + group * 64, _MM_HINT_T0);
    }
    add_half<planes, 0>(quad, group, sums);
    add_half<planes, 1>(quad, group, sums);
  }
  if (halves % 2 != 0) add_half<planes, 0, true>(quad, halves / 2, sums);
}

}  // namespace

void add_quad(size_t planes, const Quad& quad, size_t halves, int16_t* sums) {
  if (planes == 1) return add_groups<1>(quad, halves, sums);
  if (planes == 2) return add_groups<2>(quad, halves, sums);
  if (planes == 3) return add_groups<3>(quad, halves, sums);
  add_groups<4>(quad, halves, sums);
}

void flush(size_t halves, float scale, int16_t* sums, float* y) {
  const __m256 by = _mm256_set1_ps(scale);
  const auto add = [&](__m128i eight, float* to) {
    const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(value, by)));
  };
  for (size_t i = 0; i < halves * kHalf; i += 32) {
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

void add_quad(size_t planes, const Quad& quad, size_t halves, int16_t* sums) {
  uint8_t codes[kHalf];
  for (size_t half = 0; half < halves; ++half)
    for (size_t k = 0; k < 4; ++k) {
      Half here{{}, planes, half, half + 1 == halves && halves % 2 != 0};
      for (size_t plane = 0; plane < planes; ++plane) here.column[plane] = quad.column[plane][k];
      codes_of(here, codes);
      int16_t* const at = sums + half * kHalf;
      for (size_t i = 0; i < kHalf; ++i)
        at[i] = static_cast<int16_t>(at[i] + quad.products[k][codes[i]]);
    }
}

void flush(size_t halves, float scale, int16_t* sums, float* y) {
  for (size_t i = 0; i < halves * kHalf; ++i) {
    y[i] += static_cast<float>(sums[i]) * scale;
    sums[i] = 0;
  }
}

void make_products(const Table& table, size_t planes, int16_t x, int8_t* products) {
  const size_t count = size_t{1} << kWidth[planes - 1];
  for (size_t i = 0; i < count; ++i) products[i] = product(table.scaled[i], x);
}

#endif

void corrections(const uint16_t* values, const Table& table, float x, float* added) {
#ifdef __AVX2__
  const __m256 value = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  const __m256 edge =
      _mm256_blendv_ps(_mm256_set1_ps(table.high), _mm256_set1_ps(table.low), value);
  _mm256_storeu_ps(added, _mm256_mul_ps(_mm256_set1_ps(x), _mm256_sub_ps(value, edge)));
#else
  for (size_t k = 0; k < 8; ++k) {
    const float value = models::half_to_float(values[k]);
    added[k] = x * (value - (std::signbit(value) ? table.low : table.high));
  }
#endif
}

void decode_half(const Half& half, const Table& table, const float* scale, float by, float* out) {
  uint8_t codes[kHalf];
  codes_of(half, codes);
#ifdef __AVX2__
  const __m256 factor = _mm256_set1_ps(by);
  for (size_t i = 0; i < kHalf; i += 8) {
    const __m256i code =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    const __m256 value = _mm256_i32gather_ps(table.value.data(), code, 4);
    const __m256 both = _mm256_mul_ps(_mm256_loadu_ps(scale + i), factor);
    _mm256_storeu_ps(out + i, _mm256_mul_ps(value, both));
  }
#else
  for (size_t i = 0; i < kHalf; ++i) out[i] = table.value[codes[i]] * (scale[i] * by);
#endif
}

}  // namespace tidemill::grinqh
