#include "packed_kv.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "prepared.hpp"

namespace tidemill::blockgtq {

using models::InputError;
using models::Queries;

namespace {

constexpr size_t kFewTokens = 4;    // at most these are split by ranges of keys, not by queries
constexpr size_t kBlockTokens = 4;  // of a task in a prompt

size_t first_seen(const Queries& queries, size_t position) {
  return queries.window == 0 || position + 1 <= queries.window ? 0 : position + 1 - queries.window;
}

void check_finite(const float* x, size_t dim, const char* what, size_t layer, size_t head,
                  size_t position) {
  for (size_t i = 0; i < dim; ++i)
    if (!std::isfinite(x[i]))
      throw InputError("kv cache — a " + std::string(what) + " of layer " + std::to_string(layer) +
                       ", head " + std::to_string(head) + ", position " + std::to_string(position) +
                       " is not finite; the model's weights or "
                       "activations overflow.");
}

// Where the tile of each KV head begins in a page, and where the page ends.
std::vector<size_t> offsets_of(models::KVShape shape,
                               const std::vector<std::shared_ptr<const Codec>>& codecs) {
  if (codecs.empty() || codecs.size() != shape.layers * shape.kv_heads)
    throw std::invalid_argument("a packed arena needs a codec for each KV head of each layer");
  std::vector<size_t> offsets{0};
  for (const auto& codec : codecs) {
    if (codec->dim != shape.head_dim) throw std::invalid_argument("a codec of another head size");
    offsets.push_back(offsets.back() + codec->tile_bytes);
  }
  return offsets;
}

}  // namespace

PackedArena::PackedArena(models::KVShape shape, std::vector<std::shared_ptr<const Codec>> codecs,
                         bool interleaved, size_t pages)
    : shape_(shape),
      codecs_(std::move(codecs)),
      offsets_(offsets_of(shape, codecs_)),
      interleaved_(interleaved),
      pool_(pages, offsets_.back(), models::Reused::kAsLeft) {}

void PackedKV::reserve(size_t tokens) {
  const size_t wanted = (length_ + tokens + kTile - 1) / kTile;
  if (wanted > table_.size()) arena_->pool().take(wanted - table_.size(), table_);
}

// Slots at or after `length` keep their bits: no query sees them, and the next append writes them.
void PackedKV::truncate(size_t length) {
  length_ = std::min(length, length_);
  arena_->pool().give_back(table_, (length_ + kTile - 1) / kTile);
}

// Dimensions as the codec has them: RoPE turns i and i + d/2 together.
const float* PackedKV::split(const float* x, float* halves) const {
  if (!arena_->interleaved()) return x;
  const size_t half = arena_->shape().head_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    halves[i] = x[2 * i];
    halves[i + half] = x[2 * i + 1];
  }
  return halves;
}

void PackedKV::append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
                      size_t ldv) {
  const models::KVShape shape = arena_->shape();
  float halves[kMaxDim];
  for (size_t token = 0; token < tokens; ++token) {
    const size_t position = length_ + token;
    for (size_t head = 0; head < shape.kv_heads; ++head) {
      const size_t row = layer * shape.kv_heads + head;
      const float *key = k + token * ldk + head * shape.head_dim,
                  *value = v + token * ldv + head * shape.head_dim;
      check_finite(key, shape.head_dim, "key", layer, head, position);
      check_finite(value, shape.head_dim, "value", layer, head, position);
      arena_->codec(row).encode(split(key, halves), value, static_cast<int64_t>(position),
                                arena_->tile(table_[position / kTile], row), position % kTile);
    }
  }
}

// How the work of some queries is cut: into ranges of keys, or into blocks of queries.
struct PackedKV::Cut {
  size_t group, first_range, ranges;
  bool by_range;
  size_t floats;  // of one token's group in one range: top, total, sums
};

PackedKV::Cut PackedKV::cut_of(const Queries& queries) const {
  const size_t group = queries.heads / shape().kv_heads;
  const size_t first = first_seen(queries, length_) / kRange;
  const size_t end = (length_ + queries.tokens + kRange - 1) / kRange;
  return {group, first, end - first, queries.tokens <= kFewTokens, group * (2 + shape().head_dim)};
}

size_t PackedKV::tasks(const Queries& queries) const {
  const Cut cut = cut_of(queries);
  const size_t blocks = (queries.tokens + kBlockTokens - 1) / kBlockTokens;
  return shape().kv_heads * (cut.by_range ? cut.ranges : blocks);
}

