#include "token_merging.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

namespace tidemill::models {

namespace {

constexpr int32_t kEmpty = -1;
constexpr uint64_t kNoPair = ~uint64_t{0};

/// At most half of a table is in use, so a probe ends soon.
size_t table_size(size_t entries) { return std::bit_ceil(2 * entries + 2); }

size_t hash_of(std::string_view text) { return std::hash<std::string_view>{}(text); }
size_t hash_of(uint64_t pair) {
  pair *= 0x9e3779b97f4a7c15u;
  return pair ^ (pair >> 32);
}

uint64_t pair_of(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

size_t character_bytes(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

std::vector<Symbol>& scratch() {
  thread_local std::vector<Symbol> symbols;
  symbols.clear();
  return symbols;
}

void append(std::vector<Symbol>& symbols, size_t begin, size_t size, int32_t id) {
  const auto index = static_cast<int32_t>(symbols.size());
  symbols.push_back(
      {static_cast<uint32_t>(begin), static_cast<uint32_t>(size), index - 1, index + 1, id});
}

struct Candidate {
  float key;
  int32_t left, right;
  uint32_t size;
  int32_t id;
  bool operator<(const Candidate& other) const {  // the queue's top is its largest
    return key != other.key ? key > other.key : left > other.left;
  }
};

}  // namespace

TokenTable::TokenTable(std::string bytes, std::span<const uint64_t> ends,
                       std::span<const uint8_t> findable)
    : bytes_(std::move(bytes)),
      ends_(ends.begin(), ends.end()),
      slots_(table_size(ends.size()), kEmpty) {
  const size_t mask = slots_.size() - 1;
  for (size_t id = 0; id < ends_.size(); ++id) {
    if (!findable[id]) continue;
    const std::string_view text = spelling(id);
    size_t slot = hash_of(text) & mask;
    while (slots_[slot] != kEmpty && spelling(static_cast<size_t>(slots_[slot])) != text)
      slot = (slot + 1) & mask;
    slots_[slot] = static_cast<int32_t>(id);
  }
}

int32_t TokenTable::find(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_of(text) & mask;
  while (slots_[slot] != kEmpty && spelling(static_cast<size_t>(slots_[slot])) != text)
    slot = (slot + 1) & mask;
  return slots_[slot];
}

void Merger::merge(std::string_view piece, std::vector<Symbol>& symbols,
                   std::vector<int32_t>& ids) const {
  if (symbols.empty()) return;
  symbols.back().next = -1;
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Symbol &l = symbols[left], &r = symbols[right];
    const Merge found = merged(piece, l, r);
    if (found.id >= 0) queue.push({found.key, left, right, l.size + r.size, found.id});
  };
  for (int32_t right = 1; right < static_cast<int32_t>(symbols.size()); ++right)
    consider(right - 1, right);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol &left = symbols[best.left], &right = symbols[best.right];
    // A symbol that was merged away has size 0; one that grew makes the sum differ.
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size = best.size;
    left.id = best.id;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[left.next].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (int32_t index = 0; index >= 0; index = symbols[index].next) {
    const Symbol& symbol = symbols[index];
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
    } else {
      for (const char byte : piece.substr(symbol.begin, symbol.size)) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
        if (id >= 0) ids.push_back(id);
      }
    }
  }
}

RankMerger::RankMerger(const TokenTable& table, const std::array<int32_t, 256>& byte_ids,
                       std::span<const int32_t> left, std::span<const int32_t> right,
                       std::span<const int32_t> merged, bool whole_pieces)
    : Merger(table, byte_ids),
      slots_(table_size(left.size()), Slot{kNoPair, 0, -1}),
      whole_pieces_(whole_pieces) {
  for (size_t rank = 0; rank < left.size(); ++rank) {
    const uint64_t pair = pair_of(left[rank], right[rank]);
    Slot& slot = slots_[slot_of(pair)];
    if (slot.pair == kNoPair) slot = {pair, static_cast<uint32_t>(rank), merged[rank]};
  }
}

size_t RankMerger::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_of(pair) & mask;
  while (slots_[slot].pair != kNoPair && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

Merge RankMerger::merged(std::string_view, const Symbol& left, const Symbol& right) const {
  const Slot& slot = slots_[slot_of(pair_of(left.id, right.id))];
  return {slot.merged, static_cast<float>(slot.rank)};  // exact: there are fewer than 2^24
}

void RankMerger::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (whole_pieces_) {
    if (const int32_t id = table_.find(piece); id >= 0) return ids.push_back(id);
  }
  std::vector<Symbol>& symbols = scratch();
  for (size_t i = 0; i < piece.size(); ++i)
    append(symbols, i, 1, byte_ids_[static_cast<uint8_t>(piece[i])]);
  merge(piece, symbols, ids);
}

Merge ScoreMerger::merged(std::string_view piece, const Symbol& left, const Symbol& right) const {
  const int32_t id = table_.find(piece.substr(left.begin, left.size + right.size));
  return id < 0 ? Merge{} : Merge{id, -scores_[static_cast<size_t>(id)]};
}

void ScoreMerger::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  std::vector<Symbol>& symbols = scratch();
  for (size_t i = 0; i < piece.size();) {
    const size_t size = std::min(character_bytes(piece[i]), piece.size() - i);
    append(symbols, i, size, table_.find(piece.substr(i, size)));
    i += size;
  }
  merge(piece, symbols, ids);
}

}  // namespace tidemill::models
