// A conversation with the model served here: streams, can be stopped, says how fast it was.
"use strict";

const byId = (id) => document.getElementById(id);
const [messages, form, question, status, send, stop] =
  ["messages", "form", "question", "status", "send", "stop"].map(byId);
const conversation = [];
let model = null;
let running = null;

function show(role, text) {
  const article = document.createElement("article");
  article.className = role;
  const who = document.createElement("h2");
  who.textContent = role === "user" ? "You" : model;
  const body = document.createElement("p");
  body.textContent = text;
  article.append(who, body);
  messages.append(article);
  body.scrollIntoView({ block: "end" });
  return body;
}

function busy(controller) {
  running = controller;
  send.hidden = controller !== null;
  stop.hidden = controller === null;
}

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// Asks for the key once if the server wants one.
async function call(path, options) {
  let answer = await fetch(path, { ...options, headers: headers() });
  if (answer.status === 401) {
    const key = window.prompt("This server asks for an API key.");
    if (key) {
      sessionStorage.setItem("key", key.trim());
      answer = await fetch(path, { ...options, headers: headers() });
    }
  }
  if (!answer.ok) {
    const found = await answer.json().catch(() => null);
    throw new Error(found?.error?.message ?? `the server answered ${answer.status}`);
  }
  return answer;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answerTo(controller) {
  const body = JSON.stringify({
    model, messages: conversation, stream: true, stream_options: { include_usage: true },
  });
  const answer = await call("v1/chat/completions", { method: "POST", body, signal: controller.signal });
  const shown = show("assistant", "");
  const begin = performance.now();
  let first = null;
  try {
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) {
        const { completion_tokens: tokens, prompt_tokens: prompt, prompt_tokens_details: details } = event.usage;
        const seconds = (performance.now() - (first ?? begin)) / 1000;
        const rate = tokens > 1 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
        const cached = details?.cached_tokens ? `, ${details.cached_tokens} of ${prompt} prompt tokens cached` : "";
        status.textContent = `${tokens} tokens${rate}${cached}`;
      }
      const text = event.choices?.[0]?.delta?.content;
      if (text) {
        first ??= performance.now();
        shown.textContent += text;
        shown.scrollIntoView({ block: "end" });
      }
    }
  } finally {
    conversation.push({ role: "assistant", content: shown.textContent });
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running || !model) return;
  question.value = "";
  status.textContent = "";
  conversation.push({ role: "user", content: text });
  show("user", text);
  const controller = new AbortController();
  busy(controller);
  try {
    await answerTo(controller);
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : `Not answered: ${error.message}`;
    if (conversation.at(-1).role === "user") conversation.pop();
  } finally {
    busy(null);
    question.focus();
  }
});

question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
stop.addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  conversation.length = 0;
  messages.replaceChildren();
  status.textContent = "";
  question.focus();
});

call("v1/models", {}).then(
  async (answer) => {
    model = (await answer.json()).data[0].id;
    byId("model").textContent = model;
    document.title = `${model} · tidemill`;
    question.focus();
  },
  (error) => { status.textContent = `No model: ${error.message}`; },
);
