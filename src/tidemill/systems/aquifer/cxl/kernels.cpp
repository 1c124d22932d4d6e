// What Python sees of caches, and of the search through a protocol's interleavings.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <stdexcept>

#include "cache_lines.hpp"
#include "explorer.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::cxl {

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Source = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Range {
  uint8_t* at;
  size_t count;
};

Range range_of(Bytes& segment, size_t offset, size_t count) {
  if (offset > segment.size() || count > segment.size() - offset)
    throw std::invalid_argument("outside of the segment");
  return {segment.data() + offset, count};
}

// False if the segment's file was cut.
template <class Touch>
bool guarded(Touch touch) {
  const nb::gil_scoped_release release;
  return survives([](void* argument) { (*static_cast<Touch*>(argument))(); }, &touch);
}

bool copy(Bytes to, size_t to_offset, Bytes from, size_t from_offset, size_t count) {
  const Range target = range_of(to, to_offset, count), source = range_of(from, from_offset, count);
  return guarded([&] { std::memcpy(target.at, source.at, count); });
}

void register_lines(nb::module_& m) {
  m.attr("LINE") = kLine;
  m.def("write_back_instruction", &write_back_instruction);
  m.def("fence", &fence);
  m.def(
      "put",
      [](Bytes segment, size_t offset, Source data) {
        const Range range = range_of(segment, offset, data.size());
        return guarded([&] { std::memcpy(range.at, data.data(), range.count); });
      },
      "segment"_a, "offset"_a, "data"_a);
  m.def("copy", &copy, "to"_a, "to_offset"_a, "source"_a, "source_offset"_a, "count"_a);
  m.def(
      "write_back",
      [](Bytes segment, size_t offset, size_t count) {
        const Range range = range_of(segment, offset, count);
        return guarded([&] { write_back(range.at, range.count); });
      },
      "segment"_a, "offset"_a, "count"_a);
  m.def(
      "invalidate",
      [](Bytes segment, size_t offset, size_t count) {
        const Range range = range_of(segment, offset, count);
        return guarded([&] { invalidate(range.at, range.count); });
      },
      "segment"_a, "offset"_a, "count"_a);
  m.def(
      "store_word",
      [](Bytes segment, size_t offset, uint64_t value) {
        const Range range = range_of(segment, offset, sizeof value);
        if (offset % sizeof value != 0) throw std::invalid_argument("a word is aligned");
        return guarded([&] { store_word(range.at, value); });
      },
      "segment"_a, "offset"_a, "value"_a);
  m.def(
      "load_word",
      [](Bytes segment, size_t offset) -> nb::object {
        const Range range = range_of(segment, offset, sizeof(uint64_t));
        if (offset % sizeof(uint64_t) != 0) throw std::invalid_argument("a word is aligned");
        uint64_t value = 0;
        if (!guarded([&] { value = load_word(range.at); })) return nb::none();
        return nb::int_(value);
      },
      "segment"_a, "offset"_a,
      nb::sig("def load_word(segment: object, offset: int) -> int | None"));
}

nb::tuple explore(nb::object model, unsigned hosts, std::vector<uint16_t> memory,
                  std::vector<uint16_t> locals, std::vector<uint8_t> may_crash,
                  uint64_t most_states) {
  Model asked;
  asked.operation = [&](uint16_t local) {
    const nb::tuple told(model.attr("operation")(local));
    return Operation{static_cast<Kind>(nb::cast<uint8_t>(told[0])),
                     nb::cast<std::vector<uint16_t>>(told[1])};
  };
  asked.next = [&](uint16_t local, const std::vector<uint16_t>& contents) {
    return nb::cast<uint16_t>(model.attr("next")(local, contents));
  };
  asked.written = [&](uint16_t local, size_t position, uint16_t base) {
    return nb::cast<uint16_t>(model.attr("written")(local, position, base));
  };
  Explorer explorer(asked, hosts, std::move(memory), std::move(locals), std::move(may_crash));
  const Outcome outcome = explorer.explore(most_states, [] {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    return false;
  });
  nb::list trace;
  for (const Step& step : outcome.trace)
    trace.append(nb::make_tuple(step.host, static_cast<int>(step.what), step.which, step.after));
  return nb::make_tuple(outcome.states, outcome.transitions, outcome.finished, outcome.is_complete,
                        outcome.violation, trace);
}

}  // namespace

}  // namespace tidemill::cxl

void register_cxl(nb::module_& m) {
  tidemill::cxl::register_lines(m);
  m.def("explore", &tidemill::cxl::explore, "model"_a, "hosts"_a, "memory"_a, "locals"_a,
        "may_crash"_a, "most_states"_a);
}
