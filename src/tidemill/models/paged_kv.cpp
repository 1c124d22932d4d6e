#include "paged_kv.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tidemill::models {

namespace {

constexpr size_t kFewTokens = 4;    // at most these are split by ranges of keys, not by queries
constexpr size_t kBlockTokens = 8;  // of a task in a prompt

// Memory of one thread for the rows of a task.
struct Workspace {
  std::vector<float> q, scores, sums, total_sums;
  std::vector<size_t> low, high;
  std::vector<Softmax> softmax, total_softmax;

  void resize(size_t rows, size_t head_dim, size_t padded) {
    q.resize(rows * head_dim);
    scores.resize(rows * kPageTokens);
    sums.resize(rows * padded);
    total_sums.resize(rows * padded);
    low.resize(rows);
    high.resize(rows);
    softmax.resize(rows);
    total_softmax.resize(rows);
  }
};

Workspace& workspace() {
  thread_local Workspace own;
  return own;
}

constexpr Softmax kEmpty{-std::numeric_limits<float>::infinity(), 0.0f};

size_t first_seen(const Queries& queries, size_t position) {
  return queries.window == 0 || position + 1 <= queries.window ? 0 : position + 1 - queries.window;
}

}  // namespace

PageArena::PageArena(KVShape shape, size_t pages)
    : shape_(shape),
      padded_((shape.head_dim + 7) / 8 * 8),
      head_halves_((shape.head_dim + padded_) * kPageTokens),
      pool_(pages, head_halves_ * shape.kv_heads * shape.layers * sizeof(uint16_t),
            Reused::kZeroed) {}

void PagedKV::reserve(size_t tokens) {
  const size_t wanted = (length_ + tokens + kPageTokens - 1) / kPageTokens;
  if (wanted <= table_.size()) return;
  if (mapped_)
    throw OutOfPool("kv cache — " + std::to_string(length_ + tokens) + " tokens need " +
                    std::to_string(wanted) + " pages, the block table has " +
                    std::to_string(table_.size()) + "; map a longer one.");
  arena_->pool().take(wanted - table_.size(), table_);
}

void PagedKV::map(const std::vector<uint32_t>& table, size_t length) {
  const size_t used = (length + kPageTokens - 1) / kPageTokens, pages = arena_->pool().pages();
  if (used > table.size())
    throw InputError("block table — " + std::to_string(table.size()) + " pages cannot hold " +
                     std::to_string(length) + " tokens.");
  for (const uint32_t page : table)
    if (page >= pages)
      throw InputError("block table — names page " + std::to_string(page) + " of " +
                       std::to_string(pages) + ".");
  if (!mapped_) arena_->pool().give_back(table_);
  for (size_t i = used; i < table.size(); ++i)
    if (!mapped_ || i >= table_.size() || table_[i] != table[i])
      std::memset(arena_->pool().at(table[i]), 0, arena_->pool().page_bytes());
  table_ = table;
  length_ = length;
  mapped_ = true;
}

void PagedKV::append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
                     size_t ldv) {
  const KVShape shape = arena_->shape();
  const size_t padded = arena_->padded();
  for (size_t token = 0; token < tokens; ++token) {
    const size_t position = length_ + token, slot = position % kPageTokens;
    const uint32_t page = table_[position / kPageTokens];
    for (size_t head = 0; head < shape.kv_heads; ++head) {
      uint16_t* const keys = arena_->keys(page, layer, head) + slot;
      uint16_t* const values = arena_->values(page, layer, head) + slot * padded;
      const float* const key = k + token * ldk + head * shape.head_dim;
      const float* const value = v + token * ldv + head * shape.head_dim;
      for (size_t i = 0; i < shape.head_dim; ++i) {
        keys[i * kPageTokens] = float_to_half(key[i]);
        values[i] = float_to_half(value[i]);
      }
    }
  }
}

// Also wipes what a failed step may have left behind in the last page: a NaN there would spoil its
// neighbours, because a product takes whole pages.
void PagedKV::truncate(size_t length) {
  length_ = std::min(length, length_);
  const size_t kept = (length_ + kPageTokens - 1) / kPageTokens;
  if (!mapped_) arena_->pool().give_back(table_, kept);
  for (size_t i = kept; i < table_.size(); ++i)
    std::memset(arena_->pool().at(table_[i]), 0, arena_->pool().page_bytes());
  const size_t used = length_ % kPageTokens;
  if (used == 0) return;
  const KVShape shape = arena_->shape();
  for (size_t layer = 0; layer < shape.layers; ++layer)
    for (size_t head = 0; head < shape.kv_heads; ++head)
      std::memset(arena_->values(table_[kept - 1], layer, head) + used * arena_->padded(), 0,
                  (kPageTokens - used) * arena_->padded() * sizeof(uint16_t));
}

// How the work of some queries is cut: into ranges of keys, or into blocks of queries.
struct PagedKV::Span {
  size_t group, rows;          // queries of a token that share a head; of all tokens
  size_t first_range, ranges;  // those that any query sees
  bool by_range;
  size_t partial_floats;  // of one row in one range: top, total, sums
};

PagedKV::Span PagedKV::span_of(const Queries& queries) const {
  const size_t group = queries.heads / arena_->shape().kv_heads;
  const size_t first = first_seen(queries, length_) / kRange;
  const size_t end = (length_ + queries.tokens + kRange - 1) / kRange;
  return {group,       group * queries.tokens,       first,
          end - first, queries.tokens <= kFewTokens, 2 + arena_->padded()};
}

size_t PagedKV::tasks(const Queries& queries) const {
  const Span span = span_of(queries);
  const size_t blocks = (queries.tokens + kBlockTokens - 1) / kBlockTokens;
  return arena_->shape().kv_heads * (span.by_range ? span.ranges : blocks);
}

