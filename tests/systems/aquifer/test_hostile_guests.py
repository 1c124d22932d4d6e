"""Guests that want out: a clear error each, and the host is unharmed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidemill.systems.aquifer import GuestFailed, GuestLimits, GuestTimeout, MicroVM

from .c_guests import BuildC

OPENER = r"""
int main() {
  static char b[1 << 14]; char *path, *said; int n = 0, k, fd;
  while ((k = read(1000, b + n, 999)) > 0) n += k;
  for (path = strtok(b, "\n"); path; path = strtok(0, "\n")) {
    fd = open(path, O_RDONLY);
    said = fd < 0 ? (char *)strerrorname_np(errno) : "open";
    write(1001, said, strlen(said)); write(1001, " ", 1);
  }
  if (open("/usr/x", O_WRONLY | O_CREAT, 0600) >= 0 || mkdir("/usr/y", 0700) == 0) abort();
  read(1000, b, 9);
}"""


def run(program: Path, *arguments: str, limits: GuestLimits | None = None) -> tuple[int, str, str]:
    with MicroVM([program, *arguments], memory="16M", limits=limits) as vm:
        code = vm.run_to_exit()
        return code, vm.output.decode(), "\n".join(vm.warnings)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("*(volatile int *)0 = 1;", "page fault writing address 0x0 .*first 2 MiB"),
        ("return *(volatile int *)0x1000;", "page fault reading address 0x1000"),
        ("*(volatile int *)0x6000 = 1;", "page fault writing address 0x6000"),
        ("return *(volatile int *)0x7f0000000000;", "page fault .*behind the end"),
        ("((void (*)(void))0x123456789000)();", "page fault executing"),
        ("volatile int seven = 7, zero = 0; return seven / zero;", "division by zero"),
        ('asm volatile("ud2");', "invalid instruction"),
        ('asm volatile("hlt");', "general protection"),
        ('asm volatile("mov %%cr3, %%rax" ::: "rax");', "general protection"),
        ('asm volatile("int $0x80");', "general protection|invalid instruction"),
        ('asm volatile("outb %%al, $0x20" :::);', "general protection"),
        ('asm volatile("outb %%al, $0x11" :::);', "not|general protection|port"),
        ("abort();", "signal 6"),
        ("kill(getpid(), SIGKILL);", "signal 9"),
        ("syscall(SYS_futex, (int[]){0}, 0, 0, 0, 0, 0);", "a lock that no other thread"),
    ],
)
def test_what_a_guest_does_wrong_ends_it_with_a_reason(
    build_c: BuildC, code: str, error: str
) -> None:
    program = build_c(f"int main() {{ {code} return 0; }}")
    with (
        MicroVM([program], memory="16M") as vm,
        pytest.raises(GuestFailed, match=error),
    ):
        vm.run_to_exit()


def test_wild_pointers_in_system_calls_are_efault_and_never_reach_the_host(
    build_c: BuildC,
) -> None:
    program = build_c("""
int main(int c, char **v) {
  unsigned long bad[] = {0, 0x1000, 0x1ffff8, 16 << 20, (16 << 20) - 4, 0x7fff00000000,
                         0x8000000000000000, -1UL, -4096UL, -8UL};
  int calls[] = {SYS_read, SYS_write, SYS_pread64, SYS_readv, SYS_writev, SYS_getdents64};
  int fd = open(v[1], O_RDONLY), folder = open("/usr", O_RDONLY | O_DIRECTORY), wrong = 0;
  for (int i = 0; i < 10; i++) {
    for (int k = 0; k < 6; k++) {
      int on = calls[k] == SYS_getdents64 ? folder : k % 3 == 1 || k == 4 ? 1 : fd;
      long got = syscall(calls[k], on, bad[i], 4096, 0);
      if (got >= 0 || errno != EFAULT) {
        if (k == 3 || k == 4) { if (errno == EINVAL) continue; }
        printf("call %d pointer %lx gave %ld errno %d\\n", calls[k], bad[i], got, errno); wrong++;
      }
    }
    struct iovec one = {(void *)bad[i], -1UL};
    if (writev(1, &one, 1) >= 0) { printf("iovec %lx\\n", bad[i]); wrong++; }
    if (stat((char *)bad[i], (void *)&one) == 0) wrong++;
    if (syscall(SYS_clock_gettime, 0, bad[i]) == 0) wrong++;
    if (syscall(SYS_uname, bad[i]) == 0) wrong++;
    if (syscall(SYS_rt_sigaction, 10, 0, bad[i], 8) == 0 && bad[i]) wrong++;
    if (syscall(SYS_getrandom, bad[i], 64, 0) >= 0) wrong++;
    if (syscall(SYS_newfstatat, -100, bad[i], bad[i], 0) == 0) wrong++;
    if (syscall(SYS_poll, bad[i], 4, 0) >= 0) wrong++;
    if (syscall(SYS_readlink, bad[i], bad[i], 64) >= 0) wrong++;
    if (syscall(SYS_nanosleep, bad[i], 0) == 0) wrong++;
  }
  return wrong;
}""")
    code, output, _ = run(program, str(program))
    assert (code, output) == (0, "")


def test_mapping_everything_is_enomem_and_freed_memory_comes_back_zero(build_c: BuildC) -> None:
    program = build_c("""
