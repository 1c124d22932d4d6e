from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench.events import LINE_LIMIT_BYTES, EventLog, EventTail, follow, read_events

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "events.jsonl"


def test_events_are_numbered_from_one_and_carry_time_and_data(path: Path) -> None:
    log = EventLog(path)
    log.append("stage", {"name": "build"})
    log.append("end", {"state": "done", "error": ""})
    log.close()
    first, last = read_events(path)
    assert (first.id, first.kind, first.data) == (1, "stage", {"name": "build"})
    assert first.to_json()["event"] == "stage"
    assert last.id == 2
    assert first.t.endswith("+00:00")
    assert first.t <= last.t
    assert read_events(path, after=1) == [last]


@given(data=st.dictionaries(st.text("abcdef", min_size=2, max_size=4), JSON, max_size=3))
def test_any_data_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, data: dict
) -> None:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    log = EventLog(path)
    log.append("log", data)
    log.close()
    assert [event.data for event in read_events(path)] == [data]


def test_half_a_character_is_written_as_a_question_mark(path: Path) -> None:
    log = EventLog(path)
    log.append("log", {"text": "half \ud800"})
    log.close()
    assert read_events(path)[0].data == {"text": "half ?"}


def test_what_json_cannot_say_is_refused_and_leaves_the_file_whole(path: Path) -> None:
    log = EventLog(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("metric", {"value": float("nan")})
    log.append("log", {"text": "after"})
    log.close()
    assert [event.id for event in read_events(path)] == [1]


def test_a_log_opened_again_goes_on_after_its_last_whole_line(path: Path) -> None:
    log = EventLog(path)
    log.append("log", {"text": "before"})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"id": 2, "t": "2026", "event": "log", "te')  # the writer was killed here
    assert [event.id for event in read_events(path)] == [1]
    again = EventLog(path)
    again.append("log", {"text": "after"})
    again.close()
    assert [(event.id, event.data["text"]) for event in read_events(path)] == [
        (1, "before"),
        (2, "after"),
    ]


def test_lines_that_are_no_events_are_skipped(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(
        b'\xff\xfe\n[]\n{"id": "1"}\n\n{"id":7,"t":"2026","event":"log","text":"here"}\n'
    )
    assert [event.id for event in read_events(path)] == [7]


def test_a_file_that_is_not_there_holds_no_events(path: Path) -> None:
    assert read_events(path) == []


def test_over_its_limit_a_log_drops_chatter_and_keeps_results(path: Path) -> None:
    log = EventLog(path, chatter_limit_bytes=2000)
    for i in range(1000):
        log.append("metric", {"name": "x", "value": i, "unit": ""})
    log.append("measurement", {"claim": "kept"})
    log.append("end", {"state": "done", "error": ""})
    log.close()
    events = read_events(path)
    assert path.stat().st_size < 3000
    assert [event.kind for event in events[-3:]] == ["log", "measurement", "end"]
    assert "no more progress" in str(events[-3].data["text"])
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def test_an_event_that_is_too_long_loses_its_largest_field_only(path: Path) -> None:
    log = EventLog(path)
    log.append("measurement", {"claim": "long", "detail": ["x" * (LINE_LIMIT_BYTES + 1)]})
    log.append("log", {"text": "first words " + "x" * (LINE_LIMIT_BYTES + 1)})
    log.close()
    measured, said = read_events(path)
    assert measured.data == {"claim": "long", "detail": None, "cut": "detail"}
    assert str(said.data["text"]).startswith("first words x")
    assert said.data["cut"] == "text"


def test_a_full_disk_loses_no_event_before_it_and_none_after_room_was_made(tiny_disk) -> None:
    path = tiny_disk.path / "events.jsonl"
    log = EventLog(path)
    log.append("stage", {"name": "before"})
    tiny_disk.fill()
    while log.append("log", {"text": "x" * 500}) is not None:
        pass
    assert "No space left" in log.failure
    assert str(path) in log.failure
    tiny_disk.make_room()
    assert log.append("end", {"state": "done", "error": ""}) is not None
    log.close()
    events = read_events(path)
    assert (events[0].kind, events[-1].kind) == ("stage", "end")
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def test_a_tail_gives_each_event_once(path: Path) -> None:
    log, tail = EventLog(path), EventTail(path, after=1)
    assert tail.new() == []
    for _ in range(3):
        log.append("log", {"text": ""})
    assert [event.id for event in tail.new()] == [2, 3]
    assert tail.new() == []
    log.append("log", {"text": ""})
    assert [event.id for event in tail.new()] == [4]
    log.close()


def test_followers_see_events_as_they_come_and_end_with_the_run(path: Path) -> None:
    seen, has_first = [], threading.Event()

    def read() -> None:
        for event in follow(path, 0, threading.Event()):
            seen.append(event.kind)
            has_first.set()

    reader = threading.Thread(target=read)
    reader.start()
    log = EventLog(path)
    log.append("stage", {"name": "one"})
    assert has_first.wait(20)
    log.append("end", {"state": "done", "error": ""})
    reader.join(20)
    log.close()
    assert seen == ["stage", "end"]


def test_a_follower_that_is_stopped_gives_what_there_is_and_ends(path: Path) -> None:
    log, stop = EventLog(path), threading.Event()
    log.append("log", {"text": "last"})
    log.close()
    stop.set()
    assert [event.data["text"] for event in follow(path, 0, stop)] == ["last"]
