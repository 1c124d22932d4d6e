"""``tidemill generate``, ``chat`` and ``perplexity`` as their users meet them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SMALL, WITHOUT_TEMPLATE = "smollm2-135m", "gemma-3-270m"
PROMPT = "A tide mill is"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def model(model_path: Callable[[str], Path]) -> str:
    return str(model_path(SMALL))


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a command in an empty folder, with a text on its standard input."""

    def run(*words: object, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "tidemill", *map(str, words)],
            env=environment | {"TIDEMILL_MODELS": str(tmp_path / "models")},
            cwd=tmp_path,
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            check=False,
            timeout=120,
        )
        out, err = result.stdout.decode(), result.stderr.decode()
        return subprocess.CompletedProcess(result.args, result.returncode, out, err)

    return run


@contextmanager
def running(
    folder: Path, environment: dict[str, str], *words: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command on its way, killed if a test leaves it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemill", *words],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def test_a_prompt_from_either_place_gives_the_same_text(run: Run, model: str) -> None:
    plain = run("generate", model, PROMPT, "--max-tokens", 12)
    assert (plain.returncode, plain.stderr) == (0, "")
    piped = run("generate", model, "--max-tokens", 12, "--threads", 1, "--json", given=PROMPT)
    document = json.loads(piped.stdout)
    assert document["text"] + "\n" == plain.stdout
    assert len(document["ids"]) == document["usage"]["completion_tokens"] == 12
    assert document["finish_reason"] == "length"
    assert 0 < document["ttft_s"] <= document["elapsed_s"]


def test_a_seed_fixes_the_text_and_a_stop_string_ends_it(run: Run, model: str) -> None:
    words = ("generate", model, PROMPT, "--max-tokens", 16, "--temperature", 1, "--json")
    first, again, other = (
        json.loads(run(*words, "--seed", seed).stdout)["text"] for seed in (1, 1, 2)
    )
    assert first == again != other
    stop = first[5:8]
    stopped = json.loads(run(*words, "--seed", 1, "--stop", stop).stdout)
    assert stopped["text"] == first[: first.index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_text_comes_while_it_is_written_and_ctrl_c_ends_it_cleanly(
    model: str, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("generate", model, PROMPT, "--max-tokens", "2000", "--temperature", "1", "--seed", "3")
    with running(tmp_path, environment, *words) as process:
        assert process.stdout is not None
        assert process.stdout.read(8)  # blocks until the first words are there
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
    assert len(rest) < 4000
    assert list(tmp_path.iterdir()) == []


def test_a_conversation_is_answered_line_by_line(run: Run, model: str) -> None:
    words = ("chat", model, "--temperature", 0, "--max-tokens", 12, "--system", "Be short.")
    once = run(*words, given="What turns a tide mill?\n")
    assert once.returncode == 0, once.stderr
    assert "smollm2-135m" in once.stderr
    answer = once.stdout
    assert answer.strip()
    thrice = run(*words, given="What turns a tide mill?\n\nAnd when?\n/help\n/clear\n"
                               "What turns a tide mill?\n/exit\nnever asked\n")  # fmt: skip
    assert thrice.returncode == 0, thrice.stderr
    assert thrice.stdout.startswith(answer)
    assert thrice.stdout.endswith(answer)  # /clear leaves nothing behind
    assert len(thrice.stdout) > 2 * len(answer)
    assert thrice.stderr.count("/clear begins anew") == 2


def test_ctrl_c_stops_an_answer_and_not_the_conversation(
    model: str, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("chat", model, "--max-tokens", "1500", "--seed", "1")
    with running(tmp_path, environment, *words) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Tell a very long story about the sea.\n")
        process.stdin.flush()
        assert process.stdout.read(4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        out, errors = process.communicate(b"/exit\n", timeout=60)
    assert process.returncode == 0
    assert b"(stopped)" in errors
    assert len(out) < 6000


def test_a_question_longer_than_the_context_is_taken_back(run: Run, model: str) -> None:
    result = run("chat", model, "--context", 64, "--max-tokens", 4, "--temperature", 0,
                 given="word " * 100 + "\nHi\n")  # fmt: skip
    assert result.returncode == 0
    assert "context" in result.stderr
    assert result.stdout.strip()  # the second question is answered


def test_a_model_without_a_template_is_sent_to_generate_or_given_one(
    run: Run, model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    base = model_path(WITHOUT_TEMPLATE)
    refused = run("chat", base, given="Hello\n")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "tidemill generate" in refused.stderr
    assert "--template" in refused.stderr
    template = tmp_path / "template.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
                        "{% endfor %}assistant:")  # fmt: skip
    words = ("--max-tokens", 8, "--temperature", 0)
    given = run("chat", base, "--template", template, *words, given="Hello\n")
    assert given.returncode == 0, given.stderr
    plain = run("generate", base, "user: Hello\nassistant:", *words)
    assert given.stdout == plain.stdout


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (("generate", "MODEL"), "", "empty"),
        (("generate", "MODEL"), b"\xff\xfe", "UTF-8"),
        (("generate", "MODEL", "--context", "4"), "one two three four five six seven", "context"),
        (("generate", "MODEL", "x", "--temperature", "-1"), "", "temperature"),
        (("generate", "MODEL", "x", "--weights", "no-such:3"), "", "plug that is installed"),
        (("generate", "MODEL", "x", "--kv", ":3"), "", "name:options"),
        (("generate", "no-such-model", "x"), "", "smollm2-135m"),
        (("chat", "no-such-model"), "Hello\n", "smollm2-135m"),
        (("perplexity", "MODEL", "-"), "too short", "fewer than one window"),
        (("perplexity", "MODEL", "no-such-file"), "", "cannot be read"),
        (("bench-llm", "MODEL", "--part", "nonsense"), "", "decode"),
        (("bench-llm", "MODEL", "--save", "no/such/folder/x.json"), "", "folder that exists"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    run: Run, model: str, words: tuple[str, ...], given: Any, said: str
) -> None:
    if words[0] == "bench-llm":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    result = run(*(model if word == "MODEL" else word for word in words), given=given)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") <= 2


def test_perplexity_reads_a_file_or_standard_input(run: Run, model: str, tmp_path: Path) -> None:
    text = "The tide comes in and goes out, and the mill turns with it, twice a day. " * 12
    file = tmp_path / "text.txt"
    file.write_text(text)
    piped = run("perplexity", model, "-", "--window", 64, "--json", given=text)
    document = json.loads(piped.stdout)
    assert piped.stderr == ""
    assert 1 < document["low"] < document["value"] < document["high"]
    assert document["tokens"] == 32 * document["windows"]
    told = run("perplexity", model, file, "--window", 64)
    assert f"perplexity {document['value']:.4f} " in told.stdout
    fewer = run("perplexity", model, file, "--window", 64, "--limit", 128, "--json")
    assert json.loads(fewer.stdout)["windows"] == 2


def test_without_llama_cpp_the_bench_says_what_to_install(
    run: Run, model: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('not here')")
    environment["PYTHONPATH"] = str(tmp_path)
    result = run("bench-llm", model, "--part", "overhead")
    assert result.returncode == 3
    assert "pip install 'tidemill[peers]'" in result.stderr


def test_figures_of_the_bench_are_added_to_those_stored(
    run: Run, model: str, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    file = tmp_path / "llm.json"
    words = ("bench-llm", model, "--tokens", 2, "--repeats", 5, "--save", file)
    told = run(*words, "--part", "overhead")
    assert told.returncode == 0, told.stderr
    assert "spent outside the native call" in told.stdout
    assert run(*words, "--part", "decode", "--json").returncode == 0
    figures = json.loads(file.read_text())["models"]["smollm2-135m"]["figures"]
    assert sorted(figures) == ["decode", "overhead"]
    decode = figures["decode"]
    assert decode["verdict"] in ("yes", "no", "unclear")
    assert decode["measurement"]["detail"]["workload"]["tokens"] == 2
    assert all(each["command"] and each["code"] and each["machine"] for each in figures.values())
    file.write_text("[]")
    refused = run(*words, "--part", "overhead")
    assert (refused.returncode, file.read_text()) == (2, "[]")