size_t PagedKV::scratch_floats(const Queries& queries) const {
  const Span span = span_of(queries);
  if (!span.by_range) return 0;
  return arena_->shape().kv_heads * span.ranges * span.rows * span.partial_floats;
}

namespace {

// Prepares the rows of some tokens: scaled queries, and what each may see.
Rows rows_of(const Queries& queries, size_t length, size_t head, size_t first_token, size_t tokens,
             size_t group, size_t head_dim, size_t padded) {
  Workspace& own = workspace();
  own.resize(tokens * group, head_dim, padded);
  for (size_t row = 0; row < tokens * group; ++row) {
    const size_t token = first_token + row / group;
    const float* const q =
        queries.q + token * queries.ldq + (head * group + row % group) * head_dim;
    for (size_t i = 0; i < head_dim; ++i) own.q[row * head_dim + i] = q[i] * queries.scale;
    own.low[row] = first_seen(queries, length + token);
    own.high[row] = length + token + 1;
  }
  return {tokens * group,     own.q.data(),    own.low.data(),   own.high.data(),
          own.softmax.data(), own.sums.data(), own.scores.data()};
}

void write_out(const Queries& queries, size_t head, size_t token, float total, const float* sums,
               size_t head_dim) {
  float* const out = queries.out + token * queries.ldo + head * head_dim;
  for (size_t i = 0; i < head_dim; ++i) out[i] = sums[i] / total;
}

}  // namespace

void PagedKV::attend(const Queries& queries, size_t task) const {
  const Span span = span_of(queries);
  const size_t heads = arena_->shape().kv_heads;
  if (span.by_range)
    attend_range(queries, task % heads, task / heads);
  else
    attend_block(queries, task % heads, task / heads);
}

void PagedKV::attend_range(const Queries& queries, size_t head, size_t range) const {
  const Span span = span_of(queries);
  const size_t head_dim = arena_->shape().head_dim, padded = arena_->padded();
  Rows rows = rows_of(queries, length_, head, 0, queries.tokens, span.group, head_dim, padded);
  float* partial = queries.scratch + (head * span.ranges + range) * span.rows * span.partial_floats;
  std::fill_n(rows.softmax, rows.count, kEmpty);
  std::fill_n(rows.sums, rows.count * padded, 0.0f);
  const size_t begin = std::max((span.first_range + range) * kRange, rows.low[0]) / kPageTokens;
  const size_t end = std::min((span.first_range + range + 1) * kRange, rows.high[rows.count - 1]);
  for (size_t page = begin; page * kPageTokens < end; ++page)
    add_page({arena_->keys(table_[page], queries.layer, head),
              arena_->values(table_[page], queries.layer, head)},
             page * kPageTokens, head_dim, padded, rows);
  for (size_t row = 0; row < rows.count; ++row, partial += span.partial_floats) {
    partial[0] = rows.softmax[row].top;
    partial[1] = rows.softmax[row].total;
    std::copy_n(rows.sums + row * padded, padded, partial + 2);
  }
}

void PagedKV::attend_block(const Queries& queries, size_t head, size_t block) const {
  const Span span = span_of(queries);
  const size_t head_dim = arena_->shape().head_dim, padded = arena_->padded();
  const size_t first = block * kBlockTokens;
  const size_t tokens = std::min(kBlockTokens, queries.tokens - first);
  Rows rows = rows_of(queries, length_, head, first, tokens, span.group, head_dim, padded);
  Workspace& own = workspace();
  std::fill_n(own.total_softmax.data(), rows.count, kEmpty);
  std::fill_n(own.total_sums.data(), rows.count * padded, 0.0f);
  const size_t low = rows.low[0], high = rows.high[rows.count - 1];
  for (size_t range = low / kRange; range * kRange < high; ++range) {
    std::fill_n(rows.softmax, rows.count, kEmpty);
    std::fill_n(rows.sums, rows.count * padded, 0.0f);
    const size_t end = std::min((range + 1) * kRange, high);
    for (size_t page = std::max(range * kRange, low) / kPageTokens; page * kPageTokens < end;
         ++page)
      add_page({arena_->keys(table_[page], queries.layer, head),
                arena_->values(table_[page], queries.layer, head)},
               page * kPageTokens, head_dim, padded, rows);
    for (size_t row = 0; row < rows.count; ++row)
      merge(own.total_softmax[row], own.total_sums.data() + row * padded, rows.softmax[row],
            rows.sums + row * padded, padded);
  }
  for (size_t row = 0; row < rows.count; ++row)
    write_out(queries, head * span.group + row % span.group, first + row / span.group,
              own.total_softmax[row].total, own.total_sums.data() + row * padded, head_dim);
}

void PagedKV::finish(const Queries& queries) const {
  const Span span = span_of(queries);
  if (!span.by_range) return;
  const size_t head_dim = arena_->shape().head_dim, padded = arena_->padded();
  std::vector<float> sums(padded);
  for (size_t head = 0; head < arena_->shape().kv_heads; ++head)
    for (size_t row = 0; row < span.rows; ++row) {
      Softmax softmax = kEmpty;
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (size_t range = 0; range < span.ranges; ++range) {
        const float* const partial =
            queries.scratch +
            ((head * span.ranges + range) * span.rows + row) * span.partial_floats;
        merge(softmax, sums.data(), {partial[0], partial[1]}, partial + 2, padded);
      }
      write_out(queries, head * span.group + row % span.group, row / span.group, softmax.total,
                sums.data(), head_dim);
    }
}

}  // namespace tidemill::models
