// The inner loops: codes out of bit-planes, products out of a 16-entry table, sums in int16.
#include "gemv.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "../../models/layout.hpp"

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

__m256i bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

template <int by>  // to the left, or if negative to the right; what crosses bytes is masked after
__m256i shifted(__m256i bytes) {
  if constexpr (by > 0) return _mm256_slli_epi16(bytes, by);
  if constexpr (by < 0) return _mm256_srli_epi16(bytes, -by);
  return bytes;
}

__m256i lower(__m256i nibbles) { return _mm256_and_si256(nibbles, bytes(15)); }
__m256i upper(__m256i nibbles) { return lower(_mm256_srli_epi16(nibbles, 4)); }

// Indices of 64 outputs: field `f` of half `v` in the lower nibbles, field f + 2 in the upper.
// `column(plane)` is where a column begins in a plane.
template <int planes, int v, int f, bool is_alone>
__m256i codes(const auto& column, size_t group) {
  const __m256i two = load(column(0) + group * 64 + v * 32);
  __m256i code = _mm256_and_si256(shifted<-2 * f>(two), bytes(0x33));
  constexpr int from = static_cast<int>(one_at(v, f)), other = static_cast<int>(one_at(1, f));
  const auto add = [&](__m256i bits, int mask) {
    code = _mm256_or_si256(code, _mm256_and_si256(bits, bytes(mask)));
  };
  if constexpr (planes > 1) add(shifted<2 - from>(load(column(1) + group * 32)), 0x44);
  if constexpr (planes > 2 && is_alone) add(shifted<3 - other>(load(column(1) + group * 32)), 0x88);
  if constexpr (planes > 2 && !is_alone) add(shifted<3 - from>(load(column(2) + group * 32)), 0x88);
  return code;
}

// In the same way the two bits that the last plane adds: where bits 1 and 3 of a code would be.
template <int v, int f>
__m256i last_bits(const auto& column, size_t group) {
  return _mm256_and_si256(shifted<f>(load(column(3) + group * 64 + v * 32)), bytes(0xAA));
}

// Unsigned bytes into int16 sums: the first 16 of all bytes as pairs, the others of odd ones alone.
void widen(__m256i sum, uint16_t* sums) {
  auto* at = reinterpret_cast<__m256i*>(sums);
  _mm256_storeu_si256(at, _mm256_add_epi16(load(at), sum));
  _mm256_storeu_si256(at + 1, _mm256_add_epi16(load(at + 1), _mm256_srli_epi16(sum, 8)));
}

void widen(__m256i one, __m256i two, uint16_t* sums) {
  auto* at = reinterpret_cast<__m256i*>(sums);
  const __m256i odd = _mm256_add_epi16(_mm256_srli_epi16(one, 8), _mm256_srli_epi16(two, 8));
  _mm256_storeu_si256(at, _mm256_add_epi16(load(at), _mm256_add_epi16(one, two)));
  _mm256_storeu_si256(at + 1, _mm256_add_epi16(load(at + 1), odd));
}

__m256i look(const int8_t* table, __m256i index) {
  return _mm256_shuffle_epi8(load_table(table), index);
}

// At 2 bits, two columns to an index: fields f and f + 2 of half `v` of a group.
template <int v, int f>
void add_twos(const Quad& quad, size_t group, uint16_t* sums) {
  const auto index = [&](size_t k) {
    const __m256i a = load(quad.column[0][k] + group * 64 + v * 32);
    const __m256i b = load(quad.column[0][k + 1] + group * 64 + v * 32);
    return _mm256_or_si256(_mm256_and_si256(shifted<-2 * f>(a), bytes(0x33)),
                           _mm256_and_si256(shifted<2 - 2 * f>(b), bytes(0xCC)));
  };
  const __m256i first = index(0), second = index(2);
  const int8_t *one = quad.products[0], *two = quad.products[2];
  widen(_mm256_add_epi8(look(one, lower(first)), look(two, lower(second))), sums + f * 32);
  widen(_mm256_add_epi8(look(one, upper(first)), look(two, upper(second))), sums + f * 32 + 64);
}

