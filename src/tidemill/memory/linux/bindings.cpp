// What Python sees of links, page faults and page servers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstring>
#include <span>
#include <stdexcept>
#include <system_error>

#include "fault_handler.hpp"
#include "moment.hpp"
#include "page_server.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::memory {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Buffer = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Runs = nb::ndarray<const uint64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Ranges = nb::ndarray<const uint64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Released = nb::call_guard<nb::gil_scoped_release>;

std::vector<uint32_t> to_vector(const Words& words) {
  return {words.data(), words.data() + words.size()};
}

ExtentKey to_key(const nb::bytes& bytes) {
  ExtentKey key = {};
  if (bytes.size() != key.size()) throw std::invalid_argument("a key has 16 bytes");
  std::memcpy(key.data(), bytes.c_str(), key.size());
  return key;
}

void register_ranges(const Userfaultfd& faults, uint64_t base, Ranges ranges, uint64_t modes) {
  for (size_t i = 0; i < ranges.shape(0); ++i)
    faults.register_range(base + ranges(i, 0) * kPageBytes, ranges(i, 1) * kPageBytes, modes);
}

struct Run {
  uint64_t to, bytes;
  const uint8_t* from;
};

Run run_of(const Runs& runs, size_t i, const Bytes& pages) {
  const uint64_t bytes = runs(i, 1) * kPageBytes, from = runs(i, 2) * kPageBytes;
  if (from > pages.size() || bytes > pages.size() - from)
    throw std::invalid_argument("a run lies outside the pages given");
  return {runs(i, 0) * kPageBytes, bytes, pages.data() + from};
}

// Installs every run (guest page, pages, slot) before anybody reads the events: who waits for a
// page already must be woken here. The bytes moved.
uint64_t install_runs(const Userfaultfd& faults, uint64_t base, Runs runs, Bytes pages,
                      bool wakes) {
  uint64_t moved = 0;
  for (size_t i = 0; i < runs.shape(0); ++i) {
    const Run run = run_of(runs, i, pages);
    uint64_t done = 0;
    if (faults.install(base + run.to, run.from, run.bytes, kPageBytes, wakes, done) !=
        Installed::Done)
      throw std::runtime_error("pages cannot be installed before the guest runs");
    moved += run.bytes;
  }
  return moved;
}

void register_faults(nb::module_& m) {
  nb::class_<Userfaultfd>(m, "Userfaultfd")
      .def(
          "__init__",
          [](Userfaultfd* at, uint64_t features) {
            new (at) Userfaultfd(Userfaultfd::open(features));
          },
          "features"_a)
      .def_static(
          "adopt", [](int fd) { return Userfaultfd(HostFd(fd)); }, "fd"_a)
      .def_prop_ro("fd", &Userfaultfd::fd)
      .def("register", &Userfaultfd::register_range, "address"_a, "bytes"_a, "modes"_a)
      .def("register_ranges", &register_ranges, "base"_a, "ranges"_a, "modes"_a)
      .def("unregister", &Userfaultfd::unregister_range, "address"_a, "bytes"_a)
      .def("write_protect", &Userfaultfd::write_protect, "address"_a, "bytes"_a, "on"_a)
      .def("wake", &Userfaultfd::wake, "address"_a, "bytes"_a)
      .def(
          "install",
          [](const Userfaultfd& it, uint64_t to, std::optional<Bytes> from, uint64_t bytes,
             bool wakes) {
            if (from && from->size() < bytes) throw std::invalid_argument("too few bytes given");
            uint64_t done = 0;
            const uint8_t* data = from ? from->data() : nullptr;
            return it.install(to, data, bytes, kPageBytes, wakes, done) == Installed::Done;
          },
          "to"_a, "from"_a.none(), "bytes"_a, "wakes"_a = true)
      .def("install_runs", &install_runs, "base"_a, "runs"_a, "pages"_a, "wakes"_a, Released())
      .def("events", [](const Userfaultfd& it) {
        std::vector<FaultEvent> events(16);
        events.resize(it.read(events.data(), events.size()));
        std::vector<std::tuple<int, uint64_t, uint64_t, uint64_t>> found;
        for (const FaultEvent& event : events)
          found.emplace_back(event.kind, event.address, event.end, event.flags);
        return found;
      });
}

