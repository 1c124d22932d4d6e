"""Keys and their limits: by the clock, and as clients see them."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from api_server import body, counting, streamed
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.serve.api_keys import Account, Accounts, ApiKey, OverLimit, parse_keys


def test_a_file_of_keys_is_read() -> None:
    keys = parse_keys("# ours\n\nanna\nbot  requests_per_minute=60 concurrent_requests=4 # slow\n")
    assert keys == (ApiKey("anna"), ApiKey("bot", 60, None, 4))
    assert "anna" not in repr(keys)


@pytest.mark.parametrize(
    "line",
    [
        "secret rpm=3",
        "secret requests_per_minute=0",
        "secret tokens_per_minute=-1",
        "secret requests_per_minute=9999999999",
        "secret b",
        "secret\nsecret",
    ],
)
def test_lines_that_are_no_keys_are_refused_without_being_shown(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(line)
    assert "secret" not in str(caught.value)


class Hand:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 100), st.lists(st.tuples(st.floats(0, 20), st.integers(1, 30)), max_size=30))
@settings(max_examples=40)
def test_in_no_window_do_more_requests_pass_than_the_limit_says(
    per_minute: int, moments: list[tuple[float, int]]
) -> None:
    clock = Hand()
    account, passed = Account(ApiKey("k", requests_per_minute=per_minute), clock), list[float]()
    for gap, tries in moments:
        clock.now += gap
        for _ in range(tries):
            try:
                account.enter()
            except OverLimit as error:
                clock.now += error.retry_after_s
                account.enter()  # what was promised holds
            passed.append(clock.now)
    for start, first in enumerate(passed):
        for count, last in enumerate(passed[start:], 1):
            assert count <= per_minute * (1 + (last - first) / 60) + 1e-3


def test_tokens_that_were_overdrawn_fill_up_first() -> None:
    clock = Hand()
    account = Account(ApiKey("k", tokens_per_minute=60), clock)
    account.enter()
    account.spend(100)
    with pytest.raises(OverLimit, match="tokens_per_minute=60") as caught:
        account.enter()
    assert caught.value.retry_after_s == pytest.approx(41)
    clock.now += 40.9
    with pytest.raises(OverLimit):
        account.enter()
    clock.now += 0.2
    account.enter()


def test_a_clock_that_jumps_back_gives_and_takes_nothing() -> None:
    clock = Hand()
    account = Account(ApiKey("k", requests_per_minute=1), clock)
    account.enter()
    clock.now -= 500
    with pytest.raises(OverLimit) as caught:
        account.enter()
    assert caught.value.retry_after_s <= 60


def test_only_the_whole_key_is_known() -> None:
    accounts = Accounts([ApiKey("schlüssel"), ApiKey("b")])
    assert accounts.find("schlüssel") is not accounts.find("b") is not None
    assert [accounts.find(other) for other in ("", "schl", "schlüssel2", "\udcff")] == [None] * 4


def test_clients_are_told_which_limit_and_when_to_come_back() -> None:
    keys = (
        ApiKey("few", requests_per_minute=2),
        ApiKey("one", concurrent_requests=1),
        ApiKey("short", tokens_per_minute=30),
        ApiKey("free"),
    )
    with counting(step="0.005", in_process=True, api_keys=keys) as found:

        def ask(key: str, length: int = 2, **fields: object) -> httpx.Response:
            return httpx.post(
                f"{found.address}/v1/completions",
                json=body(1, length, stream=False, **fields),
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
            )

        codes = [ask("few").status_code for _ in range(3)]
        refused = ask("few")
        assert codes == [200, 200, 429]
        assert refused.json()["error"]["param"] == "requests_per_minute"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30

        assert ask("short", 20, n=2).status_code == 200  # 2 x 20 and a prompt of one
        refused = ask("short")
        assert refused.json()["error"]["param"] == "tokens_per_minute"
        assert 15 <= int(refused.headers["retry-after"]) <= 24

        async def together() -> list[int]:
            head = {"Authorization": "Bearer one"}
            async with httpx.AsyncClient(base_url=found.address, headers=head) as client:
                told = await asyncio.gather(*(streamed(client, body(1, 60)) for _ in range(4)))
                return sorted(one.status for one in told)

        assert asyncio.run(together()) == [200, 429, 429, 429]
        assert ask("one").status_code == 200
        assert [ask("free").status_code for _ in range(5)] == [200] * 5
        assert ask("other").status_code == 401
        headers = {"Authorization": "Bearer free"}
        metrics = httpx.get(f"{found.address}/metrics", headers=headers).text
    label = '{limit="concurrent_requests",model_name="counting"}'
    assert f"tidemill:requests_limited_total{label} 3.0" in metrics
