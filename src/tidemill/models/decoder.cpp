#include "decoder.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <stdexcept>
#include <string>

#include "elementwise.hpp"

namespace tidemill::models {

namespace {

constexpr size_t kFloatsPerTask = 8192;   // of work between products; less is not worth a hand-over
constexpr size_t kLogitsPerTask = 32768;  // looked through; a whole number of vectors

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

void require_matrix(const std::shared_ptr<Linear>& matrix, size_t rows, size_t cols,
                    const std::string& name) {
  require(matrix != nullptr, name + " is missing");
  require(matrix->rows() == rows && matrix->cols() == cols,
          name + " is " + std::to_string(matrix->rows()) + " x " + std::to_string(matrix->cols()) +
              ", must be " + std::to_string(rows) + " x " + std::to_string(cols));
}

void require_size(const std::vector<float>& vector, size_t size, bool optional,
                  const std::string& name) {
  require(vector.size() == size || (optional && vector.empty()),
          name + " has " + std::to_string(vector.size()) + " numbers, must have " +
              std::to_string(size));
}

void check_layer(const DecoderShape& s, const Layer& layer, const std::string& at) {
  const size_t queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
  require_matrix(layer.q, queries, s.hidden, at + "q");
  require_matrix(layer.k, keys, s.hidden, at + "k");
  require_matrix(layer.v, keys, s.hidden, at + "v");
  require_matrix(layer.o, s.hidden, queries, at + "o");
  require_matrix(layer.gate, s.inner, s.hidden, at + "gate");
  require_matrix(layer.up, s.inner, s.hidden, at + "up");
  require_matrix(layer.down, s.hidden, s.inner, at + "down");
  require_size(layer.attn_norm, s.hidden, false, at + "attn_norm");
  require_size(layer.ffn_norm, s.hidden, false, at + "ffn_norm");
  require_size(layer.post_attn_norm, s.hidden, true, at + "post_attn_norm");
  require_size(layer.post_ffn_norm, s.hidden, true, at + "post_ffn_norm");
  require_size(layer.q_bias, queries, true, at + "q_bias");
  require_size(layer.k_bias, keys, true, at + "k_bias");
  require_size(layer.v_bias, keys, true, at + "v_bias");
  require_size(layer.o_bias, s.hidden, true, at + "o_bias");
  require_size(layer.q_norm, s.head_dim, true, at + "q_norm");
  require_size(layer.k_norm, s.head_dim, true, at + "k_norm");
  require_size(layer.frequencies, s.head_dim / 2, false, at + "frequencies");
}

// Holds the caches of a step; unless it is kept, undoes what the step began.
class Hold {
 public:
  explicit Hold(std::span<const Slice> slices) : slices_(slices) {
    for (; held_ < slices.size(); ++held_)
      if (!slices[held_].cache->try_hold()) {
        let_go();
        throw InputError(
            "sequence — is in another step already; it is for one thread, and once in a batch.");
      }
  }
  ~Hold() {
    if (!kept_)
      for (const Slice& slice : slices_) slice.cache->truncate(slice.cache->length());
    let_go();
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  void keep() {
    kept_ = true;
    for (const Slice& slice : slices_) slice.cache->commit(slice.count);
  }

 private:
  void let_go() {
    while (held_ > 0) slices_[--held_].cache->let_go();
  }

  std::span<const Slice> slices_;
  size_t held_ = 0;
  bool kept_ = false;
};

// fn(token) for each token, on the pool if that is worth it; `width` numbers are touched in each.
template <class Fn>
void each_token(size_t tokens, size_t width, Pool& pool, Fn&& fn) {
  const size_t share = std::max<size_t>(1, kFloatsPerTask / width);
  const size_t tasks = (tokens + share - 1) / share;
  const auto some = [&](unsigned, size_t task) {
    for (size_t token = task * share; token < std::min(tokens, (task + 1) * share); ++token)
      fn(token);
  };
  if (tasks == 1)
    some(0, 0);
  else
    pool.run(tasks, some);
}

size_t total_tokens(std::span<const Slice> slices) {
  size_t tokens = 0;
  for (const Slice& slice : slices) tokens += slice.count;
  return tokens;
}

}  // namespace

// Rows of the tokens of a step, one after the other.
struct Decoder::Buffers {
  size_t tokens = 0;
  std::vector<float> x, normed, q, k, v, mixed, out, gate, up, scratch;
  std::vector<float> logits;  // of steps that only want the largest
  std::vector<int32_t> ids;
  std::vector<size_t> positions;
  std::vector<std::vector<float>> cos, sin;  // of each table, tokens x head_dim / 2
  Activations input;
  std::atomic<size_t> broken{0};  // 1 + the first layer whose input is not finite

