#include "fault_handler.hpp"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <system_error>

#include "moment.hpp"

namespace tidemill::memory {

namespace {

constexpr size_t kBatch = 16;
constexpr int64_t kRetryNs = 100'000;   // after a refusal, if no event comes
constexpr int64_t kIdleNs = 2'000'000;  // without a fault, before the rest trickles in
constexpr size_t kTrickle = 2;          // reads under way; more would hold up a fault

void raise_to(std::atomic<uint64_t>& most, uint64_t value) {
  if (value > most) most = value;
}

}  // namespace

FaultHandler::FaultHandler(Userfaultfd faults, std::vector<GuestRange> ranges,
                           std::shared_ptr<const PageSource> source, int64_t deadline_ns,
                           bool records, bool trickles)
    : faults_(std::move(faults)),
      ranges_(std::move(ranges)),
      source_(std::move(source)),
      records_(records),
      trickles_(trickles),
      began_ns_(now_ns()),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  for (const GuestRange& range : ranges_)
    if (range.first_page + range.bytes / kPageBytes > source_->place.size() ||
        range.page_bytes % kPageBytes != 0 || range.bytes % range.page_bytes != 0)
      throw std::invalid_argument("a region reaches beyond the snapshot, or is not whole pages");
  if (source_->chunk_pages == 0 || source_->chunk_pages > 64)
    throw std::invalid_argument("a chunk has 1 to 64 pages");
  if (!source_->page_at.empty()) {
    if (!source_->remote || source_->bases.size() != source_->remote->replicas())
      throw std::invalid_argument("remote pages need a pool and where they begin on each server");
    reader_ = std::make_unique<ChunkReader>(source_->remote, source_->bases, deadline_ns);
    asked_.resize(source_->chunks());
  }
  thread_ = std::thread([this] { serve(); });
}

FaultHandler::~FaultHandler() { stop(); }

void FaultHandler::stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
  thread_.join();
}

void FaultHandler::guard(std::shared_ptr<KillSwitch> victim) {
  const std::lock_guard lock(mutex_);
  victim_ = std::move(victim);
  if (victim_ && !failure_.empty()) victim_->pull(failure_);
}

std::string FaultHandler::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

std::vector<Touch> FaultHandler::touches() const {
  const std::lock_guard lock(mutex_);
  return touches_;
}

void FaultHandler::serve() {
  for (uint64_t stops = 0; ::read(stop_.get(), &stops, sizeof stops) <= 0; wait()) {
    try {
      serve_once();
    } catch (const std::exception& error) {
      is_gone_ = has_failed_;  // there is nothing left to try
      fail(error.what());
    }
  }
}

void FaultHandler::serve_once() {
  while (read_events()) {
  }
  for (size_t left = pending_.size(); left > 0; --left) {
    Pending again = std::move(pending_.front());
    pending_.pop_front();
    install(std::move(again));
  }
  if (!reader_ || has_failed_) return;
  std::vector<ChunkRead> ready;
  reader_->pump(ready);
  for (ChunkRead& read : ready) install_chunk(read);
  trickle();
  counts_.failovers = reader_->failovers();
  if (!reader_->failure().empty()) fail(reader_->failure());
}

// Chunks that nobody has touched, in address order, while nobody touches any.
void FaultHandler::trickle() {
  if (!may_trickle() || now_ns() - last_fault_ns_ < kIdleNs) return;
  for (; next_chunk_ < asked_.size() && reader_->under_way() < kTrickle; ++next_chunk_) {
    if (asked_[next_chunk_]) continue;
    want_chunk(next_chunk_);
    ++counts_.trickled;
  }
  std::vector<ChunkRead> ready;
  reader_->pump(ready);  // sends them
  for (ChunkRead& read : ready) install_chunk(read);
}

