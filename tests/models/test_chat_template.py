"""Chat templates against transformers' own renderer, and what malformed and hostile ones do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.chat_template import ChatTemplate
from tidemill.models.gguf import GGUFFile

HELLO = [{"role": "user", "content": "Hello, <b>you</b> 你好"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "é<"], "y": None}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is 2+2? \n"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
    {"role": "tool", "content": "four"},
    {"role": "assistant", "content": "It is 4.", "reasoning": "so simple"},
    {"role": "user", "content": "Thanks"},
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": 'Adds <numbers> & "more" — é',
            "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
    }
]
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim }}\n"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{%- if messages[0].role == 'system' -%}{%- set first = "
        "messages[0].content + '\n\n' -%}{%- set loop_messages = messages[1:] -%}{%- else -%}"
        "{%- set first = '' -%}{%- set loop_messages = messages -%}{%- endif -%}\n"
        "{%- for message in loop_messages -%}{%- if (message['role'] == 'assistant') -%}"
        "{%- set role = 'model' -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}"
        "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
        "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
        "{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}"
        "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
        "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}"
        "{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
    ),
    "tojson": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ messages | tojson }}",
    "tools as none": "{% if tools is none %}none{% else %}{{ tools | length }}{% endif %}",
    "loop controls": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
        "{% if loop.index > 4 %}{% break %}{% endif %}{{ m.role }},{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% set ns.text = ns.text ~ ns.n ~ m.role[0] %}{% endfor %}{{ ns.text }} {{ ns.n }}"
    ),
    "blocks": "a\n  {% if true %}\n  b\n  {% endif %}\nc {%- if 1 %} d {% endif -%} e\n",
    "macro": (
        "{% macro line(m, sep=': ') %}{{ m.role | upper }}{{ sep }}{{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ line(m) }}\n{% endfor %}"
    ),
    "filters": (
        "{{ messages | map(attribute='role') | unique | join(', ') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ 'a-b' | replace('-', '+') | title | center(9) | indent(2) }} {{ '%05.1f' % 3.14159 }} "
        "{{ '{:>6}|{}'.format('x', 2) }} {{ 'x,y'.split(',')[-1] }} {{ [3,1,2] | sort | first }} "
        "{{ {'b': 1, 'a': 2} | dictsort }} {{ 'ab' * 3 }} {{ 7 // 2 }} {{ 2 ** 10 }} {{ 7 % 4 }} "
        "{{ dict(a=1).items() | list }} {{ ' x '.strip() ~ 1 ~ none }} {{ range(3) | list }} "
        "{{ 'abc'[::-1] }} {{ undefined_thing is defined }} {{ messages[-1].content.rstrip() }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}"
        "{{ m.content }}</a>{% endgeneration %}{% else %}<u>{{ m.content }}</u>{% endif %}"
        "{% endfor %}"
    ),
    "variables": "{{ enable_thinking }} {{ eos_token }} {{ documents | tojson }} {{ missing }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}",
}
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>"}


def peer_text(
    source: str, messages: list[dict[str, Any]], **arguments: Any
) -> tuple[str, list[tuple[int, int]]]:
    """What ``apply_chat_template`` makes of it."""
    peer = pytest.importorskip("transformers.utils.chat_template_utils")
    kept = [{key: item for key, item in m.items() if item is not None} for m in messages]
    spans = "{% generation %}" in source
    texts, found = peer.render_jinja_template(
        [kept],
        chat_template=source,
        return_assistant_tokens_mask=spans,
        **(SPECIAL | {"enable_thinking": True} | arguments),
    )
    return texts[0], found[0] if spans else []


@pytest.mark.parametrize("tools", [None, [], TOOLS], ids=["no tools", "empty tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("messages", [HELLO, TALK], ids=["hello", "talk"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_written_as_transformers_writes_them(
    name: str, messages: list[dict[str, Any]], prompt: bool, tools: list[dict[str, Any]] | None
) -> None:
    source = TEMPLATES[name]
    if messages is TALK and name in ("chatml", "macro"):
        messages = [m for m in messages if m["content"] is not None]
    wanted, spans = peer_text(source, messages, tools=tools, add_generation_prompt=prompt)
    template = ChatTemplate(source, special_tokens=SPECIAL)
    found = template.render(
        messages, tools=tools, add_generation_prompt=prompt, variables={"enable_thinking": True}
    )
    assert found.text == wanted
    assert list(found.assistant_spans) == spans


@pytest.fixture(scope="module")
def qwen(model_path: Callable[[str], Path]) -> ChatTemplate:
    with GGUFFile.open(model_path("qwen2.5-coder-0.5b")) as file:
        return ChatTemplate.from_gguf(file.metadata)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("messages", [HELLO, TALK], ids=["hello", "talk"])
def test_the_template_of_a_real_file_writes_what_transformers_writes(
    qwen: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    wanted, _ = peer_text(qwen.source, messages, tools=tools, add_generation_prompt=True)
    assert qwen.render(messages, tools=tools).text == wanted
    assert wanted.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("ending", ["The answer", "The answer is ", " ", "a\n"])
@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_the_last_message_can_be_left_open_as_transformers_does(name: str, ending: str) -> None:
    source = TEMPLATES[name]
    messages = [*HELLO, {"role": "assistant", "content": ending}]
    wanted, _ = peer_text(source, messages, continue_final_message=True)
    template = ChatTemplate(source, special_tokens=SPECIAL)
    found = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert found.text == wanted
    parts = [{"type": "image"}, {"type": "text", "text": ending}, {"type": "image"}]
    if name == "gemma":
        messages[1] = {"role": "assistant", "content": parts}
        wanted, _ = peer_text(source, messages, continue_final_message=True)
        found = template.render(messages, add_generation_prompt=False, continue_final_message=True)
        assert found.text == wanted
        assert parts[1]["text"] == ending


def test_the_clock_of_a_template_is_given_to_it() -> None:
    template = ChatTemplate(
        "{{ strftime_now('%Y-%m-%d') }}", now=lambda: datetime(2024, 2, 29, 12, 0)
    )
    assert template.render(HELLO).text == "2024-02-29"


def test_a_file_may_hold_several_templates_or_none() -> None:
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["<s>", "</s>"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.chat_template": "{{ bos_token }}{{ pad_token is defined }}",
        "tokenizer.chat_template.tool_use": "tools: {{ eos_token }}",
        "tokenizer.chat_template.number": 3,
    }
    assert ChatTemplate.from_gguf(metadata).render(HELLO).text == "<s>False"
    assert ChatTemplate.from_gguf(metadata, "tool_use").render(HELLO).text == "tools: "
    with pytest.raises(CorruptFile, match=r"chat_template\.number — is no text"):
        ChatTemplate.from_gguf(metadata, "number")
    del metadata["tokenizer.chat_template"]
    with pytest.raises(UnsupportedModel, match="base model"):
        ChatTemplate.from_gguf(metadata)


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "conversation is empty"),
        ("hello", "must be a list"),
        ({"role": "user"}, "must be a list"),
        (["hello"], r"messages\[0\] — is str; must be an object"),
        ([{"content": "x"}], r"messages\[0\] — has role=None"),
        ([{"role": "", "content": "x"}], "has role=''"),
        ([{"role": "user", "content": 3}], "has content=3"),
        ([{"role": "user", "content": object()}], r"messages\[0\]\.content — is object"),
        ([{"role": "user", "content": [{"type": "image", "image": b"x"}]}], r"image — is bytes"),
        ([{"role": "user", 3: "x"}], "has the key 3"),
        ([{"role": "user", "content": "x", "score": float("nan")}], "score — is float nan"),
    ],
)
def test_malformed_messages_are_refused_by_their_place(messages: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ChatTemplate("{{ messages }}").render(messages)


def test_messages_nested_without_end_are_refused() -> None:
    content: list[Any] = []
    content.append(content)
    with pytest.raises(InputError, match="nested more than 64 deep"):
        ChatTemplate("x").render([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ messages[7].content }}", "refuses them"),
        ("{{ messages[0].content + 1 }}", "cannot write them"),
        ("{{ 1 / 0 }}", "cannot write them: division by zero"),
        ("{{ 'x' | no_such_filter }}", "no_such_filter"),
    ],
)
def test_what_a_template_does_not_take_is_told_as_its_own_words(source: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ChatTemplate(source).render(HELLO)


def test_continuing_needs_text_that_the_template_writes() -> None:
    both = ChatTemplate("x")
    with pytest.raises(InputError, match="excludes add_generation_prompt"):
        both.render(HELLO, continue_final_message=True)
    with pytest.raises(InputError, match="leaves the last message out"):
        both.render(HELLO, add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(InputError, match="no text that could be continued"):
        both.render([{"role": "user"}], add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize("source", ["{{", "{% if %}", "{% for x in %}", "{{ x | }}", "{% nope %}"])
def test_what_is_no_jinja_is_refused_when_it_is_read(source: str) -> None:
    with pytest.raises(CorruptFile, match="line 1"):
        ChatTemplate("" + source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__.__bases__ }}",
        "{{ ''.__class__ }}{{ messages.append(1) }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_leaves_its_sandbox_is_stopped(source: str) -> None:
    with pytest.raises(InputError):
        ChatTemplate(source).render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ [0] * 10 ** 10 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a'.zfill(width=10000000000) }}",
        "{{ 'a' | indent(100000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%99999999d' | format(1) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10000000000) }}",
        "{{ 9 ** 99999 ** 9 }}",
        "{{ messages | map('center', 1000000000) | list }}",
        "{% set x = 'a' * 9999999 %}{{ x.replace('', x) }}",
        "{% set x = 'a' * 9999999 %}{{ x | replace('a', x) }}",
        "{{ range(99999) | list | join('a' * 9999999) }}",
        "{{ ('a' * 9999999).join(range(999) | map('string') | list) }}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x~n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x+n.x %}{% endfor %}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
        "{{ [['a' * 999999] * 999] }}",
        "{{ ([['a' * 999999] * 999] * 999) | string }}",
        "{{ [['a' * 999999] * 999] | tojson }}",
        "{{ (['a' * 999999] * 999) | join }}",
        "{{ ''.join(['a' * 999999] * 999) }}",
        "{{ 'x' ~ ['a' * 999999] * 999 }}",
        "{{ ('{0}' * 99999).format('a' * 999999) }}",
        "{{ ('%(a)s' * 99999) % {'a': 'a' * 999999} }}",
        "{{ ('a ' * 99999) | wordwrap(1, wrapstring='a' * 999999) }}",
        "{{ ('a\n' * 99999) | indent('a' * 999999) }}",
        "{{ ([[0] * 99999] * 99) | sum(start=[]) | length }}",
        "{{ lipsum(n=100000000) }}",
        "{{ 'a'.translate({97: 'b' * 999999}) }}",
    ],
)
def test_a_template_that_would_fill_the_memory_is_stopped(source: str) -> None:
    with pytest.raises(InputError, match=r"stopped|refuses|compiled"):
        ChatTemplate(source).render(HELLO)


def test_a_template_that_would_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.models.template_limits.CPU_SECONDS", 0.1)
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(CorruptFile, match="CPU time"):
        ChatTemplate(loop).render(HELLO)


def test_a_template_too_large_or_too_deep_is_refused() -> None:
    with pytest.raises(CorruptFile, match="1048577 characters"):
        ChatTemplate("x" * ((1 << 20) + 1))
    with pytest.raises(CorruptFile, match="too deeply"):
        ChatTemplate("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}")


def test_threads_share_a_template_without_mixing_conversations() -> None:
    template = ChatTemplate(TEMPLATES["generation"])
    found: dict[int, set[tuple[str, tuple[tuple[int, int], ...]]]] = {}

    def render(number: int) -> None:
        messages = [{"role": "assistant", "content": str(number) * number}]
        rendered = [template.render(messages) for _ in range(50)]
        found[number] = {(chat.text, chat.assistant_spans) for chat in rendered}

    threads = [Thread(target=render, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, chats in found.items():
        assert chats == {(f"<a>{str(number) * number}</a>", ((3, 3 + number + 4),))}
