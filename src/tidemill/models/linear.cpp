#include "linear.hpp"

#include <stdexcept>
#include <string>

namespace tidemill::models {

void multiply(std::span<const Product> products, Activations& x, Pool& pool) {
  size_t tasks = 0;
  std::vector<std::unique_ptr<Linear::Plan>> plans;
  for (const Product& product : products) {
    if (product.matrix->cols() != x.cols())
      throw std::invalid_argument("the matrix has " + std::to_string(product.matrix->cols()) +
                                  " columns, its input " + std::to_string(x.cols()));
    if (product.matrix->wants_codes()) x.quantise(pool);
    plans.push_back(product.matrix->plan(x, pool));
    tasks += product.matrix->tasks();
  }
  pool.run(tasks, [&](unsigned, size_t task) {
    size_t i = 0;
    for (; task >= products[i].matrix->tasks(); ++i) task -= products[i].matrix->tasks();
    products[i].matrix->multiply(task, x, plans[i].get(), products[i].y, products[i].ldy);
  });
}

void Linear::apply(const float* x, size_t ldx, size_t tokens, float* y, size_t ldy,
                   Pool& pool) const {
  Activations input;
  input.bind(x, ldx, tokens, cols());
  const Product product{this, y, ldy};
  models::multiply({&product, 1}, input, pool);
}

}  // namespace tidemill::models
