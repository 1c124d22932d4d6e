// A cache that also keeps the rotated queries and keys and the values of all it sees.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "kv.hpp"

namespace tidemill::models {

class RecordingKV final : public KVCache {
 public:
  explicit RecordingKV(std::shared_ptr<KVCache> inner)
      : inner_(std::move(inner)), layers_(inner_->shape().layers) {}

  struct Seen {
    std::vector<float> queries, keys, values;  // by token, then head
  };
  const Seen& seen(size_t layer) const { return layers_.at(layer); }

  KVShape shape() const override { return inner_->shape(); }
  size_t length() const override { return inner_->length(); }
  size_t bytes() const override { return inner_->bytes(); }
  size_t capacity() const override { return inner_->capacity(); }
  void reserve(size_t tokens) override { inner_->reserve(tokens); }
  void append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
              size_t ldv) override {
    const size_t width = shape().kv_heads * shape().head_dim;
    for (size_t token = 0; token < tokens; ++token) {
      keep(layers_[layer].keys, k + token * ldk, width);
      keep(layers_[layer].values, v + token * ldv, width);
    }
    inner_->append(layer, tokens, k, ldk, v, ldv);
  }
  void commit(size_t tokens) override { inner_->commit(tokens); }
  void truncate(size_t length) override { inner_->truncate(length); }
  size_t tasks(const Queries& queries) const override { return inner_->tasks(queries); }
  size_t scratch_floats(const Queries& queries) const override {
    return inner_->scratch_floats(queries);
  }
  void attend(const Queries& queries, size_t task) const override { inner_->attend(queries, task); }
  void finish(const Queries& queries) const override {
    for (size_t token = 0; token < queries.tokens; ++token)
      keep(layers_[queries.layer].queries, queries.q + token * queries.ldq,
           queries.heads * shape().head_dim);
    inner_->finish(queries);
  }

 private:
  static void keep(std::vector<float>& list, const float* from, size_t count) {
    list.insert(list.end(), from, from + count);
  }

  std::shared_ptr<KVCache> inner_;
  mutable std::vector<Seen> layers_;  // finish() is called once, by the step's own thread
};

}  // namespace tidemill::models
