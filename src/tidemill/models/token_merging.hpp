// Token ids of text: byte-pair merging by rank, and SentencePiece merging by score.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tidemill::models {

/// What every token spells, and which token spells a given text. Immutable, so free of locks.
class TokenTable {
 public:
  /// `ends[i]` is where token i ends in `bytes`. Only tokens with `findable[i]` are ever found; of
  /// two that spell the same the later is.
  TokenTable(std::string bytes, std::span<const uint64_t> ends, std::span<const uint8_t> findable);

  size_t size() const { return ends_.size(); }
  std::string_view spelling(size_t id) const {
    const uint64_t begin = id == 0 ? 0 : ends_[id - 1];
    return std::string_view(bytes_).substr(begin, ends_[id] - begin);
  }
  /// The id of the token spelled `text`, or -1.
  int32_t find(std::string_view text) const;

 private:
  std::string bytes_;
  std::vector<uint64_t> ends_;
  std::vector<int32_t> slots_;
};

/// A span of the text that will become one token, linked to its neighbours.
struct Symbol {
  uint32_t begin, size;
  int32_t previous, next;
  int32_t id;
};

struct Merge {
  int32_t id = -1;
  float key = 0;
};

/// Merges neighbouring symbols, smallest key first and leftmost of equals, until none may merge.
/// O(n log n) in the length of a piece.
class Merger {
 public:
  /// `byte_ids` stands in for what no token spells; a byte of id -1 is lost.
  Merger(const TokenTable& table, const std::array<int32_t, 256>& byte_ids)
      : table_(table), byte_ids_(byte_ids) {}
  virtual ~Merger() = default;
  Merger(const Merger&) = delete;
  Merger& operator=(const Merger&) = delete;

  /// Appends the ids of `piece`, which is shorter than 2^31 bytes.
  virtual void encode(std::string_view piece, std::vector<int32_t>& ids) const = 0;

 protected:
  /// Merges `symbols`, which cover `piece`, and appends what is left.
  void merge(std::string_view piece, std::vector<Symbol>& symbols, std::vector<int32_t>& ids) const;
  /// What `left` and `right` become, or id -1.
  virtual Merge merged(std::string_view piece, const Symbol& left, const Symbol& right) const = 0;

  const TokenTable& table_;
  std::array<int32_t, 256> byte_ids_;
};

/// Byte-level BPE: pairs of token ids merge in the order of a list.
class RankMerger final : public Merger {
 public:
  /// The r-th merge makes `merged[r]` of `left[r]` and `right[r]`. `whole_pieces`: a piece that is
  /// a token is not taken apart (Llama 3).
  RankMerger(const TokenTable& table, const std::array<int32_t, 256>& byte_ids,
             std::span<const int32_t> left, std::span<const int32_t> right,
             std::span<const int32_t> merged, bool whole_pieces);
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;

 protected:
  Merge merged(std::string_view piece, const Symbol& left, const Symbol& right) const override;

 private:
  struct Slot {
    uint64_t pair;
    uint32_t rank;
    int32_t merged;
  };
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;
  bool whole_pieces_;
};

/// SentencePiece: neighbours merge when a token spells both; the highest score first.
class ScoreMerger final : public Merger {
 public:
  ScoreMerger(const TokenTable& table, const std::array<int32_t, 256>& byte_ids,
              std::vector<float> scores)
      : Merger(table, byte_ids), scores_(std::move(scores)) {}
  /// `piece` is UTF-8; merging starts from its characters.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;

 protected:
  Merge merged(std::string_view piece, const Symbol& left, const Symbol& right) const override;

 private:
  std::vector<float> scores_;
};

}  // namespace tidemill::models
