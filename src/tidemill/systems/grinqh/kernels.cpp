// What Python sees: a checked matrix, selection and products, the GIL released while they work.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "gemv.hpp"
#include "graded_linear.hpp"
#include "selector.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::grinqh {

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using OutRows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

struct Threads {
  explicit Threads(unsigned count) : pool(count) {}
  models::Pool pool;
};

void check_outliers(size_t rows, size_t cols, const In<uint32_t>& start, const In<uint32_t>& at,
                    size_t values) {
  require(start.size() == cols + 1 && start.data()[0] == 0, "outlier_start: cols + 1, from 0");
  for (size_t j = 0; j < cols; ++j) {
    require(start.data()[j] <= start.data()[j + 1], "outlier_start must not descend");
    for (size_t i = start.data()[j] + 1; i < start.data()[j + 1] && i < at.size(); ++i)
      require(at.data()[i - 1] < at.data()[i], "outlier rows must ascend in a column");
  }
  require(start.data()[cols] == at.size() && at.size() == values, "outliers: one row per value");
  for (size_t i = 0; i < at.size(); ++i) require(at.data()[i] < rows, "outlier rows: below rows");
}

const uint8_t* plane_of(size_t plane, const In<uint8_t>& given, size_t rows, size_t cols) {
  static const uint8_t none = 0;  // of a plane without bytes of its own
  const size_t bytes = cols * plane_bytes(plane, rows);
  if (plane > 0 && given.size() == 0) return bytes == 0 ? &none : nullptr;
  require(given.size() == bytes, "planes: cols * bytes of a column");
  return given.data();
}

void make(Matrix* self, In<float> row_scale, In<float> col_scale, In<uint8_t> two,
          In<uint8_t> three, In<uint8_t> four, In<uint8_t> six, In<uint32_t> outlier_start,
          In<uint32_t> outlier_rows, In<uint16_t> outlier_values, In<float> values) {
  const size_t rows = row_scale.size(), cols = col_scale.size();
  require(rows > 0 && cols > 0, "scales: rows and columns, none 0");
  require(cols < 65536, "columns: at most 65,535");
  require(values.size() == 92, "92 values: 4 + 8 + 16 + 64");
  check_outliers(rows, cols, outlier_start, outlier_rows, outlier_values.size());
  Parts parts{rows,
              cols,
              row_scale.data(),
              col_scale.data(),
              {plane_of(0, two, rows, cols), plane_of(1, three, rows, cols),
               plane_of(2, four, rows, cols), plane_of(3, six, rows, cols)},
              outlier_start.data(),
              outlier_rows.data(),
              outlier_values.data(),
              values.data()};
  for (size_t plane = 1; plane < kPlanes; ++plane)
    require(parts.planes[plane] == nullptr || parts.planes[plane - 1] != nullptr,
            "planes: none may be left out below another");
  new (self) Matrix(parts);
}

void check_levels(const Matrix& self, const Rows<uint8_t>& levels) {
  bool known[256] = {};
  for (const uint8_t level : {0, 2, 3, 4, 6}) known[level] = self.has(level);
  for (size_t j = 0; j < levels.size(); ++j)
    require(known[levels.data()[j]], "levels must be 0, 2, 3, 4 or 6, and stored");
}

void multiply(const Matrix& self, Rows<float> x, Rows<uint8_t> levels, OutRows<float> y,
              Threads& threads) {
  const size_t tokens = x.shape(0);
  require(x.shape(1) == self.cols() && levels.shape(1) == self.cols(), "x, levels: of each column");
  require(y.shape(1) == self.rows(), "y: one per row");
  require(levels.shape(0) == tokens && y.shape(0) == tokens, "x, levels, y: of each token");
  const nb::gil_scoped_release release;
  check_levels(self, levels);
  const auto one = [&](unsigned, size_t i) {
    self.apply(x.data() + i * self.cols(), levels.data() + i * self.cols(),
               y.data() + i * self.rows(), threads.pool);
  };
  if (tokens == 1) return one(0, 0);
  threads.pool.run(tokens, one);  // inside a task the products run in place
}

// Outputs of groups begin .. end at one level, as they are multiplied with: (cols, outputs).
void dequantise(const Matrix& self, unsigned level, size_t begin, size_t end, OutRows<float> out,
                Threads& threads) {
  require(level < 8 && self.has(static_cast<uint8_t>(level)), "level must be stored");
  require(begin <= end && end <= self.groups(), "groups must exist");
  const size_t outputs =
      std::min(end * kGroup, self.rows()) - std::min(begin * kGroup, self.rows());
  require(out.shape(0) == self.cols() && out.shape(1) == outputs, "out: columns by outputs");
  const nb::gil_scoped_release release;
  constexpr size_t kTile = 16;
  threads.pool.run((self.cols() + kTile - 1) / kTile, [&](unsigned, size_t task) {
    const size_t first = task * kTile, last = std::min(first + kTile, self.cols());
    self.dequantise(static_cast<uint8_t>(level), first, last, begin, end,
                    out.data() + first * outputs, outputs);
  });
}

// The bytes of a plane where they are; they stay as long as somebody looks at them.
nb::ndarray<nb::numpy, uint8_t> plane(nb::handle_t<Matrix> self, size_t index) {
  Matrix& matrix = nb::cast<Matrix&>(self);
  require(index < kPlanes && matrix.plane(index) != nullptr, "plane must be stored");
  return {matrix.plane(index), {matrix.cols(), plane_bytes(index, matrix.rows())}, self};
}

