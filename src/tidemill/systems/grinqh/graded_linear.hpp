// GRINQH in the native decoder: the socket `weights` over a graded matrix.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "../../models/linear.hpp"
#include "gemv.hpp"
#include "selector.hpp"

namespace tidemill::grinqh {

// The code bits that a decoder reads for one token. Set from any thread; the decoder's first matrix
// takes it up, so that a token is never of two settings.
struct Dial {
  std::atomic<float> wanted{6}, bits{6};
  std::atomic<size_t> block{1};  // neighbouring channels that share a level
};

// Matrices of one input choose together: the first asked chooses, the others find its choice.
class Shared {
 public:
  // `leads`: those of the decoder's first layer.
  Shared(std::shared_ptr<Dial> dial, bool leads, const float* norm2, size_t channels,
         std::vector<Step> steps)
      : dial_(std::move(dial)), leads_(leads), selector_(norm2, channels, std::move(steps)) {}

  size_t channels() const { return selector_.channels(); }
  // The levels for this input; null if it is not finite.
  std::shared_ptr<const std::vector<uint8_t>> levels(const float* x);

 private:
  std::shared_ptr<Dial> dial_;
  bool leads_;
  Selector selector_;
  std::mutex guard_;
  std::vector<float> last_;
  float bits_ = -1;
  std::shared_ptr<const std::vector<uint8_t>> chosen_;
};

class GradedLinear final : public models::Linear {
 public:
  GradedLinear(std::shared_ptr<const Matrix> matrix, std::shared_ptr<Shared> shared,
               std::shared_ptr<const Dial> dial, uint8_t top);

  size_t rows() const override { return matrix_->rows(); }
  size_t cols() const override { return matrix_->cols(); }
  size_t bytes() const override;
  bool wants_codes() const override { return false; }
  size_t tasks() const override { return tasks_; }
  std::unique_ptr<Plan> plan(const models::Activations& x, models::Pool& pool) const override;
  void multiply(size_t task, const models::Activations& x, const Plan* plan, float* y,
                size_t ldy) const override;
  void unpack(size_t first, size_t count, float* out) const override;

 private:
  struct Chosen;
  void multiply_dense(size_t begin, size_t end, const models::Activations& x, float* y,
                      size_t ldy) const;

  std::shared_ptr<const Matrix> matrix_;
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<const Dial> dial_;
  uint8_t top_;
  size_t tasks_;
};

}  // namespace tidemill::grinqh