template <int planes, int v, int f, bool is_alone>
void add_fields(const Quad& quad, size_t group, uint16_t* sums, uint16_t* fine) {
  __m256i low[4], high[4], low_step[4], high_step[4];
  for (size_t k = 0; k < 4; ++k) {
    const auto column = [&](size_t plane) { return quad.column[plane][k]; };
    const __m256i code = codes<planes, v, f, is_alone>(column, group);
    const int8_t* table = quad.products[k];
    const __m256i down = lower(code), up = upper(code);
    low[k] = look(table, down), high[k] = look(table, up);
    if constexpr (planes < 4) continue;
    const __m256i step =
        _mm256_or_si256(_mm256_and_si256(code, bytes(0x55)), last_bits<v, f>(column, group));
    low_step[k] = _mm256_add_epi8(look(table + 16, down), look(table + 32, lower(step)));
    high_step[k] = _mm256_add_epi8(look(table + 16, up), look(table + 32, upper(step)));
  }
  const auto add = [](const __m256i* r, uint16_t* at) {
    const __m256i one = _mm256_add_epi8(r[0], r[1]), two = _mm256_add_epi8(r[2], r[3]);
    if constexpr (planes == 2) widen(_mm256_add_epi8(one, two), at);
    if constexpr (planes > 2) widen(one, two, at);
  };
  add(low, sums + f * 32), add(high, sums + f * 32 + 64);
  if constexpr (planes > 3) add(low_step, fine + f * 32), add(high_step, fine + f * 32 + 64);
}

template <int planes, int v, bool is_alone = false>
void add_half(const Quad& quad, size_t group, uint16_t* sums, uint16_t* fine) {
  const size_t at = group * kGroup + v * kHalf;
  if constexpr (planes == 1) {
    add_twos<v, 0>(quad, group, sums + at);
    add_twos<v, 1>(quad, group, sums + at);
  } else {
    add_fields<planes, v, 0, is_alone>(quad, group, sums + at, fine + at);
    add_fields<planes, v, 1, is_alone>(quad, group, sums + at, fine + at);
  }
}

// Fetches four columns of a plane one after the other, so that the hardware sees one stream.
struct Ahead {
  size_t column = 0, at = 0;

  void step(const std::array<const uint8_t*, 4>& columns, const Run& run) {
    for (size_t i = 0; i < run.lines; ++i) {
      _mm_prefetch(columns[column] + std::min(at, run.bytes - 1), _MM_HINT_T0);
      at += 64;
      const bool is_over = at >= run.end;
      at = is_over ? 0 : at;
      column = (column + is_over) & 3;
    }
  }
};

template <int planes>
void add_groups(const Quad& quad, size_t halves, uint16_t* sums, uint16_t* fine) {
  Ahead ahead[planes];
  const auto fetch = [&] {
    for (size_t plane = 0; plane < planes; ++plane)
      ahead[plane].step(quad.next[plane], quad.runs[plane]);
  };
  for (size_t group = 0; group < halves / 2; ++group) {
    fetch();
    add_half<planes, 0>(quad, group, sums, fine);
    add_half<planes, 1>(quad, group, sums, fine);
  }
  if (halves == 1) fetch();
  if (halves % 2 != 0) add_half<planes, 0, true>(quad, halves / 2, sums, fine);
}

// Of 16 fine products, what they are in units of 2^8 and 2^5.
__m128i packed(__m256i values) {
  return _mm_packs_epi16(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
}

template <int bits>
__m256i rounded(__m256i fine) {
  return _mm256_srai_epi16(_mm256_add_epi16(fine, _mm256_set1_epi16(1 << (bits - 1))), bits);
}

}  // namespace

void add_quad(size_t planes, const Quad& quad, size_t halves, uint16_t* sums, uint16_t* fine) {
  if (planes == 1) return add_groups<1>(quad, halves, sums, fine);
  if (planes == 2) return add_groups<2>(quad, halves, sums, fine);
  if (planes == 3) return add_groups<3>(quad, halves, sums, fine);
  add_groups<4>(quad, halves, sums, fine);
}

void flush(size_t halves, float scale, size_t added, uint16_t* sums, float* y) {
  const __m256 by = _mm256_set1_ps(scale);
  const __m256i bias = _mm256_set1_epi16(static_cast<int16_t>(128 * added));
  const auto add = [&](__m128i eight, float* to) {
    const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(value, by)));
  };
  for (size_t i = 0; i < halves * kHalf; i += 32) {
    const __m256i pairs = load(sums + i), odds = load(sums + i + 16);
    const __m256i even =
        _mm256_sub_epi16(_mm256_sub_epi16(pairs, _mm256_slli_epi16(odds, 8)), bias);
    const __m256i odd = _mm256_sub_epi16(odds, bias);
    // unpacking leaves outputs 0-7, 16-23 in the first vector, 8-15, 24-31 in the second
    const __m256i first = _mm256_unpacklo_epi16(even, odd),
                  second = _mm256_unpackhi_epi16(even, odd);
    add(_mm256_castsi256_si128(first), y + i);
    add(_mm256_castsi256_si128(second), y + i + 8);
    add(_mm256_extracti128_si256(first, 1), y + i + 16);
    add(_mm256_extracti128_si256(second, 1), y + i + 24);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), _mm256_setzero_si256());
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i + 16), _mm256_setzero_si256());
  }
}

