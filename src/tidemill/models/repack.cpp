#include "repack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "gemm.hpp"
#include "ggml_blocks.hpp"
#include "layout.hpp"

namespace tidemill::models {

namespace {

constexpr size_t kGroupsPerTask = 8;  // at least; a claim costs some 100 ns
constexpr size_t kTasks = 128;        // at most, about

template <class F>
class PackedLinear final : public Linear {
 public:
  PackedLinear(size_t rows, size_t cols)
      : rows_(rows),
        cols_(cols),
        groups_((rows + kRows - 1) / kRows),
        group_bytes_(cols / kBlock / F::kSuperBlocks * F::kSuperBytes),
        groups_per_task_(std::max(kGroupsPerTask, groups_ / kTasks)),
        weights_(allocate_weights(groups_ * group_bytes_)) {}

  size_t rows() const override { return rows_; }
  size_t cols() const override { return cols_; }
  size_t bytes() const override { return groups_ * group_bytes_; }
  bool wants_codes() const override { return true; }
  size_t tasks() const override { return (groups_ + groups_per_task_ - 1) / groups_per_task_; }

  void multiply(size_t task, const Activations& x, const Plan*, float* y,
                size_t ldy) const override {
    const size_t group = task * groups_per_task_, row = group * kRows;
    multiply_groups<F>(weights_.get() + group * group_bytes_,
                       std::min(groups_per_task_, groups_ - group), rows_ - row, x, y + row, ldy);
  }

  void unpack(size_t first, size_t count, float* out) const override {
    OpenBlock open;
    for (size_t row = first; row < first + count; ++row, out += cols_)
      for (size_t block = 0; block < cols_ / kBlock; ++block) {
        open_block<F>(header(row / kRows, block), body(row / kRows, block), open);
        unpack_row(open, row % kRows, out + block * kBlock);
      }
  }

  template <class Source>
  void fill(const RawBytes& raw, Pool& pool) {
    const size_t row_bytes = cols_ / Source::kColumns * Source::kBytes;
    pool.run(tasks(), [&](unsigned, size_t task) {
      const size_t begin = task * groups_per_task_;
      const size_t end = std::min(begin + groups_per_task_, groups_);
      for (size_t group = begin; group < end; ++group)
        fill_group<Source>(raw.data, row_bytes, group);
      const size_t first = begin * kRows, last = std::min(end * kRows, rows_);
      forget(raw, first * row_bytes, (last - first) * row_bytes);
    });
  }

 private:
  uint8_t* header(size_t group, size_t block) const {
    return weights_.get() + group * group_bytes_ + block / F::kSuperBlocks * F::kSuperBytes;
  }
  uint8_t* body(size_t group, size_t block) const {
    return header(group, block) + F::kHeaderBytes + block % F::kSuperBlocks * F::kBlockBytes;
  }

  template <class Source>
  void fill_group(const uint8_t* raw, size_t row_bytes, size_t group) {
    constexpr size_t kSubBlocks = Source::kColumns / kBlock;
    Piece pieces[kRows] = {};
    const size_t there = std::min(kRows, rows_ - group * kRows);
    for (size_t block = 0; block < cols_ / kBlock; ++block) {
      const uint8_t* in = raw + group * kRows * row_bytes + block / kSubBlocks * Source::kBytes;
      for (size_t row = 0; row < there; ++row, in += row_bytes)
        Source::read(in, block % kSubBlocks, pieces[row]);
      pack_block<F>(pieces, header(group, block), body(group, block));
    }
  }

  static void unpack_row(const OpenBlock& open, size_t row, float* out) {
    for (size_t column = 0; column < kBlock; ++column) {
      const int code = open.code(row, column);
      const int value = F::kBits == 8 ? static_cast<int8_t>(code) : code - F::kOffset;
      out[column] = open.scale[column / 16][row] * static_cast<float>(value);
      if constexpr (F::kHasMin) out[column] += open.min[column / 16][row];
    }
  }

  size_t rows_, cols_, groups_, group_bytes_, groups_per_task_;
  std::shared_ptr<uint8_t> weights_;
};

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class Source>
std::shared_ptr<Linear> pack(size_t rows, size_t cols, const RawBytes& raw, Pool& pool) {
  require(cols % Source::kColumns == 0, "cols=" + std::to_string(cols) + " must be a multiple of " +
                                            std::to_string(Source::kColumns) + " for this type");
  const size_t wanted = rows * (cols / Source::kColumns) * Source::kBytes;
  require(raw.size == wanted,
          "raw holds " + std::to_string(raw.size) + " bytes, the matrix " + std::to_string(wanted));
  auto matrix = std::make_shared<PackedLinear<typename Source::Packed>>(rows, cols);
  matrix->template fill<Source>(raw, pool);
  return matrix;
}

}  // namespace

std::shared_ptr<Linear> pack_linear(GGMLType type, size_t rows, size_t cols, const RawBytes& raw,
                                    Pool& pool) {
  constexpr size_t kLargest = size_t{1} << 31;
  require(rows > 0 && cols > 0 && rows < kLargest && cols < kLargest,
          "rows and cols must be in 1..2^31 - 1");
  switch (type) {
    case GGMLType::kQ8_0:
      return pack<Q8_0>(rows, cols, raw, pool);
    case GGMLType::kQ5_0:
      return pack<Q5_0>(rows, cols, raw, pool);
    case GGMLType::kQ5_1:
      return pack<Q5_1>(rows, cols, raw, pool);
    case GGMLType::kQ4_0:
      return pack<Q4_0>(rows, cols, raw, pool);
    case GGMLType::kQ4_1:
      return pack<Q4_1>(rows, cols, raw, pool);
    case GGMLType::kQ4_K:
      return pack<Q4_K>(rows, cols, raw, pool);
    case GGMLType::kQ5_K:
      return pack<Q5_K>(rows, cols, raw, pool);
    case GGMLType::kQ6_K:
      return pack<Q6_K>(rows, cols, raw, pool);
    case GGMLType::kQ3_K:
      return pack<Q3_K>(rows, cols, raw, pool);
    case GGMLType::kQ2_K:
      return pack<Q2_K>(rows, cols, raw, pool);
    case GGMLType::kF32:
    case GGMLType::kF16:
    case GGMLType::kBF16:
      return pack_floats(type, rows, cols, raw, pool);
  }
  throw std::invalid_argument("GGML type " + std::to_string(static_cast<uint32_t>(type)) +
                              " cannot be packed");
}

}  // namespace tidemill::models
