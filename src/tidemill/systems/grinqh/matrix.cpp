// Dividing the work of one product over levels, chunks of columns and threads.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>

#include "../../models/layout.hpp"
#include "gemv.hpp"

namespace tidemill::grinqh {

namespace {

constexpr size_t kHuge = size_t{1} << 21;
constexpr std::array<uint8_t, 7> kPlanesOf{0, 0, 1, 2, 3, 0, 4};  // that a level reads

constexpr size_t kPartGroups = 16;  // a part's sums stay in L1
constexpr size_t kBlock = 8192;     // columns whose inputs are gathered from L1
constexpr size_t kAhead = 8192;     // bytes of a plane that are fetched before they are needed

// The code in ascending order, from bits as stored: plane by plane, first plane lowest; the sign,
// and then a magnitude up to the fourth bit.
size_t ascending(size_t stored, size_t planes) {
  const size_t flip = stored & 2 ? 0 : 1;
  size_t code = (stored & 2) | ((stored & 1) ^ flip);
  if (planes > 1) code = code << 1 | ((stored >> 2 & 1) ^ flip);
  if (planes > 2) code = code << 1 | ((stored >> 3 & 1) ^ flip);
  if (planes > 3) code = code << 2 | stored >> 4;
  return code;
}

int16_t as_integer(double ratio) { return static_cast<int16_t>(std::lrint(ratio * 32767)); }

// Where group `group` of a column begins in a plane.
size_t offset_of(size_t plane, size_t group) { return group * (kStep[plane] == 2 ? 64 : 32); }

}  // namespace

void Matrix::Free::operator()(uint8_t* memory) const { std::free(memory); }

Matrix::Matrix(const Parts& parts)
    : rows_(parts.rows),
      cols_(parts.cols),
      groups_((parts.rows + kGroup - 1) / kGroup),
      parts_(groups_ < 2 ? 1 : std::max<size_t>(2, (groups_ + kPartGroups - 1) / kPartGroups)),
      row_scale_(parts.row_scale, parts.row_scale + rows_),
      col_scale_(parts.col_scale, parts.col_scale + cols_) {
  row_scale_.resize(groups_ * kGroup);
  for (size_t plane = 0; plane < kPlanes; ++plane) {
    if (parts.planes[plane] == nullptr) continue;
    // a little more at the end: a group's loads may reach past a plane's last byte
    const size_t bytes = cols_ * plane_bytes(plane, rows_);
    const size_t padded = (bytes + 64 + kHuge - 1) / kHuge * kHuge;
    auto* memory = static_cast<uint8_t*>(std::aligned_alloc(kHuge, padded));
    if (memory == nullptr) throw std::bad_alloc();
    planes_[plane].reset(memory);
    madvise(memory, padded, MADV_HUGEPAGE);
    std::memcpy(memory, parts.planes[plane], bytes);
  }
  make_tables(parts.values);
  share_out(parts);
}

void Matrix::make_tables(const float* values) {
  for (size_t plane = 0; plane < kPlanes; ++plane) {
    const size_t count = size_t{1} << kWidth[plane];
    Table& table = tables_[plane];
    table.low = values[0];
    table.high = values[count - 1];
    table.largest = std::max(std::fabs(table.low), std::fabs(table.high));
    for (size_t stored = 0; stored < count; ++stored)
      table.value[stored] = values[ascending(stored, plane + 1)];
    for (size_t stored = 0; stored < 64; ++stored) {
      uint8_t bytes[4];
      std::memcpy(bytes, &table.value[stored % count], 4);
      for (size_t i = 0; i < 4; ++i) table.bytes[i][stored >> 4][stored & 15] = bytes[i];
    }
    for (size_t i = 0; i < 16; ++i) {
      const auto at = [&](size_t stored) { return table.value[stored] / double{table.largest}; };
      if (plane < 3) table.coarse[i] = as_integer(at(i % count));
      if (plane == 0) table.fine[i] = as_integer(at(i >> 2));
      if (plane == 3)
        table.coarse[i] = as_integer((at(i) + at(i | 16) + at(i | 32) + at(i | 48)) / 4);
    }
    values += count;
  }
  Table& last = tables_[3];
  for (size_t stored = 0; stored < 64; ++stored) {
    const double center = last.coarse[stored & 15] / 32767.0;
    const int16_t step = as_integer(last.value[stored] / double{last.largest} - center);
    int16_t& known = last.fine[step_index(stored)];
    const bool is_first = (stored & 10) == 0;
    if (is_first) known = step;
    // 113 * 32 * 2^15 / 32000: two of them and what rounding lost of their centers fit into int8
    if (std::abs(known - step) > 4 || std::abs(step) > 3600)
      throw std::invalid_argument(
          "values: level 6 must be level 4's and small steps that they share");
  }
}

void Matrix::share_out(const Parts& parts) {
  const size_t count = parts.outlier_start[cols_];
  outlier_start_.assign(parts.outlier_start, parts.outlier_start + cols_ + 1);
  outlier_rows_.assign(parts.outlier_rows, parts.outlier_rows + count);
  outlier_values_.assign(parts.outlier_values, parts.outlier_values + count);
  const size_t blocks = (cols_ + kBlock - 1) / kBlock;
  std::vector<size_t> part_of(groups_);
  for (size_t part = 0; part < parts_; ++part)
    std::fill(part_of.begin() + part_begin(part), part_of.begin() + part_begin(part + 1), part);
  std::vector<std::vector<Outlier>> shares(parts_ * blocks);
  for (size_t j = 0; j < cols_; ++j)
    for (size_t i = outlier_start_[j]; i < outlier_start_[j + 1]; ++i) {
      const size_t part = part_of[outlier_rows_[i] / kGroup];
      const size_t row = outlier_rows_[i] - part_begin(part) * kGroup;
      shares[part * blocks + j / kBlock].push_back(
          {static_cast<uint16_t>(row), static_cast<uint16_t>(j), outlier_values_[i]});
    }
  for (size_t i = 0; i < shares.size(); ++i) {
    const size_t part = i / blocks;
    const size_t rows = (part_begin(part + 1) - part_begin(part)) * kGroup;
    slices_.push_back(slices_of(std::move(shares[i]), rows, cols_));
  }
}

Slices slices_of(std::vector<Outlier> outliers, size_t rows, size_t cols) {
  std::vector<std::vector<Outlier>> of(rows);
  for (const Outlier& each : outliers) of[each.row].push_back(each);
  std::vector<uint16_t> order(rows);
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return of[a].size() > of[b].size(); });
  Slices made{{0}, {}, {}, {}};
  for (size_t first = 0; first < rows && !of[order[first]].empty(); first += 8) {
    const size_t steps = of[order[first]].size();
    for (size_t k = 0; k < 8; ++k) made.rows.push_back(order[first + k]);
    for (size_t step = 0; step < steps; ++step)
      for (size_t k = 0; k < 8; ++k) {
        const auto& mine = of[order[first + k]];
        const bool is_there = step < mine.size();
        made.columns.push_back(is_there ? mine[step].column : static_cast<uint16_t>(cols));
        made.values.push_back(is_there ? mine[step].value : 0);
      }
    made.start.push_back(made.start.back() + static_cast<uint32_t>(steps));
  }
  return made;
}

