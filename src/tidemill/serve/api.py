"""OpenAI's API over one engine."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tidemill.errors import InputError
from tidemill.models.chat_template import ChatTemplate
from tidemill.models.sampling import SamplingParams
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.answering import EventStream, close_all, whole_texts
from tidemill.serve.answers import Answer, Json, usage_json
from tidemill.serve.api_errors import install_error_handlers
from tidemill.serve.api_keys import Account
from tidemill.serve.async_engine import EngineState, TokenStream
from tidemill.serve.chat_page import add_chat_page
from tidemill.serve.engine_thread import EngineStopped
from tidemill.serve.gate import ACCOUNT
from tidemill.serve.grammar import Grammars
from tidemill.serve.metrics import Metrics
from tidemill.serve.openai_types import (
    ChatBody,
    CompletionBody,
    ResponseFormat,
    Sampling,
    TokenizeBody,
)
from tidemill.serve.replicas import Replicas
from tidemill.serve.tool_calls import forced_call
from tidemill.serve.types import Request as EngineRequest


@dataclass(slots=True)
class Served:
    """What the API stands on."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    metrics: Metrics
    created: int
    context: int
    grammars: Grammars | None = None
    """Made when the first request needs them."""
    engines: Replicas | None = None
    """There while the application runs."""

    @property
    def running(self) -> Replicas:
        """The engines.

        Raises:
            EngineStopped: there are none.
        """
        if self.engines is None:
            raise EngineStopped("engine — has stopped; send the request to another server.")
        return self.engines


Responses = dict[int | str, dict[str, Any]]


