"""Models of a hub: the real client against a small hub of our own on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gguf_builder import llama

from tidemill.models.hub import is_hub_id

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
REPOS = {
    "tide/plain": {
        "config.json": b"{}",
        "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER + bytes(4),
        "training.bin": b"not wanted",
    },
    "tide/packed": {"config.json": b"{}", "tiny.gguf": llama().build()},
}


class Hub(BaseHTTPRequestHandler):
    """The little of the hub's protocol that its client needs."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        api = path[0] == "api"
        owner = "/".join(path[2:4] if api else path[:2])
        files = REPOS.get(owner)
        if files is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif api:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in files.items()
            ]
            siblings = [{"rfilename": name} for name in files]
            info = {"id": owner, "sha": COMMIT, "siblings": siblings}
            found = tree if "tree" in path else info
            self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
        elif (data := files.get("/".join(path[4:]))) is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(200, data, {"X-Repo-Commit": COMMIT, "ETag": tag})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is their own."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pull(name: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidemill", "models", "pull", name],
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_hub_model_of_safetensors_is_a_folder(endpoint: str, tmp_path: Path) -> None:
    result = pull("tide/plain", endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_gguf_file_of_a_hub_model_is_a_file(endpoint: str, tmp_path: Path) -> None:
    result = pull("tide/packed/tiny.gguf", endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).read_bytes() == llama().build()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tide/packed", "has no safetensors; name one of its GGUF files"),
        ("tide/absent", "cannot be had"),
        ("tide/packed/absent.gguf", "cannot be had"),
        ("tide/a--b", "cannot be had"),
    ],
)
def test_a_hub_model_that_is_not_there_is_wrong_use(
    name: str, text: str, endpoint: str, tmp_path: Path
) -> None:
    result = pull(name, endpoint, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert text in result.stderr
    assert result.stderr.startswith("InputError: ")


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("owner/name", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("owner/name/sub/file.gguf", True),
        ("owner", False),
        ("owner/name/file.bin", False),
        ("../name", False),
        ("owner/..", False),
        ("owner/name/../x.gguf", False),
        ("/owner/name", False),
        ("owner/name\n", False),
    ],
)
def test_what_looks_like_a_hub_id(name: str, is_id: bool) -> None:
    assert is_hub_id(name) is is_id
