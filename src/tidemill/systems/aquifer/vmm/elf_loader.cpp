#include "elf_loader.hpp"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace tidemill::aquifer {

namespace {

constexpr uint64_t kProgramBase = uint64_t{4} << 20;  // of position-independent programs
constexpr size_t kMostHeaders = 128;

struct Image {
  std::string path;
  HostFd fd;
  uint64_t length = 0;
  Elf64_Ehdr header = {};
  std::vector<Elf64_Phdr> segments;

  [[noreturn]] void refuse(const std::string& why) const {
    throw std::invalid_argument(path + ": " + why);
  }
  void read(void* to, uint64_t count, uint64_t offset) const {
    if (offset > length || count > length - offset) refuse("is truncated");
    auto* bytes = static_cast<uint8_t*>(to);
    while (count > 0) {
      const ssize_t got = ::pread(fd.get(), bytes, count, static_cast<off_t>(offset));
      if (got <= 0) refuse("cannot be read");
      bytes += got;
      offset += static_cast<uint64_t>(got);
      count -= static_cast<uint64_t>(got);
    }
  }
};

Image open_image(const Roots& roots, const std::string& path) {
  Image image;
  image.path = path;
  auto found = roots.find(path, true, false);
  if (std::holds_alternative<int>(found))
    image.refuse(std::string(std::strerror(-std::get<int>(found))) +
                 " (a guest reads only below its roots)");
  Place& place = std::get<Place>(found);
  if (!S_ISREG(place.status.st_mode)) image.refuse("is not a file");
  auto opened = Roots::open(place);
  if (std::holds_alternative<int>(opened)) image.refuse(std::strerror(-std::get<int>(opened)));
  image.fd = std::move(std::get<HostFd>(opened));
  image.length = static_cast<uint64_t>(place.status.st_size);
  Elf64_Ehdr& header = image.header;
  image.read(&header, sizeof header, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) image.refuse("is not an ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64 ||
      (header.e_type != ET_EXEC && header.e_type != ET_DYN))
    image.refuse("is not an x86-64 program");
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMostHeaders)
    image.refuse("has unusable program headers");
  image.segments.resize(header.e_phnum);
  image.read(image.segments.data(), header.e_phnum * sizeof(Elf64_Phdr), header.e_phoff);
  return image;
}

struct Span {
  uint64_t low = UINT64_MAX, high = 0;
};

Span span_of(const Image& image) {
  Span span;
  for (const Elf64_Phdr& segment : image.segments) {
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    if (segment.p_filesz > segment.p_memsz || segment.p_memsz > kMostMemory ||
        segment.p_vaddr > kMostMemory)
      image.refuse("has a segment of impossible size");
    span.low = std::min(span.low, page_floor(segment.p_vaddr));
    span.high = std::max(span.high, page_ceil(segment.p_vaddr + segment.p_memsz));
  }
  if (span.high == 0) image.refuse("has nothing to load");
  return span;
}

// Maps the segments; gives what is added to their addresses.
uint64_t map_image(Process& process, const Image& image, bool is_program) {
  const Span span = span_of(image);
  const uint64_t length = span.high - span.low;
  uint64_t start = span.low;
  bool taken = false;
  if (image.header.e_type == ET_EXEC || is_program) {
    if (image.header.e_type == ET_DYN) start = kProgramBase;
    taken = process.space.take_at(start, length);
  } else if (const auto free = process.space.take(length)) {
    start = *free;
    taken = true;
  }
  if (!taken)
    image.refuse("does not fit: it needs " + std::to_string(length >> 20) + " MiB at " +
                 std::to_string(start >> 20) + " MiB of the guest; give it more memory");
  const uint64_t bias = start - span.low;
  for (const Elf64_Phdr& segment : image.segments) {
    if (segment.p_type != PT_LOAD || segment.p_filesz == 0) continue;
    image.read(process.memory->user(segment.p_vaddr + bias, segment.p_filesz), segment.p_filesz,
               segment.p_offset);
  }
  return bias;
}

std::string interpreter_of(const Image& image) {
  for (const Elf64_Phdr& segment : image.segments) {
    if (segment.p_type != PT_INTERP) continue;
    if (segment.p_filesz < 2 || segment.p_filesz > 4096) image.refuse("names no interpreter");
    std::string path(segment.p_filesz, '\0');
    image.read(path.data(), path.size(), segment.p_offset);
    return path.substr(0, path.find('\0'));
  }
  return {};
}

// Where the program headers lie in memory: within some loaded segment.
uint64_t headers_address(const Image& image, uint64_t bias) {
  for (const Elf64_Phdr& segment : image.segments) {
    if (segment.p_type == PT_PHDR) return segment.p_vaddr + bias;
    if (segment.p_type == PT_LOAD && image.header.e_phoff >= segment.p_offset &&
        image.header.e_phoff - segment.p_offset < segment.p_filesz)
      return segment.p_vaddr + bias + image.header.e_phoff - segment.p_offset;
  }
  return 0;
}

}  // namespace

Loaded load_program(Process& process, const std::string& path) {
  const Image program = open_image(process.roots, path);
  const uint64_t bias = map_image(process, program, true);
  Loaded loaded;
  loaded.program_entry = loaded.entry = program.header.e_entry + bias;
  loaded.headers = headers_address(program, bias);
  loaded.header_count = program.header.e_phnum;
  process.brk_start = process.brk_end = span_of(program).high + bias;
  process.executable = path;
  const std::string interpreter = interpreter_of(program);
  if (!interpreter.empty()) {
    const Image loader = open_image(process.roots, interpreter);
    loaded.interpreter_base = map_image(process, loader, false);
    loaded.entry = loader.header.e_entry + loaded.interpreter_base;
  }
  return loaded;
}

}  // namespace tidemill::aquifer
