"""The figures of language models, as pages print them: what ``bench-llm --save`` stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tidemill.bench import Direction, Measurement, Verdict
from tidemill.bench.promise import Promise, shown_value
from tidemill.bench.wire import measurement_of
from tidemill.bench.wording import unit_sign, word
from tidemill.models.llm_bench import PROMISES

CODE = (
    "src/tidemill/models",
    "src/tidemill/cli/bench_llm.py",
    "src/tidemill/bench/compare.py",
)
"""What the figures come from."""
MEASURE = "tidemill bench-llm MODEL --text FILE"
QUIET = 0.1  # cores of others that disturb nothing
Models = Mapping[str, dict[str, Any]]
Detail = Callable[[Measurement], Iterable[str]]
Changed = Callable[[dict[str, Any], str, Sequence[str]], list[str]]


def rows(
    models: Models, promises: Sequence[Promise] = PROMISES, detail: Detail | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every promise, by default of the decoder, with its figure for each model."""
    cells: list[list[str]] = []
    for promise in promises:
        sign = "≥" if promise.direction is Direction.AT_LEAST else "≤"
        bound = f"{sign} {promise.target:g} {unit_sign(promise.unit)}".rstrip()
        cells.append(
            [promise.statement, bound]
            + [
                _cell(model["figures"].get(promise.id), detail or _detail)
                for model in models.values()
            ]
        )
    return ["promise", "target", *models], cells


def _cell(figure: dict[str, Any] | None, detail: Detail) -> str:
    """One figure with its verdict and what it is made of."""
    if figure is None:
        return "not measured yet"
    found = measurement_of(figure["measurement"])
    text = f"**{shown_value(found.value, found.low, found.high, figure['unit'])}** — "
    text += word(Verdict(figure["verdict"]), "en")
    return text + "".join(f"<br>{line}" for line in detail(found))


def _detail(found: Measurement) -> Iterator[str]:
    """What else is worth telling of a figure."""
    detail: dict[str, Any] = found.detail
    if "peer_tokens_per_s" in detail:
        yield (
            f"{detail['tokens_per_s']:.0f} against {detail['peer_tokens_per_s']:.0f} tokens/s "
            f"({detail['peer_settings']})"
        )
    if found.claim == "cosine":
        yield (
            f"mean {detail['mean']:.6f} of {detail['positions']} positions, "
            f"{detail['below_target']} below the target"
        )
        yield f"llama.cpp's: least {detail['peer_least']:.4f}, mean {detail['peer_mean']:.4f}"
    if found.claim == "divergences":
        ours, theirs = detail["reference_sides_with_us_and_them"]
        yield (
            f"of {detail['positions']} positions along llama.cpp's texts {detail['differing']} "
            f"differ; there the reference sides {ours} times with tidemill, {theirs} with llama.cpp"
        )
    if found.claim.startswith("perplexity"):
        yield f"{detail['tidemill']:.4f} against {detail[found.baseline]:.4f}"
    if found.claim == "memory":
        ours, theirs = (sorted(detail[key])[1] / 2**20 for key in ("peak_bytes", "peer_peak_bytes"))
        yield f"{ours:.0f} against {theirs:.0f} MiB"


def machine(
    models: Models, changed_since: Changed, code: Sequence[str] = CODE, command: str = MEASURE
) -> str:
    """Where, when and how figures were measured; by default those of language models."""
    lines: list[str] = []
    for name, model in models.items():
        for figure in _runs(model):
            place = figure["machine"]
            ids = [k for k, v in model["figures"].items() if v["command"] == figure["command"]]
            text = (
                f"- {name}, {', '.join(ids)}: {figure['written'][:10]}, {place['cpu']}, "
                f"{place['cores']} cores, native level {place['native_level']}, "
                f"{model['threads']} threads, code `{figure['code'][:12]}`, {model['peer']}, "
                f"`{figure['command']}`."
            )
            busy = max(model["figures"][k]["foreign_cores"] for k in ids)
            if busy > QUIET:
                text += f" Other processes kept {busy:.1f} cores busy."
            document = {"environment": {"code": figure["code"]}}
            if changed := changed_since(document, "", code):
                text += f" **Older than the code:** since then {', '.join(changed)} changed."
            lines.append(text)
    return "\n".join(lines) or f"Not measured yet: `{command}`."


def _runs(model: dict[str, Any]) -> list[dict[str, Any]]:
    """One figure of each run that gave some."""
    return list({each["command"]: each for each in model["figures"].values()}.values())


def line(models: Models, language: str) -> str:
    """The speeds of the native decoder in one sentence."""
    parts: list[str] = []
    for name, model in models.items():
        ratios = [
            f"{model['figures'][key]['measurement']['value']:.1f}"
            for key in ("decode", "streams", "prefill")
            if key in model["figures"]
        ]
        parts.append(f"{name} {' / '.join(ratios)}")
    figures = "; ".join(parts) or {"en": "not measured yet", "zh": "尚未测量"}[language]
    return {
        "en": "Language models run natively, too (`tidemill chat qwen2.5-coder-0.5b`). Decoding "
        f"one text / eight texts / reading a prompt, times llama.cpp's speed: {figures}. "
        "[All figures](docs/models.md).",
        "zh": "语言模型也在本机原生运行(`tidemill chat qwen2.5-coder-0.5b`)。单路解码 / 八路解码 / "
        f"读取提示,为 llama.cpp 速度的倍数:{figures}。[全部数据](docs/models.md)。",
    }[language]
