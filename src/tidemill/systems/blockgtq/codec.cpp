// Encoding and decoding of single tokens. Compiled without contraction of a*b+c at every level, so
// that the codes are the same bit for bit with and without AVX2 (CMakeLists.txt).
#include "codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tidemill::blockgtq {

namespace {

constexpr int kZero = 0;  // the 8-bit code of a zero vector; 1..255 are logarithmic

uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  if (bits >= 0x477ff000u) return 0x7bff;  // 65504, the largest
  if (bits < 0x33000001u) return 0;
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
  const int drop = exponent < -14 ? 13 - 14 - exponent : 13;
  const uint32_t half = 1u << (drop - 1);
  uint32_t kept = mantissa >> drop;
  const uint32_t rest = mantissa & ((1u << drop) - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  return exponent < -14 ? static_cast<uint16_t>(kept)
                        : static_cast<uint16_t>(((exponent + 14) << 10) + kept);
}

float from_half(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const float mantissa = static_cast<float>(half & 0x3ff);
  return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
}

// Codes of `x`, and the factor that gives what they stand for its norm again.
float quantise(const Group& group, const float* x, uint8_t* codes) {
  double sum = 0;
  for (size_t i = 0; i < group.dims; ++i) sum += static_cast<double>(x[i]) * x[i];
  const float norm = static_cast<float>(std::sqrt(sum));
  if (!(norm > 0)) {
    std::fill_n(codes, group.dims, uint8_t{0});
    return 0;
  }
  const float inverse = 1 / norm;
  double kept = 0;
  for (size_t i = 0; i < group.dims; ++i) {
    const float unit = x[i] * inverse;
    const auto& cuts = group.thresholds;
    codes[i] =
        static_cast<uint8_t>(std::upper_bound(cuts.begin(), cuts.end(), unit) - cuts.begin());
    kept += static_cast<double>(group.centroids[codes[i]]) * group.centroids[codes[i]];
  }
  return norm / static_cast<float>(std::sqrt(kept));
}

void place_group(Group& group, size_t& offset) {
  group.norms = offset;
  group.codes = offset + kTile * group.norm_bytes();
  offset += group.bytes();
  const auto& c = group.centroids;
  for (size_t i = 0; i + 1 < c.size(); ++i) group.thresholds.push_back((c[i] + c[i + 1]) / 2);
}

void make_norm_tables(Group& group) {
  for (unsigned i = 0; i < 8; ++i) {
    const float step = group.step, code = static_cast<float>(i);
    group.norm_tables.low[i] = std::exp2(step * (code - 1));
    group.norm_tables.middle[i] = std::exp2(step * 8 * code);
    group.norm_tables.high[i] = std::exp2(group.low + (i < 4 ? step * 64 * code : 0));
  }
}

void make_tables(Group& group, bool is_key) {
  if (group.is_logarithmic) make_norm_tables(group);
  const float top = group.centroids.back();
  if (group.width < kWide) {
    const float reach = is_key ? 31.5f : 32.0f;
    group.narrow_scale = top / reach;
    for (size_t i = 0; i < group.centroids.size(); ++i) {
      const float level = group.centroids[i] / group.narrow_scale + (is_key ? reach : 0.0f);
      group.narrow[i] = static_cast<uint8_t>(static_cast<int8_t>(std::lround(level)));
    }
    return;
  }
  group.wide_scale = top / 2047;
  for (size_t i = 0; i < group.centroids.size(); ++i) {
    const auto level = static_cast<int16_t>(std::lround(group.centroids[i] / group.wide_scale));
    group.wide_low[i] = static_cast<uint8_t>(level & 255);
    group.wide_high[i] = static_cast<uint8_t>(static_cast<uint16_t>(level) >> 8);
  }
}

}  // namespace

float Group::norm(const uint8_t* tile, size_t slot) const {
  if (!is_logarithmic) {
    uint16_t half;
    std::memcpy(&half, tile + norms + 2 * slot, 2);
    return from_half(half);
  }
  const int code = tile[norms + slot];
  return code == kZero ? 0.0f : std::exp2(low + step * static_cast<float>(code - 1));
}

bool Group::set_norm(uint8_t* tile, size_t slot, float norm) const {
  if (!is_logarithmic) {
    const uint16_t half = to_half(norm);
    std::memcpy(tile + norms + 2 * slot, &half, 2);
    return norm > 65504.0f;
  }
  uint8_t& code = tile[norms + slot];
  if (!(norm > 0)) {
    code = kZero;
    return false;
  }
  const float level = 1 + std::nearbyint((std::log2(norm) - low) / step);
  code = static_cast<uint8_t>(std::clamp(level, 1.0f, 255.0f));
  return level < 1 || level > 255;
}