bool Matrix::has(uint8_t level) const {
  if (level == 0) return true;
  return level < kPlanesOf.size() && kPlanesOf[level] > 0 && planes_[kPlanesOf[level] - 1];
}

size_t Matrix::outlier_bytes() const {
  size_t bytes = 0;
  for (const Slices& slices : slices_)
    bytes += 4 * slices.columns.size() + 2 * slices.rows.size() + 4 * (slices.start.size() - 1);
  return bytes;
}

size_t Matrix::bytes() const {
  size_t bytes = 4 * (rows_ + 2 * cols_) + outlier_bytes();  // scales and norms are floats
  for (size_t plane = 0; plane < kPlanes; ++plane)
    if (planes_[plane]) bytes += cols_ * plane_bytes(plane, rows_);
  return bytes;
}

size_t Matrix::halves(size_t begin, size_t end) const {
  return std::min(2 * end, (rows_ + kHalf - 1) / kHalf) - 2 * begin;
}

void Matrix::sort(const float* x, const uint8_t* levels, Sorted& sorted) const {
  if (sorted.size < cols_) {
    sorted.columns = std::make_unique_for_overwrite<uint32_t[]>((kPlanes + 1) * cols_);
    sorted.x = std::make_unique_for_overwrite<float[]>(cols_ + 1);
    sorted.size = cols_;
  }
  fold(x, col_scale_.data(), levels, tables_, cols_, sorted);
  for (size_t k = 0; k < kPlanes; ++k) sorted.list[k] = sorted.columns.get() + k * cols_;
  uint32_t* const skipped = sorted.columns.get() + kPlanes * cols_;
  uint32_t* list[7] = {skipped,        nullptr, sorted.list[0], sorted.list[1],
                       sorted.list[2], nullptr, sorted.list[3]};
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
  const size_t together = pool.threads() == 1 ? 2 : 1;  // longer runs of each column
  pool.run((parts_ + together - 1) / together, [&](unsigned, size_t task) {
    const size_t begin = task * together, end = std::min(begin + together, parts_);
    apply(sorted, begin, end, y + part_begin(begin) * kGroup);
  });
}

