#include "kvm.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "cpuid.hpp"
#include "page_tables.hpp"

namespace tidemill::aquifer {

namespace {

constexpr size_t kMostCpuid = 256;
constexpr uint64_t kTssAddress = 0xFFFBD000, kIdentityMap = 0xFFFBC000;
constexpr uint32_t kStar = 0xC0000081, kLstar = 0xC0000082, kSyscallMask = 0xC0000084;

int call(const HostFd& fd, unsigned long request, void* argument, const char* name) {
  const int result = ::ioctl(fd.get(), request, argument);
  if (result < 0) throw std::system_error(errno, std::generic_category(), name);
  return result;
}

int call(const HostFd& fd, unsigned long request, unsigned long argument, const char* name) {
  return call(fd, request, reinterpret_cast<void*>(argument), name);
}

// KVM's structs that end in a flexible array (kvm_cpuid2, kvm_msrs): a count and the entries. The
// kernel's header gives them another size in C++, and with it other ioctl numbers.
struct Count {
  uint32_t entries, padding;
};
constexpr auto kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Count);
constexpr auto kSetCpuid = _IOW(KVMIO, 0x90, Count);
constexpr auto kSetMsrs = _IOW(KVMIO, 0x89, Count);
constexpr auto kSetSignalMask = _IOW(KVMIO, 0x8b, uint32_t);
constexpr auto kGetXsave = _IOR(KVMIO, 0xa4, decltype(ProcessorState::xsave));
constexpr auto kSetXsave = _IOW(KVMIO, 0xa5, decltype(ProcessorState::xsave));
static_assert(offsetof(kvm_run, s) == 304, "the kernel's layout of struct kvm_run");

template <class Entry>
class Counted {
 public:
  explicit Counted(size_t entries) : bytes_(sizeof(Count) + entries * sizeof(Entry)) {
    head()->entries = static_cast<uint32_t>(entries);
  }
  explicit Counted(std::span<const Entry> entries) : Counted(entries.size()) {
    std::memcpy(this->entries(), entries.data(), entries.size_bytes());
  }
  void* get() { return bytes_.data(); }
  Count* head() { return reinterpret_cast<Count*>(bytes_.data()); }
  Entry* entries() { return reinterpret_cast<Entry*>(bytes_.data() + sizeof(Count)); }

 private:
  std::vector<uint8_t> bytes_;
};

std::vector<kvm_cpuid_entry2> supported_cpuid(const HostFd& system) {
  Counted<kvm_cpuid_entry2> list(kMostCpuid);
  call(system, kGetSupportedCpuid, list.get(), "KVM_GET_SUPPORTED_CPUID");
  return {list.entries(), list.entries() + list.head()->entries};
}

kvm_segment segment(uint16_t selector, bool code) {
  kvm_segment it = {};
  it.limit = 0xFFFFFFFF;
  it.selector = selector;
  it.type = code ? 11 : 3;
  it.present = 1;
  it.dpl = selector & 3;
  it.db = code ? 0 : 1;
  it.s = 1;
  it.l = code ? 1 : 0;
  it.g = 1;
  return it;
}

void set_tables(kvm_sregs& sregs) {
  sregs.gdt.base = kDescriptors;
  sregs.gdt.limit = kTaskSelector + 15;
  sregs.idt.base = kInterrupts;
  sregs.idt.limit = 16 * kExceptions - 1;
  sregs.tr = {};
  sregs.tr.base = kTaskState;
  sregs.tr.limit = kTaskLimit;
  sregs.tr.selector = kTaskSelector;
  sregs.tr.type = 11;
  sregs.tr.present = 1;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
}

}  // namespace

