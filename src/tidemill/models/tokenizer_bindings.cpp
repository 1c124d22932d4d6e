// The token table and the mergers as Python sees them: checked arrays in, the GIL released inside.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "token_merging.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::models {

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> span(const In<T>& values) {
  return {values.data(), values.size()};
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void require_ids(std::span<const int32_t> ids, const TokenTable& table, const char* what) {
  for (const int32_t id : ids) require(id >= 0 && static_cast<size_t>(id) < table.size(), what);
}

std::array<int32_t, 256> fallback(const In<int32_t>& ids, const TokenTable& table) {
  require(ids.size() == 256, "byte_ids must hold one token id for each byte");
  for (const int32_t id : span(ids))
    require(id >= -1 && id < static_cast<int64_t>(table.size()), "byte_ids must be ids or -1");
  std::array<int32_t, 256> copy;
  std::copy_n(ids.data(), 256, copy.begin());
  return copy;
}

void make_table(TokenTable* self, nb::bytes bytes, In<uint64_t> ends, In<uint8_t> findable) {
  require(ends.size() == findable.size(), "ends and findable must be of one length");
  uint64_t last = 0;
  for (const uint64_t end : span(ends)) {
    require(end >= last && end <= bytes.size(), "ends must not fall and stay inside bytes");
    last = end;
  }
  new (self) TokenTable({bytes.c_str(), bytes.size()}, span(ends), span(findable));
}

nb::bytes spelled(const TokenTable& table, const std::vector<int64_t>& ids) {
  std::string text;
  for (const int64_t id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < table.size(), "an id is not a token's");
    text += table.spelling(static_cast<size_t>(id));
  }
  return nb::bytes(text.data(), text.size());
}

void make_ranks(RankMerger* self, const TokenTable& table, In<int32_t> byte_ids, In<int32_t> left,
                In<int32_t> right, In<int32_t> merged, bool whole_pieces) {
  require(left.size() == right.size() && left.size() == merged.size() && left.size() < (1u << 24),
          "left, right and merged must be of one length, under 2^24");
  for (const auto& ids : {left, right, merged})
    require_ids(span(ids), table, "a merge names an id that is not a token's");
  new (self) RankMerger(table, fallback(byte_ids, table), span(left), span(right), span(merged),
                        whole_pieces);
}

void make_scores(ScoreMerger* self, const TokenTable& table, In<int32_t> byte_ids,
                 In<float> scores) {
  require(scores.size() == table.size(), "scores must hold one value for each token");
  new (self)
      ScoreMerger(table, fallback(byte_ids, table), {scores.data(), scores.data() + scores.size()});
}

std::vector<int32_t> encode(const Merger& merger, nb::bytes text, In<int64_t> ends) {
  const std::string_view all(text.c_str(), text.size());
  require(all.size() < (size_t{1} << 31), "text must be shorter than 2 GiB");
  std::vector<int32_t> ids;
  const nb::gil_scoped_release release;
  int64_t begin = 0;
  for (const int64_t end : span(ends)) {
    require(end >= begin && static_cast<size_t>(end) <= all.size(), "ends must rise inside text");
    merger.encode(all.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), ids);
    begin = end;
  }
  return ids;
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  nb::class_<TokenTable>(m, "TokenTable")
      .def("__init__", &make_table, "bytes"_a, "ends"_a, "findable"_a)
      .def("spelled", &spelled, "ids"_a);
  nb::class_<Merger>(m, "Merger").def("encode", &encode, "text"_a, "ends"_a);
  nb::class_<RankMerger, Merger>(m, "RankMerger")
      .def("__init__", &make_ranks, nb::keep_alive<1, 2>(), "table"_a, "byte_ids"_a, "left"_a,
           "right"_a, "merged"_a, "whole_pieces"_a);
  nb::class_<ScoreMerger, Merger>(m, "ScoreMerger")
      .def("__init__", &make_scores, nb::keep_alive<1, 2>(), "table"_a, "byte_ids"_a, "scores"_a);
}

}  // namespace tidemill::models
