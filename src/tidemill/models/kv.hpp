// The socket `kv-cache`: the keys and values of one sequence, and attention over them. Any system
// may bring its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <stdexcept>

namespace tidemill::models {

// Text for the user; become tidemill.errors.InputError and OutOfPool.
struct InputError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct OutOfPool : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct KVShape {
  size_t layers, kv_heads, head_dim;
};

// The queries of some consecutive tokens of one sequence in one layer, which stand at the positions
// length() .. length() + tokens - 1 and see themselves and what lies before them.
struct Queries {
  size_t layer, tokens, heads;
  size_t window;   // positions that a query sees, itself included; 0 for all
  float scale;     // multiplies q . k
  const float* q;  // rotated; head h of token t at q + t * ldq + h * head_dim
  size_t ldq;
  float* out;  // as q
  size_t ldo;
  float* scratch;  // scratch_floats() of them
};

// A step reserves, then for each layer appends the new keys and values and attends, then commits.
// One that fails does not commit, and truncates to length(): that undoes it.
class KVCache {
 public:
  virtual ~KVCache() = default;
  virtual KVShape shape() const = 0;
  virtual size_t length() const = 0;    // tokens committed
  virtual size_t bytes() const = 0;     // held now
  virtual size_t capacity() const = 0;  // tokens that could ever be held

  // Makes room for `tokens` more; throws OutOfPool and changes nothing if there is none.
  virtual void reserve(size_t tokens) = 0;
  // Keys (rotated) and values of the tokens at length() ..; head h of token t at k + t * ldk +
  // h * head_dim. May be called by several threads for different layers or caches.
  virtual void append(size_t layer, size_t tokens, const float* k, size_t ldk, const float* v,
                      size_t ldv) = 0;
  virtual void commit(size_t tokens) = 0;
  // Forgets what lies at or after `length`, which is at most length().
  virtual void truncate(size_t length) = 0;

  // Attention is split into this many tasks, which must not depend on the threads.
  virtual size_t tasks(const Queries& queries) const = 0;
  virtual size_t scratch_floats(const Queries& queries) const = 0;
  virtual void attend(const Queries& queries, size_t task) const = 0;
  // Called once after all tasks.
  virtual void finish(const Queries& queries) const = 0;

  // Whoever steps holds the cache; a second one must be told so and not wait.
  bool try_hold() { return !held_.exchange(true, std::memory_order_acquire); }
  void let_go() { held_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> held_{false};
};

}  // namespace tidemill::models