void Matrix::apply(const Sorted& sorted, size_t begin, size_t end, float* y) const {
  static thread_local std::vector<float> sum;
  const size_t low = part_begin(begin), high = part_begin(end);
  sum.assign((high - low) * kGroup, 0.0f);
  columns(sorted, low, high, sum.data());
  for (size_t part = begin; part < end; ++part)
    for (size_t i = part * slices_.size() / parts_; i < (part + 1) * slices_.size() / parts_; ++i)
      add_outliers(slices_[i], sorted, sum.data() + (part_begin(part) - low) * kGroup);
  const size_t first = low * kGroup, last = std::min(high * kGroup, rows_);
  for (size_t i = first; i < last; ++i) y[i - first] = sum[i - first] * row_scale_[i];
}

namespace {

// The largest sum of inputs whose products share an int8.
float largest_sum(const float* x, const uint32_t* list, size_t count, size_t together) {
  float largest = 0;
  for (size_t i = 0; i < count; i += together) {
    float sum = 0;
    for (size_t k = i; k < std::min(i + together, count); ++k) sum += std::fabs(x[list[k]]);
    largest = std::max(largest, sum);
  }
  return largest;
}

}  // namespace

Run run_of(size_t plane, size_t halves, size_t stride) {
  const size_t bytes = plane_bytes(plane, halves * kHalf), groups = std::max<size_t>(1, halves / 2);
  if (bytes == 0) return {};
  const size_t end = bytes + (stride % 64 == 0 ? 0 : 63);  // may begin in the middle of a line
  return {bytes, end, (4 * ((end + 63) / 64) + groups - 1) / groups};
}

void Matrix::columns(const Sorted& sorted, size_t begin, size_t end, float* y) const {
  const size_t halves_here = halves(begin, end), outputs = (end - begin) * kGroup;
  static thread_local std::vector<uint16_t> sums;
  sums.assign(2 * outputs, 0);
  const size_t ahead = 4 * std::max<size_t>(1, kAhead / (16 * halves_here * kHalf / 16));
  for (size_t level = 0; level < kPlanes; ++level) {
    const uint32_t* const list = sorted.list[level];
    const size_t count = sorted.count[level], planes = level + 1;
    const Table& table = tables_[level];
    std::array<const uint8_t*, kPlanes> plane{};
    std::array<size_t, kPlanes> stride{};
    Quad quad;
    for (size_t p = 0; p < planes; ++p) {
      stride[p] = plane_bytes(p, rows_);
      quad.runs[p] = run_of(p, halves_here, stride[p]);
      plane[p] = planes_[p].get() + offset_of(p, begin);
    }
    for (size_t start = 0; start < count; start += kChunk) {
      const size_t size = std::min(kChunk, count - start), quads = (size + 3) / 4;
      const float largest = largest_sum(sorted.x.get(), list + start, size, kTogether[level]);
      if (!(largest > 0)) continue;
      const float to_integer = kLargest / largest;
      for (size_t i = start; i < start + size; i += 4) {
        int16_t x[4] = {};
        for (size_t k = 0; k < 4; ++k) {
          const bool is_real = i + k < start + size;
          const uint32_t column = list[is_real ? i + k : start];
          const uint32_t next = list[std::min(i + k + ahead, count - 1)];
          for (size_t p = 0; p < planes; ++p) {
            quad.column[p][k] = plane[p] + column * stride[p];
            quad.next[p][k] = plane[p] + next * stride[p];
          }
          if (is_real) x[k] = static_cast<int16_t>(std::lrintf(sorted.x[column] * to_integer));
        }
        make_products(table, planes, x, quad);
        add_quad(planes, quad, halves_here, sums.data(), sums.data() + outputs);
      }
      const float scale = table.largest / to_integer * (32768.0f / 32767.0f);
      const size_t added = quads * (4 / kTogether[level]);
      flush(halves_here, scale * 256, added, sums.data(), y);
      if (planes == 4) flush(halves_here, scale * kFine, added, sums.data() + outputs, y);
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
      const size_t row = outlier_rows_[i];
      if (row >= low && row < high)
        out[row - low] =
            models::half_to_float(outlier_values_[i]) * (row_scale_[row] * col_scale_[j]);
    }
  }
}

}  // namespace tidemill::grinqh
