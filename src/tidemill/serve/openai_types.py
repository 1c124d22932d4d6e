"""The bodies of OpenAI's API that this server takes, checked.

Fields that OpenAI has and this server does not serve are let pass only where they change nothing;
those of vLLM (``top_k``, ``min_p``, ``repetition_penalty``, ``ignore_eos``, ``priority``, …) are
taken beside OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from tidemill.errors import ConfigError, InputError
from tidemill.models.sampling import SamplingParams

MOST_CHOICES = 16
MOST_STOPS = 4
MOST_LOGPROBS = 20


def _said_as(what: str) -> WrapValidator:
    """One sentence in place of an error for each of the kinds that a value may be of."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"must be {what}") from None

    return WrapValidator(check)


Stop = Annotated[str, Field(min_length=1, max_length=512)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Ids = Annotated[list[Token], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class Sampling(BaseModel):
    """What both kinds of completion share."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str = Field(max_length=512)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None,
        _said_as(f"a text, or up to {MOST_STOPS}, of 1 to 512 characters"),
    ] = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1024, json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,10}$"}}
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=512)
    top_k: int = Field(0, ge=-1, lt=1 << 31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=10)
    ignore_eos: bool = False
    priority: int = Field(0, ge=-1000, le=1000)
    cache_salt: str = Field("", max_length=128)

    def params(self, max_tokens: int | None, logprobs: int | None, choice: int) -> SamplingParams:
        """The settings of one of ``n`` texts.

        Raises:
            ConfigError: a bias is for what is no token.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None else (self.seed + choice) % (1 << 64)
        return SamplingParams(
            temperature=self.temperature if self.temperature >= 0.01 else 0.0,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=seed,
            max_tokens=max_tokens,
            stop=tuple(stop),
            logprobs=logprobs,
            logit_bias=_bias(self.logit_bias or {}),
            ignore_eos=self.ignore_eos,
        )


class JsonSchema(BaseModel):
    """A schema and what it is called."""

    name: str = Field("answer", max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_or_none(self) -> dict[str, Any] | None:
        """The JSON schema that the text must follow.

        Raises:
            InputError: none was given although it is promised.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise InputError("response_format — json_schema is missing; give name and schema.")
        return self.json_schema.schema_


class NamedFunction(BaseModel):
    """A function by its name."""

    name: str = Field(max_length=256)


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class CompletionBody(Sampling):
    """``POST /v1/completions``."""

    prompt: Annotated[
        str | Ids | Texts | Annotated[list[Ids], Field(min_length=1, max_length=MOST_CHOICES)],
        _said_as(f"a text, token ids (at least 0), or up to {MOST_CHOICES} of either"),
    ]
    max_tokens: int | None = Field(16, ge=1, lt=1 << 31)
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: Literal[False] = False
    response_format: ResponseFormat | None = None


class ChatMessage(BaseModel):
    """One message; what else it has goes to the template."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1, max_length=64)
    content: str | list[dict[str, Any]] | None = None


class ChatBody(Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool,
        _said_as("none, auto, required, or a function by its name"),
    ] = "auto"
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeBody(BaseModel):
    """``POST /tokenize``."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    bias = dict[int, float]()
    for name, amount in given.items():
        if not (name.isascii() and name.isdigit() and len(name) < 11):
            raise ConfigError.of(f"logit_bias[{name!r}]", amount, "given for a token id")
        bias[int(name)] = amount
    return bias
