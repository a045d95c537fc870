// Markdown as models write it, into elements. Text only ever becomes text nodes, links lead to http, https and mailto
// only, and images are shown as links: the page asks no other host for anything.

import { copy, element, iconButton } from "./dom.js";

const MAX_DEPTH = 8;
/** The page's own headings stand above those of an answer. */
const TOP_LEVEL = 3;
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])\s*(?:\1\s*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The elements of a text. */
export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0));
  closeGaps(fragment);
  return fragment;
}

// Who goes through a page by its headings takes a level that is left out for something missed.
function closeGaps(fragment) {
  let above = TOP_LEVEL - 1;
  for (const node of fragment.querySelectorAll("h3, h4, h5, h6")) {
    const level = Math.min(Number(node.tagName[1]), above + 1);
    if (level < Number(node.tagName[1])) node.replaceWith(element(`h${level}`, {}, ...node.childNodes));
    above = level;
  }
}

function blocks(lines, depth) {
  const nodes = [];
  let at = 0;
  const take = (block) => {
    const [node, next] = block;
    nodes.push(node);
    at = next;
  };
  while (at < lines.length) {
    const line = lines[at];
    if (line.trim() === "") at += 1;
    else if (FENCE.test(line)) take(fence(lines, at));
    else if (HEADING.test(line)) take(heading(lines, at));
    else if (RULE.test(line)) take([element("hr"), at + 1]);
    else if (QUOTE.test(line) && depth < MAX_DEPTH) take(quote(lines, at, depth));
    else if (ITEM.test(line) && depth < MAX_DEPTH) take(list(lines, at, depth));
    else if (isTable(lines, at)) take(table(lines, at));
    else take(paragraph(lines, at, depth));
  }
  return nodes;
}

