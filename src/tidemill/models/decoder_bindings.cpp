// What Python sees of the decoder: values in, logits out, the GIL released while a step works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <numeric>
#include <vector>

#include "decoder.hpp"
#include "paged_kv.hpp"
#include "recording_kv.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::models {

namespace {

using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Given = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Caches = std::vector<std::shared_ptr<KVCache>>;
using Counts = std::vector<size_t>;

std::vector<Slice> slices_of(const Caches& caches, const Ids& ids, const Counts& counts,
                             const Counts& wanted) {
  if (caches.size() != counts.size() || caches.size() != wanted.size())
    throw InputError("step — needs a sequence, a count and a number of logits for each slice.");
  if (std::accumulate(counts.begin(), counts.end(), size_t{0}) != ids.size())
    throw InputError("step — the counts must add up to the number of ids.");
  std::vector<Slice> slices;
  const int32_t* at = ids.data();
  for (size_t i = 0; i < caches.size(); ++i) {
    if (caches[i] == nullptr) throw InputError("sequence — is None; make one first.");
    slices.push_back({caches[i], at, counts[i], wanted[i]});
    at += counts[i];
  }
  return slices;
}

size_t rows_of(std::span<const Slice> slices) {
  size_t rows = 0;
  for (const Slice& slice : slices) rows += std::min(slice.wanted, slice.count);
  return rows;
}

Floats step(Decoder& decoder, const Caches& caches, const Ids& ids, const Counts& counts,
            const Counts& wanted, Pool& pool) {
  const std::vector<Slice> slices = slices_of(caches, ids, counts, wanted);
  const size_t rows = rows_of(slices);
  std::unique_ptr<float[]> logits;
  {
    const nb::gil_scoped_release release;
    logits = std::make_unique_for_overwrite<float[]>(rows * decoder.shape().vocab);
    decoder.step(slices, logits.get(), pool);
  }
  nb::capsule owner(logits.get(), [](void* at) noexcept { delete[] static_cast<float*>(at); });
  return Floats(logits.release(), {rows, decoder.shape().vocab}, owner);
}

std::vector<size_t> step_greedy(Decoder& decoder, const Caches& caches, const Ids& ids,
                                const Counts& counts, const Counts& wanted, Pool& pool) {
  const std::vector<Slice> slices = slices_of(caches, ids, counts, wanted);
  const nb::gil_scoped_release release;
  std::vector<size_t> best(rows_of(slices));
  decoder.step_greedy(slices, best.data(), pool);
  return best;
}

template <class Class, class T>
void bind_vector(nb::class_<Class>& bound, const char* name, T Class::* member) {
  bound.def_prop_rw(
      name, [member](const Class& self) { return (self.*member).size(); },
      [member](Class& self, const Given& given) {
        (self.*member).assign(given.data(), given.data() + given.size());
      });
}

void bind_shape(nb::module_& m) {
  nb::class_<DecoderShape>(m, "DecoderShape", "Sizes and constants of a decoder.")
      .def(nb::init<>())
      .def_rw("hidden", &DecoderShape::hidden)
      .def_rw("inner", &DecoderShape::inner)
      .def_rw("heads", &DecoderShape::heads)
      .def_rw("kv_heads", &DecoderShape::kv_heads)
      .def_rw("head_dim", &DecoderShape::head_dim)
      .def_rw("vocab", &DecoderShape::vocab)
      .def_rw("context", &DecoderShape::context)
      .def_rw("eps", &DecoderShape::eps)
      .def_rw("query_scale", &DecoderShape::query_scale)
      .def_rw("embedding_scale", &DecoderShape::embedding_scale)
      .def_rw("gelu", &DecoderShape::gelu)
      .def_rw("interleaved", &DecoderShape::interleaved);
}

void bind_layer(nb::module_& m) {
  nb::class_<Layer> layer(m, "Layer", "Weights of one layer; vectors may be left out.");
  layer.def(nb::init<>())
      .def_rw("q", &Layer::q)
      .def_rw("k", &Layer::k)
      .def_rw("v", &Layer::v)
      .def_rw("o", &Layer::o)
      .def_rw("gate", &Layer::gate)
      .def_rw("up", &Layer::up)
      .def_rw("down", &Layer::down)
      .def_rw("magnitude", &Layer::magnitude)
      .def_rw("window", &Layer::window);
  bind_vector(layer, "attn_norm", &Layer::attn_norm);
  bind_vector(layer, "q_bias", &Layer::q_bias);
  bind_vector(layer, "k_bias", &Layer::k_bias);
  bind_vector(layer, "v_bias", &Layer::v_bias);
  bind_vector(layer, "o_bias", &Layer::o_bias);
  bind_vector(layer, "q_norm", &Layer::q_norm);
  bind_vector(layer, "k_norm", &Layer::k_norm);
  bind_vector(layer, "post_attn_norm", &Layer::post_attn_norm);
  bind_vector(layer, "ffn_norm", &Layer::ffn_norm);
  bind_vector(layer, "post_ffn_norm", &Layer::post_ffn_norm);
  bind_vector(layer, "frequencies", &Layer::frequencies);
}

// Not while a step holds it: truncating under its feet would free pages in use.
void map_pages(PagedKV& cache, const std::vector<uint32_t>& table, size_t length) {
  if (!cache.try_hold())
    throw InputError("sequence — is in a step of another thread; it is for one thread.");
  try {
    cache.map(table, length);
  } catch (...) {
    cache.let_go();
    throw;
  }
  cache.let_go();
}

void truncate(KVCache& cache, size_t length) {
  if (length > cache.length())
    throw InputError("length=" + std::to_string(length) + " — must be at most the " +
                     std::to_string(cache.length()) + " tokens that the sequence has.");
  if (!cache.try_hold())
    throw InputError("sequence — is in a step of another thread; it is for one thread.");
  cache.truncate(length);
  cache.let_go();
}

// The pool below the caches, for tests; what an owner holds are the pages that it took.
class Owner {
 public:
  explicit Owner(std::shared_ptr<PagePool> pool) : pool_(std::move(pool)) {}
  ~Owner() { pool_->give_back(pages_); }

