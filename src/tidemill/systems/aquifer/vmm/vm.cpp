#include "vm.hpp"

#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "cpuid.hpp"
#include "elf_loader.hpp"
#include "exceptions.hpp"
#include "page_tables.hpp"
#include "syscalls.hpp"

namespace tidemill::aquifer {

namespace {

// What a program may have in RFLAGS: arithmetic flags, TF, DF, AC, ID. IF and bit 1 are always on.
constexpr uint64_t kUserFlags = 0x240DD5, kAlwaysOn = 0x202;

}  // namespace

Vm::Vm(std::shared_ptr<GuestMemory> memory, std::vector<std::string> roots, const Limits& limits)
    : memory_(std::move(memory)),
      process_(memory_, Roots(std::move(roots)), limits),
      vcpu_(memory_) {
  fresh_identity();
}

void Vm::fresh_identity() {
  auto& identity = process_.identity;
  if (::getrandom(identity.data(), identity.size(), 0) != static_cast<ssize_t>(identity.size()))
    throw std::runtime_error("getrandom failed");
}

void Vm::start(const Program& program) {
  write_tables(memory_->data(), memory_->size());
  process_.files.add_standard();
  process_.working_folder = lexically_normal(program.working_folder);
  reserve_stack(process_);
  const Loaded loaded = load_program(process_, program.path);
  const uint64_t stack = build_stack(process_, loaded, program.arguments, program.environment,
                                     vcpu_.hardware_capabilities());
  vcpu_.start(loaded.entry, stack);
}

bool Vm::is_over() const {
  return process_.end != End::Running && process_.end != End::Waiting &&
         process_.end != End::Interrupted;
}

End Vm::run(const Budget& budget) {
  if (is_over()) return process_.end;
  process_.end = End::Running;
  const ClockedRun clocked(process_.clocks);
  const ArmedRun armed(kick_, vcpu_, process_.clocks, budget);
  process_.sleep = [this, &armed](int64_t nanoseconds) {
    armed.sleep(nanoseconds);
    stop_if_over(armed);
  };
  stop_if_over(armed);
  while (process_.end == End::Running && !is_doomed_) {
    if (in_call_) {
      serve_call();
      continue;
    }
    const int error = vcpu_.run();
    ++exits_;
    if (error == 0)
      handle_exit();
    else
      handle_errno(error, armed);
  }
  end_if_doomed();
  return process_.end;
}

void Vm::doom(const std::string& why) {
  {
    const std::lock_guard lock(doom_mutex_);
    doom_ = why;
  }
  is_doomed_ = true;
  kick_.send();
}

void Vm::end_if_doomed() {
  if (!is_doomed_ || is_over()) return;
  const std::lock_guard lock(doom_mutex_);
  process_.finish(End::Broken, doom_);
}

void Vm::serve_call() {
  const kvm_regs& regs = vcpu_.regs();
  const Arguments arguments = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
  const int64_t result = make_call(process_, regs.rax, arguments);
  if (result == kWaits)
    process_.end = End::Waiting;
  else
    leave_call(result);
}

// To ring 3 by setting what sysretq would set: executing it is a triple fault on kvm-pvm.
void Vm::leave_call(int64_t result) {
  in_call_ = false;
  kvm_regs& regs = vcpu_.regs();
  if (!memory_->in_user(regs.rcx, 0)) {  // no `syscall` leaves that: the port was used without one
    process_.finish(End::Killed, "a system call returns to where no program is");
    return;
  }
  regs.rax = static_cast<uint64_t>(result);
  regs.rip = regs.rcx;
  regs.rflags = (regs.r11 & kUserFlags) | kAlwaysOn;
  vcpu_.to_user_mode();
  if (process_.bases_changed) {
    vcpu_.sregs().fs.base = process_.fs_base;
    vcpu_.sregs().gs.base = process_.gs_base;
    process_.bases_changed = false;
  }
  vcpu_.mark_changed();
}

void Vm::handle_exit() {
  const kvm_run& exit = vcpu_.exit();
  if (exit.exit_reason == KVM_EXIT_IO && exit.io.direction == KVM_EXIT_IO_OUT)
    handle_port(exit.io.port);
  else
    process_.finish(End::Broken, describe_exit(exit));
}

void Vm::handle_port(uint16_t port) {
  if (port == kSyscallPort) {
    in_call_ = true;
  } else if (port >= kExceptionPort && port < kExceptionPort + kExceptions) {
    process_.finish(End::Killed, describe_exception(*memory_, port - kExceptionPort,
                                                    vcpu_.regs().rsp, vcpu_.sregs().cr2));
  } else {
    process_.finish(End::Broken, "output to port " + std::to_string(port));
  }
}

void Vm::handle_errno(int error, const ArmedRun& armed) {
  if (error == EAGAIN) return;
  if (error != EINTR) {
    process_.finish(End::Broken, error == EFAULT
                                     ? "a page of the guest's memory could not be provided"
                                     : std::string("KVM_RUN: ") + std::strerror(error));
    return;
  }
  armed.drain();
  stop_if_over(armed);
  if (process_.end == End::Running) process_.end = End::Interrupted;
}

void Vm::stop_if_over(const ArmedRun& armed) {
  if (armed.over_cpu())
    process_.finish(End::CpuTime, "the guest used up its processor time");
  else if (armed.over_wall())
    process_.finish(End::WallTime, "the guest took longer than it may");
  else if (kick_.take())
    process_.end = End::Interrupted;
}

}  // namespace tidemill::aquifer
