// What Python sees of the models' native room. Each part binds itself; sizes are checked here, and
// the GIL is released while threads work.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gemm.hpp"
#include "linear.hpp"
#include "pool.hpp"
#include "repack.hpp"
#include "vnni.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::models {

void bind_decoder(nb::module_& m);
void bind_sampler(nb::module_& m);
void bind_tokenizer(nb::module_& m);

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Matrix new_matrix(size_t rows, size_t cols) {
  auto data = std::make_unique<float[]>(rows * cols);
  nb::capsule owner(data.get(), [](void* at) noexcept { delete[] static_cast<float*>(at); });
  return Matrix(data.release(), {rows, cols}, owner);
}

Matrix unpack(const Linear& matrix, size_t first, size_t count) {
  if (first > matrix.rows() || count > matrix.rows() - first)
    throw std::invalid_argument("rows first..first + count must lie within the matrix");
  Matrix out = new_matrix(count, matrix.cols());
  const nb::gil_scoped_release release;
  matrix.unpack(first, count, out.data());
  return out;
}

std::pair<std::vector<Matrix>, bool> multiply_shared(
    const std::vector<std::shared_ptr<Linear>>& matrices, const Rows& x, Pool& pool) {
  std::vector<Matrix> outputs;
  std::vector<Product> products;
  for (const auto& matrix : matrices) {
    outputs.push_back(new_matrix(x.shape(0), matrix->rows()));
    products.push_back({matrix.get(), outputs.back().data(), matrix->rows()});
  }
  Activations input;
  input.bind(x.data(), x.shape(1), x.shape(0), x.shape(1));
  {
    const nb::gil_scoped_release release;
    multiply(products, input, pool);
  }
  return {std::move(outputs), input.is_finite()};
}

void bind_pool(nb::module_& m) {
  nb::class_<Pool>(m, "Pool", "Threads that share the work of a step; `threads` counts the caller.")
      .def(nb::init<unsigned>(), "threads"_a)
      .def_prop_ro("threads", &Pool::threads)
      .def(
          "claims",
          [](Pool& pool, size_t tasks, size_t failing) {
            std::vector<uint32_t> counts(tasks);
            {
              const nb::gil_scoped_release release;
              pool.run(tasks, [&](unsigned, size_t task) {
                ++counts[task];
                if (task == failing) throw std::invalid_argument("a task failed");
              });
            }
            return counts;
          },
          "tasks"_a, "failing"_a = SIZE_MAX,
          "How often each of `tasks` tasks was run (once); for tests. Task `failing` throws.");
}

void bind_linear(nb::module_& m) {
  nb::class_<Linear>(m, "Linear", "A packed matrix, rows (outputs) x cols (inputs); immutable.")
      .def_prop_ro("rows", &Linear::rows)
      .def_prop_ro("cols", &Linear::cols)
      .def_prop_ro("bytes", &Linear::bytes, "Bytes that a product with one token reads.")
      .def_prop_ro("wants_codes", &Linear::wants_codes,
                   "Whether inputs are quantised to int8 in blocks of 32.")
      .def("unpack", &unpack, "first"_a, "count"_a,
           "The float32 weights of rows first..first + count, as the file defines them.");
  m.def(
      "pack_linear",
      [](uint32_t type, size_t rows, size_t cols, In<uint8_t> raw, Pool& pool, bool mapped) {
        const nb::gil_scoped_release release;
        const RawBytes bytes{raw.data(), raw.size(), mapped};
        return pack_linear(static_cast<GGMLType>(type), rows, cols, bytes, pool);
      },
      "type"_a, "rows"_a, "cols"_a, "raw"_a, "pool"_a, nb::kw_only(), "mapped"_a = false,
      "A Linear of a GGUF tensor's bytes; ValueError when type or sizes do not fit. `mapped`: they "
      "are pages of a file mapped for reading, given back to the system as they are read.");
  m.def("set_vnni", &set_vnni, "wanted"_a,
        "Whether products use VNNI where the CPU has it (they do); what held before. Bits are the "
        "same without: for tests.");
  m.def("multiply_shared", &multiply_shared, "matrices"_a, "x"_a, "pool"_a,
        "x @ W.T of each matrix, x (tokens, cols) quantised once; and whether x was finite.");
}

}  // namespace

}  // namespace tidemill::models

void register_models(nb::module_& m) {
  using namespace tidemill::models;
  bind_pool(m);
  bind_linear(m);
  bind_decoder(m);
  bind_sampler(m);
  bind_tokenizer(m);
}