function fence(lines, begin) {
  const [, indent, marks, language] = FENCE.exec(lines[begin]);
  const end = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}\\s*$`);
  const content = [];
  let at = begin + 1;
  // A block that is not closed goes on to the end: the answer is still on its way.
  while (at < lines.length && !end.test(lines[at])) {
    content.push(lines[at].startsWith(indent) ? lines[at].slice(indent.length) : lines[at]);
    at += 1;
  }
  const code = content.join("\n");
  const button = iconButton("copy", "Copy code", () => copy(button, code));
  const bar = element("div", { class: "code-bar" }, element("span", {}, language || "code"), button);
  // It may scroll, so it takes the keyboard's focus.
  const pre = element("pre", { tabindex: "0", role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, element("code", {}, code));
  return [element("div", { class: "code" }, bar, pre), at + 1];
}

function heading(lines, at) {
  const [, marks, text] = HEADING.exec(lines[at]);
  return [element(`h${Math.min(marks.length + TOP_LEVEL - 1, 6)}`, {}, ...inline(text, 0)), at + 1];
}

function quote(lines, begin, depth) {
  let at = begin;
  const inner = [];
  while (at < lines.length && QUOTE.test(lines[at])) {
    inner.push(lines[at].replace(QUOTE, ""));
    at += 1;
  }
  return [element("blockquote", {}, ...blocks(inner, depth + 1)), at];
}

const indentOf = (line) => line.length - line.trimStart().length;

function list(lines, begin, depth) {
  const [, indent, firstMark] = ITEM.exec(lines[begin]);
  const ordered = /\d/.test(firstMark);
  const items = [];
  let at = begin;
  while (at < lines.length) {
    const match = ITEM.exec(lines[at]);
    if (!match || match[1].length > indent.length + 3 || match[1].length < indent.length || /\d/.test(match[2]) !== ordered) break;
    const inner = [match[3]];
    const width = match[1].length + 2;
    at += 1;
    // What is indented belongs to the item, blank lines between included; so does a paragraph's next line.
    while (at < lines.length) {
      const blank = lines[at].trim() === "";
      if (!blank && indentOf(lines[at]) < width && (lines[at - 1].trim() === "" || startsBlock(lines[at]))) break;
      if (blank && (at + 1 >= lines.length || indentOf(lines[at + 1]) < width)) break;
      inner.push(lines[at].slice(Math.min(width, indentOf(lines[at]))));
      at += 1;
    }
    items.push(element("li", {}, ...tight(blocks(inner, depth + 1))));
    if (at < lines.length && lines[at].trim() === "" && at + 1 < lines.length && ITEM.test(lines[at + 1])) at += 1;
  }
  const start = ordered && Number.parseInt(firstMark, 10) !== 1 ? { start: Number.parseInt(firstMark, 10) } : {};
  return [element(ordered ? "ol" : "ul", start, ...items), at];
}

// An item's only or first paragraph needs no element of its own.
function tight(nodes) {
  if (nodes[0]?.tagName !== "P") return nodes;
  return [...nodes[0].childNodes, ...nodes.slice(1)];
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && TABLE_RULE.test(lines[at + 1]);
}

function table(lines, begin) {
  const names = cells(lines[begin]);
  let at = begin + 2;
  const rows = [];
  while (at < lines.length && lines[at].includes("|")) {
    const row = cells(lines[at]);
    rows.push(element("tr", {}, ...names.map((_, column) => element("td", {}, ...inline(row[column] ?? "", 0)))));
    at += 1;
  }
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, ...inline(name, 0))));
  const node = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  return [element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, node), at];
}

function paragraph(lines, begin, depth) {
  let at = begin + 1;
  const ends = (line) => line.trim() === "" || (startsBlock(line) && depth < MAX_DEPTH);
  while (at < lines.length && !ends(lines[at]) && !isTable(lines, at)) at += 1;
  const children = [];
  lines.slice(begin, at).forEach((line, index) => {
    // Models end a line where they want one to end.
    if (index > 0) children.push("\n");
    children.push(line.trim());
  });
  return [element("p", {}, ...inline(children.join(""), 0)), at];
}

// Each pattern is tried where its first character stands; what none takes is text.
const INLINE = [
  ["`", /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/, (match) => element("code", {}, match[2].replace(/^ (.*\S.*) $/, "$1"))],
  ["\\", /^\\([!-/:-@[-`{-~])/, (match) => match[1]],
  ["!", /^!\[([^\]\n]{0,500})\]\(([^()\s]{1,2000})(?:\s+"[^"]*")?\)/, (match) => link(match[2], [match[1] || match[2]], match[0])],
  ["[", /^\[((?:[^[\]\\]|\\.){1,500})\]\(([^()\s]{1,2000})(?:\s+"[^"]*")?\)/, (match, depth) => link(match[2], inline(match[1], depth + 1, true), match[0])],
  ["<", /^<(https?:\/\/[^\s<>]{1,2000}|mailto:[^\s<>]{1,500})>/, (match) => link(match[1], [match[1]], match[0])],
  ["h", /^https?:\/\/[^\s<>"'`|]{1,2000}[^\s<>"'`|.,;:!?)\]*_~]/, (match) => link(match[0], [match[0]], match[0])],
  ["*", /^\*\*(?=\S)([\s\S]{0,2000}?\S)\*\*(?!\*)/, (match, depth) => element("strong", {}, ...inline(match[1], depth + 1))],
  ["_", /^__(?=\S)([\s\S]{0,2000}?\S)__(?![\p{L}\p{N}_])/u, (match, depth) => element("strong", {}, ...inline(match[1], depth + 1))],
  ["*", /^\*(?=[^\s*])([\s\S]{0,2000}?[^\s*])\*(?!\*)/, (match, depth) => element("em", {}, ...inline(match[1], depth + 1))],
  ["_", /^_(?=[^\s_])([\s\S]{0,2000}?[^\s_])_(?![\p{L}\p{N}_])/u, (match, depth) => element("em", {}, ...inline(match[1], depth + 1))],
  ["~", /^~~(?=\S)([\s\S]{0,2000}?\S)~~/, (match, depth) => element("s", {}, ...inline(match[1], depth + 1))],
  ["\n", /^\n/, () => element("br")],
];

const WORD = /[\p{L}\p{N}]$/u;

function inline(text, depth, insideLink = false) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain !== "") nodes.push(plain);
    plain = "";
  };
  let at = 0;
  while (at < text.length) {
    const found = depth < MAX_DEPTH ? take(text, at, plain, depth, insideLink) : null;
    if (found === null) {
      plain += text[at];
      at += 1;
    } else if (typeof found.node === "string") {
      plain += found.node;
      at += found.length;
    } else {
      flush();
      nodes.push(found.node);
      at += found.length;
    }
  }
  flush();
  return nodes;
}

function take(text, at, before, depth, insideLink) {
  const first = text[at];
  // Within words these are no marks: snake_case, and the h of "though".
  if ((first === "_" || first === "h") && WORD.test(before)) return null;
  for (const [start, pattern, make] of INLINE) {
    if (start !== first || (insideLink && "![<h".includes(start))) continue;
    const match = pattern.exec(text.slice(at, at + 5000));
    if (match) return { node: make(match, depth), length: match[0].length };
  }
  return null;
}

// An address that leads elsewhere than to a page or a mailbox stays the text that it was.
function link(address, children, source) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return source;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return source;
  return element("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
}
