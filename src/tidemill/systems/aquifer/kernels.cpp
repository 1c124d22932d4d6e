// What Python sees of the monitor. The GIL is released while a guest runs.
#include <nanobind/nanobind.h>

#if defined(__linux__) && defined(__x86_64__)

#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>

#include "../../memory/crc32c.hpp"
#include "../../memory/linux/kill_switch.hpp"
#include "vmm/vm.hpp"
#include "vmm/zero_pages.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::aquifer {

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Memory = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

nb::bytes to_bytes(const std::string& text) { return nb::bytes(text.data(), text.size()); }

const char* name_of(End end) {
  switch (end) {
    case End::Waiting:
      return "waiting";
    case End::Exited:
      return "exited";
    case End::Killed:
      return "killed";
    case End::Refused:
      return "refused";
    case End::CpuTime:
    case End::WallTime:
      return "timeout";
    case End::Interrupted:
      return "interrupted";
    default:
      return "broken";
  }
}

// One machine and the right of one thread at a time to run it.
class Machine {
 public:
  Machine(std::shared_ptr<GuestMemory> memory, std::vector<std::string> roots, uint64_t descriptors)
      : memory_(std::move(memory)),
        vm_(memory_, std::move(roots), Limits{descriptors}),
        kill_switch_(std::make_shared<memory::KillSwitch>(
            [this](const std::string& why) { vm_.doom(why); })) {}
  Machine(const Machine&) = delete;
  ~Machine() { kill_switch_->disarm(); }

  void start(std::string path, std::vector<std::string> arguments,
             std::vector<std::string> environment, std::string working_folder) {
    vm_.start(
        {std::move(path), std::move(arguments), std::move(environment), std::move(working_folder)});
  }
  void restore(nb::bytes state) {
    vm_.restore({reinterpret_cast<const uint8_t*>(state.c_str()), state.size()});
  }
  nb::bytes save() {
    const Turn turn(*this);
    return to_bytes(vm_.save());
  }
  void request(nb::bytes bytes) {
    const Turn turn(*this);
    if (bytes.size() > Channel::kMostBytes)
      throw std::invalid_argument("a request is at most 64 MiB");
    vm_.process().channel.put({bytes.c_str(), bytes.size()});
  }
  nb::bytes answer() {
    const Turn turn(*this);
    return to_bytes(vm_.process().channel.take_answer());
  }
  const char* run(double cpu_s, double wall_s) {
    const Turn turn(*this);
    const Budget budget = {
        host_clock(CLOCK_MONOTONIC) + static_cast<int64_t>(wall_s * kSecond),
        vm_.process().clocks.processor() + static_cast<int64_t>(cpu_s * kSecond)};
    End end = End::Interrupted;
    while (end == End::Interrupted) {
      {
        const nb::gil_scoped_release release;
        end = vm_.run(budget);
      }
      if (end == End::Interrupted && PyErr_CheckSignals() != 0) throw nb::python_error();
      if (stop_.exchange(false)) break;
    }
    return name_of(end);
  }
  void interrupt() {
    stop_ = true;
    vm_.interrupt();
  }
  std::shared_ptr<memory::KillSwitch> kill_switch() const { return kill_switch_; }
  nb::bytes output(unsigned stream) {
    const Turn turn(*this);
    return to_bytes(vm_.process().output.at(stream));
  }
  const Process& process() {
    const Turn turn(*this);
    return vm_.process();
  }
  uint64_t exits() const { return vm_.exits(); }

 private:
  class Turn {
   public:
    explicit Turn(Machine& machine) : machine_(machine) {
      if (machine_.busy_.exchange(true))
        throw std::runtime_error("another thread is running this virtual machine");
    }
    Turn(const Turn&) = delete;
    ~Turn() { machine_.busy_ = false; }

   private:
    Machine& machine_;
  };