void make_products(const Table& table, size_t planes, const int16_t* x, Quad& quad) {
  const __m256i coarse = load(table.coarse.data()), fine = load(table.fine.data());
  const auto times = [&](__m256i values, size_t k) {
    return _mm256_mulhrs_epi16(values, _mm256_set1_epi16(x[k]));
  };
  const auto store = [&](size_t k, size_t at, __m128i products) {
    const bool is_first = at < 32 && k % kTogether[planes - 1] == 0;
    const __m128i bias = _mm_set1_epi8(is_first ? -128 : 0);
    _mm_store_si128(reinterpret_cast<__m128i*>(quad.products[k] + at),
                    _mm_add_epi8(products, bias));
  };
  if (planes == 1) {
    for (size_t k = 0; k < 4; k += 2)
      store(k, 0, packed(rounded<8>(_mm256_add_epi16(times(coarse, k), times(fine, k + 1)))));
    return;
  }
  for (size_t k = 0; k < 4; ++k) {
    const __m256i exact = times(coarse, k), whole = rounded<8>(exact);
    store(k, 0, packed(whole));
    if (planes < 4) continue;
    const __m256i lost = _mm256_sub_epi16(exact, _mm256_slli_epi16(whole, 8));
    store(k, 16, packed(rounded<5>(lost)));
    store(k, 32, packed(rounded<5>(times(fine, k))));
  }
}

#else

namespace {

// The codes of the outputs of one half as stored, one a byte.
void codes_of(const Half& half, uint8_t* codes) {
  const size_t v = half.index % 2, group = half.index / 2;
  const auto add_bits = [&](const uint8_t* bytes, size_t f, size_t from, size_t to) {
    for (size_t lane = 0; lane < 32; ++lane)
      codes[32 * f + lane] |= static_cast<uint8_t>((bytes[lane] >> from & 1) << to);
  };
  for (size_t f = 0; f < 4; ++f) {
    for (size_t lane = 0; lane < 32; ++lane)
      codes[32 * f + lane] = half.column[0][32 * half.index + lane] >> (2 * f) & 3;
    if (half.planes > 1) add_bits(half.column[1] + 32 * group, f, one_at(v, f), 2);
    if (half.planes > 2 && half.is_alone) add_bits(half.column[1] + 32 * group, f, one_at(1, f), 3);
    if (half.planes > 2 && !half.is_alone)
      add_bits(half.column[2] + 32 * group, f, one_at(v, f), 3);
    if (half.planes < 4) continue;
    add_bits(half.column[3] + 32 * half.index, f, last_at(f), 4);
    add_bits(half.column[3] + 32 * half.index, f, last_at(f) + 2, 5);
  }
}

int times(int16_t value, int16_t x) { return ((static_cast<int>(value) * x >> 14) + 1) >> 1; }

}  // namespace

void add_quad(size_t planes, const Quad& quad, size_t halves, uint16_t* sums, uint16_t* fine) {
  uint8_t codes[4][kHalf];
  for (size_t half = 0; half < halves; ++half) {
    for (size_t k = 0; k < 4; ++k) {
      Half here{{}, planes, half, half + 1 == halves && halves % 2 != 0};
      for (size_t plane = 0; plane < planes; ++plane) here.column[plane] = quad.column[plane][k];
      codes_of(here, codes[k]);
    }
    const auto product = [&](size_t k, size_t index) { return int{quad.products[k][index]}; };
    for (size_t i = 0; i < kHalf; ++i) {
      const size_t at = half * kHalf + i;
      int sum = 0, rest = 0;
      for (size_t k = 0; k < 4; ++k) {
        const size_t code = codes[k][i];
        if (planes == 1 && k % 2 == 0) sum += product(k, code | codes[k + 1][i] << 2);
        if (planes > 1) sum += product(k, code & 15);
        if (planes == 4) rest += product(k, 16 + (code & 15)) + product(k, 32 + step_index(code));
      }
      sums[at] = static_cast<uint16_t>(sums[at] + sum);
      if (planes == 4) fine[at] = static_cast<uint16_t>(fine[at] + rest);
    }
  }
}

