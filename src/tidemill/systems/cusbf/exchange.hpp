// Threads that insert into one filter without locked instructions: each owns a range of shards.
//
// A locked OR costs some 18 cycles, and a run needs four: with them two threads were slower than
// one. Here a thread turns its piece of the sequence into masks, posts each to the owner of its
// shard, and applies what was posted to itself. Boxes change hands at a barrier; as there are two
// sets of them, used in turn, one barrier a round is enough.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "bits.hpp"
#include "scan.hpp"
#include "superbloom.hpp"

namespace tidemill::cusbf {

constexpr size_t kMaxOwners = 16;          // boxes grow with the square of it
constexpr size_t kWorthAThread = 1 << 15;  // k-mers; fewer are inserted before a thread has started
constexpr size_t kBoxItems = 32768;

struct Box {
  std::unique_ptr<uint64_t[][kWords]> bits =
      std::make_unique_for_overwrite<uint64_t[][kWords]>(kBoxItems);
  std::unique_ptr<uint32_t[]> shards = std::make_unique_for_overwrite<uint32_t[]>(kBoxItems);
  size_t count = 0;
};

// `Source`: next(post) calls post(shard, bits) at most kChunk times, for one chunk of its piece;
// done() and tally() tell where it is. `Apply`: apply(shard, bits) sets the bits.
template <class Source, class Apply>
class Exchange {
 public:
  Exchange(std::vector<Source>& sources, uint32_t shards, uint64_t* words, const Apply& apply)
      : sources_(sources), owners_(sources.size()), shards_(shards), words_(words), apply_(apply) {
    for (auto& set : boxes_) set.resize(owners_ * owners_);
  }

  // Returns false, nothing inserted, when the threads cannot be had.
  bool run() {
    std::latch go(1);
    std::barrier meet(static_cast<std::ptrdiff_t>(owners_),
                      [this]() noexcept { last_round_ = finished(); });
    bool complete = true;
    std::vector<std::thread> workers;
    try {
      for (size_t owner = 1; owner < owners_; ++owner)
        workers.emplace_back([&, owner] {
          go.wait();
          if (complete) work(owner, meet);
        });
    } catch (const std::system_error&) {
      complete = false;
    }
    go.count_down();
    if (complete) work(0, meet);
    for (std::thread& worker : workers) worker.join();
    return complete;
  }

 private:
  bool finished() const {
    return std::all_of(sources_.begin(), sources_.end(), [](const Source& s) { return s.done(); });
  }
  Box& box(size_t set, size_t from, size_t to) { return boxes_[set][from * owners_ + to]; }

  template <class Meet>
  void work(size_t self, Meet& meet) {
    for (size_t set = 0;; set ^= 1) {
      fill(self, set);
      meet.arrive_and_wait();
      const bool last = last_round_;
      for (size_t from = 0; from < owners_; ++from) empty(box(set, from, self));
      if (last) return;
    }
  }
  void fill(size_t self, size_t set) {
    Box* to = &box(set, self, 0);
    const auto full = [&] {
      return std::any_of(to, to + owners_,
                         [](const Box& box) { return box.count + kChunk > kBoxItems; });
    };
    while (!sources_[self].done() && !full())
      sources_[self].next([&](uint32_t shard, const Bits& bits) {
        Box& box = to[uint64_t{shard} * owners_ / shards_];
        box.shards[box.count] = shard;
        store(box.bits[box.count++], bits);
      });
  }
  void empty(Box& box) {
    constexpr size_t kAhead = 128;
    for (size_t i = 0; i < box.count; ++i) {
      if (i + kAhead < box.count) prefetch(words_, box.shards[i + kAhead]);
      apply_(box.shards[i], load(box.bits[i]));
    }
    box.count = 0;
  }

  std::vector<Source>& sources_;
  size_t owners_;
  uint32_t shards_;
  uint64_t* words_;
  const Apply& apply_;
  std::vector<Box> boxes_[2];
  bool last_round_ = false;
};

// Inserts `kmers` windows with up to `threads` threads.
template <class Source, class Apply>
Tally insert_all(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                 unsigned threads, const Apply& apply) {
  const size_t most = std::min<size_t>({std::max(1u, threads), kMaxOwners, layout.shards});
  const size_t owners = std::clamp<size_t>(kmers / kWorthAThread, 1, most);
  std::vector<Source> sources;
  for (size_t i = 0; i < owners; ++i) {
    const size_t begin = kmers * i / owners, end = kmers * (i + 1) / owners;
    sources.emplace_back(layout, bases + begin, end - begin, owners > 1 ? nullptr : words);
  }
  Tally tally;
  if (owners > 1 && Exchange<Source, Apply>(sources, layout.shards, words, apply).run()) {
    for (const Source& source : sources) tally += source.tally();
    return tally;
  }
  for (Source& source : sources) {
    while (!source.done()) source.next(apply);
    tally += source.tally();
  }
  return tally;
}

// Answers `kmers` windows in as many pieces as threads can be had for.
template <class Piece>
Tally answer_all(size_t kmers, unsigned threads, const Piece& piece) {
  const size_t pieces = std::clamp<size_t>(kmers / kWorthAThread, 1, std::max(1u, threads));
  std::vector<Tally> tallies(pieces);
  std::vector<std::thread> workers;
  const auto work = [&](size_t i) {
    const size_t begin = kmers * i / pieces, end = kmers * (i + 1) / pieces;
    tallies[i] = piece(begin, end - begin);
  };
  for (size_t i = 1; i < pieces; ++i) {
    try {
      workers.emplace_back(work, i);
    } catch (const std::system_error&) {
      work(i);
    }
  }
  work(0);
  for (std::thread& worker : workers) worker.join();
  Tally total;
  for (const Tally& tally : tallies) total += tally;
  return total;
}

}  // namespace tidemill::cusbf
