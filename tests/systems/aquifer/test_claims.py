"""The trials on one function: every claim is answered; no figure of speed is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.bench import Budget, Context, Measurement, Progress, Status
from tidemill.bench.settings import dumps
from tidemill.systems.aquifer import SYSTEM, AquiferConfig
from tidemill.systems.aquifer.capability import missing
from tidemill.systems.aquifer.coherence import fuzzed, protocol, stressed
from tidemill.systems.aquifer.config import FUNCTION_NAMES, OTHER_WAYS
from tidemill.systems.aquifer.crowd import crowd
from tidemill.systems.aquifer.pod import Pod
from tidemill.systems.aquifer.restores import OURS, Scale, characterization, restores
from tidemill.systems.aquifer.workloads import FUNCTIONS, function

CONTEXT = Context(AquiferConfig(), Budget.QUICK, Progress(), 1)
TINY = Scale((function("html_page"), function("compression")), 5)


@pytest.fixture(scope="module")
def found() -> dict[str, Measurement]:
    if reason := missing():
        pytest.skip(reason)
    with Pod() as pod:
        made = [
            *restores(CONTEXT, pod, TINY),
            *characterization(CONTEXT, pod, TINY),
            *crowd(CONTEXT, pod),
            *protocol(CONTEXT),
            *stressed(CONTEXT, 4.0),
            *fuzzed(CONTEXT, 2.0),
        ]
    assert not pod.folder.exists()
    assert not pod.segment.exists()
    return {each.claim: each for each in made}


def test_every_claim_is_answered_in_plain_json(found: dict[str, Measurement]) -> None:
    assert set(found) == {claim.id for claim in SYSTEM.claims}
    for measurement in found.values():
        dumps(measurement.detail)


def test_what_does_not_depend_on_speed_holds(found: dict[str, Measurement]) -> None:
    assert found["hot-faults"].value == 0
    assert found["exact-memory"].value == 0
    assert found["protocol-orders"].value == found["protocol-mutants"].value == 0
    assert found["stress"].value == found["fuzz"].value == found["at-once"].value == 0
    assert found["density"].value > 0
    assert 75 <= found["zero-share"].value < 100
    assert 0 < found["hot-share"].value < 10
    assert found["cxl-share"].value < found["pooled-share"].value < 0.25


def test_emulated_hardware_is_named(found: dict[str, Measurement]) -> None:
    assert found["over-firecracker"].status is Status.EMULATED
    assert found["zero-share"].status is Status.MEASURED


def test_settings_name_what_there_is() -> None:
    assert [one.name for one in FUNCTIONS] == list(FUNCTION_NAMES)
    assert OURS not in OTHER_WAYS


def test_inputs_are_disjoint() -> None:
    for one in FUNCTIONS:
        requests = [*one.recorded(), one.measured()]
        assert len(set(requests)) == 3


@pytest.mark.parametrize("one", FUNCTIONS, ids=lambda one: one.name)
def test_a_function_s_answer_depends_on_its_input_and_on_nothing_else(
    one: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import json

    from tidemill.systems.aquifer.microvm import GUEST_FOLDER
    from tidemill.systems.aquifer.workloads import Function

    assert isinstance(one, Function)
    monkeypatch.syspath_prepend(str(GUEST_FOLDER))
    module = importlib.import_module(f"functions.{one.name}")
    measured, other = json.loads(one.measured()), json.loads(one.recorded()[0])
    answer = module.handle(measured)
    assert json.dumps(answer) == json.dumps(module.handle(measured))
    assert set(module.handle(other)) == set(answer)


def test_the_cipher_is_aes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.systems.aquifer.microvm import GUEST_FOLDER

    monkeypatch.syspath_prepend(str(GUEST_FOLDER))
    from functions import aes_cipher  # type: ignore[import-not-found]

    answer = aes_cipher.handle({"seed": 1, "blocks": 3})
    assert answer["fips197"] == "69c4e0d86a7b0430d8cdb78070b4c55a"
    assert answer["same"]
    assert Path(aes_cipher.__file__).is_file()
