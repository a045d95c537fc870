// How answers are made: the system prompt and the sampling parameters, kept in this browser; the API key only until the
// tab is closed.

const KEY = "hesper.settings";
const API_KEY = "hesper.key";

// Name of the field in requests, and how its text is read. Ranges are the server's to check: its words are shown.
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_completion_tokens", "seed"];

const form = document.getElementById("settings-form");
const dialog = document.getElementById("settings");

function read(storage, key) {
  try {
    return storage.getItem(key);
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    if (value === "") storage.removeItem(key);
    else storage.setItem(key, value);
  } catch {
    // Without storage the settings last as long as the page.
  }
}

function load() {
  let values = {};
  try {
    values = JSON.parse(read(localStorage, KEY) ?? "{}") ?? {};
  } catch {
    // Not ours: start from nothing.
  }
  for (const name of ["system", ...NUMBERS]) {
    const value = values[name];
    form.elements[name].value = typeof value === "string" ? value : "";
  }
  form.elements.key.value = read(sessionStorage, API_KEY) ?? "";
}

function keep() {
  const values = {};
  for (const name of ["system", ...NUMBERS]) {
    const value = form.elements[name].value;
    if (value.trim() !== "") values[name] = value;
  }
  write(localStorage, KEY, Object.keys(values).length === 0 ? "" : JSON.stringify(values));
  write(sessionStorage, API_KEY, form.elements.key.value.trim());
}

export function apiKey() {
  return form.elements.key.value.trim();
}

export function systemPrompt() {
  return form.elements.system.value.trim();
}

/** The fields of a request that are set; a seed keeps all its digits only up to 2^53, which the input's limit holds. */
export function sampling() {
  const fields = {};
  for (const name of NUMBERS) {
    const text = form.elements[name].value.trim();
    if (text !== "") fields[name] = Number(text);
  }
  return fields;
}

/** Opens the dialog, at the API key if that is what is missing. */
export function open(field) {
  dialog.showModal();
  if (field) form.elements[field].focus();
}

/** `changed` is called when the dialog closes. */
export function attach(changed) {
  load();
  document.getElementById("open-settings").addEventListener("click", () => open());
  document.getElementById("reset-settings").addEventListener("click", () => {
    for (const name of ["system", ...NUMBERS]) form.elements[name].value = "";
    keep();
  });
  form.addEventListener("input", keep);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.reportValidity()) dialog.close();
  });
  document.getElementById("close-settings").addEventListener("click", () => dialog.close());
  // A click beside the dialog's content is one on the dialog itself.
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", changed);
}