// For an event, an answer of a server, the time of a read that the link still delays, or the end.
void FaultHandler::wait() {
  int64_t next = pending_.empty() ? std::numeric_limits<int64_t>::max() : now_ns() + kRetryNs;
  if (reader_ && !has_failed_) next = std::min(next, reader_->next_ns());
  if (may_trickle() && !has_failed_ && reader_->under_way() == 0)
    next = std::min(next, last_fault_ns_ + kIdleNs);
  std::array<pollfd, 3> on = {
      {{is_gone_ ? -1 : faults_.fd(), POLLIN, 0},
       {stop_.get(), POLLIN, 0},
       {reader_ && !has_failed_ ? reader_->fd() : -1, reader_ ? reader_->events() : short{0}, 0}}};
  timespec time = {};
  const bool is_bounded = next != std::numeric_limits<int64_t>::max();
  if (is_bounded) {
    const int64_t left = std::max<int64_t>(next - now_ns(), 0);
    time = {left / 1'000'000'000, left % 1'000'000'000};
  }
  ::ppoll(on.data(), on.size(), is_bounded ? &time : nullptr, nullptr);
  if ((on[0].revents & (POLLERR | POLLHUP)) != 0) is_gone_ = true;
}

bool FaultHandler::read_events() {
  if (is_gone_) return false;
  std::array<FaultEvent, kBatch> events;
  const size_t count = faults_.read(events.data(), events.size());
  for (size_t i = 0; i < count; ++i) {
    const FaultEvent& event = events[i];
    if (event.kind == UFFD_EVENT_PAGEFAULT)
      on_fault(event.address);
    else if (event.kind == UFFD_EVENT_REMOVE || event.kind == UFFD_EVENT_UNMAP)
      on_remove(event.address, event.end);
  }
  // Reads that these faults need go out now; they are not held up by further faults.
  return count == events.size();
}

const GuestRange* FaultHandler::range_of(uint64_t address) const {
  for (const GuestRange& range : ranges_)
    if (address >= range.address && address - range.address < range.bytes) return &range;
  return nullptr;
}

const GuestRange* FaultHandler::range_of_page(uint64_t page) const {
  for (const GuestRange& range : ranges_)
    if (page >= range.first_page && page - range.first_page < range.bytes / kPageBytes)
      return &range;
  return nullptr;
}

void FaultHandler::record(uint64_t page) {
  if (!records_) return;
  const std::lock_guard lock(mutex_);
  touches_.push_back({static_cast<uint32_t>(page), now_ns() - began_ns_});
}

void FaultHandler::on_fault(uint64_t address) {
  const GuestRange* range = range_of(address);
  if (range == nullptr) return;  // registered by somebody else
  const uint64_t index = (address - range->address) / range->page_bytes;
  const uint64_t at = range->address + index * range->page_bytes;
  const uint64_t page = range->first_page + index * (range->page_bytes / kPageBytes);
  record(page);
  if (trickles_) last_fault_ns_ = now_ns();
  if (has_failed_) {
    install_zero(at, range->page_bytes);
  } else if (range->page_bytes != kPageBytes) {
    begin_block(*range, index);
  } else if (const uint32_t place = source_->place[page];
             place == PageSource::kZero || is_removed(page)) {
    ++counts_.zero;
    install_zero(at, kPageBytes);
  } else if ((place & PageSource::kLocal) == 0) {
    ++counts_.remote;
    want_chunk(place / source_->chunk_pages).wanted |= uint64_t{1}
                                                       << (place % source_->chunk_pages);
  } else if (source_->local == nullptr) {
    fail("a page was asked for that is not kept here; it was to be installed before the start");
    install_zero(at, kPageBytes);
  } else {
    ++counts_.local;
    counts_.local_bytes += kPageBytes;
    const uint64_t slot = place & ~PageSource::kLocal;
    install({at, kPageBytes, kPageBytes, nullptr, source_->local + slot * kPageBytes, 0});
  }
}