  std::shared_ptr<GuestMemory> memory_;
  Vm vm_;
  std::shared_ptr<memory::KillSwitch> kill_switch_;
  std::atomic<bool> busy_ = false, stop_ = false;
};

Memory view(const std::shared_ptr<GuestMemory>& memory) {
  auto* held = new std::shared_ptr<GuestMemory>(memory);
  const nb::capsule owner(
      held, [](void* at) noexcept { delete static_cast<std::shared_ptr<GuestMemory>*>(at); });
  return Memory(memory->data(), {memory->size()}, owner);
}

void register_memory(nb::module_& m) {
  nb::class_<GuestMemory>(m, "GuestMemory")
      .def_static(
          "anonymous",
          [](uint64_t size, bool supplied) {
            return GuestMemory::anonymous(size, supplied ? Backing::Supplied : Backing::Anonymous);
          },
          "size"_a, "supplied"_a)
      .def_static("file", &GuestMemory::file, "fd"_a, "offset"_a, "size"_a)
      .def_prop_ro("address",
                   [](const GuestMemory& it) { return reinterpret_cast<uint64_t>(it.data()); })
      .def_prop_ro("size", &GuestMemory::size)
      .def("view", &view)
      .def(
          "find_nonzero",
          [](const GuestMemory& it, Bytes found) {
            if (found.size() != it.size() / kPage)
              throw std::invalid_argument("found must hold one byte for each page");
            const nb::gil_scoped_release release;
            return find_nonzero(it, found.data());
          },
          "found"_a);
  m.def(
      "find_nonzero",
      [](Image image, Bytes found) {
        if (image.size() % kPage != 0 || found.size() != image.size() / kPage)
          throw std::invalid_argument("image must hold whole pages, found one byte for each");
        const nb::gil_scoped_release release;
        return find_nonzero(image.data(), found.size(), found.data());
      },
      "image"_a, "found"_a);
  m.def(
      "crc32c",
      [](Image bytes, uint32_t before) {
        const nb::gil_scoped_release release;
        return memory::crc32c({bytes.data(), bytes.size()}, before);
      },
      "bytes"_a, "before"_a = 0);
}

void register_machine(nb::module_& m) {
  nb::class_<Machine>(m, "Machine")
      .def(nb::init<std::shared_ptr<GuestMemory>, std::vector<std::string>, uint64_t>(), "memory"_a,
           "roots"_a, "descriptors"_a)
      .def("start", &Machine::start, "path"_a, "arguments"_a, "environment"_a, "working_folder"_a)
      .def("restore", &Machine::restore, "state"_a)
      .def("save", &Machine::save)
      .def("request", &Machine::request, "request"_a)
      .def("answer", &Machine::answer)
      .def("run", &Machine::run, "cpu_s"_a, "wall_s"_a)
      .def("interrupt", &Machine::interrupt)
      .def("output", &Machine::output, "stream"_a)
      .def_prop_ro("kill_switch", &Machine::kill_switch)
      .def_prop_ro("code", [](Machine& it) { return it.process().code; })
      .def_prop_ro("message", [](Machine& it) { return it.process().message; })
      .def_prop_ro("warnings", [](Machine& it) { return it.process().warnings; })
      .def_prop_ro("syscalls", [](Machine& it) { return it.process().syscalls; })
      .def_prop_ro("exits", &Machine::exits)
      .def_prop_ro("dropped",
                   [](Machine& it) { return it.process().dropped[1] + it.process().dropped[2]; })
      .def_prop_ro("cpu_s", [](Machine& it) {
        return static_cast<double>(it.process().clocks.processor()) / kSecond;
      });
}

}  // namespace

}  // namespace tidemill::aquifer

void register_aquifer(nb::module_& m) {
  using namespace tidemill::aquifer;
  m.attr("PAGE") = kPage;
  register_memory(m);
  register_machine(m);
}

#else

void register_aquifer(nanobind::module_&) {}  // KVM on x86-64 only

#endif
