// A talk with an adapter and, beside it, the same talk with the base. Everything comes from this server; nothing else is asked.
"use strict";

const at = (id) => document.getElementById(id);
const sides = { left: { element: at("left"), talk: [] }, right: { element: at("right"), talk: [] } };
let models = [];
let running = null; // what stops the answers under way

function key() { return sessionStorage.getItem("key") || ""; }

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const content = await response.json().catch(() => ({}));
  at("key-form").hidden = response.status !== 401;
  if (response.status === 401) at("key").focus();
  throw new Error(content.error ? content.error.message : `the server answered ${response.status}`);
}

async function listModels() {
  try {
    const list = await (await call("v1/models")).json();
    models = list.data;
  } catch (error) {
    at("status").textContent = error.message;
    return;
  }
  at("key-form").hidden = true;
  const chosen = at("model").value;
  at("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  const adapters = models.filter((model) => model.adapter);
  if (models.some((model) => model.id === chosen)) at("model").value = chosen;
  else if (adapters.length) at("model").value = adapters[0].id;
  at("status").textContent = "Ready.";
  newTalk();
}

function chosen() { return models.find((model) => model.id === at("model").value); }

function names() {
  const model = chosen();
  const dial = Number(at("dial").value);
  const left = model.adapter && dial !== 1 ? `${model.id}@${dial}` : model.id;
  return { left, right: models[0].id };
}

function newTalk() {
  if (running) running.abort();
  for (const side of Object.values(sides)) {
    side.talk = [];
    side.element.querySelector("ol").replaceChildren();
  }
  show();
}

function show() {
  const model = chosen();
  if (!model) return;
  const { left, right } = names();
  at("dial").disabled = !model.adapter;
  at("dial-value").textContent = at("dial").value;
  at("compare").disabled = !model.adapter;
  at("right").hidden = !model.adapter || !at("compare").checked;
  sides.left.element.querySelector("h2").textContent = left;
  sides.right.element.querySelector("h2").textContent = `${right} (the base)`;
  at("note").textContent = `Answered by ${model.engine}` + (model.note ? `: ${model.note}` : ".");
}

function line(side, kind, text) {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  side.element.querySelector("ol").append(item);
  return item;
}

async function answer(side, model, signal) {
  const talk = side.talk; // a new talk may begin before this answer ends
  const item = line(side, "assistant", "");
  let text = "";
  try {
    const body = {
      model, messages: talk, stream: true,
      temperature: Number(at("temperature").value), max_tokens: Number(at("tokens").value),
    };
    const response = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") continue;
        const content = JSON.parse(data);
        if (content.error) throw new Error(content.error.message);
        for (const choice of content.choices) text += choice.delta.content || "";
        item.textContent = text;
      }
    }
  } catch (error) {
    const stopped = error.name === "AbortError";
    item.textContent = text + (stopped ? " (stopped)" : `\n${error.message}`);
    if (!stopped) item.classList.add("failed");
    if (!text) {
      talk.pop(); // the question was not answered: it is not part of the talk
      return stopped;
    }
    talk.push({ role: "assistant", content: text });
    return stopped;
  }
  talk.push({ role: "assistant", content: text });
  return true;
}

async function ask(event) {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || running || !chosen()) return;
  at("question").value = "";
  running = new AbortController();
  const mine = running;
  at("send").disabled = true;
  at("stop").disabled = false;
  at("status").textContent = "Answering …";
  const { left, right } = names();
  const wanted = [[sides.left, left]];
  if (!at("right").hidden) wanted.push([sides.right, right]);
  const answers = wanted.map(([side, model]) => {
    line(side, "user", question);
    side.talk.push({ role: "user", content: question });
    return answer(side, model, mine.signal);
  });
  const well = await Promise.all(answers);
  running = null;
  at("send").disabled = false;
  at("stop").disabled = true;
  at("status").textContent = mine.signal.aborted ? "Stopped." : well.every(Boolean) ? "Ready." : "Not every question was answered.";
  at("question").focus();
}

at("ask").addEventListener("submit", ask);
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
});
at("stop").addEventListener("click", () => running && running.abort());
at("new").addEventListener("click", newTalk);
at("model").addEventListener("change", newTalk); // or the model copies what another one said
at("dial").addEventListener("input", newTalk);
at("compare").addEventListener("change", newTalk);
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  listModels();
});
listModels();
