// Shows the OpenAPI document: each endpoint with what it takes and answers. It knows the part of JSON Schema that the
// document uses.

import { element } from "./dom.js";
import { attach as attachTheme } from "./theme.js";

const at = (id) => document.getElementById(id);

/** How deep objects within objects are shown. */
const MAX_DEPTH = 6;

let root = {};

function resolve(schema) {
  if (!schema?.$ref) return schema ?? {};
  return resolve(schema.$ref.slice(2).split("/").reduce((value, key) => value?.[key], root));
}

const nameOf = (schema) => schema.$ref?.split("/").pop();

/** The alternatives but null, which any field that may be left out has. */
function alternatives(schema) {
  const items = resolve(schema).oneOf ?? resolve(schema).anyOf;
  return items ? items.filter((item) => resolve(item).type !== "null") : [schema];
}

function typeOf(schema) {
  const all = alternatives(schema);
  if (all.length > 1) return all.map(typeOf).join(" or ");
  const only = resolve(all[0]);
  if (only !== resolve(schema) && (only.oneOf ?? only.anyOf)) return typeOf(only);
  if (only.enum) return only.enum.filter((value) => value !== null).map((value) => JSON.stringify(value)).join(" or ");
  const names = [only.type ?? "any"].flat().filter((name) => name !== "null");
  if (names.length === 0) return "null";
  if (names[0] === "array") return `array of ${typeOf(only.items ?? {})}`;
  return nameOf(all[0]) && names[0] === "object" ? nameOf(all[0]) : names.join(" or ");
}

function limits(schema) {
  const only = resolve(alternatives(schema)[0]);
  const words = [];
  const low = only.minimum ?? null;
  if (low !== null && only.maximum !== undefined) words.push(`${low} to ${only.maximum}`);
  else if (low !== null) words.push(`at least ${low}`);
  else if (only.exclusiveMinimum !== undefined) words.push(`above ${only.exclusiveMinimum}, at most ${only.maximum}`);
  if (only.minItems !== undefined) words.push(`at least ${only.minItems} ${only.minItems === 1 ? "item" : "items"}`);
  if (only.maxItems !== undefined) words.push(`at most ${only.maxItems} items`);
  if (only.maxLength !== undefined) words.push(`at most ${only.maxLength} characters`);
  if (only.default !== undefined) words.push(`default ${JSON.stringify(only.default)}`);
  return words.join(", ");
}

/** The objects with properties that a schema leads to, through arrays and alternatives, by name. */
function objects(schema, found = new Map()) {
  for (const item of alternatives(schema)) {
    const only = resolve(item);
    if (only.oneOf ?? only.anyOf) objects(only, found);
    else if (only.properties) found.set(nameOf(item) ?? "Object", only);
    else if (only.items) objects(only.items, found);
  }
  return found;
}

const plain = (text) => (text ?? "").replace(/`/g, "");

function fields(schema, depth) {
  const entries = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const description = resolve(property).description ?? property.description ?? alternatives(property)[0]?.description;
    const inner = depth < MAX_DEPTH ? [...objects(property)] : [];
    const required = schema.required?.includes(name) ? element("span", { class: "required" }, "required") : null;
    return element(
      "div",
      {},
      element("dt", {}, element("code", {}, name), element("span", {}, typeOf(property)), required, element("span", {}, limits(property))),
      element("dd", {}, plain(description), ...inner.map(([title, object]) => fold(title, object, depth + 1))),
    );
  });
  return element("dl", { class: "fields" }, ...entries);
}

// Filled when it is first opened: schemas may refer to themselves.
function fold(title, schema, depth) {
  const node = element("details", {}, element("summary", {}, title));
  node.addEventListener("toggle", () => {
    if (node.childElementCount > 1) return;
    if (schema.description) node.append(element("p", {}, plain(schema.description)));
    node.append(fields(schema, depth));
  });
  return node;
}

/** A value that fits: the first example, or what the required properties need. */
function example(schema, depth = 0) {
  const only = resolve(alternatives(schema)[0]);
  if (only.oneOf ?? only.anyOf) return example(only, depth);
  if (only.examples?.length) return only.examples[0];
  if (only.enum) return only.enum[0];
  const type = [only.type].flat()[0];
  if (type === "array") return depth > MAX_DEPTH ? [] : [example(only.items, depth + 1)];
  if (type === "object") {
    const names = (only.required ?? []).filter((name) => only.properties?.[name]);
    return Object.fromEntries(names.map((name) => [name, example(only.properties[name], depth + 1)]));
  }
  return { string: "text", integer: only.minimum ?? 1, number: only.minimum ?? 1, boolean: true }[type] ?? null;
}

function command(method, path, body) {
  const url = new URL(".", location.href).href.replace(/\/$/, "") + path;
  if (!body) return `curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${url}`;
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${url} \\\n  -H 'content-type: application/json' \\\n  -d '${json}'`;
}

function answers(responses) {
  const entries = Object.entries(responses).map(([status, response]) => {
    const kinds = Object.entries(response.content ?? {}).map(([kind, content]) => {
      const inner = [...objects(content.schema ?? {})];
      return status < "300" && inner.length > 0 ? inner.map(([title, object]) => fold(`${kind}: ${title}`, object, 1)) : [];
    });
    return element("div", {}, element("dt", {}, status), element("dd", {}, plain(response.description), ...kinds.flat()));
  });
  return element("dl", { class: "answers" }, ...entries);
}

function endpoint(method, path, operation) {
  const node = element(
    "article",
    { class: "endpoint", id: operation.operationId, "aria-labelledby": `${operation.operationId}-title` },
    element("h3", { id: `${operation.operationId}-title` }, element("span", { class: "method" }, method.toUpperCase()), path),
    element("p", {}, plain(operation.summary)),
  );
  if (operation.description) node.append(element("p", {}, plain(operation.description)));
  if (operation.parameters?.length) {
    const properties = Object.fromEntries(operation.parameters.map((each) => [each.name, { ...each.schema, description: each.description }]));
    const required = operation.parameters.filter((each) => each.required).map((each) => each.name);
    node.append(element("h4", {}, "Parameters"), fields({ properties, required }, 1));
  }
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  const body = schema ? example(schema) : null;
  if (schema) node.append(element("h4", {}, "Fields"), fields(resolve(schema), 0));
  node.append(element("h4", {}, "Example"), element("pre", { tabindex: "0", role: "group", "aria-label": `Example of ${method.toUpperCase()} ${path}` }, element("code", {}, command(method, path, body))));
  node.append(element("h4", {}, "Answers"), answers(operation.responses));
  return node;
}

function show() {
  at("version").textContent = root.info.version;
  at("description").textContent = plain(root.info.description);
  const byTag = new Map((root.tags ?? []).map(({ name }) => [name, []]));
  for (const [path, item] of Object.entries(root.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = operation.tags?.[0] ?? "Other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), [method, path, operation]]);
    }
  }
  for (const [tag, entries] of byTag) {
    const links = entries.map(([method, path, { operationId }]) => element("li", {}, element("a", { href: `#${operationId}` }, `${method.toUpperCase()} ${path}`)));
    at("contents").append(element("h2", {}, tag), element("ul", {}, ...links));
    at("endpoints").append(element("h2", {}, tag), ...entries.map((entry) => endpoint(...entry)));
  }
  // The place that the address names exists only now.
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function load() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    root = await response.json();
  } catch (error) {
    at("description").textContent = `The document could not be loaded: ${error.message}`;
    return;
  }
  show();
}

attachTheme(at("theme"));
load();