  void resize(const DecoderShape& s, size_t wanted_tokens, size_t tables) {
    tokens = wanted_tokens;
    x.resize(tokens * s.hidden);
    normed.resize(tokens * s.hidden);
    out.resize(tokens * s.hidden);
    q.resize(tokens * s.heads * s.head_dim);
    mixed.resize(q.size());
    k.resize(tokens * s.kv_heads * s.head_dim);
    v.resize(k.size());
    gate.resize(tokens * s.inner);
    up.resize(gate.size());
    ids.resize(tokens);
    positions.resize(tokens);
    cos.resize(tables);
    sin.resize(tables);
    for (size_t table = 0; table < tables; ++table) {
      cos[table].resize(tokens * s.head_dim / 2);
      sin[table].resize(tokens * s.head_dim / 2);
    }
    broken = 0;
  }
};

Decoder::Decoder(DecoderShape shape, std::vector<Layer> layers, std::shared_ptr<Linear> embedding,
                 std::shared_ptr<Linear> head, std::vector<float> output_norm)
    : shape_(shape),
      layers_(std::move(layers)),
      embedding_(std::move(embedding)),
      head_(std::move(head)),
      output_norm_(std::move(output_norm)),
      buffers_(std::make_shared<Buffers>()) {
  require(!layers_.empty() && shape_.hidden > 0 && shape_.inner > 0 && shape_.kv_heads > 0 &&
              shape_.heads % shape_.kv_heads == 0 && shape_.heads > 0 && shape_.head_dim > 0 &&
              shape_.head_dim % 2 == 0 && shape_.context > 0,
          "the sizes of the decoder contradict each other");
  require_matrix(embedding_, shape_.vocab, shape_.hidden, "embedding");
  require_matrix(head_, shape_.vocab, shape_.hidden, "output");
  require_size(output_norm_, shape_.hidden, false, "output_norm");
  for (const Layer& layer : layers_) {
    check_layer(shape_, layer, "layer " + std::to_string(tables_.size()) + ": ");
    tables_.push_back(table_of(layer));
  }
}

size_t Decoder::table_of(const Layer& layer) {
  for (size_t table = 0; table < table_owner_.size(); ++table) {
    const Layer& owner = layers_[table_owner_[table]];
    if (owner.frequencies == layer.frequencies && owner.magnitude == layer.magnitude) return table;
  }
  table_owner_.push_back(tables_.size());
  return table_owner_.size() - 1;
}

size_t Decoder::bytes() const {
  size_t bytes = head_->bytes();
  for (const Layer& layer : layers_)
    for (const auto& matrix :
         {layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down})
      bytes += matrix->bytes();
  return bytes;
}

void Decoder::check(std::span<const Slice> slices) const {
  if (slices.empty()) throw InputError("step — has no sequence; give at least one.");
  for (const Slice& slice : slices) {
    if (slice.count == 0) throw InputError("prompt — is empty; give at least one token.");
    if (slice.wanted > slice.count)
      throw InputError("wanted=" + std::to_string(slice.wanted) + " logits — of " +
                       std::to_string(slice.count) + " tokens; at most one each.");
    for (size_t i = 0; i < slice.count; ++i)
      if (slice.tokens[i] < 0 || static_cast<size_t>(slice.tokens[i]) >= shape_.vocab)
        throw InputError("token id " + std::to_string(slice.tokens[i]) +
                         " — is outside the vocabulary; ids are from 0 to " +
                         std::to_string(shape_.vocab - 1) + ".");
    const KVShape own = kv_shape(), other = slice.cache->shape();
    if (own.layers != other.layers || own.kv_heads != other.kv_heads ||
        own.head_dim != other.head_dim)
      throw InputError("sequence — was made for another model; make one of this decoder.");
    const size_t length = slice.cache->length();
    if (slice.count > shape_.context || length > shape_.context - slice.count)
      throw InputError("context — " + std::to_string(slice.count) + " tokens after " +
                       std::to_string(length) + " exceed the context of " +
                       std::to_string(shape_.context) +
                       "; shorten the prompt, or open the model with a larger context.");
  }
}

void Decoder::step(std::span<const Slice> slices, float* logits, Pool& pool) {
  run(slices, logits, nullptr, pool);
}

void Decoder::step_greedy(std::span<const Slice> slices, size_t* best, Pool& pool) {
  run(slices, nullptr, best, pool);
}

void Decoder::run(std::span<const Slice> slices, float* logits, size_t* best, Pool& pool) {
  Hold hold(slices);
  check(slices);
  const std::lock_guard lock(turn_);
  const auto begin = std::chrono::steady_clock::now();
  for (const Slice& slice : slices) slice.cache->reserve(slice.count);
  buffers_->resize(shape_, total_tokens(slices), table_owner_.size());
  embed(slices, pool);
  for (size_t index = 0; index < layers_.size(); ++index) {
    attend(layers_[index], index, slices, pool);
    feed_forward(layers_[index], index, pool);
  }
  write_logits(slices, logits, best, pool);
  hold.keep();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  seconds_ = seconds_ + took.count();
}

void Decoder::embed(std::span<const Slice> slices, Pool& pool) {
  Buffers& b = *buffers_;
  size_t row = 0;
  for (const Slice& slice : slices)
    for (size_t i = 0; i < slice.count; ++i, ++row) {
      b.ids[row] = slice.tokens[i];
      b.positions[row] = slice.cache->length() + i;
    }
  const size_t half = shape_.head_dim / 2;
  each_token(b.tokens, shape_.hidden * 4, pool, [&](size_t token) {
    float* const x = b.x.data() + token * shape_.hidden;
    embedding_->unpack(static_cast<size_t>(b.ids[token]), 1, x);
    for (size_t i = 0; i < shape_.hidden; ++i) x[i] *= shape_.embedding_scale;
    for (size_t table = 0; table < table_owner_.size(); ++table) {
      const Layer& layer = layers_[table_owner_[table]];
      angles_of(layer.frequencies.data(), half, layer.magnitude, b.positions[token],
                b.cos[table].data() + token * half, b.sin[table].data() + token * half);
    }
  });
}

void Decoder::norm(const std::vector<float>& weight, size_t index, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t size = shape_.hidden;
  each_token(b.tokens, size, pool, [&](size_t token) {
    const bool finite = rms_norm(b.x.data() + token * size, weight.data(), size, shape_.eps,
                                 b.normed.data() + token * size);
    size_t none = 0;
    if (!finite) b.broken.compare_exchange_strong(none, index + 1);
  });
  b.input.bind(b.normed.data(), size, b.tokens, size);
}

void Decoder::attend(const Layer& layer, size_t index, std::span<const Slice> slices, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t queries = shape_.heads * shape_.head_dim, keys = shape_.kv_heads * shape_.head_dim;
  norm(layer.attn_norm, index, pool);
  const Product products[] = {{layer.q.get(), b.q.data(), queries},
                              {layer.k.get(), b.k.data(), keys},
                              {layer.v.get(), b.v.data(), keys}};
  multiply(products, b.input, pool);
  rotate_all(layer, index, pool);
  mix(layer, index, slices, pool);
  b.input.bind(b.mixed.data(), queries, b.tokens, queries);
  const Product product{layer.o.get(), b.out.data(), shape_.hidden};
  multiply({&product, 1}, b.input, pool);
  add_output(layer.o_bias, layer.post_attn_norm, pool);
}

// Biases, norms of the heads, and rotations.
void Decoder::rotate_all(const Layer& layer, size_t index, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t dim = shape_.head_dim, half = dim / 2;
  const std::vector<float>&cos = b.cos[tables_[index]], &sin = b.sin[tables_[index]];
  const auto prepare = [&](float* heads, size_t count, const std::vector<float>& bias,
                           const std::vector<float>& weight, size_t token) {
    if (!bias.empty()) add_to(heads, bias.data(), count * dim);
    for (float* head = heads; head < heads + count * dim; head += dim) {
      if (!weight.empty()) rms_norm(head, weight.data(), dim, shape_.eps, head);
      rotate(head, half, cos.data() + token * half, sin.data() + token * half, shape_.interleaved);
    }
  };
  each_token(b.tokens, (shape_.heads + 2 * shape_.kv_heads) * dim, pool, [&](size_t token) {
    prepare(b.q.data() + token * shape_.heads * dim, shape_.heads, layer.q_bias, layer.q_norm,
            token);
    prepare(b.k.data() + token * shape_.kv_heads * dim, shape_.kv_heads, layer.k_bias, layer.k_norm,
            token);
    if (!layer.v_bias.empty())
      add_to(b.v.data() + token * shape_.kv_heads * dim, layer.v_bias.data(),
             shape_.kv_heads * dim);
  });
}

void Decoder::mix(const Layer& layer, size_t index, std::span<const Slice> slices, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t queries = shape_.heads * shape_.head_dim, keys = shape_.kv_heads * shape_.head_dim;
  std::vector<Queries> parts;
  std::vector<size_t> ends, needs;
  size_t row = 0, tasks = 0, floats = 0;
  for (const Slice& slice : slices) {
    parts.push_back({index, slice.count, shape_.heads, layer.window, shape_.query_scale,
                     b.q.data() + row * queries, queries, b.mixed.data() + row * queries, queries,
                     nullptr});
    needs.push_back(floats);
    floats += slice.cache->scratch_floats(parts.back());
    ends.push_back(tasks += slice.cache->tasks(parts.back()));
    row += slice.count;
  }
  if (b.scratch.size() < floats) b.scratch.resize(floats);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].scratch = b.scratch.data() + needs[i];
  const auto append = [&](unsigned, size_t i) {
    const size_t first = static_cast<size_t>(parts[i].q - b.q.data()) / queries;
    slices[i].cache->append(index, slices[i].count, b.k.data() + first * keys, keys,
                            b.v.data() + first * keys, keys);
  };
  if (row < 4)
    for (size_t i = 0; i < parts.size(); ++i) append(0, i);
  else
    pool.run(parts.size(), append);
  pool.run(tasks, [&](unsigned, size_t task) {
    const auto i =
        static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), task) - ends.begin());
    slices[i].cache->attend(parts[i], task - (i == 0 ? 0 : ends[i - 1]));
  });
  for (size_t i = 0; i < parts.size(); ++i) slices[i].cache->finish(parts[i]);
}