  void take(size_t count) { pool_->take(count, pages_); }
  void keep(size_t kept) { pool_->give_back(pages_, kept); }
  std::vector<uint32_t> pages() const { return pages_; }
  nb::bytes content(size_t index) const {
    return nb::bytes(pool_->at(pages_.at(index)), pool_->page_bytes());
  }
  void fill(uint8_t byte) {
    for (const uint32_t page : pages_) std::fill_n(pool_->at(page), pool_->page_bytes(), byte);
  }

 private:
  std::shared_ptr<PagePool> pool_;
  std::vector<uint32_t> pages_;
};

void bind_pages(nb::module_& m) {
  nb::class_<PagePool>(m, "PagePool", "Pages of one size that owners take and give back.")
      .def(
          "__init__",
          [](PagePool* self, size_t pages, size_t page_bytes, bool zeroed) {
            new (self) PagePool(pages, page_bytes, zeroed ? Reused::kZeroed : Reused::kAsLeft);
          },
          "pages"_a, "page_bytes"_a, "zeroed"_a)
      .def_prop_ro("free_pages", &PagePool::free_pages);
  nb::class_<Owner>(m, "PageOwner", "Whoever holds pages of a pool; for tests.")
      .def(nb::init<std::shared_ptr<PagePool>>(), "pool"_a)
      .def("take", &Owner::take, "count"_a)
      .def("keep", &Owner::keep, "kept"_a)
      .def("fill", &Owner::fill, "byte"_a)
      .def("content", &Owner::content, "index"_a)
      .def_prop_ro("pages", &Owner::pages);
}

void bind_cache(nb::module_& m) {
  nb::class_<KVCache>(m, "KVCache", "Keys and values of one sequence; for one thread at a time.")
      .def_prop_ro("length", &KVCache::length, "Tokens that it holds.")
      .def_prop_ro("bytes", &KVCache::bytes, "Bytes that it takes.")
      .def_prop_ro("capacity", &KVCache::capacity, "Tokens that it could ever hold.")
      .def("truncate", &truncate, "length"_a, "Forget the tokens from `length` on.");
  nb::class_<PageArena>(m, "PageArena", "fp16 pages of 32 tokens, shared by sequences.")
      .def(
          "__init__",
          [](PageArena* self, size_t layers, size_t kv_heads, size_t head_dim, size_t pages) {
            new (self) PageArena({layers, kv_heads, head_dim}, pages);
          },
          "layers"_a, "kv_heads"_a, "head_dim"_a, "pages"_a)
      .def_prop_ro("pages", [](const PageArena& self) { return self.pool().pages(); })
      .def_prop_ro("page_bytes", [](const PageArena& self) { return self.pool().page_bytes(); })
      .def_prop_ro("free_pages", [](const PageArena& self) { return self.pool().free_pages(); });
  nb::class_<PagedKV, KVCache>(m, "PagedKV", "Pages of an arena.")
      .def("map", &map_pages, "table"_a, "length"_a,
           "Use the pages of `table`, which the caller owns; they hold `length` tokens.");
  m.def(
      "paged_kv",
      [](std::shared_ptr<PageArena> arena) { return std::make_shared<PagedKV>(std::move(arena)); },
      "arena"_a, "A new, empty sequence whose pages come from `arena`.");
}

nb::ndarray<nb::numpy, float, nb::ndim<1>> copied(const std::vector<float>& list) {
  auto* const memory = new float[list.empty() ? 1 : list.size()];
  const nb::capsule owner(memory, [](void* at) noexcept { delete[] static_cast<float*>(at); });
  std::copy(list.begin(), list.end(), memory);
  return {memory, {list.size()}, owner};
}

void bind_recording(nb::module_& m) {
  using Seen = RecordingKV::Seen;
  const auto part = [](std::vector<float> Seen::* which) {
    return
        [which](const RecordingKV& self, size_t layer) { return copied(self.seen(layer).*which); };
  };
  nb::class_<RecordingKV, KVCache>(m, "RecordingKV", "Keeps what another cache is given.")
      .def(nb::init<std::shared_ptr<KVCache>>(), "inner"_a)
      .def("queries", part(&Seen::queries), "layer"_a)
      .def("keys", part(&Seen::keys), "layer"_a)
      .def("values", part(&Seen::values), "layer"_a);
}

void raise(const char* name, const char* text) {
  const nb::object type = nb::module_::import_("tidemill.errors").attr(name);
  PyErr_SetString(type.ptr(), text);
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const InputError& input) {
      raise("InputError", input.what());
    } catch (const OutOfPool& full) {
      raise("OutOfPool", full.what());
    }
  });
  bind_shape(m);
  bind_layer(m);
  bind_pages(m);
  bind_cache(m);
  bind_recording(m);
  nb::class_<Decoder>(m, "Decoder", "A whole decoder; steps of several threads take turns.")
      .def(nb::init<DecoderShape, std::vector<Layer>, std::shared_ptr<Linear>,
                    std::shared_ptr<Linear>, std::vector<float>>(),
           "shape"_a, "layers"_a, "embedding"_a, "output"_a, "output_norm"_a)
      .def_prop_ro("bytes", &Decoder::bytes, "Bytes of weights that a step of one token reads.")
      .def_prop_ro("seconds", &Decoder::seconds, "Spent in steps so far, waiting not counted.")
      .def("step", &step, "caches"_a, "ids"_a, "counts"_a, "wanted"_a, "pool"_a,
           "Logits (sum of wanted, vocab) after the last `wanted[i]` of `counts[i]` ids each.")
      .def("step_greedy", &step_greedy, "caches"_a, "ids"_a, "counts"_a, "wanted"_a, "pool"_a,
           "As step, but the id of the largest logit of each row.");
}

}  // namespace tidemill::models
