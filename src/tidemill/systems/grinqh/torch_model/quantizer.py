"""GRINQH among the quantisation methods of transformers: ``quant_method`` "grinqh" in config.json.

grinqh.register()
model = AutoModelForCausalLM.from_pretrained("graded")
model.set_bits(decode=2.5)
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false
# pyright: reportUntypedClassDecorator=false

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tidemill.errors import InputError
from tidemill.systems.grinqh import checkpoint
from tidemill.systems.grinqh.checkpoint import KEY
from tidemill.systems.grinqh.torch_model.pretrained import Placed, place

METHOD = "grinqh"


class GrinqhQuantizationConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a model that `GrinqhModel.save_pretrained` wrote."""

    def __init__(self, **about: Any) -> None:
        self.__dict__.update(about)
        self.quant_method = cast("Any", METHOD)


class GrinqhQuantizer(HfQuantizer):
    """Puts graded layers where linear ones stood, while transformers loads all the rest."""

    requires_calibration = True

    def __init__(self, quantization_config: Any, **named: Any) -> None:
        super().__init__(quantization_config, **named)
        self._placed: Placed | None = None
        self._buffers: dict[str, dict[str, Any]] = {}
        self._about: dict[str, Any] = {}

    def _process_model_before_weight_loading(self, model: Any, **named: Any) -> None:
        files = named.get("checkpoint_files") or []
        if len(files) != 1 or Path(files[0]).name != checkpoint.WEIGHTS:
            raise InputError(
                f"{files} — must be one {checkpoint.WEIGHTS}, as save_pretrained wrote it."
            )
        matrices, arrays, config = checkpoint.load_all(Path(files[0]).parent)
        self._about = config[KEY]
        self._placed = place(model, matrices, arrays, self._about)
        self._buffers = {
            name: dict(layer.named_buffers()) for name, layer in self._placed.layers.items()
        }

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """Scales that were cast to the model's type are put back as they were stored."""
        if self._placed is None:
            raise InputError("the model — was not loaded from a checkpoint; quantize it instead.")
        for name, layer in self._placed.layers.items():
            for each, buffer in self._buffers[name].items():
                setattr(layer, each, buffer)
        object.__setattr__(model, "grinqh", self._placed.finished(model, self._about))
        return model

    def is_serializable(self) -> Any:
        """Its own `save_pretrained` writes it."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Codes have no gradient."""
        return False


def register() -> None:
    """Make the method known to transformers; a second call does nothing."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(GrinqhQuantizationConfig)
        register_quantizer(METHOD)(GrinqhQuantizer)
