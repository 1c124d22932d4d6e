"""Guests run, answer, are snapshotted and cloned."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tidemill.systems.aquifer import GuestFailed, GuestRegion, MicroVM, Snapshot
from tidemill.systems.aquifer.config import memory_bytes
from tidemill.systems.aquifer.snapshot import PAGE

from .c_guests import BuildC
from .fault_server import FaultServer

HANDLER = """
import json, random, re, time, zlib
import tidemill_guest

calls, restores = 0, []

def handle(request):
    global calls
    calls += 1
    wanted = json.loads(request)
    return json.dumps({
        "n": wanted["n"] * 2,
        "words": re.findall(r"[a-z]+", wanted.get("text", "")),
        "crc": zlib.crc32(request),
        "calls": calls,
        **({"random": random.random(), "restores": len(restores)} if wanted.get("random") else {}),
        **({"clocks": [time.time(), time.monotonic()]} if wanted.get("clocks") else {}),
    }).encode()

random.random()
tidemill_guest.serve(handle, on_restore=restores.append)
"""
REQUESTS = [json.dumps({"n": n, "text": "low tide, high tide"}).encode() for n in range(3)]


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    path = tmp_path / "handler.py"
    path.write_text(HANDLER)
    return path


@pytest.fixture
def ready(python: Path, handler: Path) -> Snapshot:
    with MicroVM([python, handler], memory="64M") as vm:
        return vm.snapshot()


def ask(vm: MicroVM, **wanted: object) -> dict[str, object]:
    return json.loads(vm.invoke(json.dumps({"n": 1, **wanted}).encode()))


def test_a_static_program_prints_and_exits_with_its_code(build_c: BuildC) -> None:
    program = build_c('int main(int c, char **v) { printf("%s %.3f", v[1], sqrt(2)); return 7; }')
    with MicroVM([program, "hello"], memory="16M") as vm:
        assert vm.run_to_exit() == 7
        assert vm.output == b"hello 1.414"


def test_a_dynamic_program_loads_its_libraries(build_c: BuildC) -> None:
    program = build_c('int main() { char *p = malloc(1 << 20); puts("x"); free(p); }', "-pie")
    with MicroVM([program], memory="16M") as vm:
        assert vm.run_to_exit() == 0
        assert vm.output == b"x\n"


def test_the_answer_is_computed_by_a_virtual_processor(python: Path, handler: Path) -> None:
    with MicroVM([python, handler], memory="64M") as vm:
        vm.run_to_ready()
        links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert any("kvm-vcpu" in link for link in links)
        before = vm.counters["exits"]
        assert ask(vm, n=21)["n"] == 42
        assert vm.counters["exits"] > before


def test_python_reads_modules_and_keeps_its_state_between_requests(
    python: Path, handler: Path
) -> None:
    with MicroVM([python, handler], memory="64M") as vm:
        answers = [json.loads(vm.invoke(request)) for request in REQUESTS]
    assert [answer["n"] for answer in answers] == [0, 2, 4]
    assert [answer["calls"] for answer in answers] == [1, 2, 3]
    assert answers[0]["words"] == ["low", "tide", "high", "tide"]


def test_numpy_computes_what_it_computes_outside(python: Path, tmp_path: Path) -> None:
    packages = Path(np.__file__).parents[1]
    if f"python{python.name[-4:]}" not in str(packages):
        pytest.skip("the NumPy installed here is for another Python")
    code = "import numpy as np; print(np.fft.fft(np.arange(64.) ** 2).view(float).tolist())"
    environment = {"PYTHONPATH": str(packages)}
    with MicroVM(
        [python, "-c", code], memory="256M", roots=[packages], environment=environment
    ) as vm:
        assert vm.run_to_exit() == 0, vm.error_output
        inside = np.array(json.loads(vm.output))
    np.testing.assert_allclose(inside, np.fft.fft(np.arange(64.0) ** 2).view(float), rtol=1e-12)


@pytest.mark.parametrize("source", ["copy", "fill", "supply", "file"])
def test_a_clone_answers_as_the_original_whatever_fills_its_memory(
    python: Path, handler: Path, tmp_path: Path, source: str
) -> None:
    with MicroVM([python, handler], memory="64M") as vm:
        snapshot = vm.run_to_ready().snapshot()
        expected = [vm.invoke(request) for request in REQUESTS]
    file = tmp_path / "memory"
    snapshot.write_memory(file)
    regions: list[GuestRegion] = []

    def fill(region: GuestRegion) -> None:
        regions.append(region)
        snapshot.fill(region)

    sources: dict[str, dict[str, object]] = {
        "copy": {},
        "fill": {"fill": fill},
        "supply": {"supply": fill},
        "file": {"memory_file": file},
    }
    with MicroVM.restore(snapshot, **sources[source]) as clone:  # type: ignore[arg-type]
        assert [clone.invoke(request) for request in REQUESTS] == expected
    assert len(regions) == (source in ("fill", "supply"))


def test_a_clone_runs_on_pages_that_a_userfaultfd_handler_gives(
    python: Path, handler: Path
) -> None:
    with MicroVM([python, handler], memory="64M") as vm:
        snapshot = vm.snapshot()
        expected = [vm.invoke(request) for request in REQUESTS]
    try:
        server = FaultServer(snapshot)
    except PermissionError as error:
        pytest.skip(f"userfaultfd is not permitted here: {error}")
    with contextlib.closing(server):
        clone = MicroVM.restore(snapshot, supply=server)
        assert not server.asked
        assert [clone.invoke(request) for request in REQUESTS] == expected
        clone.close()
    assert 0 < len(server.asked) == len(set(server.asked)) < len(snapshot.pages)


def test_a_snapshot_holds_exactly_the_pages_that_are_not_zero(python: Path, handler: Path) -> None:
    with MicroVM([python, handler], memory="64M") as vm:
        snapshot = vm.snapshot()
        image = np.array(vm.region.view).reshape(-1, PAGE)
    np.testing.assert_array_equal(snapshot.nonzero.astype(bool), image.any(axis=1))
    np.testing.assert_array_equal(snapshot.pages, image[image.any(axis=1)])
    np.testing.assert_array_equal(snapshot.page(6), image[6])
    assert not snapshot.page(snapshot.nonzero.size - 1 - 4096).any()
    assert snapshot.zero_share > 0.5


def test_the_memory_file_is_the_memory(ready: Snapshot, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    ready.write_memory(file)
    image = np.fromfile(file, np.uint8).reshape(-1, PAGE)
    assert image.size == ready.memory_bytes
    np.testing.assert_array_equal(image[ready.nonzero.astype(bool)], ready.pages)
    assert file.stat().st_blocks * 512 < ready.memory_bytes / 2


def test_clones_share_no_entropy_and_no_clone_gets_the_original_s(ready: Snapshot) -> None:
    drawn: list[object] = []
    for _ in range(3):
        with MicroVM.restore(ready) as clone:
            answer = ask(clone, random=True)
            again = ask(clone, random=True)
        drawn += [answer["random"], again["random"]]
        assert answer["restores"] == again["restores"] == 1
    assert len(set(drawn)) == 6


def test_wall_time_is_the_host_s_and_monotonic_time_goes_on(ready: Snapshot) -> None:
    with MicroVM.restore(ready) as clone:
        wall, monotonic = ask(clone, clocks=True)["clocks"]  # type: ignore[misc]
    assert abs(wall - time.time()) < 30
    assert 0 < monotonic < 60


def test_a_snapshot_of_a_clone_is_a_snapshot(ready: Snapshot) -> None:
    with MicroVM.restore(ready) as clone:
        ask(clone)
        second = clone.snapshot()
    with MicroVM.restore(second) as grandchild:
        assert ask(grandchild)["calls"] == 2


def test_open_files_go_on_at_their_offset_in_a_clone(build_c: BuildC, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"ebb and flow")
    program = build_c("""
