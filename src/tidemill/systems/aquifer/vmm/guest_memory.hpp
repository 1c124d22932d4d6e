// The guest's physical memory: one host mapping. Every pointer that a guest hands over passes here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tidemill::aquifer {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kLargePage = uint64_t{2} << 20;
inline constexpr uint64_t kUserBase = kLargePage;  // below: tables and stubs, supervisor only
inline constexpr uint64_t kLeastMemory = uint64_t{8} << 20;
inline constexpr uint64_t kMostMemory = uint64_t{3} << 30;  // KVM's own pages lie above on Intel

constexpr uint64_t page_floor(uint64_t n) { return n & ~(kPage - 1); }
constexpr uint64_t page_ceil(uint64_t n) { return page_floor(n + kPage - 1); }

// What a page reads as before anybody wrote it here.
enum class Backing : uint8_t {
  Anonymous,  // zero
  Supplied,   // whatever a userfaultfd handler gives: never MADV_DONTNEED, it would be asked again
  File,       // a page of a snapshot's file, mapped privately
};

class GuestMemory {
 public:
  // Both throw std::system_error. `file`: `size` bytes of `fd` from `offset`, which must be there.
  static std::shared_ptr<GuestMemory> anonymous(uint64_t size, Backing backing);
  static std::shared_ptr<GuestMemory> file(int fd, uint64_t offset, uint64_t size);
  GuestMemory(const GuestMemory&) = delete;
  ~GuestMemory();

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  Backing backing() const { return backing_; }

  bool in_user(uint64_t address, uint64_t length) const {
    return address >= kUserBase && address <= size_ && length <= size_ - address;
  }
  // Host address of guest bytes [address, address + length), or null: not all of it user memory.
  uint8_t* user(uint64_t address, uint64_t length) const {
    return in_user(address, length) ? data_ + address : nullptr;
  }
  template <class T>
  bool store(uint64_t address, const T& value) const {
    uint8_t* to = user(address, sizeof(T));
    if (to != nullptr) __builtin_memcpy(to, &value, sizeof(T));
    return to != nullptr;
  }
  template <class T>
  std::optional<T> load(uint64_t address) const {
    const uint8_t* from = user(address, sizeof(T));
    if (from == nullptr) return std::nullopt;
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    return value;
  }
  // A zero-terminated string shorter than `most`; nothing if it leaves user memory before its end.
  std::optional<std::string> string(uint64_t address, uint64_t most) const;
  // Makes whole pages read as zero, and gives them back to the host where that is possible.
  void discard(uint64_t address, uint64_t length) const;

 private:
  GuestMemory(uint8_t* data, uint64_t size, Backing backing)
      : data_(data), size_(size), backing_(backing) {}

  uint8_t* data_;
  uint64_t size_;
  Backing backing_;
};

}  // namespace tidemill::aquifer
