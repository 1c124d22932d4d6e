// Ends a virtual machine whose memory cannot be provided: it must not go on with anything else.
#pragma once

#include <functional>
#include <mutex>
#include <string>

namespace tidemill::memory {

class KillSwitch {
 public:
  using Action = std::function<void(const std::string& why)>;
  explicit KillSwitch(Action action) : action_(std::move(action)) {}

  void pull(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (action_) action_(why);
  }
  void disarm() {
    const std::lock_guard lock(mutex_);
    action_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Action action_;
};

}  // namespace tidemill::memory
