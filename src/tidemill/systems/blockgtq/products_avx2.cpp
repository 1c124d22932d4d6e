// The inner loops with AVX2: unpack 32 codes, look centroids up with a byte shuffle, multiply.
#ifdef __AVX2__
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "../../models/vnni.hpp"
#include "products.hpp"

namespace tidemill::blockgtq {

namespace {

inline __m256i field4(const uint8_t* at) {
  const __m256i both =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  return _mm256_and_si256(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4)),
                          _mm256_set1_epi8(15));
}

inline __m256i field2(const uint8_t* at) {
  long long word;
  std::memcpy(&word, at, 8);
  return _mm256_and_si256(
      _mm256_srlv_epi64(_mm256_set1_epi64x(word), _mm256_setr_epi64x(0, 2, 4, 6)),
      _mm256_set1_epi8(3));
}

inline __m256i field1(const uint8_t* at) {
  int word;
  std::memcpy(&word, at, 4);
  return _mm256_and_si256(
      _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
      _mm256_set1_epi8(1));
}

template <unsigned kWidth>
inline __m256i unpack(const uint8_t* at) {
  const auto join = [](__m256i low, __m256i high, int by) {
    return _mm256_or_si256(low, _mm256_slli_epi32(high, by));
  };
  if constexpr (kWidth == 1) return field1(at);
  if constexpr (kWidth == 2) return field2(at);
  if constexpr (kWidth == 3) return join(field2(at), field1(at + 8), 2);
  if constexpr (kWidth == 4) return field4(at);
  if constexpr (kWidth == 5) return join(field4(at), field1(at + 16), 4);
  if constexpr (kWidth == 6) return join(field4(at), field2(at + 16), 4);
  if constexpr (kWidth == 7) return join(join(field4(at), field2(at + 16), 4), field1(at + 24), 6);
  return join(field4(at), field4(at + 16), 4);
}

template <unsigned kWidth>
inline __m256i narrow(const uint8_t* at, __m256i table) {
  return _mm256_shuffle_epi8(table, unpack<kWidth>(at));
}

inline __m256 load(const float* at) { return _mm256_loadu_ps(at); }

// scores += norm * (factor * sum + offset)
inline void add_score(__m256i sum, float factor, float offset, __m256 norm, float* scores) {
  const __m256 product =
      _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(factor), _mm256_set1_ps(offset));
  _mm256_storeu_ps(scores, _mm256_fmadd_ps(norm, product, load(scores)));
}

inline void add_value(__m256i sum, float factor, float* out) {
  const __m256 made = _mm256_cvtepi32_ps(sum);
  _mm256_storeu_ps(out, _mm256_fmadd_ps(made, _mm256_set1_ps(factor), load(out)));
}

inline __m256i table_of(const uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Sums neighbouring 16-bit products into 32 bits.
inline __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// Whether sums of four products of bytes are one instruction; the integers are the same.
enum class Dots { kPairs, kVnni };

template <Dots kDots, unsigned kWidth, size_t kCount>
void narrow_keys(const Group& group, const uint8_t* codes, const GroupQuery& query,
                 const float* norms, float* scores) {
  const __m256i table = table_of(group.narrow);
  const size_t quads = group.quads(), stride = query.stride;
  const int32_t* packed = query.packed.data();
  for (size_t octet = 0; octet < 4; ++octet) {
    __m256i sum[kCount];
    for (size_t h = 0; h < kCount; ++h) sum[h] = _mm256_setzero_si256();
    size_t quad = 0;
    for (; quad + 2 <= quads; quad += 2, codes += 8 * kWidth) {
      const __m256i one = narrow<kWidth>(codes, table);
      const __m256i two = narrow<kWidth>(codes + 4 * kWidth, table);
      for (size_t h = 0; h < kCount; ++h) {
        const int32_t* q = packed + h * stride + quad;
        if constexpr (kDots == Dots::kVnni) {
          sum[h] = models::add_dots(models::add_dots(sum[h], one, q), two, q + 1);
          continue;
        }
        const __m256i products =
            _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_set1_epi32(q[0])),
                             _mm256_maddubs_epi16(two, _mm256_set1_epi32(q[1])));
        sum[h] = _mm256_add_epi32(sum[h], widen(products));
      }
    }
    if (quad < quads) {
      const __m256i one = narrow<kWidth>(codes, table);
      codes += 4 * kWidth;
      for (size_t h = 0; h < kCount; ++h) {
        const __m256i q = _mm256_set1_epi32(packed[h * stride + quad]);
        sum[h] = _mm256_add_epi32(sum[h], widen(_mm256_maddubs_epi16(one, q)));
      }
    }
    const __m256 norm = load(norms + 8 * octet);
    for (size_t h = 0; h < kCount; ++h)
      add_score(sum[h], query.factor[h], query.offset[h], norm, scores + h * kTile + 8 * octet);
  }
  if (!group.has_half()) return;
  for (size_t half = 0; half < 2; ++half, codes += 4 * kWidth) {
    const __m256i one = narrow<kWidth>(codes, table);
    for (size_t h = 0; h < kCount; ++h) {
      const __m256i pair = _mm256_maddubs_epi16(one, _mm256_set1_epi32(packed[h * stride + quads]));
      float* at = scores + h * kTile + 16 * half;
      const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(pair));
      const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(pair, 1));
      add_score(low, query.factor[h], 0, load(norms + 16 * half), at);
      add_score(high, query.factor[h], 0, load(norms + 16 * half + 8), at + 8);
    }
  }
}

