#include "pool.hpp"

#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

namespace tidemill::models {

namespace {

using Clock = std::chrono::steady_clock;

// Long enough for the gap between two pieces of one step, short enough not to rob a busy machine.
constexpr std::chrono::microseconds kSpin{20};
constexpr int kPausesPerLook = 32;  // some 1.5 us on this CPU

thread_local const Pool* inside = nullptr;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Returns as soon as `done` holds, or without it after kSpin.
template <class Done>
void spin(const Done& done) {
  const auto end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (done()) return;
      pause();
    }
  } while (Clock::now() < end);
}

}  // namespace

Pool::Pool(unsigned threads) {
  if (threads < 1 || threads > kMaxThreads)
    throw std::invalid_argument("threads=" + std::to_string(threads) + " must be in 1.." +
                                std::to_string(kMaxThreads));
  workers_.reserve(threads - 1);
  try {
    for (unsigned worker = 1; worker < threads; ++worker)
      workers_.emplace_back([this, worker] { serve(worker); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run_erased(size_t tasks, Call call, void* body) {
  if (tasks == 0) return;
  if (inside == this || workers_.empty() || tasks == 1 || tasks >= INT32_MAX) {
    for (size_t task = 0; task < tasks; ++task) call(body, 0, task);
    return;
  }
  const std::lock_guard turn(turn_);
  call_.store(call, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  tasks_.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  pending_.store(static_cast<int>(tasks), std::memory_order_relaxed);
  const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(epoch << 32 | tasks, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  epoch_.notify_all();
  claim(0);
  wait_for_all();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::claim(unsigned worker) {
  const Pool* const outer = std::exchange(inside, this);
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(ticket) != 0) {
    const Call call = call_.load(std::memory_order_relaxed);
    void* const body = body_.load(std::memory_order_relaxed);
    const uint32_t tasks = tasks_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    try {
      call(body, worker, tasks - static_cast<uint32_t>(ticket));
    } catch (...) {
      const std::lock_guard guard(error_guard_);
      if (!error_) error_ = std::current_exception();
    }
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
  inside = outer;
}

void Pool::wait_for_all() {
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  spin(done);
  // One load for both: waiting for a later one's value, which may be 0 by then, would never end.
  for (int left; (left = pending_.load(std::memory_order_acquire)) != 0;)
    pending_.wait(left, std::memory_order_acquire);
}

void Pool::serve(unsigned worker) {
  int seen = 0;
  while (!stopping_.load()) {
    claim(worker);
    spin([&] { return epoch_.load(std::memory_order_acquire) != seen; });
    epoch_.wait(seen, std::memory_order_acquire);
    seen = epoch_.load(std::memory_order_acquire);
  }
}

}  // namespace tidemill::models
