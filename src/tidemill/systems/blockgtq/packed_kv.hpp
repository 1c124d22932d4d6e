// Packed keys and values as a decoder's cache: pages of one tile for every layer and KV head, which
// all sequences of a model take from one arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../models/kv.hpp"
#include "../../models/page_pool.hpp"
#include "codec.hpp"

namespace tidemill::blockgtq {

class PackedArena {
 public:
  // `codecs`: of each KV head, layer by layer. `interleaved`: RoPE turns neighbouring dimensions.
  // Throws std::invalid_argument for sizes that cannot be, std::bad_alloc.
  PackedArena(models::KVShape shape, std::vector<std::shared_ptr<const Codec>> codecs,
              bool interleaved, size_t pages);

  models::KVShape shape() const { return shape_; }
  bool interleaved() const { return interleaved_; }
  const Codec& codec(size_t row) const { return *codecs_[row]; }
  uint8_t* tile(uint32_t page, size_t row) const { return pool_.at(page) + offsets_[row]; }
  models::PagePool& pool() { return pool_; }
  const models::PagePool& pool() const { return pool_; }

 private:
  models::KVShape shape_;
  std::vector<std::shared_ptr<const Codec>> codecs_;
  std::vector<size_t> offsets_;  // in a page, of each KV head's tile
  bool interleaved_;
  models::PagePool pool_;
};

// What a query gets depends neither on the threads nor on how a prompt is cut: positions are cut at
// multiples of kRange, and ranges are merged in order.
class PackedKV final : public models::KVCache {
 public:
  static constexpr size_t kRange = 1024;

  explicit PackedKV(std::shared_ptr<PackedArena> arena) : arena_(std::move(arena)) {}
  ~PackedKV() override { arena_->pool().give_back(table_); }

  models::KVShape shape() const override { return arena_->shape(); }
  size_t length() const override { return length_; }
  size_t bytes() const override { return table_.size() * arena_->pool().page_bytes(); }
  size_t capacity() const override { return arena_->pool().pages() * kTile; }
  void reserve(size_t tokens) override;
  void append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
              size_t ldv) override;
  void commit(size_t tokens) override { length_ += tokens; }
  void truncate(size_t length) override;
  size_t tasks(const models::Queries& queries) const override;
  size_t scratch_floats(const models::Queries& queries) const override;
  void attend(const models::Queries& queries, size_t task) const override;
  void finish(const models::Queries& queries) const override;

 private:
  struct Cut;
  Cut cut_of(const models::Queries& queries) const;
  const float* split(const float* x, float* halves) const;
  void attend_token(const models::Queries& queries, size_t head, size_t token,
                    std::pair<size_t, size_t> ranges, float* found) const;
  void write(const models::Queries& queries, size_t head, size_t token, size_t ranges,
             const float* found, size_t stride) const;

  std::shared_ptr<PackedArena> arena_;
  std::vector<uint32_t> table_;
  size_t length_ = 0;
};

}  // namespace tidemill::blockgtq
