"""``tidemill generate``: a text that goes on from a prompt, streamed."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

import typer

from tidemill.cli.language_model import (
    AsJson,
    Context,
    DecoderOptions,
    Kv,
    MaxTokens,
    Model,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    Weights,
    opened,
    print_json,
    read_text,
)


def generate(  # noqa: PLR0913 - one parameter per option
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it.")] = "-",
    *,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the text.")] = None,
    threads: Threads = None,
    context: Context = None,
    weights: Weights = None,
    kv: Kv = None,
    as_json: AsJson = False,
) -> None:
    """Go on from PROMPT, as it stands; `tidemill chat` uses the model's chat template."""
    from tidemill.models.generation import PromptCache
    from tidemill.models.generation import generate as run
    from tidemill.models.sampling import SamplingParams

    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
    )
    text = read_text("-") if prompt == "-" else prompt
    with opened(model, DecoderOptions(threads, context, weights, kv), quiet=as_json) as ready:
        ids = ready.tokenizer.encode(text)
        begin = perf_counter()
        generation = run(
            ready.decoder, ready.tokenizer, ids, params, cache=PromptCache(ready.decoder)
        )
        written: list[str] = []
        first_s = 0.0
        for piece in generation:
            first_s = first_s or perf_counter() - begin
            written.append(piece.text)
            if not as_json and piece.text:
                typer.echo(piece.text, nl=False)
        elapsed_s = perf_counter() - begin
    if not as_json:
        typer.echo("")
        return
    print_json(
        {
            "model": model,
            "text": "".join(written),
            "ids": generation.ids,
            "finish_reason": str(generation.finish_reason),
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(generation.ids)},
            "ttft_s": first_s,
            "elapsed_s": elapsed_s,
        }
    )
