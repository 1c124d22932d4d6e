"""The pool of threads: each task once, for any number of threads and callers."""

import os
import threading
from types import ModuleType

import pytest

from tidemill.native import available_levels, kernels


@pytest.fixture(params=available_levels())
def room(request: pytest.FixtureRequest) -> ModuleType:
    return kernels("models", request.param)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 1000])
def test_each_task_runs_exactly_once(room, threads, tasks):
    pool = room.Pool(threads)
    assert pool.threads == threads
    for _ in range(50):
        assert pool.claims(tasks) == [1] * tasks


def test_parked_threads_wake_again(room):
    pool = room.Pool(3)
    for _ in range(20):
        assert pool.claims(30) == [1] * 30
        threading.Event().wait(0.002)


def test_callers_on_several_threads_take_turns(room):
    pool = room.Pool(2)
    wrong: list[list[int]] = []

    def call() -> None:
        for _ in range(200):
            counts = pool.claims(17)
            if counts != [1] * 17:
                wrong.append(counts)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failing_task_raises_and_leaves_the_pool_usable(room, threads):
    pool = room.Pool(threads)
    with pytest.raises(ValueError, match="a task failed"):
        pool.claims(9, 4)
    assert pool.claims(9) == [1] * 9


@pytest.mark.parametrize("threads", [0, 257])
def test_an_absurd_number_of_threads_is_refused(room, threads):
    with pytest.raises(ValueError, match=f"threads={threads} must be in 1..256"):
        room.Pool(threads)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_works_without_the_threads_it_lost(room):
    pool = room.Pool(2)
    assert pool.claims(5) == [1] * 5
    child = os.fork()
    if child == 0:
        os._exit(0 if pool.claims(40) == [1] * 40 else 1)
    assert os.waitpid(child, 0)[1] == 0
