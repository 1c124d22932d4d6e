#include "superbloom.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "exchange.hpp"
#include "runs.hpp"
#include "scan.hpp"

namespace tidemill::cusbf {

namespace {

// Scans a sequence one chunk ahead, so that a chunk's shards have come when its turn is.
class Scanner {
 public:
  Scanner(const Layout& layout, const uint8_t* bases, size_t kmers, const uint64_t* words)
      : layout_(layout), bases_(bases), kmers_(kmers), words_(words) {
    if (kmers != 0) read();
  }
  bool done() const { return at_ >= kmers_; }
  size_t at() const { return at_; }
  const Tally& tally() const { return tally_; }

  // Gives the chunk at at() to `use`, then moves on.
  template <class Use>
  void next(Use use) {
    if (read_ < kmers_) read();
    use(chunks_->one[at_ / kChunk % 2]);
    at_ += kChunk;
  }

 private:
  void read() {
    Chunk& chunk = chunks_->one[read_ / kChunk % 2];
    scan(layout_, words_, bases_ + read_,
         static_cast<int>(std::min<size_t>(kChunk, kmers_ - read_)), chunk);
    tally_.kmers += static_cast<uint64_t>(chunk.valid_kmers);
    tally_.loads += static_cast<uint64_t>(chunk.runs);
    read_ += kChunk;
  }
  struct Chunks {
    Chunk one[2];
  };

  const Layout& layout_;
  const uint8_t* bases_;
  size_t kmers_, at_ = 0, read_ = 0;
  const uint64_t* words_;
  Tally tally_;
  std::unique_ptr<Chunks> chunks_ = std::make_unique<Chunks>();
};

// The runs of a sequence as masks and their shards.
class Runs {
 public:
  Runs(const Layout& layout, const uint8_t* bases, size_t kmers, const uint64_t* words)
      : layout_(layout), scanner_(layout, bases, kmers, words) {}
  bool done() const { return scanner_.done(); }
  const Tally& tally() const { return scanner_.tally(); }

  template <class Post>
  void next(const Post& post) {
    scanner_.next([&](const Chunk& chunk) { fold_runs(layout_, chunk, post); });
  }

 private:
  const Layout& layout_;
  Scanner scanner_;
};

Tally contains_piece(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                     size_t kmers, uint8_t* found) {
  Scanner scanner(layout, bases, kmers, words);
  const auto tests = std::make_unique<Tests>();
  alignas(64) uint8_t answers[kChunk + kSlack];
  Tally tally;
  while (!scanner.done()) {
    const size_t at = scanner.at();
    scanner.next([&](const Chunk& chunk) {
      if (!chunk.all_valid()) std::fill_n(answers, chunk.kmers, 0);
      tally.hits += answer_runs(layout, chunk, *tests, words, answers);
      std::memcpy(found + at, answers, static_cast<size_t>(chunk.kmers));
    });
  }
  tally += scanner.tally();
  return tally;
}

}  // namespace

Tally super_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                   unsigned threads, bool shared) {
  return insert_all<Runs>(
      layout, words, bases, kmers, threads,
      [=](uint32_t shard, const Bits& bits) { add_bits(shard_at(words, shard), bits, shared); });
}

Tally super_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                     size_t kmers, uint8_t* found, unsigned threads) {
  return answer_all(kmers, threads, [=, &layout](size_t begin, size_t count) {
    return contains_piece(layout, words, bases + begin, count, found + begin);
  });
}

}  // namespace tidemill::cusbf
