#include "mers.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tidemill::cusbf {

namespace {

uint64_t murmur_finish(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
  return x ^ x >> 33;
}

template <class Visit>
void each_kmer(uint32_t k, const uint8_t* bases, size_t kmers, Visit visit) {
  Strands strands;
  uint32_t good = 0;
  for (size_t i = 0; kmers != 0 && i < kmers + k - 1; ++i) {
    strands.push(base_code(bases[i]));
    good = is_base(bases[i]) ? good + 1 : 0;
    if (i + 1 >= k) visit(i + 1 - k, good >= k, strands);
  }
}

}  // namespace

size_t pack_kmers(uint32_t k, bool canonical, const uint8_t* bases, size_t kmers, uint64_t* mers,
                  uint8_t* valid) {
  size_t count = 0;
  each_kmer(k, bases, kmers, [&](size_t i, bool good, const Strands& strands) {
    mers[i] = good ? strands.mer(k, canonical) >> (64 - 2 * k) : 0;
    valid[i] = good;
    count += good;
  });
  return count;
}

size_t count_distinct(uint32_t k, bool canonical, const uint8_t* bases, size_t kmers,
                      uint8_t* registers, uint32_t precision) {
  size_t count = 0;
  each_kmer(k, bases, kmers, [&](size_t, bool good, const Strands& strands) {
    if (!good) return;
    const uint64_t hash = murmur_finish(strands.mer(k, canonical));
    const auto rank = static_cast<uint8_t>(
        std::countl_zero(hash << precision | uint64_t{1} << (precision - 1)) + 1);
    uint8_t& slot = registers[hash >> (64 - precision)];
    slot = std::max(slot, rank);
    ++count;
  });
  return count;
}

uint64_t count_ones(const uint64_t* words, size_t count) {
  uint64_t ones = 0;
  for (size_t i = 0; i < count; ++i) ones += std::popcount(words[i]);
  return ones;
}

double chance_of_all(const uint64_t* words, size_t shards, uint32_t tests) {
  double power[65], sum = 0;
  for (int ones = 0; ones <= 64; ++ones) power[ones] = std::pow(ones / 64.0, tests);
  for (size_t i = 0; i < shards; ++i) {
    const uint64_t* shard = words + i * kWords;
    double chance = 1;
    for (int j = 0; j < kWords; ++j) chance *= power[std::popcount(shard[j])];
    sum += chance;
  }
  return sum / static_cast<double>(shards);
}

}  // namespace tidemill::cusbf
