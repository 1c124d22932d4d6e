// One KV head's codec: rotated groups of RoPE blocks, bit-plane fields, tiles of 32 tokens.
//
// A tile holds, for each width group of the key: 32 norms, then the codes; then the same for the
// value as one group. 32 codes of one width form a *vector* of 4 * width bytes, made of fields of
// 4, 2 and 1 bits, largest and lowest first; a field of f bits holds code `at` in byte at % 4f,
// shifted by f * (at / 4f), so that one broadcast, shift and mask unpack it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "exponent.hpp"
#include "waves.hpp"

namespace tidemill::blockgtq {

inline constexpr size_t kTile = 32;
inline constexpr size_t kMaxDim = 512;
inline constexpr unsigned kWide = 5;  // widths from here on take the 16-bit path

struct Fields {
  unsigned count, bits[3];
  explicit Fields(unsigned width) : count(0), bits{} {
    for (unsigned field : {4u, 4u, 2u, 1u})
      if (width >= field && count < 3) {
        bits[count++] = field;
        width -= field;
      }
  }
};

inline void put(uint8_t* vector, unsigned width, size_t at, unsigned code) {
  const Fields fields(width);
  for (unsigned i = 0; i < fields.count; ++i) {
    const unsigned bits = fields.bits[i], mask = (1u << bits) - 1;
    uint8_t& byte = vector[at % (4 * bits)];
    const size_t shift = bits * (at / (4 * bits));
    byte = static_cast<uint8_t>((byte & ~(mask << shift)) | (code & mask) << shift);
    code >>= bits;
    vector += 4 * bits;
  }
}

inline unsigned get(const uint8_t* vector, unsigned width, size_t at) {
  const Fields fields(width);
  unsigned code = 0, low = 0;
  for (unsigned i = 0; i < fields.count; ++i) {
    const unsigned bits = fields.bits[i], mask = (1u << bits) - 1;
    code |= (vector[at % (4 * bits)] >> (bits * (at / (4 * bits))) & mask) << low;
    low += bits;
    vector += 4 * bits;
  }
  return code;
}

// Coordinates of one width: own norm, own codebook.
struct Group {
  unsigned width;
  size_t dims, first;   // `first`: of its rotated coordinates within the head
  size_t norms, codes;  // offsets in the tile
  float low, step;      // 8-bit norms: log2 of code 1, and of a step
  bool is_logarithmic;  // 8-bit log norms, else fp16
  NormTables norm_tables;
  std::vector<float> centroids, thresholds;
  alignas(32) uint8_t narrow[16] = {};  // centroids on 0..63 (keys) or -32..32 (values)
  float narrow_scale = 0;
  alignas(32) uint8_t wide_low[256] = {}, wide_high[256] = {};  // centroids on -2047..2047
  float wide_scale = 0;

  size_t quads() const { return dims / 4; }
  bool has_half() const { return dims % 4 != 0; }
  size_t norm_bytes() const { return is_logarithmic ? 1 : 2; }
  size_t bytes() const { return kTile * norm_bytes() + 4 * width * dims; }
  float level_scale() const { return width < kWide ? narrow_scale : wide_scale; }
  float norm(const uint8_t* tile, size_t slot) const;
  // Returns whether the norm lay outside the calibrated range.
  bool set_norm(uint8_t* tile, size_t slot, float norm) const;
};

// Where the code of coordinate `dim` of token `slot` lies: vector, and place in it.
struct Place {
  size_t vector, at;
};

inline Place key_place(const Group& group, size_t dim, size_t slot) {
  const size_t quads = group.quads();
  if (dim / 4 < quads) return {slot / 8 * quads + dim / 4, 4 * (slot % 8) + dim % 4};
  return {4 * quads + slot / 16, 2 * (slot % 16) + dim % 2};
}

inline Place value_place(size_t dim, size_t slot) {
  return {dim / 8 * 8 + slot / 4, 4 * (dim % 8) + slot % 4};
}

// An invertible change of coordinates: a rotation, after a scaling that spends the error where it
// hurts least.
struct Transform {
  size_t dim;
  std::vector<float> columns;                        // of the matrix M
  std::vector<float> inverse_rows, inverse_columns;  // of its inverse
  Transform() = default;
  Transform(size_t dim, const float* rows, const float* inverse);
  void forward(const float* x, float* y) const;   // y = M x
  void backward(const float* y, float* x) const;  // x = M⁻¹ y
  void dual(const float* q, float* y) const;      // y = M⁻ᵀ q, so that yᵀ M x = qᵀ x
};

struct Codec {
  size_t dim, key_bytes = 0, tile_bytes = 0;
  std::vector<Group> groups;
  Group value;
  Transform key, value_basis;
  std::vector<float> mean;            // taken off each key, before RoPE
  std::vector<float> value_mean;      // taken off each value
  std::vector<uint32_t> mean_blocks;  // the RoPE blocks where the mean is not zero
  std::vector<double> frequencies;    // of all blocks, radians per position
  Waves waves;                        // of the blocks that carry the mean

  void finish();
  // Writes token `slot` of a tile; returns how many norms were out of range.
  unsigned encode(const float* key_in, const float* value_in, int64_t position, uint8_t* tile,
                  size_t slot) const;
  void decode(const uint8_t* tile, size_t slot, int64_t position, float* key_out,
              float* value_out) const;
  void add_mean(int64_t position, float sign, float* key) const;
};

}  // namespace tidemill::blockgtq