FaultHandler::Chunk& FaultHandler::want_chunk(uint64_t chunk) {
  const auto [at, is_new] = chunks_.try_emplace(chunk);
  if (is_new) {
    asked_[chunk] = true;
    ChunkRead read;
    read.tag = chunk;
    read.offset = chunk * source_->chunk_pages * kPageBytes;
    read.bytes = source_->chunk_bytes(chunk);
    if (!source_->crc.empty()) read.crc = source_->crc[chunk];
    reader_->ask(std::move(read));
    ++counts_.remote_reads;
    raise_to(counts_.most_under_way, reader_->under_way());
  } else {
    ++counts_.shared;
  }
  return at->second;
}

// Runs of pages that follow one another in the guest are installed by one call.
void FaultHandler::install_chunk(ChunkRead& read) {
  const Chunk chunk = std::move(chunks_.extract(read.tag).mapped());
  counts_.remote_bytes += read.bytes;
  const std::shared_ptr<uint8_t[]> data(read.data.release());
  const uint64_t first = read.tag * source_->chunk_pages;
  const uint64_t count = read.bytes / kPageBytes;
  uint64_t i = 0;
  while (i < count) {
    const uint64_t page = source_->page_at[first + i];
    const GuestRange* range = range_of_page(page);
    uint64_t run = 1;
    if (range != nullptr && range->page_bytes == kPageBytes) {
      const uint64_t at = range->address + (page - range->first_page) * kPageBytes;
      if (is_removed(page)) {
        if ((chunk.wanted >> i & 1) != 0) install_zero(at, kPageBytes);
      } else {
        const uint64_t end = range->first_page + range->bytes / kPageBytes;
        while (i + run < count && page + run < end &&
               source_->page_at[first + i + run] == page + run && !is_removed(page + run))
          ++run;
        install({at, run * kPageBytes, kPageBytes, data, data.get() + i * kPageBytes, 0});
      }
    }
    i += run;
  }
  for (const uint64_t block : chunk.blocks) add_to_block(block, first, count, data.get());
}

void FaultHandler::add_to_block(uint64_t first_page, uint64_t first_slot, uint64_t count,
                                const uint8_t* data) {
  Block& block = blocks_.at(first_page);
  const uint64_t pages = block.range->page_bytes / kPageBytes;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t page = source_->page_at[first_slot + i];
    if (page >= first_page && page - first_page < pages && !is_removed(page))
      std::memcpy(block.data.get() + (page - first_page) * kPageBytes, data + i * kPageBytes,
                  kPageBytes);
  }
  if (--block.missing == 0) finish_block(first_page);
}

void FaultHandler::begin_block(const GuestRange& range, uint64_t index) {
  const uint64_t pages = range.page_bytes / kPageBytes;
  const uint64_t first = range.first_page + index * pages;
  const auto [at, is_new] = blocks_.try_emplace(first);
  if (!is_new) {
    ++counts_.shared;
    return;
  }
  Block& block = at->second;
  block.range = &range;
  block.data = std::make_unique<uint8_t[]>(range.page_bytes);
  std::vector<uint64_t> chunks;
  for (uint64_t i = 0; i < pages; ++i) {
    const uint32_t place = source_->place[first + i];
    if (place == PageSource::kZero || is_removed(first + i)) continue;
    if ((place & PageSource::kLocal) != 0) {
      if (source_->local == nullptr) return fail("a page was asked for that is not kept here");
      const uint64_t slot = place & ~PageSource::kLocal;
      std::memcpy(block.data.get() + i * kPageBytes, source_->local + slot * kPageBytes,
                  kPageBytes);
      counts_.local_bytes += kPageBytes;
    } else if (const uint64_t chunk = place / source_->chunk_pages;
               chunks.empty() || chunks.back() != chunk) {
      chunks.push_back(chunk);
    }
  }
  ++(chunks.empty() ? counts_.local : counts_.remote);
  block.missing = chunks.size();
  for (const uint64_t chunk : chunks) want_chunk(chunk).blocks.push_back(first);
  if (chunks.empty()) finish_block(first);
}