PageSource* new_source(void* at, Words place, const std::optional<Bytes>& local, Words page_at,
                       const std::optional<Words>& crc, uint32_t chunk_pages) {
  auto* source = new (at) PageSource();
  source->place = to_vector(place);
  source->page_at = to_vector(page_at);
  source->chunk_pages = std::max<uint32_t>(chunk_pages, 1);
  if (crc) source->crc = to_vector(*crc);
  if (local) source->local = local->data();
  const uint64_t locals = local ? local->size() / kPageBytes : PageSource::kLocal;
  for (const uint32_t slot : source->place)
    if (slot != PageSource::kZero &&
        ((slot & PageSource::kLocal) != 0 ? (slot & ~PageSource::kLocal) >= locals
                                          : slot >= source->page_at.size()))
      throw std::invalid_argument("a page's slot lies outside what is given");
  for (const uint32_t page : source->page_at)
    if (page >= source->place.size()) throw std::invalid_argument("a slot's page is no page");
  if (crc && source->crc.size() != source->chunks())
    throw std::invalid_argument("there must be one checksum for each chunk");
  return source;
}

// Keeps what C++ only points to alive as long as the source.
struct HeldSource {
  std::optional<Bytes> local;
  std::shared_ptr<PageSource> source;
};

void register_sources(nb::module_& m) {
  nb::class_<HeldSource>(m, "PageSource")
      .def(
          "__init__",
          [](HeldSource* at, Words place, std::optional<Bytes> local, Words page_at,
             std::optional<Words> crc, uint32_t chunk_pages, std::shared_ptr<RemotePool> remote,
             std::vector<uint64_t> bases) {
            PageSource made;
            PageSource* filled = new_source(&made, place, local, page_at, crc, chunk_pages);
            auto source = std::make_shared<PageSource>(std::move(*filled));
            source->remote = std::move(remote);
            source->bases = std::move(bases);
            new (at) HeldSource{std::move(local), std::move(source)};
          },
          "place"_a, "local"_a.none(), "page_at"_a, "crc"_a.none(), "chunk_pages"_a,
          "remote"_a.none(), "bases"_a);
  m.attr("ZERO") = PageSource::kZero;
  m.attr("LOCAL") = PageSource::kLocal;
}

nb::dict to_dict(const FaultCounts& counts) {
  nb::dict made;
  const auto put = [&](const char* name, const std::atomic<uint64_t>& value) {
    made[name] = value.load();
  };
  put("zero", counts.zero);
  put("local", counts.local);
  put("remote", counts.remote);
  put("shared", counts.shared);
  put("removed", counts.removed);
  put("local_bytes", counts.local_bytes);
  put("remote_bytes", counts.remote_bytes);
  put("remote_reads", counts.remote_reads);
  put("trickled", counts.trickled);
  put("most_under_way", counts.most_under_way);
  put("failovers", counts.failovers);
  put("requeued", counts.requeued);
  return made;
}

// The end of a process that this one did not start, by a descriptor that no other can take over.
std::shared_ptr<KillSwitch> process_switch(int pidfd) {
  return std::make_shared<KillSwitch>([pidfd](const std::string&) {
    ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  });
}

