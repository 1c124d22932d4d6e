// What Python sees: a codec per KV head, tiles in buffers that NumPy owns, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "attend.hpp"
#include "codec.hpp"
#include "kv_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::blockgtq {

namespace {

template <class T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T, int kDims>
using Out = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Tiles = In<uint8_t, 1>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class T, class Array>
std::vector<T> copy(const Array& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

// low, high: log2 of the norms' range for 8-bit norms; low > high asks for fp16.
Group make_group(unsigned width, std::vector<float> centroids, size_t dims, float low, float high) {
  require(width >= 1 && width <= 8 && centroids.size() == size_t{1} << width,
          "a group has a width in 1-8 and 2^width centroids");
  Group group{};
  group.width = width;
  group.dims = dims;
  group.is_logarithmic = low <= high;
  group.low = low;
  group.step = group.is_logarithmic ? std::max((high - low) / 254.0f, 1e-6f) : 0.0f;
  group.centroids = std::move(centroids);
  return group;
}

Transform make_transform(size_t dim, const std::pair<In<float, 2>, In<float, 2>>& given) {
  for (const In<float, 2>& matrix : {given.first, given.second})
    require(matrix.shape(0) == dim && matrix.shape(1) == dim, "matrices must be dim x dim");
  return {dim, given.first.data(), given.second.data()};
}

using Matrices = std::pair<In<float, 2>, In<float, 2>>;  // a matrix and its inverse

Codec make_codec(const std::vector<Group>& groups, const Matrices& key, const Group& value,
                 const Matrices& value_basis, In<float, 1> mean, In<float, 1> value_mean,
                 In<double, 1> frequencies) {
  Codec codec;
  codec.dim = key.first.shape(0);
  require(codec.dim % 8 == 0 && codec.dim <= kMaxDim, "dim must be a multiple of 8, at most 512");
  require(mean.size() == codec.dim && value_mean.size() == codec.dim &&
              frequencies.size() == codec.dim / 2,
          "means must hold dim numbers, frequencies dim/2");
  size_t dims = 0;
  for (const Group& group : groups) {
    require(group.dims >= 2 && group.dims % 2 == 0, "a group holds whole RoPE blocks");
    dims += group.dims;
  }
  require(dims == codec.dim && value.dims == codec.dim, "groups must cover the head");
  require(value.width <= 4 || value.width == 8, "values take 1-4 or 8 bits");
  codec.groups = groups;
  codec.value = value;
  codec.key = make_transform(codec.dim, key);
  codec.value_basis = make_transform(codec.dim, value_basis);
  codec.mean = copy<float>(mean);
  codec.value_mean = copy<float>(value_mean);
  codec.frequencies = copy<double>(frequencies);
  codec.finish();
  return codec;
}

void check_tiles(const Codec& codec, size_t bytes, size_t tokens) {
  require(bytes >= (tokens + kTile - 1) / kTile * codec.tile_bytes, "too few tiles for the tokens");
}

uint64_t encode(const Codec& codec, In<float, 2> keys, In<float, 2> values, Out<uint8_t, 1> tiles,
                size_t start, int64_t base) {
  const size_t tokens = keys.shape(0);
  require(keys.shape(1) == codec.dim && values.shape(0) == tokens && values.shape(1) == codec.dim,
          "keys and values must be tokens x dim");
  check_tiles(codec, tiles.size(), start + tokens);
  const nb::gil_scoped_release release;
  uint64_t saturated = 0;
  for (size_t i = 0; i < tokens; ++i) {
    const size_t at = start + i;
    saturated += codec.encode(keys.data() + i * codec.dim, values.data() + i * codec.dim,
                              base + static_cast<int64_t>(at),
                              tiles.data() + at / kTile * codec.tile_bytes, at % kTile);
  }
  return saturated;
}

void decode(const Codec& codec, Tiles tiles, size_t start, int64_t base, Out<float, 2> keys,
            Out<float, 2> values) {
  const size_t tokens = keys.shape(0);
  require(keys.shape(1) == codec.dim && values.shape(0) == tokens && values.shape(1) == codec.dim,
          "keys and values must be tokens x dim");
  check_tiles(codec, tiles.size(), start + tokens);
  const nb::gil_scoped_release release;
  for (size_t i = 0; i < tokens; ++i) {
    const size_t at = start + i;
    codec.decode(tiles.data() + at / kTile * codec.tile_bytes, at % kTile,
                 base + static_cast<int64_t>(at), keys.data() + i * codec.dim,
                 values.data() + i * codec.dim);
  }
}

void attend_tiles(const std::vector<const Codec*>& codecs, const std::vector<Tiles>& tiles,
                  In<float, 3> queries, In<float, 3> window_keys, In<float, 3> window_values,
                  Out<float, 3> out, size_t tokens, size_t skip, int64_t base, float scale,
                  unsigned threads) {
  Request request{};
  require(!codecs.empty() && codecs.size() == tiles.size() && codecs.size() == queries.shape(0),
          "one codec and one buffer of tiles for each row of queries");
  request.dim = codecs[0]->dim;
  request.heads = queries.shape(1);
  request.window = window_keys.shape(1);
  require(queries.shape(2) == request.dim && out.size() == queries.size(),
          "queries: rows x heads x dim");
  require(window_keys.shape(0) == codecs.size() && window_keys.shape(2) == request.dim &&
              window_values.size() == window_keys.size(),
          "window: rows x tokens x dim");
  require(tokens > skip || request.window > 0, "there is no token to attend to");
  for (size_t i = 0; i < codecs.size(); ++i) {
    require(codecs[i]->dim == request.dim, "all heads must have the same dim");
    check_tiles(*codecs[i], tiles[i].size(), tokens);
    request.codecs.push_back(codecs[i]);
    request.tiles.push_back(tiles[i].data());
  }
  request.tokens = tokens;
  request.skip = skip;
  request.base = base;
  request.scale = scale;
  request.queries = queries.data();
  request.window_keys = window_keys.data();
  request.window_values = window_values.data();
  request.out = out.data();
  request.threads = threads;
  const nb::gil_scoped_release release;
  attend(request);
}

// What the mean alone adds to the scores (log2) of whole tiles of tokens from position `base`.
void mean_scores(const Codec& codec, In<float, 1> query, Out<float, 1> out, int64_t base) {
  require(query.size() == codec.dim && out.size() % kTile == 0, "query: dim; out: whole tiles");
  const Amplitudes head(codec.waves, query.data(), codec.mean.data(), codec.dim / 2, 1.0f);
  Phases phases(codec.waves, base);
  for (size_t at = 0; at < out.size(); at += kTile, phases.next())
    wave_scores(codec.waves, phases, head, out.data() + at);
}

template <class Cell>
void attend_dense_rows(In<Cell, 3> keys, In<Cell, 3> values, In<float, 3> queries,
                       Out<float, 3> out, size_t tokens, float scale, unsigned threads) {
  DenseRequest<Cell> request{};
  request.heads = queries.shape(1);
  request.dim = queries.shape(2);
  const size_t rows = queries.shape(0), cells = (tokens + kTile - 1) / kTile * kTile * request.dim;
  require(keys.shape(0) == rows && values.shape(0) == rows && out.size() == queries.size(),
          "rows of queries, keys, values and out must be equal");
  require(keys.shape(1) * keys.shape(2) >= cells && values.shape(1) * values.shape(2) >= cells &&
              request.dim % 8 == 0 && tokens > 0,
          "keys: rows x tiles x (dim * 32); values: rows x tokens x dim, whole tiles");
  for (size_t i = 0; i < rows; ++i) {
    request.keys.push_back(keys.data() + i * keys.shape(1) * keys.shape(2));
    request.values.push_back(values.data() + i * values.shape(1) * values.shape(2));
  }
  request.tokens = tokens;
  request.scale = scale;
  request.queries = queries.data();
  request.out = out.data();
  request.threads = threads;
  const nb::gil_scoped_release release;
  attend_dense(request);
}

}  // namespace

}  // namespace tidemill::blockgtq

