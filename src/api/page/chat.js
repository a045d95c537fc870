// The chat: puts the parts together and keeps the one conversation that is shown.

import * as client from "./client.js";
import { announce, element, iconButton } from "./dom.js";
import { answerMessage, userMessage } from "./messages.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { attach as attachTheme } from "./theme.js";

const at = (id) => document.getElementById(id);
const [thread, messages, prompt, model, sidebar] = ["thread", "messages", "prompt", "model", "sidebar"].map(at);

/** Between attempts to reach a server whose model still loads. */
const RETRY_MS = 1000;

let conversation = store.fresh();
/** Ends the answer under way; null when there is none. */
let running = null;
let retry = 0;

// ---- Messages

function notice(text, ...nodes) {
  at("notice").replaceChildren(text ?? "", ...nodes);
}

function keep(kept) {
  store.save(kept);
  if (store.problem) notice(store.problem);
  listConversations();
}

function draw() {
  at("welcome").hidden = conversation.messages.length > 0;
  messages.replaceChildren(...conversation.messages.map((message, index) => view(message, index).node));
  document.title = conversation.messages.length > 0 ? `${store.title(conversation)} · Hesper` : "Chat · Hesper";
  busy();
  thread.scrollTop = thread.scrollHeight;
}

/** Cuts the conversation to its first `length` messages, and answers. */
function goOnFrom(length, changed) {
  if (running) return;
  conversation.messages.length = length;
  if (changed) conversation.messages.push(changed);
  prompt.focus();
  answer();
}

function view(message, index) {
  if (message.role === "user") {
    return { node: userMessage(message, { edit: (content) => goOnFrom(index, { role: "user", content }) }) };
  }
  const shown = answerMessage(message, { again: () => goOnFrom(index), key: () => settings.open("key") });
  if (message !== running?.message) shown.finish();
  return shown;
}

/** Shows whether an answer is under way: Stop takes Send's place, and what would begin another is off. */
function busy() {
  const on = running !== null;
  at("send").hidden = on;
  at("stop").hidden = !on;
  at("send").disabled = prompt.value.trim() === "" || model.value === "";
  for (const button of messages.querySelectorAll("[data-busy]")) button.disabled = on;
}

function request() {
  const system = settings.systemPrompt();
  const said = conversation.messages.filter((message) => message.role === "user" || message.content !== "");
  return {
    model: model.value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...said.map(({ role, content }) => ({ role, content }))],
    ...settings.sampling(),
  };
}

async function answer() {
  const body = request();
  const message = { role: "assistant", content: "", reasoning: "" };
  const mine = conversation;
  const controller = new AbortController();
  mine.messages.push(message);
  running = { message, controller };
  notice(store.problem);
  draw();
  keep(mine);
  const shown = view(message, mine.messages.length - 1);
  messages.lastChild.replaceWith(shown.node);
  shown.update();
  announce("The model answers");
  await receive(message, shown, body, controller.signal);
  running = null;
  shown.finish();
  // It may have been deleted meanwhile.
  if (mine === conversation || store.has(mine.id)) keep(mine);
  if (mine === conversation) followEnd();
  busy();
  announce(message.error ? "" : message.content === "" ? "The answer is empty" : `Answer: ${message.content}`);
}

async function receive(message, shown, body, signal) {
  const begin = performance.now();
  const elapsed = () => Math.round(performance.now() - begin);
  let frame = 0;
  const redraw = () => {
    frame = 0;
    const follow = atEnd();
    shown.update();
    if (follow) followEnd();
  };
  try {
    for await (const piece of client.chat(body, settings.apiKey(), signal)) {
      if (piece.usage) message.tokens = piece.usage.completion_tokens;
      if (piece.finish) message.end = piece.finish;
      if (piece.content === undefined) continue;
      message.firstMs ??= elapsed();
      message.totalMs = elapsed();
      message.content += piece.content;
      message.reasoning += piece.reasoning;
      frame ||= requestAnimationFrame(redraw);
    }
  } catch (error) {
    if (error.name === "AbortError") message.end = "stopped";
    else {
      message.error = { message: error.message, status: error.status ?? null, retryAfterSeconds: error.retryAfterSeconds ?? null };
      // What is no refusal of the server's is a defect of this page: the console shall have it.
      if (!(error instanceof client.ServerError)) console.error(error);
    }
  }
  if (frame) cancelAnimationFrame(frame);
}

