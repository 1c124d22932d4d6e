// The baselines that know nothing of sequences: cuCollections' blocked Bloom policy and a dynamic
// cuckoo filter, both over 64-bit keys that lie packed in memory.
#include "keyed.hpp"

#include <bit>
#include <utility>

#include "bits.hpp"

namespace tidemill::cusbf {

namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                   kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                   kPrime5 = 0x27D4EB2F165667C5;

// xxHash64 of eight bytes.
uint64_t xxhash64(uint64_t key, uint64_t seed) {
  uint64_t hash = seed + kPrime5 + 8;
  hash ^= std::rotl(key * kPrime2, 31) * kPrime1;
  hash = std::rotl(hash, 27) * kPrime1 + kPrime4;
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

constexpr uint32_t kSalts[8] = {0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d,
                                0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31};

// The high half picks the block, the low half the bits: one half for both would tie them together.
uint64_t block_of(uint64_t hash, uint64_t blocks) { return (hash >> 32) * blocks >> 32; }

// One bit in each of eight 32-bit words. By hand: left to itself GCC does it word by word, at a
// third of the speed.
Bits pattern(uint64_t hash) {
#ifdef __AVX2__
  const __m256i salts = load(kSalts);
  const __m256i salted = _mm256_mullo_epi32(_mm256_set1_epi32(static_cast<int>(hash)), salts);
  return _mm256_sllv_epi32(_mm256_set1_epi32(1), _mm256_srli_epi32(salted, 27));
#else
  Bits bits;
  for (int i = 0; i < 8; ++i) {
    const uint64_t bit = 1u << ((static_cast<uint32_t>(hash) * kSalts[i]) >> 27);
    bits.word[i / 2] = i % 2 == 0 ? bit : bits.word[i / 2] | bit << 32;
  }
  return bits;
#endif
}

}  // namespace

void keyed_insert(uint64_t* words, uint64_t blocks, const uint64_t* keys, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const uint64_t hash = xxhash64(keys[i], 0);
    add_bits(words + block_of(hash, blocks) * kWords, pattern(hash), false);
  }
}

size_t keyed_contains(const uint64_t* words, uint64_t blocks, const uint64_t* keys, size_t count,
                      uint8_t* found) {
  size_t hits = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t hash = xxhash64(keys[i], 0);
    found[i] = covers(words + block_of(hash, blocks) * kWords, pattern(hash));
    hits += found[i];
  }
  return hits;
}

// ---- cuckoo filter (Fan et al. 2014): buckets of four 16-bit fingerprints, partial-key hashing.
// Both buckets of a key are prefetched while earlier keys are served. ----

namespace {

struct Slot {
  uint64_t bucket, other;
  uint16_t fingerprint;
};

constexpr size_t kAhead = 16;

uint64_t other_bucket(uint64_t bucket, uint16_t fingerprint, uint64_t mask) {
  return (bucket ^ xxhash64(fingerprint, 1)) & mask;
}

Slot slot_of(uint64_t key, uint64_t mask) {
  const uint64_t hash = xxhash64(key, 0);
  const auto high = static_cast<uint16_t>(hash >> 48);
  const uint16_t fingerprint = high == 0 ? uint16_t{1} : high;
  return {hash & mask, other_bucket(hash & mask, fingerprint, mask), fingerprint};
}

// The slots of keys in turn, each asked of memory `kAhead` keys before it is handed out.
class Slots {
 public:
  Slots(const uint16_t* table, uint64_t mask, const uint64_t* keys, size_t count)
      : table_(table), mask_(mask), keys_(keys), count_(count) {
    while (asked_ < kAhead && asked_ < count_) ask();
  }
  Slot next() {
    const Slot slot = ring_[handed_++ % kAhead];
    if (asked_ < count_) ask();
    return slot;
  }

 private:
  void ask() {
    const Slot slot = slot_of(keys_[asked_], mask_);
    __builtin_prefetch(table_ + slot.bucket * 4, 1);
    __builtin_prefetch(table_ + slot.other * 4, 1);
    ring_[asked_++ % kAhead] = slot;
  }

  const uint16_t* table_;
  uint64_t mask_;
  const uint64_t* keys_;
  size_t count_, asked_ = 0, handed_ = 0;
  Slot ring_[kAhead];
};

bool replace(uint16_t* bucket, uint16_t from, uint16_t to) {
  for (int i = 0; i < 4; ++i)
    if (bucket[i] == from) {
      bucket[i] = to;
      return true;
    }
  return false;
}

bool holds(const uint16_t* bucket, uint16_t fingerprint) {
  return (bucket[0] == fingerprint) | (bucket[1] == fingerprint) | (bucket[2] == fingerprint) |
         (bucket[3] == fingerprint);
}

}  // namespace

size_t cuckoo_insert(uint16_t* table, uint64_t buckets, const uint64_t* keys, size_t count) {
  constexpr int kMaxKicks = 500;
  const uint64_t mask = buckets - 1;
  uint64_t random = 0;
  Slots slots(table, mask, keys, count);
  for (size_t i = 0; i < count; ++i) {
    Slot slot = slots.next();
    if (replace(table + slot.bucket * 4, 0, slot.fingerprint)) continue;
    std::pair<uint16_t*, uint16_t> undo[kMaxKicks];
    int kicks = 0;
    for (;; ++kicks) {
      slot.bucket = other_bucket(slot.bucket, slot.fingerprint, mask);
      if (replace(table + slot.bucket * 4, 0, slot.fingerprint)) break;
      if (kicks == kMaxKicks) {
        // Full: put every fingerprint back, so that no key inserted earlier is lost.
        while (kicks-- > 0) *undo[kicks].first = undo[kicks].second;
        return i;
      }
      uint16_t* victim = table + slot.bucket * 4 + (splitmix64(random) & 3);
      undo[kicks] = {victim, *victim};
      std::swap(*victim, slot.fingerprint);
    }
  }
  return count;
}

size_t cuckoo_contains(const uint16_t* table, uint64_t buckets, const uint64_t* keys, size_t count,
                       uint8_t* found) {
  const uint64_t mask = buckets - 1;
  size_t hits = 0;
  Slots slots(table, mask, keys, count);
  for (size_t i = 0; i < count; ++i) {
    const Slot slot = slots.next();
    found[i] = holds(table + slot.bucket * 4, slot.fingerprint) |
               holds(table + slot.other * 4, slot.fingerprint);
    hits += found[i];
  }
  return hits;
}

}  // namespace tidemill::cusbf