struct Words {
  __m256i low, high;  // 16-bit centroids: of the lower and upper eight codes of each lane
};

template <unsigned kWidth>
inline Words wide(const Group& group, const uint8_t* at) {
  const __m256i codes = unpack<kWidth>(at);
  const __m256i below = _mm256_and_si256(codes, _mm256_set1_epi8(15));
  const __m256i above = _mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15));
  __m256i low = _mm256_setzero_si256(), high = low;
  for (int part = 0; part < 1 << (kWidth - 4); ++part) {
    const __m256i here = _mm256_cmpeq_epi8(above, _mm256_set1_epi8(static_cast<char>(part)));
    const __m256i lows = _mm256_shuffle_epi8(table_of(group.wide_low + 16 * part), below);
    const __m256i highs = _mm256_shuffle_epi8(table_of(group.wide_high + 16 * part), below);
    low = _mm256_or_si256(low, _mm256_and_si256(lows, here));
    high = _mm256_or_si256(high, _mm256_and_si256(highs, here));
  }
  return {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}

template <unsigned kWidth, size_t kCount>
void wide_keys(const Group& group, const uint8_t* codes, const GroupQuery& query,
               const float* norms, float* scores) {
  const size_t quads = group.quads(), stride = query.stride;
  const int32_t* packed = query.packed.data();
  for (size_t octet = 0; octet < 4; ++octet) {
    __m256i sum[kCount];
    for (size_t h = 0; h < kCount; ++h) sum[h] = _mm256_setzero_si256();
    for (size_t quad = 0; quad < quads; ++quad, codes += 4 * kWidth) {
      const Words words = wide<kWidth>(group, codes);
      for (size_t h = 0; h < kCount; ++h) {
        long long four;
        std::memcpy(&four, packed + h * stride + 2 * quad, 8);
        const __m256i q = _mm256_set1_epi64x(four);
        sum[h] = _mm256_add_epi32(sum[h], _mm256_hadd_epi32(_mm256_madd_epi16(words.low, q),
                                                            _mm256_madd_epi16(words.high, q)));
      }
    }
    const __m256 norm = load(norms + 8 * octet);
    for (size_t h = 0; h < kCount; ++h)
      add_score(sum[h], query.factor[h], query.offset[h], norm, scores + h * kTile + 8 * octet);
  }
  if (!group.has_half()) return;
  for (size_t half = 0; half < 2; ++half, codes += 4 * kWidth) {
    const Words words = wide<kWidth>(group, codes);
    for (size_t h = 0; h < kCount; ++h) {
      const __m256i q = _mm256_set1_epi32(packed[h * stride + 2 * quads]);
      const __m256i one = _mm256_madd_epi16(words.low, q), two = _mm256_madd_epi16(words.high, q);
      float* at = scores + h * kTile + 16 * half;
      const __m256i first = _mm256_permute2x128_si256(one, two, 0x20);
      const __m256i second = _mm256_permute2x128_si256(one, two, 0x31);
      add_score(first, query.factor[h], 0, load(norms + 16 * half), at);
      add_score(second, query.factor[h], 0, load(norms + 16 * half + 8), at + 8);
    }
  }
}

template <Dots kDots, unsigned kWidth, size_t kCount>
void narrow_values(const Group& group, size_t dim, const uint8_t* codes, const uint8_t* weights,
                   const float* factor, float* out) {
  const __m256i table = table_of(group.narrow);
  const auto weight = [&](size_t head, size_t quad) {
    int four;
    std::memcpy(&four, weights + head * kTile + 4 * quad, 4);
    return _mm256_set1_epi32(four);
  };
  for (size_t block = 0; block < dim; block += 8) {
    __m256i sum[kCount];
    for (size_t h = 0; h < kCount; ++h) sum[h] = _mm256_setzero_si256();
    for (size_t quad = 0; quad < 8; quad += 2, codes += 8 * kWidth) {
      const __m256i one = narrow<kWidth>(codes, table);
      const __m256i two = narrow<kWidth>(codes + 4 * kWidth, table);
      for (size_t h = 0; h < kCount; ++h) {
        if constexpr (kDots == Dots::kVnni) {
          const __m256i added = models::add_dots(sum[h], weight(h, quad), one);
          sum[h] = models::add_dots(added, weight(h, quad + 1), two);
          continue;
        }
        const __m256i products = _mm256_add_epi16(_mm256_maddubs_epi16(weight(h, quad), one),
                                                  _mm256_maddubs_epi16(weight(h, quad + 1), two));
        sum[h] = _mm256_add_epi32(sum[h], widen(products));
      }
    }
    for (size_t h = 0; h < kCount; ++h) add_value(sum[h], factor[h], out + h * dim + block);
  }
}

