// Runs numbered tasks on a few threads; the caller is one of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace tidemill::blockgtq {

template <class Task>
void run_tasks(size_t count, unsigned threads, const Task& task) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min<size_t>(threads, count); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

// How many tiles one task takes: enough tasks for the threads to end together, none tiny.
inline size_t tiles_per_task(size_t tiles, size_t rows, unsigned threads) {
  if (threads <= 1) return std::max<size_t>(tiles, 1);
  const size_t wanted = (tiles * rows + 8 * threads - 1) / (8 * threads);
  return std::clamp<size_t>(wanted, 32, std::max<size_t>(tiles, 32));
}

}  // namespace tidemill::blockgtq