Transform::Transform(size_t dim_, const float* rows, const float* inverse)
    : dim(dim_),
      columns(dim_ * dim_),
      inverse_rows(inverse, inverse + dim_ * dim_),
      inverse_columns(dim_ * dim_) {
  for (size_t i = 0; i < dim; ++i)
    for (size_t j = 0; j < dim; ++j) {
      columns[i * dim + j] = rows[j * dim + i];
      inverse_columns[i * dim + j] = inverse[j * dim + i];
    }
}

// Sums of the lists' rows, weighted with x.
static void combine(const std::vector<float>& rows, size_t dim, const float* x, float* y) {
  std::fill_n(y, dim, 0.0f);
  for (size_t i = 0; i < dim; ++i) {
    const float* row = rows.data() + i * dim;
    for (size_t j = 0; j < dim; ++j) y[j] += row[j] * x[i];
  }
}

void Transform::forward(const float* x, float* y) const { combine(columns, dim, x, y); }
void Transform::backward(const float* y, float* x) const { combine(inverse_columns, dim, y, x); }
void Transform::dual(const float* q, float* y) const { combine(inverse_rows, dim, q, y); }

void Codec::finish() {
  size_t offset = 0, first = 0;
  for (Group& group : groups) {
    group.first = first;
    first += group.dims;
    place_group(group, offset);
    make_tables(group, true);
  }
  key_bytes = offset;
  value.first = 0;
  place_group(value, offset);
  make_tables(value, false);
  tile_bytes = offset;
  for (uint32_t i = 0; i < dim / 2; ++i)
    if (mean[i] != 0 || mean[i + dim / 2] != 0) mean_blocks.push_back(i);
  waves = Waves(mean_blocks, frequencies);
}

void Codec::add_mean(int64_t position, float sign, float* key) const {
  const size_t half = dim / 2;
  for (const uint32_t block : mean_blocks) {
    const double angle = frequencies[block] * static_cast<double>(position);
    const double c = std::cos(angle), s = std::sin(angle);
    const double x = mean[block], y = mean[block + half];
    key[block] += sign * static_cast<float>(x * c - y * s);
    key[block + half] += sign * static_cast<float>(y * c + x * s);
  }
}

unsigned Codec::encode(const float* key_in, const float* value_in, int64_t position, uint8_t* tile,
                       size_t slot) const {
  float residual[kMaxDim], turned[kMaxDim];
  uint8_t codes[kMaxDim];
  std::copy_n(key_in, dim, residual);
  add_mean(position, -1, residual);
  key.forward(residual, turned);
  unsigned saturated = 0;
  for (const Group& group : groups) {
    saturated += group.set_norm(tile, slot, quantise(group, turned + group.first, codes));
    for (size_t i = 0; i < group.dims; ++i) {
      const Place place = key_place(group, i, slot);
      put(tile + group.codes + place.vector * 4 * group.width, group.width, place.at, codes[i]);
    }
  }
  for (size_t i = 0; i < dim; ++i) residual[i] = value_in[i] - value_mean[i];
  value_basis.forward(residual, turned);
  saturated += value.set_norm(tile, slot, quantise(value, turned, codes));
  for (size_t i = 0; i < dim; ++i) {
    const Place place = value_place(i, slot);
    put(tile + value.codes + place.vector * 4 * value.width, value.width, place.at, codes[i]);
  }
  return saturated;
}

void Codec::decode(const uint8_t* tile, size_t slot, int64_t position, float* key_out,
                   float* value_out) const {
  float turned[kMaxDim];
  for (const Group& group : groups) {
    const float norm = group.norm(tile, slot);
    for (size_t i = 0; i < group.dims; ++i) {
      const Place place = key_place(group, i, slot);
      const uint8_t* vector = tile + group.codes + place.vector * 4 * group.width;
      turned[group.first + i] = norm * group.centroids[get(vector, group.width, place.at)];
    }
  }
  key.backward(turned, key_out);
  add_mean(position, 1, key_out);
  const float norm = value.norm(tile, slot);
  for (size_t i = 0; i < dim; ++i) {
    const Place place = value_place(i, slot);
    const uint8_t* vector = tile + value.codes + place.vector * 4 * value.width;
    turned[i] = norm * value.centroids[get(vector, value.width, place.at)];
  }
  value_basis.backward(turned, value_out);
  for (size_t i = 0; i < dim; ++i) value_out[i] += value_mean[i];
}

}  // namespace tidemill::blockgtq
