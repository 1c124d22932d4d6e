#include "zero_pages.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../../../memory/linux/host_fd.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::aquifer {

using memory::HostFd;

bool is_zero_page(const uint8_t* page) {
#ifdef __AVX2__
  const auto* at = reinterpret_cast<const __m256i*>(page);
  for (int i = 0; i < 128; i += 4) {
    const __m256i low = _mm256_or_si256(_mm256_loadu_si256(at + i), _mm256_loadu_si256(at + i + 1));
    const __m256i high =
        _mm256_or_si256(_mm256_loadu_si256(at + i + 2), _mm256_loadu_si256(at + i + 3));
    const __m256i any = _mm256_or_si256(low, high);
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return true;
#else
  for (uint64_t i = 0; i < kPage; i += 64) {
    uint64_t words[8];
    std::memcpy(words, page + i, sizeof words);
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  return true;
#endif
}

uint64_t find_nonzero(const uint8_t* image, uint64_t pages, uint8_t* found) {
  uint64_t count = 0;
  for (uint64_t i = 0; i < pages; ++i) {
    found[i] = is_zero_page(image + i * kPage) ? 0 : 1;
    count += found[i];
  }
  return count;
}

uint64_t find_nonzero(const GuestMemory& memory, uint8_t* found) {
  const uint64_t pages = memory.size() / kPage;
  const HostFd pagemap(memory.backing() == Backing::Anonymous
                           ? ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
                           : -1);
  if (!pagemap) return find_nonzero(memory.data(), pages, found);
  constexpr uint64_t kThere = uint64_t{3} << 62;  // present, or swapped out
  std::vector<uint64_t> entries(std::min<uint64_t>(pages, 8192));
  const uint64_t first = reinterpret_cast<uint64_t>(memory.data()) / kPage;
  uint64_t count = 0;
  for (uint64_t done = 0; done < pages; done += entries.size()) {
    const uint64_t batch = std::min<uint64_t>(entries.size(), pages - done);
    const auto wanted = static_cast<ssize_t>(batch * 8);
    if (::pread(pagemap.get(), entries.data(), batch * 8, static_cast<off_t>((first + done) * 8)) !=
        wanted)
      return find_nonzero(memory.data(), pages, found);
    for (uint64_t i = 0; i < batch; ++i) {
      const bool empty =
          (entries[i] & kThere) == 0 || is_zero_page(memory.data() + (done + i) * kPage);
      found[done + i] = empty ? 0 : 1;
      count += found[done + i];
    }
  }
  return count;
}

}  // namespace tidemill::aquifer