void Decoder::feed_forward(const Layer& layer, size_t index, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t inner = shape_.inner;
  norm(layer.ffn_norm, index, pool);
  const Product products[] = {{layer.gate.get(), b.gate.data(), inner},
                              {layer.up.get(), b.up.data(), inner}};
  multiply(products, b.input, pool);
  const auto gated = shape_.gelu ? gate_gelu : gate_silu;
  each_token(b.tokens, inner * 2, pool, [&](size_t token) {
    gated(b.gate.data() + token * inner, b.up.data() + token * inner, inner);
  });
  b.input.bind(b.gate.data(), inner, b.tokens, inner);
  const Product product{layer.down.get(), b.out.data(), shape_.hidden};
  multiply({&product, 1}, b.input, pool);
  add_output({}, layer.post_ffn_norm, pool);
}

void Decoder::add_output(const std::vector<float>& bias, const std::vector<float>& post_norm,
                         Pool& pool) {
  Buffers& b = *buffers_;
  const size_t size = shape_.hidden;
  each_token(b.tokens, size, pool, [&](size_t token) {
    float* const out = b.out.data() + token * size;
    if (!bias.empty()) add_to(out, bias.data(), size);
    if (!post_norm.empty()) rms_norm(out, post_norm.data(), size, shape_.eps, out);
    add_to(b.x.data() + token * size, out, size);
  });
}

