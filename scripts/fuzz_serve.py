"""Asks a server everything that its OpenAPI document allows, and what it forbids: `make fuzz`.

A model is served on this machine and schemathesis asks for as long as ``--seconds`` says; it fails
if one answer is a server error, or not of the kind that the document promises.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

TOOLS = Path(sys.executable).parent
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


def main() -> int:
    """Serve, ask, and tell how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    serve = [TOOLS / "tidemill", "serve", wanted.model, "--port", "0", "--context", "64"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None, "it was asked for"
        try:
            address = _address(server.stderr.readline())
            return subprocess.call(
                [
                    *(TOOLS / "schemathesis", "run", f"{address}/openapi.json"),
                    *("--max-time", str(wanted.seconds), "--seed", str(wanted.seed)),
                    *("--phases", "coverage,fuzzing", "--checks", CHECKS),
                    *("--continue-on-failure", "--max-examples", "100000"),
                    *("--request-timeout", "300"),  # sixteen texts on a busy machine
                ]
            )
        finally:
            server.terminate()


def _address(line: str) -> str:
    if " is served at " not in line:
        sys.exit(f"no server: {line}")
    return line.split(" at ")[1].split("/v1", maxsplit=1)[0]


if __name__ == "__main__":
    sys.exit(main())
