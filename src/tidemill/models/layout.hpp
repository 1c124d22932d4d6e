// How packed weights lie in memory: blocks of 8 rows x 32 columns, the rows interleaved by 4 bytes.
//
// A vector of 32 bytes then holds 4 columns of 8 rows, is multiplied with 4 broadcast input bytes,
// and row sums stay in their lanes. Blocks follow one another along the columns, then row groups:
// one stream. Nothing is rounded: codes, scales and minima are those of the file.
//
//   name   of              bits/weight  block
//   I8     Q8_0            8.5          8 fp16 scales | 8 vectors of int8
//   U5     Q5_0            5.5          8 scales | 4 vectors of nibbles | 1 vector of fifth bits
//   U4     Q4_0            4.5          8 scales | 4 vectors of nibbles
//   U5M    Q5_1, U4M Q4_1  6, 5         8 scales | 8 minima | codes
//   U5K    Q5_K            5.625        8 sub-scales | 8 sub-minima | codes; d, dmin per 8 blocks
//   U4K    Q4_K            4.625        the same
//   U6K    Q6_K            6.5625       2 x 8 sub-scales (one per 16) | nibbles | 2 x 2-bit plane
//   U3K    Q3_K            3.5625       2 x 8 sub-scales | 2 x 2-bit plane | 1 vector of third bits
//   U2K    Q2_K            2.625        2 x 8 nibbles of sub-scale and sub-minimum | 2 x 2-bit
//   plane
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tidemill::models {

constexpr size_t kRows = 8;     // rows of a group
constexpr size_t kVector = 32;  // bytes: 4 columns of 8 rows
constexpr size_t kGroups = 8;   // vectors of a block

enum class Scaling {
  kScale,      // w = scale * (code - offset)
  kScaleMin,   // w = scale * code + min
  kSuperMin,   // w = d * sub_scale * code - dmin * sub_min
  kSuperHalf,  // w = d * sub_scale[column / 16] * (code - offset)
  kSuperBoth,  // w = d * sub_scale[column / 16] * code - dmin * sub_min[column / 16]
};

template <int kBitsOf, Scaling kScalingOf, int kOffsetOf>
struct Format {
  static constexpr int kBits = kBitsOf;
  static constexpr Scaling kScaling = kScalingOf;
  static constexpr int kOffset = kOffsetOf;
  static constexpr bool kIsSuper = kScaling != Scaling::kScale && kScaling != Scaling::kScaleMin;
  static constexpr bool kHasMin = kScaling != Scaling::kScale && kScaling != Scaling::kSuperHalf;
  static constexpr bool kHasHalves =
      kScaling == Scaling::kSuperHalf || kScaling == Scaling::kSuperBoth;
  static constexpr size_t kSuperBlocks = kIsSuper ? 8 : 1;  // blocks under one header
  static constexpr size_t kHeaderBytes = !kIsSuper ? 0 : kHasMin ? 32 : 16;
  static constexpr size_t kScaleBytes = kScaling == Scaling::kScaleMin ? 32 : 16;
  static constexpr size_t kBlockBytes = kScaleBytes + kBits * kVector;
  static constexpr size_t kSuperBytes = kHeaderBytes + kSuperBlocks * kBlockBytes;
};

using I8 = Format<8, Scaling::kScale, 0>;
using U5 = Format<5, Scaling::kScale, 16>;
using U4 = Format<4, Scaling::kScale, 8>;
using U5M = Format<5, Scaling::kScaleMin, 0>;
using U4M = Format<4, Scaling::kScaleMin, 0>;
using U5K = Format<5, Scaling::kSuperMin, 0>;
using U4K = Format<4, Scaling::kSuperMin, 0>;
using U6K = Format<6, Scaling::kSuperHalf, 32>;
using U3K = Format<3, Scaling::kSuperHalf, 4>;
using U2K = Format<2, Scaling::kSuperBoth, 0>;

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -tiny : tiny;
}

inline float half_at(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, 2);
  return half_to_float(half);
}

// What 32 columns of one row are, in any format, before packing.
struct Piece {
  uint8_t codes[kVector];
  uint16_t scale;  // fp16 bits: the block's scale, or d
  uint16_t min;    // fp16 bits: the block's minimum, or dmin
  // kSuperMin: scale and minimum; kSuperHalf: int8 scales of both halves of the columns;
  // kSuperBoth: of each half the scale, and the minimum in the upper nibble.
  uint8_t sub_scale[2];
};

// A block opened for portable code.
struct OpenBlock {
  uint8_t codes[kGroups][kVector];
  float scale[2][kRows];  // of both halves of the columns
  float min[2][kRows];    // to be added

  int code(size_t row, size_t column) const { return codes[column / 4][row * 4 + column % 4]; }
};

