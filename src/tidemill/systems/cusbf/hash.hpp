// Hash scheme 1 of the TMSBF format: what every build, level and the NumPy reference must agree on.
//
// A base is two bits, (c >> 1) & 3: A 0, C 1, T/U 2, G 3; the complement is code ^ 2. An L-mer is one
// 64-bit word, first base lowest, shifted to the top: the left-aligned form. Canonical is the smaller
// of both strands' left-aligned forms, compared as signed (L > 16) or unsigned 32-bit (m <= 16) words,
// because those are the comparisons SSE/AVX2 have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidemill::cusbf {

constexpr int kWords = 4;  // 64-bit words, one sector each, in a shard of 256 bits
constexpr int kMaxGroups = 4;  // hashes come in groups of four, one bit per sector each

struct Layout {
  uint32_t k, s, m, hashes;
  bool canonical;
  uint64_t seed, shards;

  uint32_t mmer_xor, mmer_mul, mmer_lo, mmer_hi, smer_lo, smer_hi, place_mul;
  uint64_t shard_mul;

  Layout(uint32_t k, uint32_t s, uint32_t m, uint32_t hashes, uint64_t shards, bool canonical,
         uint64_t seed);

  uint32_t window() const { return k - m + 1; }   // m-mers of a k-mer
  uint32_t smers() const { return k - s + 1; }    // s-mers of a k-mer
  uint32_t groups() const { return hashes / 4; }
};

inline uint64_t top_bases(uint32_t length) { return ~uint64_t{0} << (64 - 2 * length); }

// 64 well-mixed bits of a left-aligned L-mer in two 32-bit halves. `fold` alone names the s-mer
// within its shard; `high` is independent of it and names the block of a k-mer in a blocked Bloom.
struct Mixed {
  uint32_t fold, high;
};

inline Mixed mix(uint64_t mer, uint32_t lo, uint32_t hi) {
  const uint64_t sum = uint64_t{lo} * static_cast<uint32_t>(mer) + uint64_t{hi} * (mer >> 32);
  return {static_cast<uint32_t>(sum) ^ static_cast<uint32_t>(sum >> 32),
          static_cast<uint32_t>(sum >> 32)};
}

// Four positions: byte j holds the bit of sector j, bits 4-6 its byte and bits 0-2 the bit therein.
inline uint32_t places(const Layout& layout, Mixed mixed, uint32_t group) {
  uint32_t x = mixed.fold + group * (mixed.high | 1);
  x ^= x >> 15;
  x *= layout.place_mul;
  return x ^ x >> 16;
}

inline uint64_t sector_bit(uint32_t places, int sector) {
  const uint32_t byte = places >> (8 * sector);
  return uint64_t{1} << ((byte >> 4 & 7) * 8 + (byte & 7));
}

// Rank of an m-mer; the smallest of a k-mer's window picks the shard. A bijection for m <= 16, so
// that equal minima are equal m-mers.
inline uint32_t order_short(const Layout& layout, uint32_t mer) {
  return (mer ^ layout.mmer_xor) * layout.mmer_mul;
}
inline uint32_t order_long(const Layout& layout, uint64_t mer) {
  return (mix(mer, layout.mmer_lo, layout.mmer_hi).fold ^ layout.mmer_xor) * layout.mmer_mul;
}

// A minimum is always small, so it is mixed again before its top bits choose.
inline uint64_t shard_of(const Layout& layout, uint32_t minimizer) {
  const uint64_t mixed = (uint64_t{minimizer} ^ minimizer >> 15) * layout.shard_mul;
  return static_cast<uint64_t>((static_cast<unsigned __int128>(mixed) * layout.shards) >> 64);
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
  uint32_t order(const Layout& layout) const {
    if (layout.m > 16) return order_long(layout, mer(layout.m, layout.canonical));
    const auto ahead = static_cast<uint32_t>(forward_mer(layout.m) >> 32);
    const auto back = static_cast<uint32_t>(reverse_mer(layout.m) >> 32);
    return order_short(layout, layout.canonical && back < ahead ? back : ahead);
  }
};

}  // namespace tidemill::cusbf
