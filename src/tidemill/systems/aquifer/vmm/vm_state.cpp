// A waiting machine without its memory as bytes: "AQV1", CRC32C of the rest, processor, process.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>

#include "../../../memory/crc32c.hpp"
#include "state_stream.hpp"
#include "syscalls.hpp"
#include "vm.hpp"

namespace tidemill::aquifer {

namespace {

constexpr uint32_t kMagic = 0x31565141;  // "AQV1"
constexpr size_t kHead = 8;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

void put_processor(StateWriter& out, const ProcessorState& state) {
  out.put(state.regs);
  out.put(state.fs_base);
  out.put(state.gs_base);
  out.put(state.xsave);
  out.put_all(state.cpuid);
}

ProcessorState get_processor(StateReader& in) {
  ProcessorState state;
  state.regs = in.get<kvm_regs>();
  state.fs_base = in.get<uint64_t>();
  state.gs_base = in.get<uint64_t>();
  state.xsave = in.get<decltype(state.xsave)>();
  state.cpuid = in.all<kvm_cpuid_entry2>(256);
  return state;
}

struct FileMark {
  int64_t size, seconds, nanoseconds;
  bool operator==(const FileMark&) const = default;
};

FileMark mark_of(const OpenFile& file) {
  return {file.status.st_size, file.status.st_mtim.tv_sec, file.status.st_mtim.tv_nsec};
}

void put_file(StateWriter& out, const OpenFile& file) {
  const bool is_folder = file.kind == FileKind::Folder;
  out.put(file.kind);
  out.put(file.stream);
  out.put(file.flags);
  out.put(is_folder ? static_cast<uint64_t>(::lseek(file.host.get(), 0, SEEK_CUR)) : file.offset);
  out.put(mark_of(file));
  out.put_text(file.path);
}

// Files of the host are opened anew below the roots of *this* machine and must be what they were.
std::shared_ptr<OpenFile> get_file(StateReader& in, const Process& process) {
  auto file = std::make_shared<OpenFile>();
  file->kind = in.get<FileKind>();
  file->stream = in.get<uint8_t>();
  file->flags = in.get<uint32_t>();
  file->offset = in.get<uint64_t>();
  const auto mark = in.get<FileMark>();
  file->path = in.text();
  if (file->kind > FileKind::Folder || file->stream > 2) refuse("the state holds an unknown file");
  if (file->kind < FileKind::Regular) return file;
  auto opened = open_file(process, file->path, file->flags & (O_DIRECTORY | O_NOFOLLOW));
  if (std::holds_alternative<int>(opened))
    refuse(file->path + ", which the guest has open: " + std::strerror(-std::get<int>(opened)));
  auto& again = std::get<std::shared_ptr<OpenFile>>(opened);
  if (again->kind != file->kind || (file->kind == FileKind::Regular && mark_of(*again) != mark))
    refuse(file->path + ", which the guest has open, was changed since the snapshot");
  again->flags = file->flags;
  again->offset = file->offset;
  if (file->kind == FileKind::Folder)
    ::lseek(again->host.get(), static_cast<off_t>(file->offset), SEEK_SET);
  return again;
}

void put_files(StateWriter& out, const FdTable& files) {
  std::map<const OpenFile*, uint32_t> order;
  std::vector<const OpenFile*> distinct;
  for (const auto& [fd, descriptor] : files.all())
    if (order.emplace(descriptor.file.get(), distinct.size()).second)
      distinct.push_back(descriptor.file.get());
  out.put(static_cast<uint64_t>(distinct.size()));
  for (const OpenFile* file : distinct) put_file(out, *file);
  out.put(static_cast<uint64_t>(files.all().size()));
  for (const auto& [fd, descriptor] : files.all()) {
    out.put(fd);
    out.put(order.at(descriptor.file.get()));
    out.put(descriptor.close_on_exec);
  }
}

void get_files(StateReader& in, Process& process) {
  const uint64_t most = process.files.limit() + 3;
  std::vector<std::shared_ptr<OpenFile>> distinct(in.length(most));
  for (auto& file : distinct) file = get_file(in, process);
  const uint64_t count = in.length(most);
  for (uint64_t i = 0; i < count; ++i) {
    const int fd = in.get<int>();
    const auto index = in.get<uint32_t>();
    const auto close_on_exec = in.get<uint8_t>() != 0;
    if (index >= distinct.size() || process.files.add_at(fd, {distinct[index], close_on_exec}) < 0)
      refuse("the state holds an impossible descriptor");
  }
}

void put_process(StateWriter& out, const Process& process) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges(process.space.taken().begin(),
                                                    process.space.taken().end());
  out.put(static_cast<uint64_t>(ranges.size()));
  for (const auto& [start, end] : ranges) {
    out.put(start);
    out.put(end);
  }
  out.put(process.brk_start);
  out.put(process.brk_end);
  out.put(process.fs_base);
  out.put(process.gs_base);
  out.put(process.actions);
  out.put(process.signal_mask);
  out.put(process.clocks.monotonic());
  out.put(process.clocks.processor());
  out.put_text(process.executable);
  out.put_text(process.working_folder);
  put_files(out, process.files);
}

void get_process(StateReader& in, Process& process) {
  const uint64_t ranges = in.length(AddressSpace::kMostRanges);
  for (uint64_t i = 0; i < ranges; ++i) {
    const auto start = in.get<uint64_t>(), end = in.get<uint64_t>();
    if (start % kPage != 0 || end % kPage != 0 || end <= start ||
        !process.space.take_at(start, end - start))
      refuse("the state holds an impossible range of memory");
  }
  process.brk_start = in.get<uint64_t>();
  process.brk_end = in.get<uint64_t>();
  if (process.brk_start > process.brk_end || process.brk_start < kUserBase ||
      process.brk_end > process.memory->size())
    refuse("the state holds an impossible heap");
  process.fs_base = in.get<uint64_t>();
  process.gs_base = in.get<uint64_t>();
  process.actions = in.get<decltype(process.actions)>();
  process.signal_mask = in.get<uint64_t>();
  process.clocks.continue_from(in.get<int64_t>());
  process.clocks.set_processor(in.get<int64_t>());
  process.executable = in.text();
  process.working_folder = in.text();
  get_files(in, process);
}

}  // namespace

std::string Vm::save() {
  if (process_.end != End::Waiting || !in_call_)
    refuse("a snapshot is taken while the guest waits for a request");
  StateWriter out;
  out.put(kMagic);
  out.put(uint32_t{0});
  out.put(memory_->size());
  put_processor(out, vcpu_.state());
  put_process(out, process_);
  std::string& bytes = out.bytes();
  const uint32_t sum = memory::crc32c(
      {reinterpret_cast<const uint8_t*>(bytes.data()) + kHead, bytes.size() - kHead});
  std::memcpy(bytes.data() + 4, &sum, sizeof sum);
  return std::move(bytes);
}

void Vm::restore(std::span<const uint8_t> state) {
  StateReader in(state);
  if (in.get<uint32_t>() != kMagic) refuse("these bytes are no state of a microVM (version 1)");
  if (in.get<uint32_t>() != memory::crc32c(state.subspan(kHead)))
    refuse("the state is damaged: its checksum is wrong");
  if (in.get<uint64_t>() != memory_->size())
    refuse("the state belongs to a guest with another amount of memory");
  const ProcessorState processor = get_processor(in);
  get_process(in, process_);
  if (!in.at_end()) refuse("the state is longer than it should be");
  vcpu_.restore(processor);
  in_call_ = true;
  process_.end = End::Waiting;
}

}  // namespace tidemill::aquifer
