// Elements without HTML: text is only ever a text node, so nothing that a model or a user wrote becomes markup.

/** An element with attributes and children; strings among the children become text nodes, null is left out. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

// Outlines on a grid of 24, drawn with a line of 1.8.
const ICONS = {
  copy: "M9 9h10v11H9z M15 9V4H5v11h4",
  check: "M5 12.5l4.500 4.500L19 7.500",
  edit: "M4 20l1-4L16 5l3 3L8 19z M14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.300-5.200 M19 3.500v4.500h-4.500",
  trash: "M5 7h14 M10 7V4h4v3 M7 7l1 13h8l1-13",
  close: "M6 6l12 12 M18 6L6 18",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A small button that shows an icon and, to those who hear the page, `label`. */
export function iconButton(name, label, onclick, attributes = {}) {
  return element("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Puts `text` on the clipboard and lets `button` say so for a moment. */
export async function copy(button, text) {
  const label = button.getAttribute("aria-label");
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give the clipboard to secure pages only: HTTPS or this machine itself.
    done = false;
  }
  announce(done ? "Copied" : "The browser does not allow copying here");
  button.setAttribute("title", done ? "Copied" : "The browser does not allow copying here");
  if (done) button.replaceChildren(icon("check"));
  setTimeout(() => {
    button.replaceChildren(icon("copy"));
    button.setAttribute("title", label);
  }, 1500);
}

/** Says `text` to those who hear the page. */
export function announce(text) {
  const region = document.getElementById("announcements");
  region.textContent = "";
  // An equal text after an empty one is read again.
  requestAnimationFrame(() => {
    region.textContent = text;
  });
}