void register_blockgtq(nb::module_& m) {
  using namespace tidemill::blockgtq;
  nb::class_<Group>(m, "Group");
  m.def("make_group", &make_group, "width"_a, "centroids"_a, "dims"_a, "low"_a, "high"_a);
  nb::class_<Codec>(m, "Codec")
      .def_ro("dim", &Codec::dim)
      .def_ro("key_bytes", &Codec::key_bytes)
      .def_ro("tile_bytes", &Codec::tile_bytes);
  m.def("make_codec", &make_codec, "groups"_a, "key"_a, "value"_a, "value_basis"_a, "mean"_a,
        "value_mean"_a, "frequencies"_a);
  m.def("mean_scores", &mean_scores, "codec"_a, "query"_a, "out"_a.noconvert(), "base"_a);
  m.def("encode", &encode, "codec"_a, "keys"_a.noconvert(), "values"_a.noconvert(),
        "tiles"_a.noconvert(), "start"_a, "base"_a);
  m.def("decode", &decode, "codec"_a, "tiles"_a.noconvert(), "start"_a, "base"_a,
        "keys"_a.noconvert(), "values"_a.noconvert());
  m.def("attend", &attend_tiles, "codecs"_a, "tiles"_a.noconvert(), "queries"_a, "window_keys"_a,
        "window_values"_a, "out"_a.noconvert(), "tokens"_a, "skip"_a, "base"_a, "scale"_a,
        "threads"_a);
  m.def("attend_dense", &attend_dense_rows<uint16_t>, "keys"_a.noconvert(), "values"_a.noconvert(),
        "queries"_a, "out"_a.noconvert(), "tokens"_a, "scale"_a, "threads"_a);
  m.def("attend_dense", &attend_dense_rows<float>, "keys"_a.noconvert(), "values"_a.noconvert(),
        "queries"_a, "out"_a.noconvert(), "tokens"_a, "scale"_a, "threads"_a);
  bind_kv(m);
}
