// What a page server and its clients say to one another: fixed little-endian heads, then bytes.
#pragma once

#include <array>
#include <cstdint>

namespace tidemill::memory {

inline constexpr uint32_t kRequestMagic = 0x31515054;      // "TPQ1"
inline constexpr uint64_t kMostBytes = uint64_t{4} << 20;  // of one get or put

// An extent is named by its content's identity, so that any host finds it.
using ExtentKey = std::array<uint8_t, 16>;

enum class Verb : uint16_t {
  Get = 1,      // bytes of the pool: a copy and nothing else, as a one-sided read
  Put = 2,      // the same the other way
  Reserve = 3,  // room for an extent; the same room again while it is not sealed
  Seal = 4,     // it is complete: it can be found
  Find = 5,
  Free = 6,
  Room = 7,  // bytes that are not reserved
  Hold = 8,  // as Find; its bytes stay until this connection ends, whoever frees it
};

enum class Answer : uint16_t { Fine = 0, OutOfRange = 1, NoRoom = 2, Unknown = 3, Sealed = 4 };

struct Request {
  uint32_t magic = kRequestMagic;
  Verb verb = Verb::Get;
  uint16_t reserved = 0;
  uint64_t id = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  ExtentKey key = {};
};

struct Reply {
  uint64_t id = 0;
  Answer answer = Answer::Fine;
  uint16_t reserved[3] = {};
  uint64_t bytes = 0;  // that follow, of a Get; else the size of the extent, or the room
  uint64_t offset = 0;
};

static_assert(sizeof(Request) == 48 && sizeof(Reply) == 32);

}  // namespace tidemill::memory
