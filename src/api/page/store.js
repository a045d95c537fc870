// Conversations, kept in this browser: one entry each, so that two tabs do not overwrite each other's.

const PREFIX = "hesper.conversation.";

/** Why a conversation could not be kept, or null. */
export let problem = null;

function valid(value) {
  const message = (entry) =>
    entry !== null && typeof entry === "object" && ["user", "assistant"].includes(entry.role) && typeof entry.content === "string";
  return (
    value !== null &&
    typeof value === "object" &&
    typeof value.id === "string" &&
    Number.isFinite(value.changed) &&
    Array.isArray(value.messages) &&
    value.messages.every(message)
  );
}

/** A conversation without messages. It is kept from its first message on. */
export function fresh() {
  return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), changed: Date.now(), messages: [] };
}

/** All conversations, the last changed first. What is not one is left alone. */
export function all() {
  const found = [];
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const key = localStorage.key(index);
      if (!key.startsWith(PREFIX)) continue;
      try {
        const value = JSON.parse(localStorage.getItem(key));
        if (valid(value) && PREFIX + value.id === key) found.push(value);
      } catch {
        // Not JSON: not ours.
      }
    }
  } catch {
    problem = "This browser keeps nothing for this page: conversations are lost when it is closed.";
  }
  return found.sort((a, b) => b.changed - a.changed);
}

export function save(conversation) {
  conversation.changed = Date.now();
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    problem = null;
  } catch {
    problem = "This conversation could not be kept: the browser's storage for this page is full or turned off.";
  }
}

export function has(id) {
  return all().some((conversation) => conversation.id === id);
}

export function remove(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // Then nothing was kept.
  }
}

export function clear() {
  for (const conversation of all()) remove(conversation.id);
}

/** What a conversation is called: how its first message begins. */
export function title(conversation) {
  const text = conversation.messages[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  if (text === "") return "New conversation";
  return text.length > 60 ? `${text.slice(0, 60).trimEnd()}…` : text;
}