Vcpu::Vcpu(std::shared_ptr<GuestMemory> memory)
    : memory_(std::move(memory)), system_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
  if (!system_) throw std::system_error(errno, std::generic_category(), "open /dev/kvm");
  if (call(system_, KVM_GET_API_VERSION, 0UL, "KVM_GET_API_VERSION") != KVM_API_VERSION)
    throw std::system_error(ENOSYS, std::generic_category(), "KVM API version 12");
  const int synced = ::ioctl(system_.get(), KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
  constexpr int kBoth = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  if (synced < 0 || (synced & kBoth) != kBoth)
    throw std::system_error(ENOSYS, std::generic_category(), "KVM_CAP_SYNC_REGS");
  machine_ = HostFd(call(system_, KVM_CREATE_VM, 0UL, "KVM_CREATE_VM"));
  call(machine_, KVM_SET_TSS_ADDR, kTssAddress, "KVM_SET_TSS_ADDR");
  uint64_t identity = kIdentityMap;
  call(machine_, KVM_SET_IDENTITY_MAP_ADDR, &identity, "KVM_SET_IDENTITY_MAP_ADDR");
  kvm_userspace_memory_region region = {};
  region.memory_size = memory_->size();
  region.userspace_addr = reinterpret_cast<uint64_t>(memory_->data());
  call(machine_, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
  processor_ = HostFd(call(machine_, KVM_CREATE_VCPU, 0UL, "KVM_CREATE_VCPU"));
  run_size_ =
      static_cast<size_t>(call(system_, KVM_GET_VCPU_MMAP_SIZE, 0UL, "KVM_GET_VCPU_MMAP_SIZE"));
  void* page = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, processor_.get(), 0);
  if (page == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap kvm_run");
  run_ = static_cast<kvm_run*>(page);
  run_->kvm_valid_regs = kBoth;
}

Vcpu::~Vcpu() {
  if (run_ != nullptr) ::munmap(run_, run_size_);
}

void Vcpu::set_cpuid(std::vector<kvm_cpuid_entry2> entries) {
  Counted<kvm_cpuid_entry2> list{std::span<const kvm_cpuid_entry2>(entries)};
  call(processor_, kSetCpuid, list.get(), "KVM_SET_CPUID2");
  cpuid_ = std::move(entries);
}

void Vcpu::set_msrs(std::span<const kvm_msr_entry> entries) {
  Counted<kvm_msr_entry> list(entries);
  const int done = call(processor_, kSetMsrs, list.get(), "KVM_SET_MSRS");
  if (static_cast<size_t>(done) != entries.size())
    throw std::system_error(EINVAL, std::generic_category(), "KVM_SET_MSRS");
}

// Ring 3 of long mode on the tables that write_tables() has written.
void Vcpu::enter_long_mode(uint64_t fs_base, uint64_t gs_base) {
  set_cpuid(guest_cpuid(supported_cpuid(system_)));
  kvm_sregs sregs = {};
  call(processor_, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  sregs.cr0 = 0x80050033;  // PG AM WP NE ET MP PE
  sregs.cr3 = kTop;
  sregs.cr4 = 0x40620;  // OSXSAVE OSXMMEXCPT OSFXSR PAE
  sregs.efer = 0xD01;   // NXE LMA LME SCE
  set_tables(sregs);
  sregs.cs = segment(kUserCode, true);
  sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = segment(kUserData, false);
  sregs.fs.base = fs_base;
  sregs.gs.base = gs_base;
  call(processor_, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
  this->sregs() = sregs;
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = extended_states(cpuid_);
  call(processor_, KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS");
  const kvm_msr_entry msrs[] = {
      {kStar, 0, uint64_t{kKernelData | 3} << 48 | uint64_t{kKernelCode} << 32},
      {kLstar, 0, kSyscallStub},
      {kSyscallMask, 0, 0x47700},  // as Linux: TF IF DF IOPL NT AC cleared on entry
  };
  set_msrs(msrs);
}

void Vcpu::set_registers(const kvm_regs& regs) {
  kvm_regs copy = regs;
  call(processor_, KVM_SET_REGS, &copy, "KVM_SET_REGS");
  this->regs() = regs;
}

void Vcpu::start(uint64_t entry, uint64_t stack) {
  enter_long_mode(0, 0);
  kvm_fpu fpu = {};
  fpu.fcw = 0x37F;
  fpu.mxcsr = 0x1F80;
  call(processor_, KVM_SET_FPU, &fpu, "KVM_SET_FPU");
  kvm_regs regs = {};
  regs.rip = entry;
  regs.rsp = stack;
  regs.rflags = 0x202;
  set_registers(regs);
}

ProcessorState Vcpu::state() {
  ProcessorState it;
  it.regs = regs();
  it.fs_base = sregs().fs.base;
  it.gs_base = sregs().gs.base;
  call(processor_, kGetXsave, it.xsave.data(), "KVM_GET_XSAVE");
  it.cpuid = cpuid_;
  return it;
}

void Vcpu::restore(const ProcessorState& state) {
  const std::string missing = missing_features(state.cpuid, supported_cpuid(system_));
  if (!missing.empty())
    throw std::invalid_argument("the snapshot needs processor features that are not here: " +
                                missing);
  if (state.fs_base > memory_->size() || state.gs_base > memory_->size())
    throw std::invalid_argument("the state holds an impossible segment");
  enter_long_mode(state.fs_base, state.gs_base);
  auto xsave = state.xsave;
  if (::ioctl(processor_.get(), kSetXsave, xsave.data()) != 0)
    throw std::invalid_argument("the state holds impossible vector registers");
  kvm_regs regs = state.regs;
  regs.rip = kSyscallStub;  // the machine waits in a call; leaving it sets the rest
  regs.rflags = 2;
  set_registers(regs);
}

void Vcpu::set_run_mask(const sigset_t& blocked) {
  struct {
    uint32_t length;
    uint8_t bytes[8];
  } mask = {8, {}};  // the kernel's sigset_t is 8 bytes
  std::memcpy(mask.bytes, &blocked, sizeof mask.bytes);
  call(processor_, kSetSignalMask, &mask, "KVM_SET_SIGNAL_MASK");
}

int Vcpu::run() { return ::ioctl(processor_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

uint32_t Vcpu::hardware_capabilities() const {
  return aquifer::hardware_capabilities(guest_cpuid(supported_cpuid(system_)));
}

void Vcpu::to_user_mode() {
  sregs().cs = segment(kUserCode, true);
  sregs().ss = segment(kUserData, false);
}

}  // namespace tidemill::aquifer
