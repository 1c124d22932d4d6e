"""Peak resident memory of ``tidemill chat`` and of the same turn in llama.cpp, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tidemill.errors import MissingCapability, ProtocolError

QUESTION = "Why does a tide mill turn only some hours of the day?"
_PEER = """
import sys
from pathlib import Path
from tidemill.models.llama_peer import LlamaModel, PeerSettings

path, threads, context, tokens, *ids = sys.argv[1:]
with LlamaModel(Path(path)) as model:
    with model.context(PeerSettings(), threads=int(threads), tokens=int(context)) as peer:
        nexts = [int(peer.prefill([int(token) for token in ids]).argmax())]
        for _ in range(int(tokens)):
            nexts = peer.step(nexts)
"""


# Linux counts what a process was before exec(), so the one that starts it must be small itself.
_LAUNCHER = """
import os, subprocess, sys

child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def our_peak_bytes(model: str, *, chat: bool, threads: int, context: int, tokens: int) -> int:
    """Of one question to ``tidemill chat`` (or ``generate``) and ``tokens`` tokens of an answer."""
    command = "chat" if chat else "generate"
    words = ["-m", "tidemill", command, model, "--threads", threads, "--context", context]
    words += ["--max-tokens", tokens, "--temperature", "0"]
    return _peak_bytes([str(word) for word in words], QUESTION + "\n")


def peer_peak_bytes(
    path: str, ids: Sequence[int], *, threads: int, context: int, tokens: int
) -> int:
    """Of llama.cpp's C functions doing the same, with little Python around them."""
    words = ["-c", _PEER, path, *map(str, (threads, context, tokens)), *map(str, ids)]
    return _peak_bytes(words, "")


def _peak_bytes(words: Sequence[str], text: str) -> int:
    """Run Python with ``words`` and ``text`` on its standard input; what the kernel saw at most."""
    if not hasattr(os, "wait4"):
        raise MissingCapability("peak memory — this system does not tell it; only Unix does.")
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, sys.executable, *words],
        input=text,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProtocolError(
            f"peak memory — {' '.join(words[:3])} ended with exit code {done.returncode}."
        )
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
