// A matrix in nested bit-planes, column by column, and what a decoding step does with it: add up
// the columns, each read at its own level, touching no more than the planes of that level.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../models/pool.hpp"

namespace tidemill::grinqh {

constexpr size_t kGroup = 256;  // outputs whose codes lie together in a plane
constexpr size_t kHalf = 128;   // the last group may be half a one
constexpr size_t kPlanes = 4;   // 2, +1, +1, +2 bits
constexpr size_t kChunk = 128;  // columns to one scale: 128 * 127 fits into int16
constexpr std::array<uint32_t, kPlanes> kWidth{2, 3, 4, 6};
constexpr std::array<uint32_t, kPlanes> kStep{2, 1, 1, 2};

// Values of one level in the order of stored bits (first plane lowest), and 16 of each as integers
// that products are made of: value / largest * 32767. At 2 bits `coarse` and `fine` are those of
// the low and the high half of an index, which two columns share. At 6 bits a value is a sum,
// `coarse` by the upper four bits of a code and `fine` by `step_index`.
struct Table {
  alignas(32) std::array<int16_t, 16> coarse{}, fine{};
  std::array<float, 64> value{};
  // `value` byte by byte: by the byte of a float, the upper two bits of a code, the lower four
  alignas(32) std::array<std::array<std::array<uint8_t, 16>, 4>, 4> bytes{};
  float largest = 0, low = 0, high = 0;
};

// Which step a stored 6-bit code takes: its magnitude's upper bits and its last two bits.
constexpr size_t step_index(size_t stored) {
  return (stored & 1) | (stored >> 3 & 2) | (stored & 4) | (stored >> 2 & 8);
}

struct Parts {
  size_t rows, cols;
  const float *row_scale, *col_scale;
  std::array<const uint8_t*, kPlanes> planes;  // (cols, plane_bytes); null: not stored
  const uint32_t *outlier_start, *outlier_rows;
  const uint16_t* outlier_values;  // fp16
  const float* values;             // 4 + 8 + 16 + 64, ascending
};

// Where the bit of a one-bit plane, and the first of two in the last plane, is for field `f` of
// half `v`; the second is two higher. So one shift and one mask put those of two fields at their
// places in the nibbles of an index.
constexpr size_t one_at(size_t v, size_t f) { return 2 + f % 2 + 4 * (f / 2) - 2 * v; }
constexpr size_t last_at(size_t f) { return 1 - f % 2 + 4 * (f / 2); }

// Bytes of one column in a plane of a matrix of so many rows. In half a group the fourth bits are
// in the upper halves of the third bits' bytes.
constexpr size_t plane_bytes(size_t plane, size_t rows) {
  const size_t halves = (rows + kHalf - 1) / kHalf;
  return 32 * (kStep[plane] == 2 ? halves : plane == 1 ? (halves + 1) / 2 : halves / 2);
}

// The columns that one token reads, by level, and its inputs with the columns' scales folded in.
struct Sorted {
  std::array<uint32_t*, kPlanes> list{};  // into columns, which is not cleared first: it is large
  std::array<size_t, kPlanes> count{};
  std::unique_ptr<uint32_t[]> columns;
  // 0 where a column is skipped, and one 0 more; the last two bits of the others tell the level.
  std::unique_ptr<float[]> x;
  // What the codes say of an outlier: the last code of each level on the positive side, then on
  // the negative side.
  alignas(32) std::array<float, 2 * kPlanes> edges{};
  size_t size = 0;
};

// Outliers of a part by output, eight outputs at a time, those with the most first: columns and
// values of the first of each, of the second of each ... Where there is none: column `cols`.
struct Slices {
  std::vector<uint32_t> start;                  // of each eight outputs, in eights
  std::vector<uint16_t> rows, columns, values;  // rows count from the part's first; values are fp16
};

struct Outlier {
  uint16_t row, column, value;
};
Slices slices_of(std::vector<Outlier> outliers, size_t rows, size_t cols);

class Matrix {
 public:
  explicit Matrix(const Parts& parts);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t groups() const { return groups_; }
  // Outputs are multiplied in parts of some groups, which threads share.
  size_t parts() const { return parts_; }
  size_t part_begin(size_t part) const { return part * groups_ / parts_; }
  bool has(uint8_t level) const;  // whether a column can be read at that level; 0: yes
  uint8_t* plane(size_t index) { return planes_[index].get(); }
  // Bytes that a product reads with every column at the widest level.
  size_t bytes() const;
  size_t outlier_bytes() const;