void flush(size_t halves, float scale, size_t, uint16_t* sums, float* y) {  // here without 128
  for (size_t i = 0; i < halves * kHalf; ++i) {
    y[i] += static_cast<float>(static_cast<int16_t>(sums[i])) * scale;
    sums[i] = 0;
  }
}

void make_products(const Table& table, size_t planes, const int16_t* x, Quad& quad) {
  for (size_t k = 0; k < 4; k += planes == 1 ? 2 : 1)
    for (size_t i = 0; i < 16; ++i) {
      int exact = times(table.coarse[i], x[k]);
      if (planes == 1) exact += times(table.fine[i], x[k + 1]);
      const int whole = (exact + 128) >> 8;
      quad.products[k][i] = static_cast<int8_t>(whole);
      quad.products[k][16 + i] = static_cast<int8_t>((exact - 256 * whole + 16) >> 5);
      quad.products[k][32 + i] = static_cast<int8_t>((times(table.fine[i], x[k]) + 16) >> 5);
    }
}

#endif

namespace {

constexpr std::array<int32_t, 8> kRank{0, 0, 0, 1, 2, 0, 3, 0};  // by level, in a float's last bits
constexpr int32_t kRanks = 3;

}  // namespace

void fold(const float* x, const float* col_scale, const uint8_t* levels,
          const std::array<Table, kPlanes>& tables, size_t cols, Sorted& sorted) {
  for (size_t k = 0; k < kPlanes; ++k) {
    sorted.edges[k] = tables[k].high;
    sorted.edges[kPlanes + k] = tables[k].low;
  }
  float* const to = sorted.x.get();
  size_t j = 0;
#ifdef __AVX2__
  const __m256i ranks = load(kRank.data()), zero = _mm256_setzero_si256();
  for (; j + 8 <= cols; j += 8) {
    const __m256i level =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(levels + j)));
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + j), _mm256_loadu_ps(col_scale + j));
    const __m256i bits =
        _mm256_andnot_si256(_mm256_set1_epi32(kRanks), _mm256_castps_si256(scaled));
    const __m256i none = _mm256_or_si256(_mm256_cmpeq_epi32(level, zero),
                                         _mm256_cmpeq_epi32(_mm256_slli_epi32(bits, 1), zero));
    const __m256i ranked = _mm256_or_si256(bits, _mm256_permutevar8x32_epi32(ranks, level));
    _mm256_storeu_ps(to + j, _mm256_castsi256_ps(_mm256_andnot_si256(none, ranked)));
  }
#endif
  for (; j < cols; ++j) {
    const auto bits = std::bit_cast<int32_t>(x[j] * col_scale[j]) & ~kRanks;
    const bool is_none = levels[j] == 0 || bits << 1 == 0;
    to[j] = is_none ? 0 : std::bit_cast<float>(bits | kRank[levels[j]]);
  }
  to[cols] = 0;
}

void add_outliers(const Slices& slices, const Sorted& sorted, float* y) {
  const float* const x = sorted.x.get();
#ifdef __AVX2__
  const __m256 edges = _mm256_load_ps(sorted.edges.data());
  const auto eight = [](const std::vector<uint16_t>& from, size_t at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from.data() + 8 * at));
  };
#endif
  for (size_t slice = 0; slice + 1 < slices.start.size(); ++slice) {
    float sum[8] = {};
#ifdef __AVX2__
    __m256 total = _mm256_setzero_ps();
    for (size_t at = slices.start[slice]; at < slices.start[slice + 1]; ++at) {
      const __m256 value = _mm256_cvtph_ps(eight(slices.values, at));
      const __m256 here =
          _mm256_i32gather_ps(x, _mm256_cvtepu16_epi32(eight(slices.columns, at)), 4);
      const __m256i rank = _mm256_and_si256(_mm256_castps_si256(here), _mm256_set1_epi32(kRanks));
      const __m256i side = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(value), 29),
                                            _mm256_set1_epi32(kPlanes));
      const __m256 edge = _mm256_permutevar8x32_ps(edges, _mm256_or_si256(rank, side));
      total = _mm256_fmadd_ps(here, _mm256_sub_ps(value, edge), total);
    }
    _mm256_storeu_ps(sum, total);
#else
    for (size_t i = 8 * slices.start[slice]; i < 8 * size_t{slices.start[slice + 1]}; ++i) {
      const float value = models::half_to_float(slices.values[i]), here = x[slices.columns[i]];
      const auto rank = static_cast<size_t>(std::bit_cast<int32_t>(here) & kRanks);
      sum[i % 8] += here * (value - sorted.edges[rank + (std::signbit(value) ? kPlanes : 0)]);
    }
