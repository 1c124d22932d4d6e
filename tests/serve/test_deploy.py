"""What is deployed beside the server fits the server: dashboard and unit."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import body, counting

from tidemill.serve.api_keys import ApiKey

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "tidemill-serve@.service"


def expressions(node: Any) -> Iterator[str]:
    """What a dashboard asks Prometheus for."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"expr", "query"} and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def test_the_dashboard_shows_metrics_that_there_are_and_all_of_them() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    shown = set(re.findall(r"tidemill:\w+", " ".join(expressions(dashboard))))
    keys = (ApiKey("a", requests_per_minute=1),)
    with counting(step="0", in_process=True, api_keys=keys) as found:
        headers = {"Authorization": "Bearer a"}
        for _ in range(2):  # the second is refused
            httpx.post(f"{found.address}/v1/completions", json=body(1, 5), headers=headers)
        text = httpx.get(f"{found.address}/metrics", headers=headers).text
    samples = set(re.findall(r"^(tidemill:\w+)", text, re.MULTILINE))
    assert shown <= samples
    kinds = ("_bucket", "_sum", "_count", "_created")
    plain = {re.sub("|".join(f"{kind}$" for kind in kinds), "", name) for name in samples}
    assert {name.removesuffix("_total") for name in plain} == {
        name.removesuffix("_bucket").removesuffix("_total") for name in shown
    }


def test_the_unit_runs_a_command_that_there_is() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    unit.read(UNIT)
    words = unit["Service"]["ExecStart"].split()
    assert words[:3] == ["/opt/tidemill/bin/tidemill", "serve", "%i"]
    help_text = subprocess.run(
        [sys.executable, "-m", "tidemill", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not [word for word in words if word.startswith("--") and word not in help_text]
    grace = int(words[words.index("--grace") + 1])
    assert int(unit["Service"]["TimeoutStopSec"]) > grace + 5


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("tidemill")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/tidemill/bin/tidemill", str(command))
    unit = tmp_path / "tidemill-serve@model.service"
    unit.write_text(text, encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert unit.name not in verified.stderr