// Two bits of every code, from bit `place` on, as two vectors.
inline void pack_pairs(const uint8_t (&codes)[kGroups][kVector], int place, uint8_t* out) {
  for (size_t i = 0; i < 2 * kVector; ++i) {
    unsigned bits = 0;
    for (size_t t = 0; t < 4; ++t)
      bits |= (codes[i / kVector * 4 + t][i % kVector] >> place & 3u) << 2 * t;
    out[i] = static_cast<uint8_t>(bits);
  }
}

// One bit of every code as one vector.
inline void pack_bits(const uint8_t (&codes)[kGroups][kVector], int place, uint8_t* out) {
  for (size_t i = 0; i < kVector; ++i) {
    unsigned bits = 0;
    for (size_t g = 0; g < kGroups; ++g) bits |= (codes[g][i] >> place & 1u) << g;
    out[i] = static_cast<uint8_t>(bits);
  }
}

template <int kBits>
void pack_codes(const uint8_t (&codes)[kGroups][kVector], uint8_t* out) {
  if constexpr (kBits == 8) {
    std::memcpy(out, codes, sizeof codes);
    return;
  }
  if constexpr (kBits < 4) {
    pack_pairs(codes, 0, out);
    if constexpr (kBits == 3) pack_bits(codes, 2, out + 2 * kVector);
    return;
  }
  for (size_t h = 0; h < 4; ++h)
    for (size_t i = 0; i < kVector; ++i)
      out[h * kVector + i] = static_cast<uint8_t>((codes[h][i] & 15) | codes[h + 4][i] << 4);
  uint8_t* const high = out + 4 * kVector;
  if constexpr (kBits == 5) pack_bits(codes, 4, high);
  if constexpr (kBits == 6) pack_pairs(codes, 4, high);
}

template <int kBits>
void open_codes(const uint8_t* in, uint8_t (&codes)[kGroups][kVector]) {
  if constexpr (kBits == 8) {
    std::memcpy(codes, in, sizeof codes);
    return;
  }
  const uint8_t* const high = in + (kBits < 4 ? 2 : 4) * kVector;
  for (size_t g = 0; g < kGroups; ++g)
    for (size_t i = 0; i < kVector; ++i) {
      unsigned code = 0;
      if constexpr (kBits < 4) code = in[g / 4 * kVector + i] >> (g % 4 * 2) & 3;
      if constexpr (kBits >= 4) code = in[g % 4 * kVector + i] >> (g / 4 * 4) & 15;
      if constexpr (kBits == 3) code |= (high[i] >> g & 1u) << 2;
      if constexpr (kBits == 5) code |= (high[i] >> g & 1u) << 4;
      if constexpr (kBits == 6) code |= (high[g / 4 * kVector + i] >> (g % 4 * 2) & 3u) << 4;
      codes[g][i] = static_cast<uint8_t>(code);
    }
}

// Writes one block; `header` is that of its super-block (unused without).
template <class F>
void pack_block(const Piece (&rows)[kRows], uint8_t* header, uint8_t* block) {
  uint8_t codes[kGroups][kVector];
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t g = 0; g < kGroups; ++g)
      std::memcpy(&codes[g][row * 4], rows[row].codes + g * 4, 4);
    uint8_t* const halves = F::kIsSuper ? header : block;
    std::memcpy(halves + row * 2, &rows[row].scale, 2);
    if constexpr (F::kHasMin) std::memcpy(halves + 16 + row * 2, &rows[row].min, 2);
    if constexpr (F::kIsSuper) {
      block[row] = rows[row].sub_scale[0];
      block[8 + row] = rows[row].sub_scale[1];
    }
  }
  pack_codes<F::kBits>(codes, block + F::kScaleBytes);
}

template <class F>
void open_block(const uint8_t* header, const uint8_t* block, OpenBlock& out) {
  open_codes<F::kBits>(block + F::kScaleBytes, out.codes);
  const uint8_t* const halves = F::kIsSuper ? header : block;
  for (size_t row = 0; row < kRows; ++row) {
    const float scale = half_at(halves + row * 2);
    out.scale[0][row] = out.scale[1][row] = scale;
    const float min = F::kHasMin ? half_at(halves + 16 + row * 2) : 0.0f;
    out.min[0][row] = out.min[1][row] = min;
    if constexpr (F::kScaling == Scaling::kSuperMin) {
      out.scale[0][row] = out.scale[1][row] = scale * block[row];
      out.min[0][row] = out.min[1][row] = -(min * block[8 + row]);
    }
    for (size_t half = 0; half < 2; ++half) {
      const uint8_t sub = block[8 * half + row];
      if constexpr (F::kScaling == Scaling::kSuperHalf)
        out.scale[half][row] = scale * static_cast<int8_t>(sub);
      if constexpr (F::kScaling == Scaling::kSuperBoth) {
        out.scale[half][row] = scale * static_cast<float>(sub & 15);
        out.min[half][row] = -(min * static_cast<float>(sub >> 4));
      }
    }
  }
}

}  // namespace tidemill::models
