// What Python sees: a checked matrix, selection and product, the GIL released while they work.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

#include "gemv.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::grinqh {

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

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
  for (size_t j = 0; j < cols; ++j)
    require(start.data()[j] <= start.data()[j + 1], "outlier_start must not descend");
  require(start.data()[cols] == at.size() && at.size() == values, "outliers: one row per value");
  for (size_t i = 0; i < at.size(); ++i) require(at.data()[i] < rows, "outlier rows: below rows");
}

void make(Matrix* self, In<float> row_scale, In<float> col_scale, In<float> col_norm,
          In<uint8_t> two, In<uint8_t> three, In<uint8_t> four, In<uint8_t> six,
          In<uint32_t> outlier_start, In<uint32_t> outlier_rows, In<float> outlier_values,
          In<float> values, In<float> slopes) {
  const size_t rows = row_scale.size(), cols = col_scale.size();
  require(rows > 0 && cols > 0 && col_norm.size() == cols, "scales: rows and columns, none 0");
  const size_t padded = (rows + kGroup - 1) / kGroup * kGroup;
  const size_t wide = cols * padded / 4, narrow = cols * padded / 8;
  require(two.size() == wide && six.size() == wide, "two-bit planes: cols * padded rows / 4");
  require(three.size() == narrow && four.size() == narrow, "one-bit planes: cols * padded / 8");
  require(values.size() == 92 && slopes.size() == kPlanes, "92 values and 4 slopes");
  check_outliers(rows, cols, outlier_start, outlier_rows, outlier_values.size());
  new (self) Matrix(Parts{rows,
                          cols,
                          row_scale.data(),
                          col_scale.data(),
                          col_norm.data(),
                          {two.data(), three.data(), four.data(), six.data()},
                          outlier_start.data(),
                          outlier_rows.data(),
                          outlier_values.data(),
                          values.data(),
                          slopes.data()});
}

bool choose(const Matrix& self, In<float> x, size_t budget, size_t block, Out<uint8_t> levels) {
  require(x.size() == self.cols() && levels.size() == self.cols(), "x, levels: one per column");
  require(block > 0 && self.cols() % block == 0, "block must divide the columns");
  const nb::gil_scoped_release release;
  return self.select(x.data(), budget, block, levels.data());
}

void multiply(const Matrix& self, In<float> x, In<uint8_t> levels, Out<float> y, Threads& threads) {
  require(x.size() == self.cols() && levels.size() == self.cols(), "x, levels: one per column");
  require(y.size() == self.rows(), "y: one per row");
  for (size_t j = 0; j < levels.size(); ++j) {
    const uint8_t level = levels.data()[j];
    require(level <= 6 && level != 1 && level != 5, "levels must be 0, 2, 3, 4 or 6");
  }
  const nb::gil_scoped_release release;
  self.apply(x.data(), levels.data(), y.data(), threads.pool);
}

}  // namespace

}  // namespace tidemill::grinqh

void register_grinqh(nb::module_& m) {
  using namespace tidemill::grinqh;
  nb::class_<Threads>(m, "Threads").def(nb::init<unsigned>(), "count"_a);
  nb::class_<Matrix>(m, "Matrix")
      .def("__init__", &make, "row_scale"_a, "col_scale"_a, "col_norm"_a, "two"_a, "three"_a,
           "four"_a, "six"_a, "outlier_start"_a, "outlier_rows"_a, "outlier_values"_a, "values"_a,
           "slopes"_a)
      .def("select", &choose, "x"_a, "budget"_a, "block"_a, "levels"_a)
      .def("apply", &multiply, "x"_a, "levels"_a, "y"_a, "threads"_a);
}