std::vector<Step> steps_of(const In<uint8_t>& levels, const In<uint32_t>& costs,
                           const In<float>& slopes) {
  const size_t count = levels.size();
  require(count > 0 && count < 8, "steps: one to seven");
  require(costs.size() == count && slopes.size() == count, "steps: a level, a cost and a slope");
  std::vector<Step> steps;
  for (size_t k = 0; k < count; ++k)
    steps.push_back({levels.data()[k], costs.data()[k], slopes.data()[k]});
  return steps;
}

void make_selector(Selector* self, In<float> norm2, In<uint8_t> levels, In<uint32_t> costs,
                   In<float> slopes) {
  require(norm2.size() > 0, "norms: of at least one channel");
  new (self) Selector(norm2.data(), norm2.size(), steps_of(levels, costs, slopes));
}

void check_selection(const Selector& self, const Rows<float>& x, size_t block,
                     const OutRows<uint8_t>& levels) {
  require(x.shape(1) == self.channels() && levels.shape(1) == self.channels(),
          "x, levels: one per channel");
  require(x.shape(0) == levels.shape(0), "x, levels: of each token");
  require(block > 0 && self.channels() % block == 0, "block must divide the channels");
}

std::shared_ptr<Shared> make_shared_choice(const std::shared_ptr<Dial>& dial, bool leads,
                                           In<float> norm2, In<uint8_t> levels, In<uint32_t> costs,
                                           In<float> slopes) {
  require(norm2.size() > 0, "norms: of at least one channel");
  std::vector<Step> steps = steps_of(levels, costs, slopes);
  return std::make_shared<Shared>(dial, leads, norm2.data(), norm2.size(), std::move(steps));
}

std::shared_ptr<models::Linear> make_linear(std::shared_ptr<Matrix> matrix,
                                            std::shared_ptr<Shared> shared,
                                            const std::shared_ptr<Dial>& dial, unsigned top) {
  require(matrix->cols() == shared->channels(), "choice: of the matrix's columns");
  require(top > 0 && top < 8 && matrix->has(static_cast<uint8_t>(top)), "top must be stored");
  return std::make_shared<GradedLinear>(std::move(matrix), std::move(shared), dial,
                                        static_cast<uint8_t>(top));
}

// fn(x, levels) for each token; false if any of them is.
template <class Fn>
bool each_token(const Selector& self, const Rows<float>& x, const OutRows<uint8_t>& levels,
                Threads& threads, Fn&& fn) {
  std::atomic<bool> is_finite{true};
  threads.pool.run(x.shape(0), [&](unsigned, size_t i) {
    const size_t at = i * self.channels();
    if (!fn(x.data() + at, levels.data() + at)) is_finite = false;
  });
  return is_finite;
}

bool within(const Selector& self, Rows<float> x, size_t budget, size_t block,
            OutRows<uint8_t> levels, Threads& threads) {
  check_selection(self, x, block, levels);
  const nb::gil_scoped_release release;
  return each_token(self, x, levels, threads, [&](const float* row, uint8_t* chosen) {
    return self.within(row, budget, block, chosen);
  });
}

bool above(const Selector& self, Rows<float> x, float water, size_t block, OutRows<uint8_t> levels,
           Threads& threads) {
  check_selection(self, x, block, levels);
  const nb::gil_scoped_release release;
  return each_token(self, x, levels, threads, [&](const float* row, uint8_t* chosen) {
    return self.above(row, water, block, chosen);
  });
}

}  // namespace

}  // namespace tidemill::grinqh

void register_grinqh(nb::module_& m) {
  using namespace tidemill::grinqh;
  nb::class_<Threads>(m, "Threads").def(nb::init<unsigned>(), "count"_a);
  nb::class_<Matrix>(m, "Matrix")
      .def("__init__", &make, "row_scale"_a, "col_scale"_a, "two"_a, "three"_a, "four"_a, "six"_a,
           "outlier_start"_a, "outlier_rows"_a, "outlier_values"_a, "values"_a)
      .def("apply", &multiply, "x"_a, "levels"_a, "y"_a, "threads"_a)
      .def("plane", &plane, "index"_a)
      .def_prop_ro("outlier_bytes", &Matrix::outlier_bytes)
      .def("dequantise", &dequantise, "level"_a, "begin"_a, "end"_a, "out"_a, "threads"_a);
  nb::class_<Dial>(m, "Dial")
      .def(nb::init<>())
      .def_prop_rw(
          "bits", [](const Dial& dial) { return dial.wanted.load(); },
          [](Dial& dial, float bits) { dial.wanted = bits; })
      .def_prop_rw(
          "block", [](const Dial& dial) { return dial.block.load(); },
          [](Dial& dial, size_t block) {
            require(block > 0, "block: at least 1");
            dial.block = block;
          });
  nb::class_<Shared>(m, "Shared");
  m.def("shared_choice", &make_shared_choice, "dial"_a, "leads"_a, "norm2"_a, "levels"_a, "costs"_a,
        "slopes"_a);
  m.def("graded_linear", &make_linear, "matrix"_a, "shared"_a, "dial"_a, "top"_a);
  nb::class_<Selector>(m, "Selector")
      .def("__init__", &make_selector, "norm2"_a, "levels"_a, "costs"_a, "slopes"_a)
      .def("within", &within, "x"_a, "budget"_a, "block"_a, "levels"_a, "threads"_a)
      .def("above", &above, "x"_a, "water"_a, "block"_a, "levels"_a, "threads"_a);
}
