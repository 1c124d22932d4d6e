// A matrix in nested bit-planes, column by column, and what a decoding step does with it: choose a
// level for each column from this token's input, then add up the columns, reading no more than the
// planes of their levels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../models/pool.hpp"

namespace tidemill::grinqh {

constexpr size_t kGroup = 256;  // outputs whose codes lie together in a plane
constexpr size_t kPlanes = 4;   // 2, +1, +1, +2 bits
constexpr size_t kChunk = 128;  // columns to one scale: 128 * 127 fits into int16
constexpr std::array<uint32_t, kPlanes> kWidth{2, 3, 4, 6};
constexpr std::array<uint32_t, kPlanes> kStep{2, 1, 1, 2};

// Values of one level in the order of stored bits (first plane lowest), and their integer form.
struct Table {
  std::array<int16_t, 64> scaled{};  // value / largest * 32767
  float largest = 0, low = 0, high = 0;
};

struct Parts {
  size_t rows, cols;
  const float *row_scale, *col_scale, *col_norm;
  std::array<const uint8_t*, kPlanes> planes;  // (cols, padded rows * bits / 8)
  const uint32_t *outlier_start, *outlier_rows;
  const float *outlier_values, *values, *slopes;  // values: 4 + 8 + 16 + 64, ascending
};

class Matrix {
 public:
  explicit Matrix(const Parts& parts);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }

  // Water-filling: levels[j] in {0, 2, 3, 4, 6}, together at most `budget` bits, counted in blocks
  // of neighbouring columns. Equal to selection.by_budget. False: an input is not finite.
  bool select(const float* x, size_t budget, size_t block, uint8_t* levels) const;

  // y[i] = sum over j of x[j] W[i, j], column j read at levels[j]. Each thread owns outputs, so
  // the result is the same for any number of them.
  void apply(const float* x, const uint8_t* levels, float* y, models::Pool& pool) const;

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  struct Task;

  void columns(const Task& task, size_t begin, size_t end, float* y) const;
  void outliers(const Task& task, size_t begin, size_t end, float* y) const;

  size_t rows_, cols_, groups_;
  std::vector<float> row_scale_, col_scale_, norm2_, outlier_values_;
  std::vector<uint32_t> outlier_start_, outlier_rows_;
  std::array<std::unique_ptr<uint8_t, Free>, kPlanes> planes_;
  std::array<Table, kPlanes> tables_;
  std::array<float, kPlanes> slopes_;
};

// Adds products of up to four columns, each `stride` bytes of a plane apart from the next group's,
// into int16 sums. Sums are in an order of their own within 32 outputs: see `flush`.
struct Quad {
  std::array<std::array<const uint8_t*, 4>, kPlanes> column;  // [plane][of the four]
  std::array<std::array<const uint8_t*, 4>, kPlanes> next;    // to fetch meanwhile; may be null
  alignas(64) int8_t products[4][64];
};

void add_quad(size_t planes, const Quad& quad, size_t groups, int16_t* sums);

// y += scale * sums, and sums = 0.
void flush(size_t groups, float scale, int16_t* sums, float* y);

// products[c] = scaled[c] * x / 2^15, rounded, then / 2^8, rounded: at most 127.
void make_products(const Table& table, size_t planes, int16_t x, int8_t* products);

}  // namespace tidemill::grinqh
