// How messages look: what was said, what can be done with it, how fast it came, what went wrong.

import { copy, element, iconButton } from "./dom.js";
import { render } from "./markdown.js";

const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;

/** Tokens a second and time to the first token, from an answer's own record; "" where there is none. */
export function statistics({ tokens, firstMs, totalMs }) {
  if (!Number.isFinite(firstMs)) return "";
  const parts = [];
  // The first token's time is the prompt's; the rate is that of the others.
  if (tokens > 1 && totalMs > firstMs) parts.push(`${(((tokens - 1) * 1000) / (totalMs - firstMs)).toFixed(1)} tokens/s`);
  parts.push(`first token after ${seconds(firstMs)}`);
  if (Number.isFinite(tokens)) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  return parts.join(" · ");
}

// By these who hears the page goes from message to message.
const heading = (who) => element("h2", { class: "hidden" }, who);

const ENDS = { length: "cut at the token limit", stopped: "stopped" };

/** A user's message. `act.edit(text)` is called with the new text. */
export function userMessage(message, act) {
  const node = element("article", { class: "message user" });
  const show = () => {
    const copyButton = iconButton("copy", "Copy message", () => copy(copyButton, message.content));
    const editButton = iconButton("edit", "Edit message", edit, { "data-busy": true });
    const bubble = element("div", { class: "bubble" }, message.content);
    node.replaceChildren(heading("You"), bubble, element("div", { class: "actions" }, copyButton, editButton));
    return editButton;
  };
  const edit = () => {
    const area = element("textarea", { "aria-label": "Edit your message", rows: Math.min(message.content.split("\n").length + 1, 12) });
    area.value = message.content;
    const cancel = () => show().focus();
    const form = element(
      "form",
      {
        class: "edit",
        onsubmit: (event) => {
          event.preventDefault();
          if (area.value.trim() !== "") act.edit(area.value.trim());
        },
        onkeydown: (event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            cancel();
          } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === area) {
            event.preventDefault();
            form.requestSubmit();
          }
        },
      },
      area,
      element("div", {}, element("button", { type: "button", onclick: cancel }, "Cancel"), element("button", { type: "submit", class: "primary", "data-busy": true }, "Send")),
    );
    node.replaceChildren(heading("You"), form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  };
  show();
  return node;
}

/**
 * The model's message. `update()` shows what `message` has become, `finish()` adds what can be done with it:
 * `act.again()` answers anew.
 */
export function answerMessage(message, act) {
  const thoughts = element("div");
  const summary = element("summary", {}, "Thinking…");
  const reasoning = element("details", { class: "reasoning", hidden: true }, summary, thoughts);
  const waiting = element("div", { class: "waiting", role: "img", "aria-label": "Waiting for the first token" }, element("i"), element("i"), element("i"));
  const text = element("div", { class: "text" });
  const end = element("div");
  const node = element("article", { class: "message answer" }, heading("Model"), reasoning, waiting, text, end);
  let shown = null;

  const update = () => {
    waiting.hidden = message.content !== "" || Boolean(message.reasoning);
    if (message.reasoning) {
      reasoning.hidden = false;
      thoughts.textContent = message.reasoning;
      summary.textContent = message.content === "" && !message.done ? "Thinking…" : "Thoughts";
    }
    if (shown !== message.content) {
      shown = message.content;
      replaceTail(text, render(message.content));
    }
  };
  const finish = () => {
    message.done = true;
    update();
    waiting.hidden = true;
    const copyButton = iconButton("copy", "Copy answer", () => copy(copyButton, message.content));
    const again = iconButton("again", "Answer again", act.again, { "data-busy": true });
    const ended = ENDS[message.end] ? element("span", { class: "stopped" }, ENDS[message.end]) : null;
    const stats = element("span", { class: "stats" }, statistics(message));
    const actions = element("div", { class: "actions" }, copyButton, again, stats, ended ? " · " : null, ended);
    copyButton.hidden = message.content === "";
    end.replaceChildren(message.error ? failure(message.error, act) : "", actions);
  };
  return { node, update, finish };
}

// Leaves alone what is equal at the beginning, so that a selection or a focus in it survives the next token.
function replaceTail(parent, fragment) {
  const fresh = [...fragment.childNodes];
  let same = 0;
  while (same < fresh.length && parent.childNodes[same]?.isEqualNode(fresh[same])) same += 1;
  while (parent.childNodes.length > same) parent.lastChild.remove();
  parent.append(...fresh.slice(same));
}

/** What went wrong, in the server's words, and what to do. */
function failure(error, act) {
  const title = error.status === 429 ? "The server is busy" : error.status === 401 ? "An API key is needed" : error.status === 0 ? "No connection" : "The server could not answer";
  const wait = Number.isFinite(error.retryAfterSeconds) ? element("p", {}, `It asks to try again in ${error.retryAfterSeconds} s.`) : null;
  const button =
    error.status === 401
      ? element("button", { type: "button", onclick: act.key }, "Enter an API key")
      : element("button", { type: "button", onclick: act.again, "data-busy": true }, "Try again");
  return element("div", { class: "error", role: "alert" }, element("strong", {}, title), element("p", {}, error.message), wait, button);
}