#endif
    for (size_t k = 0; k < 8; ++k) y[slices.rows[8 * slice + k]] += sum[k];
  }
}

#ifdef __AVX2__

namespace {

// Eight times 32 bits, out of their four bytes: of outputs 0-7, 8-15, 16-23, 24-31.
struct Floats {
  __m256 eight[4];

  explicit Floats(const __m256i* bytes) {
    const __m256i low = _mm256_unpacklo_epi8(bytes[0], bytes[1]),
                  high = _mm256_unpackhi_epi8(bytes[0], bytes[1]),
                  low_end = _mm256_unpacklo_epi8(bytes[2], bytes[3]),
                  high_end = _mm256_unpackhi_epi8(bytes[2], bytes[3]);
    const __m256i a = _mm256_unpacklo_epi16(low, low_end), b = _mm256_unpackhi_epi16(low, low_end),
                  c = _mm256_unpacklo_epi16(high, high_end),
                  d = _mm256_unpackhi_epi16(high, high_end);
    const auto both = [](__m256i lanes) { return _mm256_castsi256_ps(lanes); };
    eight[0] = both(_mm256_permute2x128_si256(a, b, 0x20));
    eight[1] = both(_mm256_permute2x128_si256(c, d, 0x20));
    eight[2] = both(_mm256_permute2x128_si256(a, b, 0x31));
    eight[3] = both(_mm256_permute2x128_si256(c, d, 0x31));
  }
};

// Values of 32 outputs whose codes are in the lower nibbles, and the last plane's bits in bits 1
// and 3 of `last`; byte by byte of a float, out of tables of sixteen.
template <int planes>
Floats values_of(const Table& table, __m256i code, __m256i last) {
  __m256i made[4];
  for (size_t byte = 0; byte < 4; ++byte) {
    const auto of = [&](size_t quarter) {
      return look(reinterpret_cast<const int8_t*>(table.bytes[byte][quarter].data()), code);
    };
    made[byte] = of(0);
    if constexpr (planes < 4) continue;
    const __m256i fifth = _mm256_slli_epi16(last, 6), sixth = _mm256_slli_epi16(last, 4);
    made[byte] = _mm256_blendv_epi8(_mm256_blendv_epi8(made[byte], of(1), fifth),
                                    _mm256_blendv_epi8(of(2), of(3), fifth), sixth);
  }
  return Floats(made);
}

template <int planes, int v, int f, bool is_alone>
void decode_fields(const Half& half, const Table& table, const float* scale, __m256 by,
                   float* out) {
  const auto column = [&](size_t plane) { return half.column[plane]; };
  const size_t group = half.index / 2;
  const __m256i code = codes<planes, v, f, is_alone>(column, group);
  __m256i last = _mm256_setzero_si256();
  if constexpr (planes > 3) last = last_bits<v, f>(column, group);
  const auto store = [&](const Floats& values, size_t at) {
    for (size_t i = 0; i < 4; ++i, at += 8) {
      const __m256 both = _mm256_mul_ps(_mm256_loadu_ps(scale + at), by);
      _mm256_storeu_ps(out + at, _mm256_mul_ps(values.eight[i], both));
    }
  };
  store(values_of<planes>(table, lower(code), lower(last)), 32 * f);
  store(values_of<planes>(table, upper(code), upper(last)), 32 * (f + 2));
}

template <int planes>
void decode(const Half& half, const Table& table, const float* scale, __m256 by, float* out) {
  const auto both = [&]<int v, bool is_alone>() {
    decode_fields<planes, v, 0, is_alone>(half, table, scale, by, out);
    decode_fields<planes, v, 1, is_alone>(half, table, scale, by, out);
  };
  if (half.is_alone) return both.template operator()<0, true>();
  if (half.index % 2 == 0) return both.template operator()<0, false>();
  both.template operator()<1, false>();
}

}  // namespace

void decode_half(const Half& half, const Table& table, const float* scale, float by, float* out) {
  const __m256 factor = _mm256_set1_ps(by);
  if (half.planes == 1) return decode<1>(half, table, scale, factor, out);
  if (half.planes == 2) return decode<2>(half, table, scale, factor, out);
  if (half.planes == 3) return decode<3>(half, table, scale, factor, out);
  decode<4>(half, table, scale, factor, out);
}

#else

void decode_half(const Half& half, const Table& table, const float* scale, float by, float* out) {
  uint8_t codes[kHalf];
  codes_of(half, codes);
  for (size_t i = 0; i < kHalf; ++i) out[i] = table.value[codes[i]] * (scale[i] * by);
}

#endif

}  // namespace tidemill::grinqh
