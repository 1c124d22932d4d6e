// Dividing the work of one product over levels, chunks of columns and threads.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../../models/layout.hpp"
#include "gemv.hpp"

namespace tidemill::grinqh {

namespace {

constexpr size_t kHuge = size_t{1} << 21;
constexpr std::array<uint8_t, 7> kPlanesOf{0, 0, 1, 2, 3, 0, 4};  // that a level reads

// The code in ascending order, from bits as stored: plane by plane, first plane lowest.
size_t ascending(size_t stored, size_t planes) {
  size_t code = stored & 3;
  if (planes > 1) code = code << 1 | (stored >> 2 & 1);
  if (planes > 2) code = code << 1 | (stored >> 3 & 1);
  if (planes > 3) code = code << 2 | stored >> 4;
  return code;
}

// Where group `group` of a column begins in a plane.
size_t offset_of(size_t plane, size_t group) { return group * (kStep[plane] == 2 ? 64 : 32); }

}  // namespace

void Matrix::Free::operator()(uint8_t* memory) const { std::free(memory); }

Matrix::Matrix(const Parts& parts)
    : rows_(parts.rows),
      cols_(parts.cols),
      groups_((parts.rows + kGroup - 1) / kGroup),
      row_scale_(parts.row_scale, parts.row_scale + rows_),
      col_scale_(parts.col_scale, parts.col_scale + cols_),
      outlier_values_(parts.outlier_values, parts.outlier_values + parts.outlier_start[cols_]),
      outlier_start_(parts.outlier_start, parts.outlier_start + cols_ + 1) {
  row_scale_.resize(groups_ * kGroup);
  outlier_values_.resize(outlier_values_.size() + 8);  // they are read eight at a time
  const uint32_t *first = parts.outlier_rows, *last = first + outlier_start_[cols_];
  if (rows_ <= 65536) {
    short_rows_.assign(first, last);
  } else {
    long_rows_.assign(first, last);
  }
  const float* values = parts.values;
  for (size_t plane = 0; plane < kPlanes; ++plane) {
    const size_t count = size_t{1} << kWidth[plane];
    if (parts.planes[plane] != nullptr) {
      // a little more at the end: a group's loads may reach past a plane's last byte
      const size_t bytes = cols_ * plane_bytes(plane, rows_);
      const size_t padded = (bytes + 64 + kHuge - 1) / kHuge * kHuge;
      auto* memory = static_cast<uint8_t*>(std::aligned_alloc(kHuge, padded));
      if (memory == nullptr) throw std::bad_alloc();
      planes_[plane].reset(memory);
      madvise(memory, padded, MADV_HUGEPAGE);
      std::memcpy(memory, parts.planes[plane], bytes);
    }
    Table& table = tables_[plane];
    table.low = values[0];
    table.high = values[count - 1];
    table.largest = std::max(std::fabs(table.low), std::fabs(table.high));
    for (size_t stored = 0; stored < count; ++stored) {
      table.value[stored] = values[ascending(stored, plane + 1)];
      const double ratio = table.value[stored] / double{table.largest};
      table.scaled[stored] = static_cast<int16_t>(std::lrint(ratio * 32767));
    }
    values += count;
  }
}

bool Matrix::has(uint8_t level) const {
  if (level == 0) return true;
  return level < kPlanesOf.size() && kPlanesOf[level] > 0 && planes_[kPlanesOf[level] - 1];
}

size_t Matrix::bytes() const {
  size_t bytes = 2 * rows_ + (2 + 2 + 4) * cols_;  // scales and norms are fp16 on disk
  for (size_t plane = 0; plane < kPlanes; ++plane)
    if (planes_[plane]) bytes += cols_ * plane_bytes(plane, rows_);
  return bytes + size_t{outlier_start_[cols_]} * (long_rows_.empty() ? 4 : 6);
}

size_t Matrix::halves(size_t begin, size_t end) const {
  return std::min(2 * end, (rows_ + kHalf - 1) / kHalf) - 2 * begin;
}

void Matrix::sort(const float* x, const uint8_t* levels, Sorted& sorted) const {
  if (sorted.size < cols_) {
    sorted.columns = std::make_unique_for_overwrite<uint32_t[]>((kPlanes + 1) * cols_);
    sorted.x = std::make_unique_for_overwrite<float[]>(cols_);
    sorted.size = cols_;
  }
  for (size_t k = 0; k < kPlanes; ++k) sorted.list[k] = sorted.columns.get() + k * cols_;
  uint32_t* const skipped = sorted.columns.get() + kPlanes * cols_;
  uint32_t* list[7] = {skipped,        nullptr, sorted.list[0], sorted.list[1],
                       sorted.list[2], nullptr, sorted.list[3]};
  for (size_t j = 0; j < cols_; ++j) sorted.x[j] = x[j] * col_scale_[j];
  for (size_t j = 0; j < cols_; ++j)  // no branch: levels are as good as random
    *list[levels[j]]++ = static_cast<uint32_t>(j);
  static constexpr size_t kLevel[] = {2, 3, 4, 6};
  for (size_t k = 0; k < kPlanes; ++k)
    sorted.count[k] = static_cast<size_t>(list[kLevel[k]] - sorted.list[k]);
}

void Matrix::apply(const float* x, const uint8_t* levels, float* y, models::Pool& pool) const {
  static thread_local Sorted mine;
  Sorted& sorted = mine;  // of the caller, for all threads
  sort(x, levels, sorted);
  const size_t parts = std::min<size_t>(groups_, pool.threads());
  pool.run(parts, [&](unsigned, size_t part) {
    const size_t begin = part * groups_ / parts, end = (part + 1) * groups_ / parts;
    apply(sorted, begin, end, y + begin * kGroup);
  });
}

void Matrix::apply(const Sorted& sorted, size_t begin, size_t end, float* y) const {
  static thread_local std::vector<float> sum;
  sum.assign((end - begin) * kGroup, 0.0f);
  columns(sorted, begin, end, sum.data());
  outliers(sorted, begin, end, sum.data());
  const size_t first = begin * kGroup, last = std::min(end * kGroup, rows_);
  for (size_t i = first; i < last; ++i) y[i - first] = sum[i - first] * row_scale_[i];
}

void Matrix::columns(const Sorted& sorted, size_t begin, size_t end, float* y) const {
  const size_t halves_here = halves(begin, end);
  static thread_local std::vector<int16_t> sums;
  sums.assign((end - begin) * kGroup, 0);
  for (size_t level = 0; level < kPlanes; ++level) {
    const uint32_t* const list = sorted.list[level];
    const size_t count = sorted.count[level];
    const Table& table = tables_[level];
    const auto at = [&](size_t plane, uint32_t column) {
      return planes_[plane].get() + column * plane_bytes(plane, rows_) + offset_of(plane, begin);
    };
    for (size_t start = 0; start < count; start += kChunk) {
      const size_t stop = std::min(start + kChunk, count);
      float largest = 0;
      for (size_t i = start; i < stop; ++i)
        largest = std::max(largest, std::fabs(sorted.x[list[i]]));
      if (!(largest > 0)) continue;
      const float to_integer = 32512.0f / largest;
      for (size_t i = start; i < stop; i += 4) {
        Quad quad{};
        for (size_t k = 0; k < 4; ++k) {
          const bool is_real = i + k < stop;
          const uint32_t column = list[is_real ? i + k : stop - 1];
          const uint32_t next = list[std::min(i + k + 4, count - 1)];
          for (size_t plane = 0; plane <= level; ++plane) {
            quad.column[plane][k] = at(plane, column);
            quad.next[plane][k] = at(plane, next);
          }
          const float x = is_real ? sorted.x[column] * to_integer : 0.0f;
          make_products(table, level + 1, static_cast<int16_t>(std::lrintf(x)), quad.products[k]);
        }
        add_quad(level + 1, quad, halves_here, sums.data());
      }
      const float scale = largest * table.largest * (32768.0f / 32767.0f / 127.0f);
      flush(halves_here, scale, sums.data(), y);
    }
  }
}

void Matrix::outliers(const Sorted& sorted, size_t begin, size_t end, float* y) const {
  const size_t first = begin * kGroup, last = std::min(end * kGroup, rows_);
  if (long_rows_.empty()) {
    outliers_of(sorted, short_rows_, first, last, y);
  } else {
    outliers_of(sorted, long_rows_, first, last, y);
  }
}

template <class Row>
void Matrix::outliers_of(const Sorted& sorted, const std::vector<Row>& rows, size_t first,
                         size_t last, float* y) const {
  const bool is_whole = first == 0 && last == rows_;
  for (size_t level = 0; level < kPlanes; ++level) {
    const Table& table = tables_[level];
    for (size_t n = 0; n < sorted.count[level]; ++n) {
      const uint32_t j = sorted.list[level][n];
      const Row* at = rows.data() + outlier_start_[j];
      const Row* end = rows.data() + outlier_start_[j + 1];
      if (!is_whole) {
        at = std::lower_bound(at, end, static_cast<Row>(first));
        end = last == rows_ ? end : std::lower_bound(at, end, static_cast<Row>(last));
      }
      const uint16_t* value = outlier_values_.data() + (at - rows.data());
      for (; at < end; at += 8, value += 8) {
        float added[8];
        corrections(value, table, sorted.x[j], added);
        const auto count = std::min<size_t>(8, static_cast<size_t>(end - at));
        for (size_t k = 0; k < count; ++k) y[at[k] - first] += added[k];
      }
    }
  }
}

void Matrix::dequantise(uint8_t level, size_t first, size_t last, size_t begin, size_t end,
                        float* out, size_t ldo) const {
  const size_t low = begin * kGroup, high = std::min(end * kGroup, rows_);
  const size_t planes = kPlanesOf[level];
  for (size_t j = first; j < last; ++j, out += ldo) {
    if (planes == 0) {
      std::fill_n(out, high - low, 0.0f);
      continue;
    }
    std::array<const uint8_t*, kPlanes> column{};
    for (size_t plane = 0; plane < planes; ++plane)
      column[plane] =
          planes_[plane].get() + j * plane_bytes(plane, rows_) + offset_of(plane, begin);
    const Table& table = tables_[planes - 1];
    for (size_t index = 0, row = low; row < high; ++index, row += kHalf) {
      float tail[kHalf];
      const Half half{column, planes, index, index % 2 == 0 && row + kHalf >= rows_};
      const bool is_whole = row + kHalf <= high;
      float* const to = is_whole ? out + (row - low) : tail;
      decode_half(half, table, row_scale_.data() + row, col_scale_[j], to);
      if (!is_whole) std::copy_n(tail, high - row, out + (row - low));
    }
    for (size_t i = outlier_start_[j]; i < outlier_start_[j + 1]; ++i) {
      const size_t row = long_rows_.empty() ? short_rows_[i] : long_rows_[i];
      if (row >= low && row < high)
        out[row - low] =
            models::half_to_float(outlier_values_[i]) * (row_scale_[row] * col_scale_[j]);
    }
  }
}

}  // namespace tidemill::grinqh
