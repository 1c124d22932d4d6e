// Threads that wait for small pieces of work: a decoding step hands out some two hundred in 20 ms.
//
// Tasks are claimed one by one, so a worker that the system has put aside delays nobody, and a
// missing one (after a fork) costs only speed. What a task computes may depend on its number and
// never on the worker, so results are the same for any number of threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tidemill::models {

constexpr unsigned kMaxThreads = 256;

class Pool {
 public:
  // `threads` counts the caller; 1 starts none. Throws std::invalid_argument outside
  // 1..kMaxThreads, std::system_error when the system gives no thread.
  explicit Pool(unsigned threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

  // Calls fn(worker, task) once for each task < tasks and returns when all are done; the caller is
  // worker 0. The first exception is thrown on. From inside a task it runs them all in place.
  // Callers on several threads take turns.
  template <class Fn>
  void run(size_t tasks, Fn&& fn) {
    using Body = std::remove_reference_t<Fn>;
    run_erased(
        tasks,
        [](void* body, unsigned worker, size_t task) { (*static_cast<Body*>(body))(worker, task); },
        const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
  }

 private:
  using Call = void (*)(void* body, unsigned worker, size_t task);

  void run_erased(size_t tasks, Call call, void* body);
  void serve(unsigned worker);
  void claim(unsigned worker);
  void wait_for_all();
  void stop();

  // Epoch in the upper half, tasks left to claim in the lower: a claim is one exchange, which
  // fails when the job it was read for is over. So a late worker never sees a later job's fields.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> pending_{0};
  alignas(64) std::atomic<int> epoch_{0};
  alignas(64) std::atomic<Call> call_{nullptr};
  std::atomic<void*> body_{nullptr};
  std::atomic<uint32_t> tasks_{0};
  std::atomic<bool> stopping_{false};
  std::mutex turn_;
  std::mutex error_guard_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace tidemill::models
