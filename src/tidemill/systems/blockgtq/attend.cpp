#include "attend.hpp"

#include <algorithm>
#include <optional>

#include "prepared.hpp"
#include "tasks.hpp"

namespace tidemill::blockgtq {

namespace {

constexpr float kLog2E = 1.44269504f;

// The few tokens kept dense, in plain coordinates.
void window(const Request& request, size_t row, size_t first, Partial& partial) {
  const size_t dim = request.dim, padded = (request.window + 7) / 8 * 8;
  std::vector<float> scores(padded);
  for (size_t h = 0; h < partial.top.size(); ++h) {
    const float* query = request.queries + (row * request.heads + first + h) * dim;
    for (size_t t = 0; t < padded; ++t) {
      float sum = 0;
      const float* key = request.window_keys + (row * request.window + t) * dim;
      for (size_t i = 0; t < request.window && i < dim; ++i) sum += query[i] * key[i];
      scores[t] = t < request.window ? sum * request.scale * kLog2E : 2 * kNothing;
    }
    partial.weigh(h, scores.data(), padded);
    float* out = partial.out.data() + h * dim;
    for (size_t t = 0; t < request.window; ++t) {
      const float* value = request.window_values + (row * request.window + t) * dim;
      for (size_t i = 0; i < dim; ++i) out[i] += scores[t] * value[i];
    }
  }
}

void finish(const Request& request, const Codec& codec, size_t row, size_t first, Partial& packed) {
  const size_t heads = packed.top.size(), dim = request.dim;
  Partial plain(heads, dim);
  plain.top = packed.top;
  plain.sum = packed.sum;
  leave_basis(codec, packed, plain.out.data());
  if (request.window > 0) {
    Partial dense(heads, dim);
    window(request, row, first, dense);
    plain.merge(dense);
  }
  float* out = request.out + (row * request.heads + first) * dim;
  for (size_t i = 0; i < heads * dim; ++i) out[i] = plain.out[i] / plain.sum[i / dim];
}

}  // namespace

void attend(const Request& request) {
  const size_t rows = request.codecs.size();
  const size_t parts = (request.heads + kHeads - 1) / kHeads;  // of a row's query heads
  std::vector<std::optional<Prepared>> queries(rows * parts);
  const auto first = [&](size_t i) { return i % parts * kHeads; };
  const auto count = [&](size_t i) { return std::min(kHeads, request.heads - first(i)); };
  for (size_t i = 0; i < queries.size(); ++i) {
    const size_t row = i / parts;
    const float* at = request.queries + (row * request.heads + first(i)) * request.dim;
    queries[i].emplace(*request.codecs[row], at, count(i), request.scale);
  }
  const size_t begin = request.skip / kTile, end = (request.tokens + kTile - 1) / kTile;
  const size_t tiles = end > begin ? end - begin : 0;
  const size_t per_task = tiles_per_task(tiles, queries.size(), request.threads);
  const size_t tasks = std::max<size_t>(1, (tiles + per_task - 1) / per_task);
  std::vector<Partial> found;
  for (size_t i = 0; i < queries.size() * tasks; ++i)
    found.emplace_back(count(i / tasks), request.dim);
  run_tasks(found.size(), request.threads, [&](size_t i) {
    const size_t from = begin + i % tasks * per_task;
    const size_t row = i / tasks / parts;
    const Tiles tiles_of{request.tiles[row], request.codecs[row]->tile_bytes};
    queries[i / tasks]->walk(tiles_of, {request.skip, request.tokens, request.base},
                             std::min(from, end), std::min(from + per_task, end), found[i]);
  });
  for (size_t i = 0; i < queries.size(); ++i) {
    Partial& all = found[i * tasks];
    for (size_t t = 1; t < tasks; ++t) all.merge(found[i * tasks + t]);
    finish(request, *request.codecs[i / parts], i / parts, first(i), all);
  }
}

}  // namespace tidemill::blockgtq
