// Keys and values in fp16 pages of 32 tokens, which all sequences of a model take from one arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "attention.hpp"
#include "kv.hpp"

namespace tidemill::models {

// Memory is reserved at once and taken from the system when a page is first used.
class PageArena {
 public:
  // Throws std::invalid_argument for sizes that cannot be, std::bad_alloc.
  PageArena(KVShape shape, size_t pages);
  ~PageArena();
  PageArena(const PageArena&) = delete;
  PageArena& operator=(const PageArena&) = delete;

  KVShape shape() const { return shape_; }
  size_t padded() const { return padded_; }
  size_t pages() const { return pages_; }
  size_t page_bytes() const { return page_halves_ * sizeof(uint16_t); }
  size_t free_pages() const;

  // All or none: throws OutOfPool. New pages hold zeros.
  void take(size_t count, std::vector<uint32_t>& pages);
  void give_back(uint32_t page);

  uint16_t* keys(uint32_t page, size_t layer, size_t head) const {
    return memory_ + page * page_halves_ + (layer * shape_.kv_heads + head) * head_halves_;
  }
  uint16_t* values(uint32_t page, size_t layer, size_t head) const {
    return keys(page, layer, head) + shape_.head_dim * kPageTokens;
  }

 private:
  KVShape shape_;
  size_t padded_, head_halves_, page_halves_, pages_;
  uint16_t* memory_ = nullptr;
  size_t fresh_ = 0;  // pages from here on were never used
  mutable std::mutex guard_;
  std::vector<uint32_t> free_;
};

class PagedKV final : public KVCache {
 public:
  explicit PagedKV(std::shared_ptr<PageArena> arena) : arena_(std::move(arena)) {}
  ~PagedKV() override;

  KVShape shape() const override { return arena_->shape(); }
  size_t length() const override { return length_; }
  size_t bytes() const override { return table_.size() * arena_->page_bytes(); }
  size_t capacity() const override { return arena_->pages() * kPageTokens; }
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
};

}  // namespace tidemill::models