class UnknownModel(InputError):
    """The model is not served here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the texts that a body asks for."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    grammar: str | None


def make_api(
    served: Served, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    """The application; ``lifespan`` sets ``served.engines`` and stops them."""
    app = FastAPI(
        title="tidemill serve", version="1", docs_url=None, redoc_url=None, lifespan=lifespan
    )
    install_error_handlers(app)
    calls = _Calls(served)
    errors: Responses = {code: {} for code in (400, 401, 404, 413, 429, 500, 503)}
    texts: Responses = {200: {"content": {"text/event-stream": {}}}, **errors}
    app.add_api_route("/v1/models", calls.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", calls.model, methods=["GET"], responses={404: {}})
    app.add_api_route("/v1/completions", calls.complete, methods=["POST"], responses=texts)
    app.add_api_route("/v1/chat/completions", calls.chat, methods=["POST"], responses=texts)
    app.add_api_route("/tokenize", calls.tokenize, methods=["POST"], responses=errors)
    app.add_api_route("/health", calls.health, methods=["GET"], responses={503: {}})
    app.add_api_route("/metrics", calls.metrics, methods=["GET"], response_class=PlainTextResponse)
    app.openapi = lambda: _document(app, served)
    add_chat_page(app)
    return app


def _document(app: FastAPI, served: Served) -> Json:
    """The OpenAPI document, which names the model that is served and how long its texts may be."""
    if app.openapi_schema is None:
        found: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
        named = {"type": "string", "enum": [served.name]}
        for schema in found["components"]["schemas"].values():
            fields = schema.get("properties", {})
            fields |= {"model": named} if "model" in fields else {}
            for field in fields.keys() & {"max_tokens", "max_completion_tokens"}:
                fields[field]["anyOf"][0] |= {"maximum": served.context}
        for parameter in found["paths"]["/v1/models/{name}"]["get"]["parameters"]:
            parameter["schema"] = named
        app.openapi_schema = found
    return app.openapi_schema


class _Calls:
    """The end points."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def models(self) -> Json:
        """The models served here."""
        return {"object": "list", "data": [self._described()]}

    async def model(self, name: str) -> Json:
        """One of them."""
        self._check_model(name)
        return self._described()

    async def complete(self, body: CompletionBody, http: Request) -> Response:
        """Go on from a text."""
        self._check_model(body.model)
        prompts = self._prompts(body)
        grammar = self._grammar(body.response_format)
        asked = [
            Asked(prompt, body.params(body.max_tokens, body.logprobs, choice), grammar)
            for prompt in prompts
            for choice in range(body.n)
        ]
        answer = self._answer("cmpl", body, chat=False)
        return await self._respond(answer, body, asked, http)

    async def chat(self, body: ChatBody, http: Request) -> Response:
        """Answer a conversation."""
        served = self._served
        self._check_model(body.model)
        if served.template is None:
            raise InputError(
                f"model {served.name!r} — says nothing of conversations; use /v1/completions, or "
                "start the server with --template FILE."
            )
        offered = None if body.tool_choice == "none" else body.tools
        rendered = served.template.render(
            [message.model_dump(exclude_none=True) for message in body.messages],
            tools=offered,
            variables=body.chat_template_kwargs,
        )
        prompt = served.tokenizer.encode(rendered.text, add_special=False, parse_special=True)
        most = body.max_completion_tokens or body.max_tokens
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        grammar = self._tool_grammar(body) or self._grammar(body.response_format)
        asked = [
            Asked(prompt, body.params(most, logprobs, choice), grammar) for choice in range(body.n)
        ]
        answer = self._answer("chatcmpl", body, chat=True)
        answer.tools = offered is not None
        return await self._respond(answer, body, asked, http)

    async def tokenize(self, body: TokenizeBody) -> Json:
        """The ids of a text."""
        if body.model is not None:
            self._check_model(body.model)
        tokens = self._served.tokenizer.encode(body.prompt, add_special=body.add_special_tokens)
        return {"count": len(tokens), "max_model_len": self._served.context, "tokens": tokens}

    async def health(self) -> Response:
        """Whether requests are taken: 200 if an engine takes them, else 503."""
        engines = self._served.running
        good = engines.state is EngineState.READY
        each = [{"state": one.state, "restarts": one.restarts} for one in engines.engines]
        body = {"status": "ok" if good else engines.state, "engines": each}
        return JSONResponse(body, 200 if good else 503, None if good else {"Retry-After": "1"})

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(
            self._served.metrics.text(self._served.running.engines),
            media_type="text/plain; version=0.0.4",
        )

    def _described(self) -> Json:
        served = self._served
        about = {"id": served.name, "object": "model", "created": served.created}
        return {**about, "owned_by": "tidemill", "max_model_len": served.context}

    def _check_model(self, name: str) -> None:
        if name != self._served.name:
            raise UnknownModel(f"model {name!r} — is not served here; {self._served.name!r} is.")

    def _answer(self, kind: str, body: Sampling, *, chat: bool) -> Answer:
        name = f"{kind}-{secrets.token_hex(12)}"
        return Answer(name, body.model, chat, self._served.tokenizer)

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        given: Any = body.prompt
        encode = self._served.tokenizer.encode
        if isinstance(given, str):
            return [encode(given)]
        if isinstance(given[0], str):
            return [encode(text) for text in given]
        return [given] if isinstance(given[0], int) else given

    def _grammar(self, wanted: ResponseFormat | None) -> str | None:
        schema = wanted.schema_or_none() if wanted else None
        return None if schema is None else self._grammars.json_schema(schema)

    def _tool_grammar(self, body: ChatBody) -> str | None:
        if body.tool_choice in ("none", "auto"):
            return None
        only = None if isinstance(body.tool_choice, str) else body.tool_choice.function.name
        return self._grammars.lark(forced_call(body.tools or [], only))

    @property
    def _grammars(self) -> Grammars:
        if self._served.grammars is None:
            self._served.grammars = Grammars(self._served.tokenizer)
        return self._served.grammars

    async def _respond(
        self, answer: Answer, body: Sampling, asked: Sequence[Asked], http: Request
    ) -> Response:
        account: Account | None = http.scope.get(ACCOUNT)
        spend = account.spend if account else _uncounted
        streams = await self._submit(answer, body, asked)
        for item in asked[:: body.n]:
            spend(len(item.prompt_ids))
        wants = asked[0].params.logprobs is not None
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            events = EventStream(answer, streams, body.n, wants, with_usage, spend)
            return StreamingResponse(events.encoded(), media_type="text/event-stream")
        texts = await whole_texts(streams, http, spend)
        choices = [answer.choice(index, text, wants) for index, text in enumerate(texts)]
        usage = usage_json([text[-1].usage for text in texts], body.n)
        return JSONResponse(answer.whole(choices, usage))

    async def _submit(
        self, answer: Answer, body: Sampling, asked: Sequence[Asked]
    ) -> list[TokenStream]:
        served, streams = self._served, list[TokenStream]()
        try:
            for index, item in enumerate(asked):
                _check_ids(item.prompt_ids, served.tokenizer.vocab_size)
                request = EngineRequest(
                    f"{answer.id}-{index}",
                    tuple(item.prompt_ids),
                    item.params,
                    served.tokenizer.eos_ids,
                    priority=body.priority,
                    grammar=item.grammar,
                    cache_salt=body.cache_salt,
                )
                streams.append(await served.running.submit(request))
        except BaseException:
            close_all(streams)
            raise
        return streams


def _uncounted(tokens: int) -> None:
    """Nobody limits whoever needs no key."""


def _check_ids(prompt: Sequence[int], vocab_size: int) -> None:
    odd = next(itertools.filterfalse(range(vocab_size).__contains__, prompt), None)
    if odd is not None:
        raise InputError(f"prompt — holds id {odd}; ids are from 0 to {vocab_size - 1}.")
