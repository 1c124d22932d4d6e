// The blocked Bloom filter as well as this code can make it: vector hashing, prefetched blocks.
#include <algorithm>
#include <cstring>
#include <memory>

#include "exchange.hpp"
#include "kmers.hpp"
#include "superbloom.hpp"

namespace tidemill::cusbf {

namespace {

constexpr int kAhead = 128;  // k-mers between asking for a block and its use: more lines do not fit

// Hashes a sequence one chunk ahead of its use.
class Hasher {
 public:
  Hasher(const Layout& layout, const uint8_t* bases, size_t kmers)
      : layout_(layout), bases_(bases), kmers_(kmers) {
    if (kmers != 0) read();
  }
  bool done() const { return at_ >= kmers_; }
  size_t at() const { return at_; }
  const Tally& tally() const { return tally_; }

  // Gives the chunk at at() to `use`; the blocks that come after it are known to `block` as well.
  template <class Use>
  void next(Use use) {
    KmerChunk& chunk = chunks_->one[at_ / kChunk % 2];
    const uint32_t* coming = chunk.block;
    if (read_ < kmers_) coming = read().block;
    std::copy_n(coming, kAhead, chunk.block + chunk.kmers);
    use(chunk);
    at_ += kChunk;
  }

 private:
  KmerChunk& read() {
    KmerChunk& chunk = chunks_->one[read_ / kChunk % 2];
    hash_kmers(layout_, bases_ + read_, static_cast<int>(std::min<size_t>(kChunk, kmers_ - read_)),
               chunk);
    tally_.kmers += static_cast<uint64_t>(chunk.valid_kmers);
    tally_.loads += static_cast<uint64_t>(chunk.valid_kmers);
    read_ += kChunk;
    return chunk;
  }
  struct Chunks {
    KmerChunk one[2];
  };

  const Layout& layout_;
  const uint8_t* bases_;
  size_t kmers_, at_ = 0, read_ = 0;
  Tally tally_;
  std::unique_ptr<Chunks> chunks_ = std::make_unique<Chunks>();
};

template <int kGroups>
Bits kmer_bits(const KmerChunk& chunk, int i, uint32_t groups) {
  Bits bits = bits_of(chunk.place[0] + i);
  for (uint32_t group = 1; group < (kGroups != 0 ? kGroups : groups); ++group)
    bits = bits | bits_of(chunk.place[group] + i);
  return bits;
}

template <class Use>
void for_groups(const Layout& layout, Use use) {
  switch (layout.groups()) {
    case 1:
      return use.template operator()<1>();
    case 2:
      return use.template operator()<2>();
    default:
      return use.template operator()<0>();
  }
}

// The k-mers of a sequence as masks and their shards.
class Kmers {
 public:
  Kmers(const Layout& layout, const uint8_t* bases, size_t kmers, const uint64_t* words)
      : layout_(layout), words_(words), hasher_(layout, bases, kmers) {}
  bool done() const { return hasher_.done(); }
  const Tally& tally() const { return hasher_.tally(); }

  template <class Post>
  void next(const Post& post) {
    hasher_.next([&](const KmerChunk& chunk) {
      for_groups(layout_, [&]<int kGroups>() {
        for (int i = 0; i < chunk.kmers; ++i) {
          if (words_ != nullptr) prefetch(words_, chunk.block[i + kAhead]);
          post(chunk.block[i], kmer_bits<kGroups>(chunk, i, layout_.groups()));
        }
      });
    });
  }

 private:
  const Layout& layout_;
  const uint64_t* words_;
  Hasher hasher_;
};

Tally contains_piece(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                     size_t kmers, uint8_t* found) {
  Hasher hasher(layout, bases, kmers);
  Tally tally;
  while (!hasher.done()) {
    uint8_t* out = found + hasher.at();
    hasher.next([&](const KmerChunk& chunk) {
      uint64_t hits = 0;
      for_groups(layout, [&]<int kGroups>() {
        for (int i = 0; i < chunk.kmers; ++i) {
          prefetch(words, chunk.block[i + kAhead]);
          out[i] = covers(shard_at(words, chunk.block[i]),
                          kmer_bits<kGroups>(chunk, i, layout.groups()));
        }
      });
      if (chunk.valid_kmers != chunk.kmers)
        for (int i = 0; i < chunk.kmers; ++i) out[i] &= chunk.valid[i / 64] >> (i % 64) & 1;
      for (int i = 0; i < chunk.kmers; ++i) hits += out[i];
      tally.hits += hits;
    });
  }
  tally += hasher.tally();
  return tally;
}

// ---- isolated k-mers ---------------------------------------------------------------------------

Mixed mix_packed(const Layout& layout, uint64_t packed) {
  Strands strands;
  for (uint32_t i = 0; i < layout.k; ++i) strands.push(packed >> (2 * i) & 3);
  return mix(strands.mer(layout.k, layout.canonical), layout.smer_lo, layout.smer_hi);
}

Bits mixed_bits(const Layout& layout, Mixed mixed) {
  uint32_t place = places(layout, mixed, 0);
  Bits bits = bits_of(&place);
  for (uint32_t group = 1; group < layout.groups(); ++group) {
    place = places(layout, mixed, group);
    bits = bits | bits_of(&place);
  }
  return bits;
}

}  // namespace

Tally blocked_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                     unsigned threads, bool shared) {
  return insert_all<Kmers>(
      layout, words, bases, kmers, threads,
      [=](uint32_t block, const Bits& bits) { add_bits(shard_at(words, block), bits, shared); });
}

Tally blocked_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                       size_t kmers, uint8_t* found, unsigned threads) {
  return answer_all(kmers, threads, [=, &layout](size_t begin, size_t count) {
    return contains_piece(layout, words, bases + begin, count, found + begin);
  });
}

Tally blocked_insert_packed(const Layout& layout, uint64_t* words, const uint64_t* mers,
                            size_t kmers, bool shared) {
  for (size_t i = 0; i < kmers; ++i) {
    const Mixed mixed = mix_packed(layout, mers[i]);
    add_bits(shard_at(words, shard_of(layout, mixed.high)), mixed_bits(layout, mixed), shared);
  }
  return {kmers, 0, kmers};
}

Tally blocked_contains_packed(const Layout& layout, const uint64_t* words, const uint64_t* mers,
                              size_t kmers, uint8_t* found) {
  Tally tally{kmers, 0, kmers};
  for (size_t i = 0; i < kmers; ++i) {
    const Mixed mixed = mix_packed(layout, mers[i]);
    found[i] = covers(shard_at(words, shard_of(layout, mixed.high)), mixed_bits(layout, mixed));
    tally.hits += found[i];
  }
  return tally;
}

}  // namespace tidemill::cusbf