void FaultHandler::finish_block(uint64_t first_page) {
  Block block = std::move(blocks_.extract(first_page).mapped());
  const GuestRange& range = *block.range;
  const std::shared_ptr<uint8_t[]> data(block.data.release());
  const uint64_t at = range.address + (first_page - range.first_page) * kPageBytes;
  install({at, range.page_bytes, range.page_bytes, data, data.get(), 0});
}

void FaultHandler::install_zero(uint64_t address, uint64_t page_bytes) {
  if (page_bytes == kPageBytes) return install({address, kPageBytes, kPageBytes, {}, nullptr, 0});
  // The kernel has no zero page of that size.
  const std::shared_ptr<uint8_t[]> data(new uint8_t[page_bytes]());
  install({address, page_bytes, page_bytes, data, data.get(), 0});
}

void FaultHandler::install(Pending pending) {
  const Installed outcome = faults_.install(pending.to, pending.from, pending.bytes,
                                            pending.page_bytes, true, pending.done);
  if (outcome == Installed::Gone) is_gone_ = true;
  if (outcome != Installed::Again) return;
  ++counts_.requeued;
  pending_.push_back(std::move(pending));
}

// The kernel holds the guest up until this event is read; the pages go right after. What is about
// to be installed there must not come back.
void FaultHandler::on_remove(uint64_t start, uint64_t end) {
  if (removed_.empty()) removed_.resize(source_->place.size());
  for (const GuestRange& range : ranges_) {
    const uint64_t from = std::max(start, range.address);
    const uint64_t to = std::min(end, range.address + range.bytes);
    for (uint64_t at = from; at < to; at += kPageBytes) {
      removed_[range.first_page + (at - range.address) / kPageBytes] = true;
      ++counts_.removed;
    }
  }
  for (Pending& pending : pending_) {
    const uint64_t from = std::max(start, pending.to),
                   to = std::min(end, pending.to + pending.bytes);
    if (from >= to) continue;
    if (pending.data)
      std::memset(pending.data.get() + (pending.from - pending.data.get()) + (from - pending.to), 0,
                  to - from);
    else
      pending.from = nullptr;  // one page of local memory, which is not ours to write
  }
  for (auto& [page, block] : blocks_) {
    const uint64_t at = block.range->address + (page - block.range->first_page) * kPageBytes;
    const uint64_t from = std::max(start, at), to = std::min(end, at + block.range->page_bytes);
    if (from < to) std::memset(block.data.get() + (from - at), 0, to - from);
  }
}

// First the guest is doomed, then its waiters are let go: what they compute reaches nobody.
void FaultHandler::fail(const std::string& why) {
  if (has_failed_) return;
  has_failed_ = true;
  {
    const std::lock_guard lock(mutex_);
    failure_ = why;
    if (victim_) victim_->pull(why);
  }
  try {
    release_all();
  } catch (const std::exception&) {
    is_gone_ = true;  // nobody can be let go; the guest is doomed anyway
  }
}

void FaultHandler::release_all() {
  for (const auto& [number, chunk] : chunks_)
    for (uint64_t i = 0; i < source_->chunk_pages; ++i)
      if ((chunk.wanted >> i & 1) != 0) {
        const uint64_t page = source_->page_at[number * source_->chunk_pages + i];
        const GuestRange* range = range_of_page(page);
        if (range != nullptr)
          install_zero(range->address + (page - range->first_page) * kPageBytes, kPageBytes);
      }
  for (const auto& [page, block] : blocks_)
    install_zero(block.range->address + (page - block.range->first_page) * kPageBytes,
                 block.range->page_bytes);
  chunks_.clear();
  blocks_.clear();
}

}  // namespace tidemill::memory
