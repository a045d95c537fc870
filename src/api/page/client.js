// Speaks to the server's API.

/** What the server refused, in its own words. */
export class ServerError extends Error {
  constructor(message, status, code, retryAfterSeconds) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function refusal(response) {
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    // Something between the page and the server answered.
  }
  const message = error?.message ?? `The server answered with status ${response.status} ${response.statusText}`;
  return new ServerError(message, response.status, error?.code ?? null, Number.isNaN(seconds) ? null : seconds);
}

// Paths are relative, so that the page works behind a proxy's prefix too.
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it running?", 0, null, null);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The served models, as `/v1/models` lists them. */
export async function models(key) {
  return (await (await ask("v1/models", { headers: headers(key) })).json()).data;
}

/** How the server is; also while its model loads. */
export async function health() {
  return (await fetch("health")).json();
}

/** Cuts a stream of bytes into the data of its server-sent events. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length > 0) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}

/**
 * Streams the answer to a chat. Yields `{content, reasoning}` pieces and at last `{finish, usage}`; throws a
 * ServerError when the server refuses or fails, an AbortError when `signal` is raised.
 */
export async function* chat(body, key, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers(key) },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finish = null;
  let usage = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      yield { finish, usage };
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, response.status, chunk.error.code, null);
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      finish = choice.finish_reason ?? finish;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content || reasoning) yield { content: content ?? "", reasoning: reasoning ?? "" };
    }
  }
  throw new ServerError("The server ended the stream before the answer was complete.", response.status, null, null);
}
