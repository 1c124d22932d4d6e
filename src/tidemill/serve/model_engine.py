"""An engine over a model: its decoder, the blocks of its cache, and a scheduler."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tidemill.errors import ConfigError
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import PAGE_TOKENS, NativeDecoder, default_context
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.decoder_executor import DecoderExecutor
from tidemill.serve.engine import EngineCore
from tidemill.serve.executor import Threaded
from tidemill.serve.grammar import Grammars
from tidemill.serve.policy import ORDERS
from tidemill.serve.scheduler import Policies, Scheduler, SchedulerConfig

if TYPE_CHECKING:
    from tidemill.serve.messages import EngineSpec


def make_core(decoder: NativeDecoder, model: ModelFile, spec: EngineSpec) -> EngineCore:
    """An engine over ``decoder``, with the limits of ``spec``.

    Raises:
        ConfigError: a limit cannot be.
    """
    if spec.order not in ORDERS:
        raise ConfigError.of("order", spec.order, f"one of {', '.join(sorted(ORDERS))}")
    tokenizer = model.tokenizer
    executor = DecoderExecutor(decoder, Grammars(tokenizer) if tokenizer.eos_ids else None)
    pipeline = executor if spec.depth == 1 else Threaded(executor, spec.depth)
    config = SchedulerConfig(
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=max(spec.max_num_batched_tokens, spec.max_num_seqs),
        max_model_len=decoder.context,
        max_queue=spec.max_queue,
        prefix_caching=executor.maps_pages,
    )
    pool = BlockPool(decoder.kv_tokens // PAGE_TOKENS, PAGE_TOKENS)
    return EngineCore(Scheduler(config, pool, Policies(ORDERS[spec.order]())), pipeline, tokenizer)


@contextmanager
def open_core(spec: EngineSpec) -> Generator[EngineCore]:
    """An engine over the model that ``spec`` names.

    Raises:
        TidemillError: as ``open_model`` and ``NativeDecoder``.
    """
    with open_model(spec.model) as file:
        context = default_context(file.config, spec.context)
        decoder = NativeDecoder(
            file,
            threads=spec.threads,
            context=context,
            kv_tokens=spec.max_num_seqs * context,
            weights=spec.weights,
            kv=spec.kv,
        )
        core = make_core(decoder, file, spec)
        yield core
        core.pipeline.close()