int main(int c, char **v) {
  char in[64], out[64]; int fd = open(v[1], O_RDONLY), n;
  int copy = dup(fd);
  read(fd, out, 4);
  for (;;) { while (read(1000, in, sizeof in) > 0); n = read(copy, out, 4); write(1001, out, n); }
}""")
    with MicroVM([program, text], memory="16M") as vm:
        snapshot = vm.snapshot()
        assert vm.invoke(b"?") == b"and "
    for _ in range(2):
        with MicroVM.restore(snapshot) as clone:
            assert [clone.invoke(b""), clone.invoke(b"")] == [b"and ", b"flow"]


def test_vector_registers_survive_a_snapshot(build_c: BuildC) -> None:
    program = build_c("""
int main() {
  double x[4] = {1.5, -2.25, 3e300, 5e-324}, y[4]; char b[8]; long got;
  asm volatile("movupd (%1), %%xmm6\\n movupd 16(%1), %%xmm7\\n"
    "1: mov $0, %%eax\\n mov $1000, %%edi\\n mov %3, %%rsi\\n mov $8, %%edx\\n syscall\\n"
    "test %%rax, %%rax\\n jg 1b\\n"
    "mov $0, %%eax\\n mov $1000, %%edi\\n syscall\\n"
    "movupd %%xmm6, (%2)\\n movupd %%xmm7, 16(%2)\\n"
    : "=&a"(got) : "r"(x), "r"(y), "r"(b) : "rdi", "rsi", "rdx", "rcx", "r11", "memory",
    "xmm6", "xmm7");
  write(1001, y, sizeof y);
  while (read(1000, b, 8) >= 0);
}""")
    with MicroVM([program], memory="16M") as vm:
        vm.invoke(b"")
        snapshot = vm.snapshot()
    with MicroVM.restore(snapshot) as clone:
        answer = clone.invoke(b"abc")
    assert np.frombuffer(answer).tolist() == [1.5, -2.25, 3e300, 5e-324]


def test_two_guests_run_at_once_and_the_lock_of_python_is_free_meanwhile(
    build_c: BuildC,
) -> None:
    program = build_c(
        "int main() { struct timespec t = {0, 300000000}; nanosleep(&t, 0); return 5; }"
    )
    codes: list[int] = []

    def run() -> None:
        with MicroVM([program], memory="16M") as vm:
            codes.append(vm.run_to_exit())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    turns = 0
    while threads[0].is_alive():
        turns += 1
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert codes == [5, 5]
    assert turns > 3


def test_a_run_can_be_interrupted_from_another_thread(build_c: BuildC) -> None:
    program = build_c("int main() { for (;;) ; }")
    with MicroVM([program], memory="16M") as vm:
        timer = threading.Timer(0.2, vm.interrupt)
        timer.start()
        with pytest.raises(GuestFailed, match="interrupted"):
            vm.run_to_exit()
        timer.join()


@pytest.mark.parametrize(("text", "size"), [("256M", 256 << 20), ("1G", 1 << 30), (8 << 20,) * 2])
def test_memory_sizes(text: str | int, size: int) -> None:
    assert memory_bytes(text) == size
