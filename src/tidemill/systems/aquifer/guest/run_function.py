"""Serves one of the functions: ``python run_function.py json_document``."""

import importlib
import json
import sys

import tidemill_guest

function = importlib.import_module(f"functions.{sys.argv[1]}")


def answer(request: bytes) -> bytes:
    """Requests and answers are JSON."""
    return json.dumps(function.handle(json.loads(request))).encode()


if hasattr(function, "WARM"):  # what a function does at its ready point, as imports do
    function.handle(function.WARM)
tidemill_guest.serve(answer)