void register_handler(nb::module_& m) {
  nb::class_<KillSwitch>(m, "KillSwitch")
      .def_static("process", &process_switch, "pidfd"_a)
      .def("pull", &KillSwitch::pull, "why"_a)
      .def("disarm", &KillSwitch::disarm);
  using Range = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>;
  nb::class_<FaultHandler>(m, "FaultHandler")
      .def(
          "__init__",
          [](FaultHandler* at, const Userfaultfd& faults, const std::vector<Range>& ranges,
             const HeldSource& source, double deadline_s, bool records, bool trickles) {
            std::vector<GuestRange> all;
            for (const auto& [address, bytes, first, page] : ranges)
              all.push_back({address, bytes, first, page});
            HostFd own(::dup(faults.fd()));
            if (!own) throw std::system_error(errno, std::generic_category(), "dup");
            new (at) FaultHandler(Userfaultfd(std::move(own)), std::move(all), source.source,
                                  static_cast<int64_t>(deadline_s * 1e9), records, trickles);
          },
          "faults"_a, "ranges"_a, "source"_a, "deadline_s"_a, "records"_a, "trickles"_a,
          nb::keep_alive<1, 4>())
      .def("guard", &FaultHandler::guard, "victim"_a.none(), Released())
      .def("stop", &FaultHandler::stop, Released())
      .def_prop_ro("counts", [](const FaultHandler& it) { return to_dict(it.counts()); })
      .def_prop_ro("failure", &FaultHandler::failure)
      .def("touches", [](const FaultHandler& it) {
        std::vector<std::tuple<uint32_t, int64_t>> all;
        for (const Touch& touch : it.touches()) all.emplace_back(touch.page, touch.at_ns);
        return all;
      });
}

std::tuple<int, uint64_t, uint64_t> ask(RemotePool& pool, size_t replica, int verb, nb::bytes key,
                                        uint64_t bytes) {
  Request request;
  request.verb = static_cast<Verb>(verb);
  request.key = to_key(key);
  request.bytes = bytes;
  const nb::gil_scoped_release release;
  const Reply reply = pool.call(replica, request);
  return {static_cast<int>(reply.answer), reply.offset, reply.bytes};
}

// An extent that one server keeps for us.
struct HeldThere {
  Reply reply;
  std::unique_ptr<PageConnection> connection;
};

void register_servers(nb::module_& m) {
  nb::class_<HeldThere>(m, "HeldThere")
      .def_prop_ro("answer", [](const HeldThere& it) { return static_cast<int>(it.reply.answer); })
      .def_prop_ro("offset", [](const HeldThere& it) { return it.reply.offset; })
      .def_prop_ro("bytes", [](const HeldThere& it) { return it.reply.bytes; })
      .def("close", [](HeldThere& it) { it.connection.reset(); });
  nb::class_<RemotePool>(m, "RemotePool")
      .def(
          "__init__",
          [](RemotePool* at, std::vector<std::string> addresses, int64_t latency_ns,
             double bytes_per_ns, uint32_t outstanding, double timeout_s) {
            new (at) RemotePool(std::move(addresses), {latency_ns, bytes_per_ns, outstanding},
                                static_cast<int64_t>(timeout_s * 1e9));
          },
          "addresses"_a, "latency_ns"_a, "bytes_per_ns"_a, "outstanding"_a, "timeout_s"_a)
      .def(
          "hold",
          [](RemotePool& it, size_t replica, const nb::bytes& key) {
            const ExtentKey wanted = to_key(key);
            const nb::gil_scoped_release release;
            auto [reply, connection] = it.hold(replica, wanted);
            return HeldThere{reply, std::move(connection)};
          },
          "replica"_a, "key"_a)
      .def("ask", &ask, "replica"_a, "verb"_a, "key"_a, "bytes"_a)
      .def(
          "get",
          [](RemotePool& it, size_t replica, uint64_t offset, Buffer into) {
            const nb::gil_scoped_release release;
            it.get(replica, offset, {into.data(), into.size()});
          },
          "replica"_a, "offset"_a, "into"_a)
      .def(
          "put",
          [](RemotePool& it, size_t replica, uint64_t offset, Bytes from) {
            const nb::gil_scoped_release release;
            it.put(replica, offset, {from.data(), from.size()});
          },
          "replica"_a, "offset"_a, "from"_a);
  nb::class_<PageServer>(m, "PageServer")
      .def(nb::init<const std::string&, uint64_t>(), "address"_a, "bytes"_a)
      .def_prop_ro("address", &PageServer::address)
      .def("run", &PageServer::run, Released())
      .def("stop", &PageServer::stop);
}