template <unsigned kWidth, size_t kCount>
void wide_values(const Group& group, size_t dim, const uint8_t* codes, const uint8_t* weights,
                 const float* factor, float* out) {
  for (size_t block = 0; block < dim; block += 8) {
    __m256i sum[kCount];
    for (size_t h = 0; h < kCount; ++h) sum[h] = _mm256_setzero_si256();
    for (size_t quad = 0; quad < 8; ++quad, codes += 4 * kWidth) {
      const Words words = wide<kWidth>(group, codes);
      for (size_t h = 0; h < kCount; ++h) {
        int four;
        std::memcpy(&four, weights + h * kTile + 4 * quad, 4);
        const __m256i weight = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
        sum[h] = _mm256_add_epi32(sum[h], _mm256_hadd_epi32(_mm256_madd_epi16(words.low, weight),
                                                            _mm256_madd_epi16(words.high, weight)));
      }
    }
    for (size_t h = 0; h < kCount; ++h) add_value(sum[h], factor[h], out + h * dim + block);
  }
}

using KeyKernel = void (*)(const Group&, const uint8_t*, const GroupQuery&, const float*, float*);
using ValueKernel = void (*)(const Group&, size_t, const uint8_t*, const uint8_t*, const float*,
                             float*);

template <Dots kDots, unsigned kWidth, size_t kCount>
constexpr KeyKernel key_kernel_of() {
  if constexpr (kWidth < kWide)
    return &narrow_keys<kDots, kWidth, kCount>;
  else
    return &wide_keys<kWidth, kCount>;
}

template <unsigned kWidth, size_t... kCounts>
KeyKernel key_kernel(size_t heads, std::index_sequence<kCounts...>) {
  static constexpr KeyKernel pairs[] = {key_kernel_of<Dots::kPairs, kWidth, kCounts + 1>()...},
                             vnni[] = {key_kernel_of<Dots::kVnni, kWidth, kCounts + 1>()...};
  return (models::uses_vnni() ? vnni : pairs)[heads - 1];
}

template <unsigned kWidth, size_t... kCounts>
ValueKernel value_kernel(size_t heads, std::index_sequence<kCounts...>) {
  if constexpr (kWidth >= kWide) {
    static constexpr ValueKernel wide[] = {&wide_values<kWidth, kCounts + 1>...};
    return wide[heads - 1];
  } else {
    static constexpr ValueKernel pairs[] = {&narrow_values<Dots::kPairs, kWidth, kCounts + 1>...},
                                 vnni[] = {&narrow_values<Dots::kVnni, kWidth, kCounts + 1>...};
    return (models::uses_vnni() ? vnni : pairs)[heads - 1];
  }
}

constexpr auto kCounts = std::make_index_sequence<kHeads>();

template <unsigned... kWidths>
KeyKernel key_kernel(unsigned width, size_t heads, std::integer_sequence<unsigned, kWidths...>) {
  KeyKernel found = nullptr;
  ((width == kWidths + 1 ? void(found = key_kernel<kWidths + 1>(heads, kCounts)) : void()), ...);
  return found;
}

}  // namespace

void add_key_products(const Group& group, const uint8_t* codes, const GroupQuery& query,
                      size_t heads, const float* norms, float* scores) {
  constexpr auto kWidths = std::make_integer_sequence<unsigned, 8>();
  key_kernel(group.width, heads, kWidths)(group, codes, query, norms, scores);
}

void add_value_products(const Group& group, size_t dim, const uint8_t* codes,
                        const uint8_t* weights, const float* factor, size_t heads, float* out) {
  ValueKernel kernel = nullptr;
  switch (group.width) {
    case 1:
      kernel = value_kernel<1>(heads, kCounts);
      break;
    case 2:
      kernel = value_kernel<2>(heads, kCounts);
      break;
    case 3:
      kernel = value_kernel<3>(heads, kCounts);
      break;
    case 4:
      kernel = value_kernel<4>(heads, kCounts);
      break;
    default:
      kernel = value_kernel<8>(heads, kCounts);
  }
  kernel(group, dim, codes, weights, factor, out);
}

}  // namespace tidemill::blockgtq
#endif