int main() {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE, rounds = 0, wrong = 0;
  if (mmap(0, -1UL, rw, flags, -1, 0) != MAP_FAILED) wrong |= 1;
  if (mmap(0, 1UL << 46, rw, flags, -1, 0) != MAP_FAILED) wrong |= 2;
  if (mmap((void *)0x1000, 4096, rw, flags | MAP_FIXED, -1, 0) != MAP_FAILED) wrong |= 4;
  if (mmap((void *)(16 << 20), 4096, rw, flags | MAP_FIXED, -1, 0) != MAP_FAILED) wrong |= 8;
  if (munmap((void *)-4096UL, 8192) == 0) wrong |= 16;
  for (; rounds < 3; rounds++) {
    char *maps[4096]; int n = 0;
    while (n < 4096 && (maps[n] = mmap(0, 65536, rw, flags, -1, 0)) != MAP_FAILED) n++;
    if (n < 100 || n == 4096) wrong |= 32;
    for (int i = 0; i < n; i++) {
      for (int k = 0; k < 65536; k += 512) if (maps[i][k]) wrong |= 64;
      memset(maps[i], 255, 65536);
    }
    for (int i = n; i--;) munmap(maps[i], 65536);
  }
  return wrong;
}""")
    assert run(program)[0] == 0


def test_memory_exhaustion_is_the_guest_s_own_error(python: Path) -> None:
    with MicroVM([python, "-c", "x = bytearray(1 << 30)"], memory="64M") as vm:
        assert vm.run_to_exit() == 1
        assert b"MemoryError" in vm.error_output


def test_fork_exec_threads_and_sockets_are_refused(build_c: BuildC) -> None:
    program = build_c("""
int main() {
  int wrong = 0;
  if (fork() != -1) wrong |= 1;
  if (vfork() != -1) wrong |= 2;
  if (execl("/bin/sh", "sh", "-c", "touch /tmp/escaped", NULL) != -1) wrong |= 4;
  if (syscall(SYS_clone, 0x10f00, 0, 0, 0, 0) != -1) wrong |= 8;
  if (socket(AF_INET, SOCK_STREAM, 0) != -1) wrong |= 16;
  if (syscall(SYS_ptrace, 0, 0, 0, 0) != -1 || errno != ENOSYS) wrong |= 32;
  if (syscall(999999, 0) != -1 || errno != ENOSYS) wrong |= 64;
  syscall(999999, 0);
  return wrong;
}""")
    code, _, warnings = run(program)
    assert code == 0
    assert "fork, clone or exec" in warnings
    assert "no network" in warnings
    assert warnings.count("system call 999999") == 1


def test_files_outside_the_roots_are_refused_by_whatever_path(
    build_c: BuildC, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "mine").write_text("mine")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (allowed / "link").symlink_to(secret)
    (tmp_path / "allowed-not").write_text("a neighbour")
    os.mkfifo(allowed / "pipe")
    program = build_c(OPENER)
    paths = [
        "/etc/shadow",
        "/usr/../etc/shadow",
        "/proc/self/root/etc/shadow",
        "/proc/self/fd/0",
        "/proc/self/mem",
        "/dev/kvm",
        str(secret),
        f"{allowed}/link",
        f"{allowed}/../secret",
        f"{allowed}-not",
        f"{tmp_path}/not-there",
        f"{allowed}/pipe",
        f"{allowed}/not-there",
        f"{allowed}/mine",
    ]
    with MicroVM([program], memory="16M", roots=[allowed]) as vm:
        outcomes = vm.invoke("\n".join(paths).encode()).decode().split()
        assert any("/etc/shadow" in warning for warning in vm.warnings)
    assert outcomes == ["EACCES"] * 12 + ["ENOENT", "open"]


def test_descriptors_run_out_in_the_guest_not_in_the_host(build_c: BuildC) -> None:
    program = build_c(
        'int main() { int n = 0; while (open("/usr", O_RDONLY) >= 0) n++; '
        "return errno == EMFILE ? n : 255; }"
    )
    assert run(program, limits=GuestLimits(descriptors=20))[0] == 17
    assert not [
        fd
        for fd in Path("/proc/self/fd").iterdir()
        if fd.is_symlink() and str(fd.readlink()) == "/usr"
    ]


def test_spinning_and_sleeping_are_stopped_in_time(build_c: BuildC) -> None:
    spin = build_c("int main() { for (;;) ; }")
    with (
        MicroVM([spin], memory="16M", limits=GuestLimits(cpu_s=0.2)) as vm,
        pytest.raises(GuestTimeout, match="processor time"),
    ):
        vm.run_to_exit()
    sleep = build_c("int main() { sleep(1000); }")
    with (
        MicroVM([sleep], memory="16M", limits=GuestLimits(wall_s=0.2)) as vm,
        pytest.raises(GuestTimeout, match="longer than it may"),
    ):
        vm.run_to_exit()
    calls = build_c("int main() { for (;;) syscall(SYS_getpid); }")
    with (
        MicroVM([calls], memory="16M", limits=GuestLimits(wall_s=0.3)) as vm,
        pytest.raises(GuestTimeout),
    ):
        vm.run_to_exit()


def test_a_flood_of_output_is_cut_off(build_c: BuildC) -> None:
    program = build_c("""
int main() { static char b[1 << 20]; for (int i = 0; i < 8; i++) write(1, b, sizeof b); }""")
    with MicroVM([program], memory="16M") as vm:
        assert vm.run_to_exit() == 0
        assert len(vm.output) == 1 << 20


def test_a_guest_that_ended_says_so_and_why(python: Path) -> None:
    with MicroVM([python, "-c", "raise ValueError('no tide')"], memory="64M") as vm:
        with pytest.raises(GuestFailed, match=r"exited with code 1(.|\n)*no tide"):
            vm.run_to_ready()
        with pytest.raises(GuestFailed, match="exited with code 1"):
            vm.invoke(b"")