void register_links(nb::module_& m) {
  nb::class_<LinkClock>(m, "LinkClock")
      .def(
          "__init__",
          [](LinkClock* at, int64_t latency_ns, double bytes_per_ns) {
            new (at) LinkClock(Link{latency_ns, bytes_per_ns, 1});
          },
          "latency_ns"_a, "bytes_per_ns"_a)
      .def("complete_at", &LinkClock::complete_at, "now_ns"_a, "bytes"_a);
  m.def("now_ns", &now_ns);
  m.def("wait_until", &wait_until, "moment_ns"_a, Released());
}

// Puts part of a file over part of a mapping that the caller owns.
void map_over(uint64_t address, uint64_t bytes, int fd, uint64_t offset) {
  void* at = ::mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  ::madvise(at, bytes, MADV_DONTFORK);
}

// Takes fresh memory from the kernel before anybody touches it, a range at a time instead of a
// fault at a time. Never where faults are handled in user space: it would wait for an answer for
// ever.
void populate(uint64_t base, Ranges ranges) {
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, in headers since 5.14
  for (size_t i = 0; i < ranges.shape(0); ++i) {
    void* at = reinterpret_cast<void*>(base + ranges(i, 0) * kPageBytes);
    if (::madvise(at, ranges(i, 1) * kPageBytes, kPopulateWrite) == 0) continue;
    if (errno == EINVAL) return;  // an older kernel: the faults come one by one
    throw std::system_error(errno, std::generic_category(), "MADV_POPULATE_WRITE");
  }
}

// Has fresh ranges of whole huge pages made of such, where the kernel has any left, and takes them.
void populate_huge(uint64_t base, Ranges ranges) {
  for (size_t i = 0; i < ranges.shape(0); ++i)
    ::madvise(reinterpret_cast<void*>(base + ranges(i, 0) * kPageBytes), ranges(i, 1) * kPageBytes,
              MADV_HUGEPAGE);  // a kernel without them gives small ones
  populate(base, ranges);
}

// Copies every run (guest page, pages, slot) into memory that nobody watches. The bytes moved.
uint64_t copy_runs(uint64_t base, Runs runs, Bytes pages) {
  uint64_t moved = 0;
  for (size_t i = 0; i < runs.shape(0); ++i) {
    const Run run = run_of(runs, i, pages);
    std::memcpy(reinterpret_cast<void*>(base + run.to), run.from, run.bytes);
    moved += run.bytes;
  }
  return moved;
}

}  // namespace

}  // namespace tidemill::memory

void register_paging(nb::module_& m) {
  using namespace tidemill::memory;
  nb::register_exception_translator(
      [](const std::exception_ptr& error, void*) {
        try {
          std::rethrow_exception(error);
        } catch (const std::system_error& failed) {
          const nb::object arguments = nb::make_tuple(failed.code().value(), failed.what());
          PyErr_SetObject(PyExc_OSError, arguments.ptr());
        }
      },
      nullptr);
  register_links(m);
  register_faults(m);
  register_servers(m);
  register_sources(m);
  register_handler(m);
  m.def("populate", &populate, "base"_a, "ranges"_a, Released());
  m.def("populate_huge", &populate_huge, "base"_a, "ranges"_a, Released());
  m.def("copy_runs", &copy_runs, "base"_a, "runs"_a, "pages"_a, Released());
  m.def("map_over", &map_over, "address"_a, "bytes"_a, "fd"_a, "offset"_a);
}
