// How GGML's files store 32 columns of a row; each reader gives them as a Piece.
//
// Source: the public description of the formats (gguf-py's quants.py, ggml-common.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "layout.hpp"

namespace tidemill::models {

inline uint16_t half_bits(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return bits;
}

inline void read_nibbles(const uint8_t* in, uint8_t (&codes)[kVector]) {
  for (size_t i = 0; i < 16; ++i) {
    codes[i] = in[i] & 15;
    codes[i + 16] = in[i] >> 4;
  }
}

inline void read_fifth_bits(const uint8_t* in, uint8_t (&codes)[kVector]) {
  uint32_t bits;
  std::memcpy(&bits, in, 4);
  for (size_t i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

// Of each type: kColumns and kBytes of a block; read(block, sub-block of 32 columns, piece).

struct Q8_0 {
  using Packed = I8;
  static constexpr size_t kColumns = 32, kBytes = 34;
  static void read(const uint8_t* in, size_t, Piece& piece) {
    piece.scale = half_bits(in);
    std::memcpy(piece.codes, in + 2, kVector);
  }
};

struct Q4_0 {
  using Packed = U4;
  static constexpr size_t kColumns = 32, kBytes = 18;
  static void read(const uint8_t* in, size_t, Piece& piece) {
    piece.scale = half_bits(in);
    read_nibbles(in + 2, piece.codes);
  }
};

struct Q4_1 {
  using Packed = U4M;
  static constexpr size_t kColumns = 32, kBytes = 20;
  static void read(const uint8_t* in, size_t, Piece& piece) {
    piece.scale = half_bits(in);
    piece.min = half_bits(in + 2);
    read_nibbles(in + 4, piece.codes);
  }
};

struct Q5_0 {
  using Packed = U5;
  static constexpr size_t kColumns = 32, kBytes = 22;
  static void read(const uint8_t* in, size_t, Piece& piece) {
    piece.scale = half_bits(in);
    read_nibbles(in + 6, piece.codes);
    read_fifth_bits(in + 2, piece.codes);
  }
};

struct Q5_1 {
  using Packed = U5M;
  static constexpr size_t kColumns = 32, kBytes = 24;
  static void read(const uint8_t* in, size_t, Piece& piece) {
    piece.scale = half_bits(in);
    piece.min = half_bits(in + 2);
    read_nibbles(in + 8, piece.codes);
    read_fifth_bits(in + 4, piece.codes);
  }
};

// d, dmin, then eight 6-bit scales and eight 6-bit minima in 12 bytes.
inline void read_super_min(const uint8_t* in, size_t sub, Piece& piece) {
  piece.scale = half_bits(in);
  piece.min = half_bits(in + 2);
  const uint8_t* const packed = in + 4;
  if (sub < 4) {
    piece.sub_scale[0] = packed[sub] & 63;
    piece.sub_scale[1] = packed[sub + 4] & 63;
    return;
  }
  piece.sub_scale[0] = static_cast<uint8_t>((packed[sub + 4] & 15) | packed[sub - 4] >> 6 << 4);
  piece.sub_scale[1] = static_cast<uint8_t>(packed[sub + 4] >> 4 | packed[sub] >> 6 << 4);
}

inline void read_half_bytes(const uint8_t* in, size_t sub, uint8_t (&codes)[kVector]) {
  const unsigned shift = sub % 2 * 4;
  for (size_t i = 0; i < 32; ++i) codes[i] = in[sub / 2 * 32 + i] >> shift & 15;
}

struct Q4_K {
  using Packed = U4K;
  static constexpr size_t kColumns = 256, kBytes = 144;
  static void read(const uint8_t* in, size_t sub, Piece& piece) {
    read_super_min(in, sub, piece);
    read_half_bytes(in + 16, sub, piece.codes);
  }
};

struct Q5_K {
  using Packed = U5K;
  static constexpr size_t kColumns = 256, kBytes = 176;
  static void read(const uint8_t* in, size_t sub, Piece& piece) {
    read_super_min(in, sub, piece);
    read_half_bytes(in + 48, sub, piece.codes);
    for (size_t i = 0; i < 32; ++i)
      piece.codes[i] |= static_cast<uint8_t>((in[16 + i] >> sub & 1) << 4);
  }
};

struct Q6_K {
  using Packed = U6K;
  static constexpr size_t kColumns = 256, kBytes = 210;
  static void read(const uint8_t* in, size_t sub, Piece& piece) {
    const uint8_t* const low = in + sub / 4 * 64 + sub % 2 * 32;
    const uint8_t* const high = in + 128 + sub / 4 * 32;
    const unsigned low_shift = sub % 4 / 2 * 4, high_shift = sub % 4 * 2;
    for (size_t i = 0; i < 32; ++i)
      piece.codes[i] =
          static_cast<uint8_t>((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4);
    std::memcpy(piece.sub_scale, in + 192 + sub * 2, 2);
    piece.scale = half_bits(in + 208);
  }
};

struct Q3_K {
  using Packed = U3K;
  static constexpr size_t kColumns = 256, kBytes = 110;
  static void read(const uint8_t* in, size_t sub, Piece& piece) {
    const uint8_t* const low = in + 32 + sub / 4 * 32;
    const unsigned shift = sub % 4 * 2;
    for (size_t i = 0; i < 32; ++i)
      piece.codes[i] = static_cast<uint8_t>((low[i] >> shift & 3) | (in[i] >> sub & 1) << 2);
    for (size_t half = 0; half < 2; ++half) {
      const size_t i = sub * 2 + half;
      const unsigned four = i < 8 ? in[96 + i] & 15 : in[96 + i - 8] >> 4;
      const unsigned two = in[96 + 8 + i % 4] >> (i / 4 * 2) & 3;
      piece.sub_scale[half] = static_cast<uint8_t>(static_cast<int>(four | two << 4) - 32);
    }
    piece.scale = half_bits(in + 108);
  }
};

struct Q2_K {
  using Packed = U2K;
  static constexpr size_t kColumns = 256, kBytes = 84;
  static void read(const uint8_t* in, size_t sub, Piece& piece) {
    const uint8_t* const codes = in + 16 + sub / 4 * 32;
    for (size_t i = 0; i < 32; ++i) piece.codes[i] = codes[i] >> (sub % 4 * 2) & 3;
    std::memcpy(piece.sub_scale, in + sub * 2, 2);
    piece.scale = half_bits(in + 80);
    piece.min = half_bits(in + 82);
  }
};

}  // namespace tidemill::models
