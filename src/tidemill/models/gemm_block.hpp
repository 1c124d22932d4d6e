// One block of weights times one block of one token: eight row sums.
//
// Block opens a block once for many tokens. Two bodies of one meaning: AVX2 (with or without VNNI)
// and portable.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "activations.hpp"
#include "layout.hpp"
#include "vnni.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::models {

#ifdef __AVX2__

using Sums = __m256;

inline Sums zero_sums() { return _mm256_setzero_ps(); }
inline void store_sums(float* out, Sums sums) { _mm256_storeu_ps(out, sums); }

inline Sums add_product(Sums sums, Sums weights, float x) {
  return _mm256_fmadd_ps(weights, _mm256_set1_ps(x), sums);
}

inline __m256i load_vector(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline __m256 load_halves(const uint8_t* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
inline __m256i broadcast_four(const int8_t* at) {
  int four;
  std::memcpy(&four, at, 4);
  return _mm256_set1_epi32(four);
}

template <int kBits>
inline void load_codes(const uint8_t* in, __m256i (&codes)[kGroups]) {
  const __m256i low = _mm256_set1_epi8(15);
  for (int h = 0; h < 4; ++h) {
    const __m256i both = load_vector(in + h * kVector);
    codes[h] = _mm256_and_si256(both, low);
    codes[h + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
  }
  if constexpr (kBits == 5) {
    const __m256i bits = load_vector(in + 4 * kVector), fifth = _mm256_set1_epi8(16);
    for (int g = 0; g < 8; ++g) {
      const __m256i moved = g < 4 ? _mm256_slli_epi16(bits, 4 - g) : _mm256_srli_epi16(bits, g - 4);
      codes[g] = _mm256_or_si256(codes[g], _mm256_and_si256(moved, fifth));
    }
  }
  if constexpr (kBits == 6) {
    const __m256i top = _mm256_set1_epi8(48);
    for (int g = 0; g < 8; ++g) {
      const __m256i bits = load_vector(in + (4 + g / 4) * kVector);
      const int place = g % 4 * 2;
      const __m256i moved =
          place < 4 ? _mm256_slli_epi16(bits, 4 - place) : _mm256_srli_epi16(bits, place - 4);
      codes[g] = _mm256_or_si256(codes[g], _mm256_and_si256(moved, top));
    }
  }
}

template <>
inline void load_codes<2>(const uint8_t* in, __m256i (&codes)[kGroups]) {
  const __m256i low = _mm256_set1_epi8(3);
  for (int g = 0; g < 8; ++g)
    codes[g] =
        _mm256_and_si256(_mm256_srli_epi16(load_vector(in + g / 4 * kVector), g % 4 * 2), low);
}

template <>
inline void load_codes<3>(const uint8_t* in, __m256i (&codes)[kGroups]) {
  load_codes<2>(in, codes);
  const __m256i bits = load_vector(in + 2 * kVector), third = _mm256_set1_epi8(4);
  for (int g = 0; g < 8; ++g) {
    const __m256i moved = g < 2 ? _mm256_slli_epi16(bits, 2 - g) : _mm256_srli_epi16(bits, g - 2);
    codes[g] = _mm256_or_si256(codes[g], _mm256_and_si256(moved, third));
  }
}

template <>
inline void load_codes<8>(const uint8_t* in, __m256i (&codes)[kGroups]) {
  for (int g = 0; g < 8; ++g) codes[g] = load_vector(in + g * kVector);
}

// Sums of 32-bit lanes over four vectors, the first being `from`. 16-bit lanes hold the products
// of 4 and 5-bit codes four deep (31496 at most), of 6-bit codes two deep (32004).
template <int kBits>
inline __m256i dot_half(const __m256i (&codes)[kGroups], const int8_t* x, int from) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i input = broadcast_four(x + 4 * (from + i)), code = codes[from + i];
    pairs[i] = kBits == 8
                   ? _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(input, code))
                   : _mm256_maddubs_epi16(code, input);
  }
  if constexpr (kBits == 8) {
    const __m256i a =
        _mm256_add_epi32(_mm256_madd_epi16(pairs[0], ones), _mm256_madd_epi16(pairs[1], ones));
    const __m256i b =
        _mm256_add_epi32(_mm256_madd_epi16(pairs[2], ones), _mm256_madd_epi16(pairs[3], ones));
    return _mm256_add_epi32(a, b);
  }
  const __m256i a = _mm256_add_epi16(pairs[0], pairs[1]);
  const __m256i b = _mm256_add_epi16(pairs[2], pairs[3]);
  if constexpr (kBits == 6)
    return _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
  return _mm256_madd_epi16(_mm256_add_epi16(a, b), ones);
}

inline __m256i vnni_half(const __m256i (&codes)[kGroups], const int8_t* x, int from) {
  __m256i sums = _mm256_setzero_si256();
  for (int i = from; i < from + 4; ++i) sums = add_dots(sums, codes[i], x + 4 * i);
  return sums;
}