size_t PackedKV::scratch_floats(const Queries& queries) const {
  const Cut cut = cut_of(queries);
  return cut.by_range ? shape().kv_heads * queries.tokens * cut.ranges * cut.floats : 0;
}

// One token's query heads of one KV head over the ranges first..second, each to its own `found`.
void PackedKV::attend_token(const Queries& queries, size_t head, size_t token,
                            std::pair<size_t, size_t> ranges, float* found) const {
  const size_t dim = shape().head_dim, row = queries.layer * shape().kv_heads + head;
  const size_t group = queries.heads / shape().kv_heads, position = length_ + token;
  const Reach reach{first_seen(queries, position), position + 1, 0};
  const Tiles tiles{arena_->tile(0, row), arena_->pool().page_bytes(), table_.data()};
  const float* const q = queries.q + token * queries.ldq + head * group * dim;
  float turned[kHeads * kMaxDim];
  for (size_t first = 0; first < group; first += kHeads) {
    const size_t heads = std::min(kHeads, group - first);
    for (size_t h = 0; h < heads; ++h) {
      const float* const from = split(q + (first + h) * dim, turned + h * dim);
      if (from != turned + h * dim) std::copy_n(from, dim, turned + h * dim);
    }
    const Prepared prepared(arena_->codec(row), turned, heads, queries.scale);
    for (size_t range = ranges.first; range < ranges.second; ++range) {
      const size_t begin = std::max(range * kRange, reach.skip) / kTile;
      const size_t end = (std::min((range + 1) * kRange, reach.tokens) + kTile - 1) / kTile;
      Partial partial(heads, dim);
      if (begin < end) prepared.walk(tiles, reach, begin, end, partial);
      float* const at = found + (range - ranges.first) * group * (2 + dim);
      std::copy_n(partial.top.data(), heads, at + first);
      std::copy_n(partial.sum.data(), heads, at + group + first);
      std::copy_n(partial.out.data(), heads * dim, at + 2 * group + first * dim);
    }
  }
}

// Merges what ranges found, `stride` floats apart, in order.
void PackedKV::write(const Queries& queries, size_t head, size_t token, size_t ranges,
                     const float* found, size_t stride) const {
  const size_t dim = shape().head_dim, group = queries.heads / shape().kv_heads;
  Partial all(group, dim), one(group, dim);
  for (size_t range = 0; range < ranges; ++range, found += stride) {
    std::copy_n(found, group, one.top.data());
    std::copy_n(found + group, group, one.sum.data());
    std::copy_n(found + 2 * group, group * dim, one.out.data());
    all.merge(one);
  }
  float* const out = queries.out + token * queries.ldo + head * group * dim;
  leave_basis(arena_->codec(queries.layer * shape().kv_heads + head), all, out);
  for (size_t i = 0; i < group * dim; ++i) out[i] /= all.sum[i / dim];
}

void PackedKV::attend(const Queries& queries, size_t task) const {
  const Cut cut = cut_of(queries);
  const size_t heads = shape().kv_heads, head = task % heads, part = task / heads;
  if (cut.by_range) {
    const size_t range = cut.first_range + part;
    for (size_t token = 0; token < queries.tokens; ++token) {
      float* const found =
          queries.scratch + ((head * queries.tokens + token) * cut.ranges + part) * cut.floats;
      attend_token(queries, head, token, {range, range + 1}, found);
    }
    return;
  }
  std::vector<float> found(cut.ranges * cut.floats);
  const size_t end = std::min(queries.tokens, (part + 1) * kBlockTokens);
  for (size_t token = part * kBlockTokens; token < end; ++token) {
    const size_t last = (length_ + token) / kRange + 1;
    attend_token(queries, head, token, {cut.first_range, last}, found.data());
    write(queries, head, token, last - cut.first_range, found.data(), cut.floats);
  }
}

void PackedKV::finish(const Queries& queries) const {
  const Cut cut = cut_of(queries);
  if (!cut.by_range) return;
  const float* found = queries.scratch;
  for (size_t head = 0; head < shape().kv_heads; ++head)
    for (size_t token = 0; token < queries.tokens; ++token, found += cut.ranges * cut.floats)
      write(queries, head, token, cut.ranges, found, cut.floats);
}

}  // namespace tidemill::blockgtq
