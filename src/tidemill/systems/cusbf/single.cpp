// One k-mer at a time: the reference that the batch pipeline must equal bit for bit, and the honest
// slow path for k-mers that come without their neighbours.
#include <algorithm>

#include "bits.hpp"
#include "superbloom.hpp"

namespace tidemill::cusbf {

namespace {

void set_mer(const Layout& layout, Mixed mixed, uint64_t* shard) {
  for (uint32_t group = 0; group < layout.groups(); ++group) {
    const uint32_t place = places(layout, mixed, group);
    for (int j = 0; j < kWords; ++j) shard[j] |= sector_bit(place, j);
  }
}

bool has_mer(const Layout& layout, Mixed mixed, const uint64_t* shard) {
  for (uint32_t group = 0; group < layout.groups(); ++group) {
    const uint32_t place = places(layout, mixed, group);
    for (int j = 0; j < kWords; ++j)
      if ((shard[j] & sector_bit(place, j)) == 0) return false;
  }
  return true;
}

// Rolls over a sequence; keeps the ranks and the s-mers of the latest k-mer in rings.
class Roller {
 public:
  explicit Roller(const Layout& layout) : layout_(layout) {}

  bool push(uint8_t letter) {
    strands_.push(base_code(letter));
    good_ = is_base(letter) ? good_ + 1 : 0;
    rank_[at_ % 32] = strands_.rank(layout_);
    mixed_[at_++ % 32] =
        mix(strands_.mer(layout_.s, layout_.canonical), layout_.smer_lo, layout_.smer_hi);
    return good_ >= layout_.k;
  }
  uint32_t shard() {
    const uint32_t window = layout_.window();
    if (at_ - highest_at_ > window) rescan(window);
    if (rank_[(at_ - 1) % 32] > highest_) {
      highest_ = rank_[(at_ - 1) % 32];
      highest_at_ = at_ - 1;
    }
    return shard_of(layout_, highest_);
  }
  Mixed smer(uint32_t age) const { return mixed_[(at_ - 1 - age) % 32]; }

 private:
  void rescan(uint32_t window) {
    highest_ = rank_[(at_ - 1) % 32];
    highest_at_ = at_ - 1;
    for (uint32_t age = 1; age < window; ++age)
      if (rank_[(at_ - 1 - age) % 32] > highest_) {
        highest_ = rank_[(at_ - 1 - age) % 32];
        highest_at_ = at_ - 1 - age;
      }
  }

  const Layout& layout_;
  Strands strands_;
  uint64_t at_ = 0, highest_at_ = uint64_t(-64);
  uint32_t good_ = 0, highest_ = 0;
  uint32_t rank_[32] = {};
  Mixed mixed_[32] = {};
};

struct PackedKmer {
  const Layout& layout;
  Strands strands;
  uint32_t minimizer = 0;
  Mixed smer[32];

  PackedKmer(const Layout& layout, uint64_t mer) : layout(layout) {
    for (uint32_t i = 0; i < layout.k; ++i) {
      strands.push(mer >> (2 * i) & 3);
      if (i + 1 >= layout.m) minimizer = std::max(minimizer, strands.rank(layout));
      if (i + 1 >= layout.s)
        smer[i + 1 - layout.s] =
            mix(strands.mer(layout.s, layout.canonical), layout.smer_lo, layout.smer_hi);
    }
  }
};

}  // namespace

Tally super_insert_scalar(const Layout& layout, uint64_t* words, const uint8_t* bases,
                          size_t kmers) {
  Roller roller(layout);
  Tally tally;
  for (size_t i = 0; kmers != 0 && i < kmers + layout.k - 1; ++i) {
    if (!roller.push(bases[i])) continue;
    uint64_t* shard = shard_at(words, roller.shard());
    for (uint32_t age = 0; age < layout.smers(); ++age) set_mer(layout, roller.smer(age), shard);
    ++tally.kmers;
  }
  tally.loads = tally.kmers;
  return tally;
}

Tally super_contains_scalar(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                            size_t kmers, uint8_t* found) {
  Roller roller(layout);
  Tally tally;
  for (size_t i = 0; kmers != 0 && i < kmers + layout.k - 1; ++i) {
    bool hit = false;
    if (roller.push(bases[i])) {
      const uint64_t* shard = shard_at(words, roller.shard());
      hit = true;
      for (uint32_t age = 0; hit && age < layout.smers(); ++age)
        hit = has_mer(layout, roller.smer(age), shard);
      ++tally.kmers;
    }
    if (i + 1 >= layout.k) found[i + 1 - layout.k] = hit;
    tally.hits += hit;
  }
  tally.loads = tally.kmers;
  return tally;
}

Tally super_insert_packed(const Layout& layout, uint64_t* words, const uint64_t* mers, size_t kmers,
                          bool shared) {
  for (size_t i = 0; i < kmers; ++i) {
    const PackedKmer kmer(layout, mers[i]);
    uint64_t bits[kWords] = {};
    for (uint32_t j = 0; j < layout.smers(); ++j) set_mer(layout, kmer.smer[j], bits);
    add_bits(shard_at(words, shard_of(layout, kmer.minimizer)), load(bits), shared);
  }
  return {kmers, 0, kmers};
}

Tally super_contains_packed(const Layout& layout, const uint64_t* words, const uint64_t* mers,
                            size_t kmers, uint8_t* found) {
  Tally tally{kmers, 0, kmers};
  for (size_t i = 0; i < kmers; ++i) {
    const PackedKmer kmer(layout, mers[i]);
    const uint64_t* shard = shard_at(words, shard_of(layout, kmer.minimizer));
    bool hit = true;
    for (uint32_t j = 0; hit && j < layout.smers(); ++j) hit = has_mer(layout, kmer.smer[j], shard);
    found[i] = hit;
    tally.hits += hit;
  }
  return tally;
}

}  // namespace tidemill::cusbf