template <class F, bool kVnni>
class Block {
  // VNNI multiplies unsigned codes: signed ones are moved by 128.
  static constexpr bool kMoved = kVnni && F::kBits == 8;
  static constexpr int kOffset = kMoved ? 128 : F::kOffset;

 public:
  Block(const uint8_t* header, const uint8_t* block) : packed_(block + F::kScaleBytes) {
    load_codes<F::kBits>(packed_, codes_);
    if constexpr (kMoved)
      for (__m256i& code : codes_) code = _mm256_xor_si256(code, _mm256_set1_epi8(-128));
    scale_ = load_halves(F::kIsSuper ? header : block);
    if constexpr (F::kScaling == Scaling::kScaleMin) other_ = load_halves(block + 16);
    if constexpr (F::kScaling == Scaling::kSuperMin) {
      scale_ = _mm256_mul_ps(scale_, bytes(block, std::false_type{}));
      other_ = _mm256_mul_ps(load_halves(header + 16), bytes(block + 8, std::false_type{}));
      other_ = _mm256_xor_ps(other_, _mm256_set1_ps(-0.0f));
    }
    if constexpr (F::kScaling == Scaling::kSuperHalf) {
      other_ = _mm256_mul_ps(scale_, bytes(block + 8, std::true_type{}));
      scale_ = _mm256_mul_ps(scale_, bytes(block, std::true_type{}));
    }
    if constexpr (F::kScaling == Scaling::kSuperBoth) {
      const __m256 min = load_halves(header + 16), sign = _mm256_set1_ps(-0.0f);
      for (int half = 0; half < 2; ++half)
        min_[half] = _mm256_xor_ps(_mm256_mul_ps(min, nibbles(block + 8 * half, 4)), sign);
      other_ = _mm256_mul_ps(scale_, nibbles(block + 8, 0));
      scale_ = _mm256_mul_ps(scale_, nibbles(block, 0));
    }
  }

  Sums add(Sums sums, const int8_t* x, const BlockInfo& info) const {
    const __m256 dx = _mm256_set1_ps(info.scale);
    const __m256i first = half(x, 0), second = half(x, 4);
    if constexpr (F::kHasHalves) {
      const int32_t second_half = info.sum - info.first_half;
      const __m256i a = without_offset(first, info.first_half);
      const __m256i b = without_offset(second, second_half);
      sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_mul_ps(scale_, dx), sums);
      sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(b), _mm256_mul_ps(other_, dx), sums);
      if constexpr (F::kHasMin) {
        sums = _mm256_fmadd_ps(min_[0], scaled(info.first_half, dx), sums);
        sums = _mm256_fmadd_ps(min_[1], scaled(second_half, dx), sums);
      }
      return sums;
    }
    const __m256i dot = without_offset(_mm256_add_epi32(first, second), info.sum);
    sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale_, dx), sums);
    if constexpr (F::kHasMin) sums = _mm256_fmadd_ps(other_, _mm256_set1_ps(info.scaled_sum), sums);
    return sums;
  }

  // The weights of one column.
  Sums column(size_t column) const {
    const __m256 code =
        _mm256_cvtepi32_ps(_mm256_sub_epi32(code_of(column), _mm256_set1_epi32(F::kOffset)));
    if constexpr (F::kScaling == Scaling::kSuperBoth)
      return _mm256_fmadd_ps(code, column < 16 ? scale_ : other_, min_[column / 16]);
    else if constexpr (F::kHasMin)
      return _mm256_fmadd_ps(code, scale_, other_);
    if constexpr (F::kScaling == Scaling::kSuperHalf)
      return _mm256_mul_ps(code, column < 16 ? scale_ : other_);
    return _mm256_mul_ps(code, scale_);
  }

 private:
  // From memory: no register can be picked by a number.
  __m256i code_of(size_t column) const {
    const int group = static_cast<int>(column / 4), place = static_cast<int>(column % 4) * 8;
    const auto shifted = [](__m256i lanes, int bits) {
      return _mm256_srl_epi32(lanes, _mm_cvtsi32_si128(bits));
    };
    if constexpr (F::kBits == 8) {
      const __m256i lanes = load_vector(packed_ + group * kVector);
      return _mm256_srai_epi32(_mm256_sll_epi32(lanes, _mm_cvtsi32_si128(24 - place)), 24);
    }
    if constexpr (F::kBits < 4) {
      __m256i code = shifted(load_vector(packed_ + group / 4 * kVector), place + group % 4 * 2);
      code = _mm256_and_si256(code, _mm256_set1_epi32(3));
      if constexpr (F::kBits == 2) return code;
      const __m256i bit = shifted(load_vector(packed_ + 2 * kVector), place + group);
      return _mm256_or_si256(code,
                             _mm256_slli_epi32(_mm256_and_si256(bit, _mm256_set1_epi32(1)), 2));
    }
    __m256i code =
        _mm256_and_si256(shifted(load_vector(packed_ + group % 4 * kVector), place + group / 4 * 4),
                         _mm256_set1_epi32(15));
    if constexpr (F::kBits == 5) {
      const __m256i bit = shifted(load_vector(packed_ + 4 * kVector), place + group);
      code =
          _mm256_or_si256(code, _mm256_slli_epi32(_mm256_and_si256(bit, _mm256_set1_epi32(1)), 4));
    }
    if constexpr (F::kBits == 6) {
      const __m256i bits =
          shifted(load_vector(packed_ + (4 + group / 4) * kVector), place + group % 4 * 2);
      code =
          _mm256_or_si256(code, _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(3)), 4));
    }
    return code;
  }
  template <class Signed>
  static __m256 bytes(const uint8_t* at, Signed) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
    return _mm256_cvtepi32_ps(Signed::value ? _mm256_cvtepi8_epi32(eight)
                                            : _mm256_cvtepu8_epi32(eight));
  }
  static __m256 nibbles(const uint8_t* at, int place) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
    const __m256i moved = _mm256_srli_epi32(_mm256_cvtepu8_epi32(eight), place);
    return _mm256_cvtepi32_ps(_mm256_and_si256(moved, _mm256_set1_epi32(15)));
  }
  static __m256 scaled(int32_t sum, __m256 dx) {
    return _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(sum)), dx);
  }
  __m256i half(const int8_t* x, int from) const {
    if constexpr (kVnni) return vnni_half(codes_, x, from);
    return dot_half<F::kBits>(codes_, x, from);
  }
  static __m256i without_offset(__m256i dot, int32_t sum) {
    if constexpr (kOffset == 0) return dot;
    // Shifted as a vector: a scalar product would have to cross from the integer registers.
    return _mm256_sub_epi32(
        dot, _mm256_slli_epi32(_mm256_set1_epi32(sum), std::countr_zero(unsigned{kOffset})));
  }

  const uint8_t* packed_;
  __m256i codes_[kGroups];
  __m256 scale_, other_;  // other: the minimum, or the second half's scale
  __m256 min_[2];         // kSuperBoth
};

