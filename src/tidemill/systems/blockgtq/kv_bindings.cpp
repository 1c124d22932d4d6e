#include "kv_bindings.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "packed_kv.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::blockgtq {

namespace {

using models::KVCache;

}  // namespace

void bind_kv(nb::module_& m) {
  nb::class_<PackedArena>(m, "PackedArena", "Packed pages of 32 tokens, shared by sequences.")
      .def(
          "__init__",
          [](PackedArena* self, size_t layers, size_t kv_heads,
             const std::vector<std::shared_ptr<Codec>>& codecs, bool interleaved, size_t pages) {
            if (codecs.empty()) throw std::invalid_argument("a packed arena needs codecs");
            new (self) PackedArena({layers, kv_heads, codecs[0]->dim},
                                   {codecs.begin(), codecs.end()}, interleaved, pages);
          },
          "layers"_a, "kv_heads"_a, "codecs"_a, "interleaved"_a, "pages"_a)
      .def_prop_ro("page_bytes",
                   [](const PackedArena& arena) { return arena.pool().page_bytes(); });
  m.def(
      "packed_kv",
      [](std::shared_ptr<PackedArena> arena) -> std::shared_ptr<KVCache> {
        return std::make_shared<PackedKV>(std::move(arena));
      },
      "arena"_a, "A new, empty sequence whose pages come from `arena`.");
}

}  // namespace tidemill::blockgtq