  // y[i] = sum over j of x[j] W[i, j], column j read at levels[j]. Each thread owns outputs, so
  // the result is the same for any number of them.
  void apply(const float* x, const uint8_t* levels, float* y, models::Pool& pool) const;
  // The two halves of it: the inputs sorted, and the outputs of parts begin .. end.
  void sort(const float* x, const uint8_t* levels, Sorted& sorted) const;
  void apply(const Sorted& sorted, size_t begin, size_t end, float* y) const;
  // out[(j - first) * ldo + i - 256 begin]: column j at `level`, of the outputs of those groups.
  void dequantise(uint8_t level, size_t first, size_t last, size_t begin, size_t end, float* out,
                  size_t ldo) const;

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };

  void columns(const Sorted& sorted, size_t begin, size_t end, float* y) const;
  void make_tables(const float* values);
  void share_out(const Parts& parts);
  size_t halves(size_t begin, size_t end) const;

  size_t rows_, cols_, groups_, parts_;
  std::vector<float> row_scale_, col_scale_;
  std::vector<Slices> slices_;  // of each part and some columns, for products
  std::vector<uint32_t> outlier_start_, outlier_rows_;  // by column, for prompts
  std::vector<uint16_t> outlier_values_;
  std::array<std::unique_ptr<uint8_t, Free>, kPlanes> planes_;
  std::array<Table, kPlanes> tables_;
};

// What is read of a column in a plane: bytes, where its lines end, and how many lines to fetch with
// each group, for four columns.
struct Run {
  size_t bytes = 0, end = 0, lines = 0;
};
Run run_of(size_t plane, size_t halves, size_t stride);

// Four columns, and the products that their codes stand for. Sums of as many products as share an
// int8 (of all four columns at 2 and 3 bits, of two at 4 and 6) are within +-127 by the choice of
// x; 128 is added to each sum, so that bytes are unsigned.
struct Quad {
  std::array<std::array<const uint8_t*, 4>, kPlanes> column;  // [plane][of the four]
  std::array<std::array<const uint8_t*, 4>, kPlanes> next;    // to fetch meanwhile
  std::array<Run, kPlanes> runs;
  alignas(64) int8_t products[4][48];
};

// How many of the four columns share an int8, by planes - 1, and so how many sums a quad adds.
constexpr std::array<size_t, kPlanes> kTogether{4, 4, 2, 2};
constexpr float kLargest = 32000;  // of x: 125 in bytes, and two more by rounding
constexpr int kFine = 32;          // the second sums at 6 bits are in units of 1 / 8 of the first

// products = what codes stand for, times x, / 2^15, rounded, then / 2^8, rounded; at 6 bits
// that, what rounding lost of it / 32, and the step / 32.
void make_products(const Table& table, size_t planes, const int16_t* x, Quad& quad);

// Adds the products of a quad, whose columns are `halves` halves of groups, to two sets of sums;
// the second only at 6 bits. They are in an order of their own within 32 outputs: see `flush`.
void add_quad(size_t planes, const Quad& quad, size_t halves, uint16_t* sums, uint16_t* fine);

// y += scale * (sums less 128 for each of `added`), and sums = 0.
void flush(size_t halves, float scale, size_t added, uint16_t* sums, float* y);

// sorted.x and sorted.edges of inputs and the level of each column.
void fold(const float* x, const float* col_scale, const uint8_t* levels,
          const std::array<Table, kPlanes>& tables, size_t cols, Sorted& sorted);

// y += what outliers have beyond the codes at their places.
void add_outliers(const Slices& slices, const Sorted& sorted, float* y);

// One half of a group, counted from the group that pointers into the planes stand at.
struct Half {
  std::array<const uint8_t*, kPlanes> column;
  size_t planes;
  size_t index;
  bool is_alone;  // it is all there is of its group
};

// out[i] = value[code i] * scale[i] * by for its 128 outputs.
void decode_half(const Half& half, const Table& table, const float* scale, float by, float* out);

}  // namespace tidemill::grinqh
