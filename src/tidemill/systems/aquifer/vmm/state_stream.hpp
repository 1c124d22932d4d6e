// Plain values to bytes and back. What is read was perhaps written by somebody else: every length
// is checked, and a reader that runs out throws std::invalid_argument.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace tidemill::aquifer {

class StateWriter {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put_text(const std::string& text) {
    put(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  template <class T>
  void put_all(const std::vector<T>& values) {
    put(static_cast<uint64_t>(values.size()));
    for (const T& value : values) put(value);
  }
  std::string& bytes() { return bytes_; }

 private:
  std::string bytes_;
};

class StateReader {
 public:
  explicit StateReader(std::span<const uint8_t> bytes) : left_(bytes) {}

  template <class T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  std::string text(uint64_t most = 4096) {
    const auto count = length(most);
    return {reinterpret_cast<const char*>(take(count)), count};
  }
  template <class T>
  std::vector<T> all(uint64_t most) {
    std::vector<T> values(length(most));
    for (T& value : values) value = get<T>();
    return values;
  }
  uint64_t length(uint64_t most) {
    const auto count = get<uint64_t>();
    if (count > most) throw std::invalid_argument("the state holds a list of impossible length");
    return count;
  }
  bool at_end() const { return left_.empty(); }

 private:
  const uint8_t* take(uint64_t count) {
    if (count > left_.size()) throw std::invalid_argument("the state is cut off");
    const uint8_t* at = left_.data();
    left_ = left_.subspan(count);
    return at;
  }

  std::span<const uint8_t> left_;
};

}  // namespace tidemill::aquifer
