// Keys and values in fp16 pages of 32 tokens, which all sequences of a model take from one arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "kv.hpp"
#include "page_pool.hpp"

namespace tidemill::models {

// How a page holds the keys and values of all layers and heads.
class PageArena {
 public:
  // Throws std::invalid_argument for sizes that cannot be, std::bad_alloc.
  PageArena(KVShape shape, size_t pages);

  KVShape shape() const { return shape_; }
  size_t padded() const { return padded_; }
  PagePool& pool() { return pool_; }
  const PagePool& pool() const { return pool_; }

  uint16_t* keys(uint32_t page, size_t layer, size_t head) const {
    return reinterpret_cast<uint16_t*>(pool_.at(page)) +
           (layer * shape_.kv_heads + head) * head_halves_;
  }
  uint16_t* values(uint32_t page, size_t layer, size_t head) const {
    return keys(page, layer, head) + shape_.head_dim * kPageTokens;
  }

 private:
  KVShape shape_;
  size_t padded_, head_halves_;
  PagePool pool_;
};

class PagedKV final : public KVCache {
 public:
  explicit PagedKV(std::shared_ptr<PageArena> arena) : arena_(std::move(arena)) {}
  ~PagedKV() override {
    if (!mapped_) arena_->pool().give_back(table_);
  }

  // From now on its pages are somebody else's, who says which: `length` tokens are in `table`, and
  // what is appended goes behind them. Pages that it did not have before and that hold none of
  // these tokens are wiped. Throws InputError and changes nothing if that cannot be.
  void map(const std::vector<uint32_t>& table, size_t length);

  KVShape shape() const override { return arena_->shape(); }
  size_t length() const override { return length_; }
  size_t bytes() const override { return table_.size() * arena_->pool().page_bytes(); }
  size_t capacity() const override { return arena_->pool().pages() * kPageTokens; }
  void reserve(size_t tokens) override;
  void append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
              size_t ldv) override;
  void commit(size_t tokens) override { length_ += tokens; }
  void truncate(size_t length) override;
  size_t tasks(const Queries& queries) const override;
  size_t scratch_floats(const Queries& queries) const override;
  void attend(const Queries& queries, size_t task) const override;
  void finish(const Queries& queries) const override;

 private:
  struct Span;
  Span span_of(const Queries& queries) const;
  void attend_range(const Queries& queries, size_t head, size_t range) const;
  void attend_block(const Queries& queries, size_t head, size_t block) const;

  std::shared_ptr<PageArena> arena_;
  std::vector<uint32_t> table_;
  size_t length_ = 0;
  bool mapped_ = false;  // others own the pages
};

}  // namespace tidemill::models
