// Hash scheme 1 of the TMSBF format: what every build, level and the NumPy reference must agree on.
//
// A base is two bits, (c >> 1) & 3: A 0, C 1, T/U 2, G 3; the complement is code ^ 2. An L-mer is
// one 64-bit word, first base lowest, shifted to the top: the left-aligned form. Canonical is the
// smaller of both strands' left-aligned forms, compared as signed 64-bit words, or (m <= 16) as
// unsigned upper halves, because those are the comparisons that AVX2 has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidemill::cusbf {

constexpr int kWords = 4;           // 64-bit words, one sector each, in a shard of 256 bits
constexpr int kMaxGroups = 4;       // hashes come in groups of four, one bit per sector each
constexpr uint32_t kShortMer = 16;  // up to here an m-mer is one 32-bit word

struct Layout {
  uint32_t k, s, m, hashes;
  bool canonical;
  uint64_t seed;
  uint32_t shards;

  uint32_t mmer_mul, mmer_lo, mmer_hi, smer_lo, smer_hi, place_mul, shard_mul;

  Layout(uint32_t k, uint32_t s, uint32_t m, uint32_t hashes, uint64_t shards, bool canonical,
         uint64_t seed);

  uint32_t window() const { return k - m + 1; }  // m-mers of a k-mer
  uint32_t smers() const { return k - s + 1; }   // s-mers of a k-mer
  uint32_t groups() const { return hashes / 4; }
};

inline uint64_t top_bases(uint32_t length) { return ~uint64_t{0} << (64 - 2 * length); }

// 64 mixed bits of a left-aligned L-mer, both halves of one product (NH, Black et al. 1999). `fold`
// names an s-mer within its shard; `high` is independent of it and names a blocked filter's block.
struct Mixed {
  uint32_t fold, high;
};

inline Mixed mix(uint64_t mer, uint32_t lo, uint32_t hi) {
  const uint32_t a = static_cast<uint32_t>(mer) + lo, b = static_cast<uint32_t>(mer >> 32) + hi;
  const uint64_t product = uint64_t{a} * b;
  return {static_cast<uint32_t>(product) ^ static_cast<uint32_t>(product >> 32),
          static_cast<uint32_t>(product >> 32)};
}

// Four positions, one per sector: byte j holds that of sector j, 0-63.
inline uint32_t places(const Layout& layout, Mixed mixed, uint32_t group) {
  uint32_t x = mixed.fold;
  if (group != 0) {
    x = (x + group * (mixed.high | 1)) * layout.place_mul;
    x ^= x >> 15;
  }
  return x & 0x3f3f3f3f;
}

inline uint64_t sector_bit(uint32_t places, int sector) {
  return uint64_t{1} << (places >> (8 * sector) & 63);
}

// Rank of an m-mer; the highest in a k-mer's window, its minimizer's, picks the shard. For m <= 16
// a bijection, so that equal ranks are equal m-mers; the highest and not the lowest counts because
// poly-A, of rank 0, would be the minimizer wherever it occurs.
inline uint32_t rank_short(const Layout& layout, uint32_t mer) { return mer * layout.mmer_mul; }
inline uint32_t rank_long(const Layout& layout, uint64_t mer) {
  return mix(mer, layout.mmer_lo, layout.mmer_hi).fold;
}

// A minimizer's rank is always high, so it is mixed again before its top bits choose.
inline uint32_t shard_of(const Layout& layout, uint32_t rank) {
  const uint32_t mixed = (rank ^ rank >> 15) * layout.shard_mul;
  return static_cast<uint32_t>(uint64_t{mixed} * layout.shards >> 32);
}

inline uint64_t smaller_long(uint64_t a, uint64_t b) {
  return static_cast<int64_t>(a) < static_cast<int64_t>(b) ? a : b;
}

inline uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

inline uint8_t base_code(uint8_t letter) { return letter >> 1 & 3; }
bool is_base(uint8_t letter);  // one of ACGTU, either case

// The last 32 bases read, both strands; every L-mer ending here is a shift and a mask away.
struct Strands {
  uint64_t forward = 0, reverse = 0;

  void push(uint8_t code) {
    forward = forward >> 2 | uint64_t{code} << 62;
    reverse = reverse << 2 | (code ^ 2u);
  }
  uint64_t forward_mer(uint32_t length) const { return forward & top_bases(length); }
  uint64_t reverse_mer(uint32_t length) const { return reverse << (64 - 2 * length); }
  uint64_t mer(uint32_t length, bool canonical) const {
    const uint64_t mer = forward_mer(length);
    return canonical ? smaller_long(mer, reverse_mer(length)) : mer;
  }
  uint32_t rank(const Layout& layout) const {
    if (layout.m > kShortMer) return rank_long(layout, mer(layout.m, layout.canonical));
    const auto ahead = static_cast<uint32_t>(forward_mer(layout.m) >> 32);
    const auto back = static_cast<uint32_t>(reverse_mer(layout.m) >> 32);
    return rank_short(layout, layout.canonical && back < ahead ? back : ahead);
  }
};

}  // namespace tidemill::cusbf
