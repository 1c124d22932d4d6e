// A thread that answers a guest's page faults: from local memory at once, from page servers as they
// answer. It never waits for a server while another fault could be served.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "chunk_reader.hpp"
#include "host_fd.hpp"
#include "kill_switch.hpp"
#include "page_source.hpp"
#include "userfaultfd.hpp"

namespace tidemill::memory {

// Part of a guest's memory: where it is mapped, and the guest page that it begins with.
struct GuestRange {
  uint64_t address = 0, bytes = 0, first_page = 0;
  uint64_t page_bytes = kPageBytes;  // what one fault is answered with: 4 KiB, or a huge page
};

struct FaultCounts {
  std::atomic<uint64_t> zero = 0, local = 0, remote = 0;  // faults, by where the page came from
  std::atomic<uint64_t> shared = 0;   // of the remote ones: the page was on its way already
  std::atomic<uint64_t> removed = 0;  // pages that the guest gave back
  std::atomic<uint64_t> local_bytes = 0, remote_bytes = 0;
  std::atomic<uint64_t> trickled = 0;  // of the remote reads: nobody had touched their pages
  std::atomic<uint64_t> remote_reads = 0, most_under_way = 0, failovers = 0, requeued = 0;
};

struct Touch {
  uint32_t page = 0;
  int64_t at_ns = 0;  // since the handler began
};

class FaultHandler {
 public:
  FaultHandler(Userfaultfd faults, std::vector<GuestRange> ranges,
               std::shared_ptr<const PageSource> source, int64_t deadline_ns, bool records,
               bool trickles);
  FaultHandler(const FaultHandler&) = delete;
  ~FaultHandler();

  // Whom to kill when a page cannot be had in time; at once if that has happened already.
  void guard(std::shared_ptr<KillSwitch> victim);
  void stop();
  const FaultCounts& counts() const { return counts_; }
  std::string failure() const;
  std::vector<Touch> touches() const;

 private:
  // Pages to install that were refused because an event had to be read first.
  struct Pending {
    uint64_t to, bytes, page_bytes;
    std::shared_ptr<uint8_t[]> data;  // null: zero pages
    const uint8_t* from;
    uint64_t done;
  };
  struct Chunk {
    uint64_t wanted = 0;           // one bit for each of its pages that somebody waits for
    std::vector<uint64_t> blocks;  // huge pages that wait for it
  };
  struct Block {  // a huge page that is being put together
    const GuestRange* range;
    std::unique_ptr<uint8_t[]> data;
    uint64_t missing = 0;  // chunks
  };

  void serve();
  void serve_once();
  void trickle();
  bool may_trickle() const { return trickles_ && next_chunk_ < asked_.size(); }
  void wait();
  bool read_events();
  void on_fault(uint64_t address);
  void on_remove(uint64_t start, uint64_t end);
  void begin_block(const GuestRange& range, uint64_t index);
  void finish_block(uint64_t first_page);
  Chunk& want_chunk(uint64_t chunk);
  void install_chunk(ChunkRead& read);
  void add_to_block(uint64_t first_page, uint64_t first_slot, uint64_t count, const uint8_t* data);
  void install(Pending pending);
  void install_zero(uint64_t address, uint64_t page_bytes);
  void fail(const std::string& why);
  void release_all();
  const GuestRange* range_of(uint64_t address) const;
  const GuestRange* range_of_page(uint64_t page) const;
  bool is_removed(uint64_t page) const { return !removed_.empty() && removed_[page]; }
  void record(uint64_t page);

  const Userfaultfd faults_;
  const std::vector<GuestRange> ranges_;
  const std::shared_ptr<const PageSource> source_;
  const bool records_, trickles_;
  const int64_t began_ns_;
  HostFd stop_;
  std::unique_ptr<ChunkReader> reader_;
  std::unordered_map<uint64_t, Chunk> chunks_;
  std::unordered_map<uint64_t, Block> blocks_;
  std::deque<Pending> pending_;
  std::vector<bool> removed_, asked_;  // pages; chunks, if the rest trickles in
  uint64_t next_chunk_ = 0;
  int64_t last_fault_ns_ = 0;
  FaultCounts counts_;
  bool has_failed_ = false, is_gone_ = false;
  mutable std::mutex mutex_;  // of what follows
  std::string failure_;
  std::shared_ptr<KillSwitch> victim_;
  std::vector<Touch> touches_;
  std::thread thread_;
};

}  // namespace tidemill::memory
