// What Python sees of links, checksums, page faults and page servers. Whatever waits or copies does
// so without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "crc32c.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void register_crc(nb::module_& m) {
  m.def(
      "crc32c",
      [](Bytes bytes, uint32_t before) {
        const nb::gil_scoped_release release;
        return tidemill::memory::crc32c({bytes.data(), bytes.size()}, before);
      },
      "bytes"_a, "before"_a = 0);
  m.def(
      "crc32c_of_chunks",
      [](Bytes bytes, uint64_t chunk, Sums sums) {
        if (chunk == 0 || sums.size() != (bytes.size() + chunk - 1) / chunk)
          throw std::invalid_argument("sums must hold one number for each chunk");
        const nb::gil_scoped_release release;
        for (uint64_t i = 0; i < sums.size(); ++i) {
          const uint64_t length = std::min<uint64_t>(chunk, bytes.size() - i * chunk);
          sums.data()[i] = tidemill::memory::crc32c({bytes.data() + i * chunk, length});
        }
      },
      "bytes"_a, "chunk"_a, "sums"_a);
}

}  // namespace

#if defined(__linux__)

void register_paging(nb::module_& m);

void register_memory(nb::module_& m) {
  register_crc(m);
  register_paging(m);
}

#else

void register_memory(nb::module_& m) { register_crc(m); }  // userfaultfd is Linux's own

#endif