#else

struct Sums {
  float row[kRows];
};

inline Sums zero_sums() { return {}; }
inline void store_sums(float* out, const Sums& sums) {
  std::memcpy(out, sums.row, sizeof sums.row);
}
inline Sums add_product(Sums sums, const Sums& weights, float x) {
  for (size_t row = 0; row < kRows; ++row)
    sums.row[row] = std::fma(weights.row[row], x, sums.row[row]);
  return sums;
}

template <class F, bool>
class Block {
 public:
  Block(const uint8_t* header, const uint8_t* block) { open_block<F>(header, block, open_); }

  Sums add(Sums sums, const int8_t* x, const BlockInfo& info) const {
    int32_t dot[2][kRows] = {};
    for (size_t g = 0; g < kGroups; ++g)
      for (size_t i = 0; i < kVector; ++i)
        dot[g / 4][i / 4] += code(open_.codes[g][i]) * x[4 * g + i % 4];
    for (size_t row = 0; row < kRows; ++row) {
      float& sum = sums.row[row];
      if constexpr (F::kHasHalves) {
        const int32_t halves[2] = {info.first_half, info.sum - info.first_half};
        for (int half = 0; half < 2; ++half) {
          const auto own = static_cast<float>(dot[half][row] - F::kOffset * halves[half]);
          sum = std::fma(own, open_.scale[half][row] * info.scale, sum);
        }
        for (int half = 0; half < 2 && F::kHasMin; ++half)
          sum = std::fma(open_.min[half][row], static_cast<float>(halves[half]) * info.scale, sum);
        continue;
      }
      const int32_t all = dot[0][row] + dot[1][row] - F::kOffset * info.sum;
      sum = std::fma(static_cast<float>(all), open_.scale[0][row] * info.scale, sum);
      if constexpr (F::kHasMin) sum = std::fma(open_.min[0][row], info.scaled_sum, sum);
    }
    return sums;
  }

  Sums column(size_t column) const {
    Sums weights;
    for (size_t row = 0; row < kRows; ++row) {
      const auto value =
          static_cast<float>(code(open_.codes[column / 4][row * 4 + column % 4]) - F::kOffset);
      const float scale = open_.scale[column / 16][row];
      weights.row[row] = value * scale;
      if constexpr (F::kHasMin)
        weights.row[row] = std::fma(value, scale, open_.min[column / 16][row]);
    }
    return weights;
  }

 private:
  static int code(uint8_t byte) {
    return F::kBits == 8 ? static_cast<int8_t>(byte) : static_cast<int>(byte);
  }

  OpenBlock open_;
};

#endif

}  // namespace tidemill::models
