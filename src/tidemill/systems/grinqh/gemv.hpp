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

// Values of one level in the order of stored bits (first plane lowest), and their integer form.
struct Table {
  std::array<int16_t, 64> scaled{};  // value / largest * 32767
  std::array<float, 64> value{};
  float largest = 0, low = 0, high = 0;
};

struct Parts {
  size_t rows, cols;
  const float *row_scale, *col_scale;
  std::array<const uint8_t*, kPlanes> planes;  // (cols, plane_bytes); null: not stored
  const uint32_t *outlier_start, *outlier_rows;
  const uint16_t* outlier_values;  // fp16
  const float* values;             // 4 + 8 + 16 + 64, ascending
};

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
  std::unique_ptr<float[]> x;
  size_t size = 0;
};

class Matrix {
 public:
  explicit Matrix(const Parts& parts);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t groups() const { return groups_; }
  bool has(uint8_t level) const;  // whether a column can be read at that level; 0: yes
  uint8_t* plane(size_t index) { return planes_[index].get(); }
  // Bytes that a product reads with every column at the widest level.
  size_t bytes() const;

  // y[i] = sum over j of x[j] W[i, j], column j read at levels[j]. Each thread owns outputs, so
  // the result is the same for any number of them.
  void apply(const float* x, const uint8_t* levels, float* y, models::Pool& pool) const;
  // The two halves of it: the inputs sorted, and the outputs of groups begin .. end.
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
  void outliers(const Sorted& sorted, size_t begin, size_t end, float* y) const;
  template <class Row>
  void outliers_of(const Sorted& sorted, const std::vector<Row>& rows, size_t first, size_t last,
                   float* y) const;
  size_t halves(size_t begin, size_t end) const;

  size_t rows_, cols_, groups_;
  std::vector<float> row_scale_, col_scale_;
  std::vector<uint16_t> outlier_values_;
  std::vector<uint32_t> outlier_start_;
  std::vector<uint16_t> short_rows_;  // of the outliers; one of the two is empty
  std::vector<uint32_t> long_rows_;
  std::array<std::unique_ptr<uint8_t, Free>, kPlanes> planes_;
  std::array<Table, kPlanes> tables_;
};

// Adds products of up to four columns, each `stride` bytes of a plane apart from the next group's,
// into int16 sums. Sums are in an order of their own within 32 outputs: see `flush`.
struct Quad {
  std::array<std::array<const uint8_t*, 4>, kPlanes> column;  // [plane][of the four]
  std::array<std::array<const uint8_t*, 4>, kPlanes> next;    // to fetch meanwhile; may be null
  alignas(64) int8_t products[4][64];
};

void add_quad(size_t planes, const Quad& quad, size_t halves, int16_t* sums);

// y += scale * sums, and sums = 0.
void flush(size_t halves, float scale, int16_t* sums, float* y);

// added[k] = x times what fp16 value k has beyond the last code on its side, for eight of them.
void corrections(const uint16_t* values, const Table& table, float x, float* added);

// One half of a group, counted from the group that pointers into the planes stand at.
struct Half {
  std::array<const uint8_t*, kPlanes> column;
  size_t planes;
  size_t index;
  bool is_alone;  // it is all there is of its group
};

// out[i] = value[code i] * scale[i] * by for its 128 outputs.
void decode_half(const Half& half, const Table& table, const float* scale, float by, float* out);

// products[c] = scaled[c] * x / 2^15, rounded, then / 2^8, rounded: at most 127.
void make_products(const Table& table, size_t planes, int16_t x, int8_t* products);

}  // namespace tidemill::grinqh
