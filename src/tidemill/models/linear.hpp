// The socket `weights`: what a decoder multiplies with, and any system may bring its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "activations.hpp"
#include "pool.hpp"

namespace tidemill::models {

// A matrix W of rows (outputs) x cols (inputs); y[i * ldy + r] = sum over c of W[r, c] x[i, c].
// Immutable after construction, so any number of threads may multiply with it.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual size_t rows() const = 0;
  virtual size_t cols() const = 0;
  virtual size_t bytes() const = 0;  // that one product with one token reads

  // What the tasks of one product share and have to know first, as which columns each token reads.
  struct Plan {
    virtual ~Plan() = default;
  };

  // Whether multiply() reads the codes of its input (then they are there) or only the floats.
  virtual bool wants_codes() const = 0;
  // A product is split into this many tasks, by rows; it must not depend on the threads.
  virtual size_t tasks() const = 0;
  // Called once per product, before its tasks; may use the pool. Null when there is nothing to
  // know.
  virtual std::unique_ptr<Plan> plan(const Activations&, Pool&) const { return nullptr; }
  // Computes the rows of one task for all tokens of x. May use thread-local memory, may not call
  // the pool, may not throw but std::bad_alloc. An input that is not finite must show in y as NaN.
  virtual void multiply(size_t task, const Activations& x, const Plan* plan, float* y,
                        size_t ldy) const = 0;
  // The float32 weights of rows first .. first + count, as the file defines them bit for bit: an
  // embedding is looked up so, and tests compare with it.
  virtual void unpack(size_t first, size_t count, float* out) const = 0;

  // For callers with one matrix and no Activations of their own.
  void apply(const float* x, size_t ldx, size_t tokens, float* y, size_t ldy, Pool& pool) const;
};

struct Product {
  const Linear* matrix;
  float* y;
  size_t ldy;
};

// All products of one input in one go of the pool, the input quantised at most once.
void multiply(std::span<const Product> products, Activations& x, Pool& pool);

}  // namespace tidemill::models