const atEnd = () => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 60;

function followEnd() {
  thread.scrollTop = thread.scrollHeight;
}

function stop() {
  running?.controller.abort();
}

function send() {
  const content = prompt.value.trim();
  if (running || content === "" || model.value === "") return;
  prompt.value = "";
  fit();
  goOnFrom(conversation.messages.length, { role: "user", content });
}

/** As high as its text; the style sheet says how high at most. */
function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

// ---- Conversations

function show(chosen) {
  stop();
  conversation = chosen;
  notice(store.problem);
  draw();
  listConversations();
  openSidebar(false);
  prompt.focus();
}

function listConversations() {
  const entry = (each) => {
    const current = each.id === conversation.id;
    const name = store.title(each);
    const title = element("button", { type: "button", class: "title", "aria-current": current ? "true" : null, title: name, onclick: () => show(current ? conversation : each) }, name);
    const remove = iconButton("trash", `Delete “${name}”`, () => {
      store.remove(each.id);
      if (current) show(store.fresh());
      else listConversations();
      at("new-conversation").focus();
    });
    return element("li", { class: current ? "current" : null }, title, remove);
  };
  const kept = store.all();
  at("conversations").replaceChildren(...kept.map(entry));
  at("clear").disabled = kept.length === 0;
}

function openSidebar(open) {
  sidebar.classList.toggle("open", open);
  at("backdrop").hidden = !open;
  at("main").inert = open;
  at("open-sidebar").setAttribute("aria-expanded", String(open));
  if (open) at("close-sidebar").focus();
}

// ---- The server

async function loadModels() {
  clearTimeout(retry);
  const before = model.value;
  let list;
  try {
    list = await client.models(settings.apiKey());
  } catch (error) {
    model.replaceChildren(element("option", { value: "" }, error.status === 503 ? "The model is loading…" : "No model"));
    model.disabled = true;
    const key = element("button", { type: "button", onclick: () => settings.open("key") }, "Enter an API key");
    notice(error.message, ...(error.status === 401 ? [" ", key] : []));
    busy();
    if (error.status === 503 || error.status === 0) retry = setTimeout(loadModels, RETRY_MS);
    return;
  }
  notice(store.problem);
  model.replaceChildren(...list.map(({ id }) => element("option", { value: id }, id)));
  model.disabled = list.length < 2;
  if (list.some(({ id }) => id === before)) model.value = before;
  busy();
  try {
    const { device } = await client.health();
    at("device").textContent = device ? `${device.name}${device.software ? " (software)" : ""}` : "";
  } catch {
    at("device").textContent = "";
  }
}

// ---- Events

function attach() {
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("input", () => {
    fit();
    busy();
  });
  prompt.addEventListener("keydown", (event) => {
    // While a word is composed (as in Japanese), Enter accepts it.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  at("stop").addEventListener("click", () => {
    stop();
    prompt.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (sidebar.classList.contains("open")) {
      openSidebar(false);
      at("open-sidebar").focus();
    } else stop();
  });
  at("new-conversation").addEventListener("click", () => show(store.fresh()));
  at("open-sidebar").addEventListener("click", () => openSidebar(true));
  at("close-sidebar").addEventListener("click", () => {
    openSidebar(false);
    at("open-sidebar").focus();
  });
  at("backdrop").addEventListener("click", () => openSidebar(false));
  at("clear").addEventListener("click", () => at("confirm").showModal());
  at("confirm").addEventListener("close", () => {
    if (at("confirm").returnValue !== "yes") return;
    store.clear();
    show(store.fresh());
    announce("All conversations are cleared");
  });
  // What has come of an answer when the page is left.
  window.addEventListener("pagehide", () => {
    if (!running) return;
    running.message.end = "stopped";
    store.save(conversation);
  });
  attachTheme(at("theme"));
  settings.attach(loadModels);
}

attach();
conversation = store.all()[0] ?? conversation;
draw();
listConversations();
loadModels();
prompt.focus();
