// Choosing levels, and dividing the work of one product over chunks of columns and threads.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "gemv.hpp"

namespace tidemill::grinqh {

namespace {

constexpr size_t kHuge = size_t{1} << 21;

size_t plane_bytes(size_t plane, size_t groups) { return groups * kStep[plane] * kGroup / 8; }

// The code in ascending order, from bits as stored: plane by plane, first plane lowest.
size_t ascending(size_t stored, size_t planes) {
  size_t code = stored & 3;
  if (planes > 1) code = code << 1 | (stored >> 2 & 1);
  if (planes > 2) code = code << 1 | (stored >> 3 & 1);
  if (planes > 3) code = code << 2 | stored >> 4;
  return code;
}

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Bits of all steps that save more than `water` per bit.
size_t cost_above(const float* energy, size_t count, const std::array<float, kPlanes>& slopes,
                  float water) {
  uint32_t cost = 0;
  for (size_t j = 0; j < count; ++j) {
    cost += (energy[j] * slopes[0] > water ? 2u : 0u) + (energy[j] * slopes[1] > water ? 1u : 0u) +
            (energy[j] * slopes[2] > water ? 1u : 0u) + (energy[j] * slopes[3] > water ? 2u : 0u);
  }
  return cost;
}

}  // namespace

void Matrix::Free::operator()(uint8_t* memory) const { std::free(memory); }

Matrix::Matrix(const Parts& parts)
    : rows_(parts.rows),
      cols_(parts.cols),
      groups_((parts.rows + kGroup - 1) / kGroup),
      row_scale_(parts.row_scale, parts.row_scale + rows_),
      col_scale_(parts.col_scale, parts.col_scale + cols_),
      norm2_(parts.col_norm, parts.col_norm + cols_),
      outlier_values_(parts.outlier_values, parts.outlier_values + parts.outlier_start[cols_]),
      outlier_start_(parts.outlier_start, parts.outlier_start + cols_ + 1),
      outlier_rows_(parts.outlier_rows, parts.outlier_rows + parts.outlier_start[cols_]) {
  for (float& norm : norm2_) norm *= norm;
  std::copy_n(parts.slopes, kPlanes, slopes_.begin());
  const float* values = parts.values;
  for (size_t plane = 0; plane < kPlanes; ++plane) {
    // a little more at the end: a group's loads may reach past a one-bit plane's last byte
    const size_t bytes = cols_ * plane_bytes(plane, groups_);
    const size_t padded = (bytes + 64 + kHuge - 1) / kHuge * kHuge;
    auto* memory = static_cast<uint8_t*>(std::aligned_alloc(kHuge, padded));
    if (memory == nullptr) throw std::bad_alloc();
    planes_[plane].reset(memory);
    madvise(memory, padded, MADV_HUGEPAGE);
    std::memcpy(memory, parts.planes[plane], bytes);
    Table& table = tables_[plane];
    const size_t count = size_t{1} << kWidth[plane];
    table.low = values[0];
    table.high = values[count - 1];
    table.largest = std::max(std::fabs(table.low), std::fabs(table.high));
    for (size_t stored = 0; stored < count; ++stored) {
      const double ratio = values[ascending(stored, plane + 1)] / double{table.largest};
      table.scaled[stored] = static_cast<int16_t>(std::lrint(ratio * 32767));
    }
    values += count;
  }
}

bool Matrix::select(const float* x, size_t budget, size_t block, uint8_t* levels) const {
  const size_t count = cols_ / block;
  std::vector<float> energy(count);
  for (size_t j = 0; j < count; ++j) {
    float sum = 0;
    for (size_t i = j * block; i < (j + 1) * block; ++i) sum += x[i] * x[i] * norm2_[i];
    energy[j] = sum / static_cast<float>(block);
  }
  float total = 0;
  for (const float e : energy) total += e;
  if (!std::isfinite(total)) return false;
  // the least water for which the steps above it fit; positive floats are ordered as their bits
  uint32_t low = 0, high = 0x7f800000u;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (cost_above(energy.data(), count, slopes_, as_float(middle)) <= budget) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const float water = as_float(low);
  std::vector<uint8_t> steps(count);
  for (size_t j = 0; j < count; ++j) {
    uint8_t taken = 0;
    for (size_t k = 0; k < kPlanes; ++k) taken += energy[j] * slopes_[k] > water;
    steps[j] = taken;
  }
  size_t left = budget - cost_above(energy.data(), count, slopes_, water);
  for (size_t k = 0; k < kPlanes; ++k) {  // ties: lower step, then lower column
    for (size_t j = 0; j < count && left > 0; ++j) {
      if (steps[j] != k || energy[j] * slopes_[k] != water) continue;
      if (kStep[k] > left) {
        left = 0;
        break;
      }
      ++steps[j];
      left -= kStep[k];
    }
  }
  static constexpr uint8_t kLevel[] = {0, 2, 3, 4, 6};
  for (size_t j = 0; j < count; ++j) std::fill_n(levels + j * block, block, kLevel[steps[j]]);
  return true;
}

// The selected columns by level, with their inputs; column scales are folded in.
struct Matrix::Task {
  std::array<std::vector<uint32_t>, kPlanes> list;
  std::vector<float> x;
};

void Matrix::apply(const float* x, const uint8_t* levels, float* y, models::Pool& pool) const {
  Task task;
  task.x.resize(cols_);
  std::array<size_t, kPlanes> count{};
  for (auto& list : task.list) list.resize(cols_);
  std::vector<uint32_t> skipped(cols_);
  uint32_t* list[7] = {skipped.data(),      nullptr, task.list[0].data(), task.list[1].data(),
                       task.list[2].data(), nullptr, task.list[3].data()};
  for (size_t j = 0; j < cols_; ++j) {  // no branch: levels are as good as random
    task.x[j] = x[j] * col_scale_[j];
    *list[levels[j]]++ = static_cast<uint32_t>(j);
  }
  static constexpr size_t kLevel[] = {2, 3, 4, 6};
  for (size_t k = 0; k < kPlanes; ++k) {
    count[k] = static_cast<size_t>(list[kLevel[k]] - task.list[k].data());
    task.list[k].resize(count[k]);
  }
  const size_t parts = std::min<size_t>(groups_, pool.threads());
  pool.run(parts, [&](unsigned, size_t part) {
    const size_t begin = part * groups_ / parts, end = (part + 1) * groups_ / parts;
    std::vector<float> sum((end - begin) * kGroup);
    columns(task, begin, end, sum.data());
    outliers(task, begin, end, sum.data());
    const size_t first = begin * kGroup, last = std::min(end * kGroup, rows_);
    for (size_t i = first; i < last; ++i) y[i] = sum[i - first] * row_scale_[i];
  });
}

void Matrix::columns(const Task& task, size_t begin, size_t end, float* y) const {
  const size_t groups = end - begin;
  std::vector<int16_t> sums(groups * kGroup);
  for (size_t level = 0; level < kPlanes; ++level) {
    const auto& list = task.list[level];
    const Table& table = tables_[level];
    const auto at = [&](size_t plane, uint32_t column) {
      return planes_[plane].get() + column * plane_bytes(plane, groups_) +
             plane_bytes(plane, begin);
    };
    for (size_t start = 0; start < list.size(); start += kChunk) {
      const size_t stop = std::min(start + kChunk, list.size());
      float largest = 0;
      for (size_t i = start; i < stop; ++i) largest = std::max(largest, std::fabs(task.x[list[i]]));
      if (!(largest > 0)) continue;
      const float to_integer = 32512.0f / largest;
      for (size_t i = start; i < stop; i += 4) {
        Quad quad{};
        for (size_t k = 0; k < 4; ++k) {
          const bool is_real = i + k < stop;
          const uint32_t column = list[is_real ? i + k : stop - 1];
          const uint32_t next = list[std::min(i + k + 4, list.size() - 1)];
          for (size_t plane = 0; plane <= level; ++plane) {
            quad.column[plane][k] = at(plane, column);
            quad.next[plane][k] = at(plane, next);
          }
          const float x = is_real ? task.x[column] * to_integer : 0.0f;
          make_products(table, level + 1, static_cast<int16_t>(std::lrintf(x)), quad.products[k]);
        }
        add_quad(level + 1, quad, groups, sums.data());
      }
      const float scale = largest * table.largest * (32768.0f / 32767.0f / 127.0f);
      flush(groups, scale, sums.data(), y);
    }
  }
}

void Matrix::outliers(const Task& task, size_t begin, size_t end, float* y) const {
  const size_t first = begin * kGroup, last = end * kGroup;
  for (size_t level = 0; level < kPlanes; ++level) {
    const Table& table = tables_[level];
    for (const uint32_t j : task.list[level]) {
      const float x = task.x[j];
      for (size_t i = outlier_start_[j]; i < outlier_start_[j + 1]; ++i) {
        const size_t row = outlier_rows_[i];
        if (row < first || row >= last) continue;
        const float value = outlier_values_[i];  // its code is the last one on its side
        y[row - first] += x * (value - (value > 0 ? table.high : table.low));
      }
    }
  }
}

}  // namespace tidemill::grinqh