// Norms the outputs that logits are wanted of; how many they are.
size_t Decoder::norm_outputs(std::span<const Slice> slices) {
  Buffers& b = *buffers_;
  const size_t size = shape_.hidden;
  size_t row = 0, rows = 0;
  for (const Slice& slice : slices) {
    row += slice.count;
    for (size_t i = row - slice.wanted; i < row; ++i, ++rows) {
      if (!rms_norm(b.x.data() + i * size, output_norm_.data(), size, shape_.eps,
                    b.normed.data() + rows * size)) {
        size_t none = 0;
        b.broken.compare_exchange_strong(none, layers_.size() + 1);
      }
    }
  }
  return rows;
}

// Whether all logits are finite; and where the largest of each row is, if `best` is not null.
bool Decoder::look_through(const float* logits, size_t rows, size_t* best, Pool& pool) {
  const size_t vocab = shape_.vocab, pieces = (vocab + kLogitsPerTask - 1) / kLogitsPerTask;
  std::vector<size_t> largest(best != nullptr ? rows * pieces : 0);
  std::atomic<bool> finite{true};
  pool.run(rows * pieces, [&](unsigned, size_t task) {
    const size_t first = task % pieces * kLogitsPerTask;
    const float* const row = logits + task / pieces * vocab;
    const size_t size = std::min(kLogitsPerTask, vocab - first);
    if (!all_finite(row + first, size))
      finite.store(false, std::memory_order_relaxed);
    else if (best != nullptr)
      largest[task] = first + largest_of(row + first, size);
  });
  for (size_t row = 0; best != nullptr && finite && row < rows; ++row, logits += vocab) {
    best[row] = largest[row * pieces];
    for (size_t piece = 1; piece < pieces; ++piece)
      if (const size_t other = largest[row * pieces + piece]; logits[other] > logits[best[row]])
        best[row] = other;
  }
  return finite;
}

void Decoder::write_logits(std::span<const Slice> slices, float* logits, size_t* best, Pool& pool) {
  Buffers& b = *buffers_;
  const size_t rows = norm_outputs(slices);
  if (b.broken == 0 && rows > 0) {
    if (logits == nullptr) {
      b.logits.resize(std::max(b.logits.size(), rows * shape_.vocab));
      logits = b.logits.data();
    }
    b.input.bind(b.normed.data(), shape_.hidden, rows, shape_.hidden);
    const Product product{head_.get(), logits, shape_.vocab};
    multiply({&product, 1}, b.input, pool);
    if (!look_through(logits, rows, best, pool)) b.broken = layers_.size() + 1;
  }
  if (b.broken == 0) return;
  const size_t after = b.broken - 1;
  throw InputError("logits — are not finite: " +
                   (after == layers_.size() ? std::string("the head or the last layer")
                    : after == 0
                        ? std::string("the embedding or layer 0")
                        : "layer " + std::to_string(after - 1) + " or " + std::to_string(after)) +
                   " gave the first NaN or infinity; the model file is damaged: verify it.");
}

}  // namespace tidemill::models
