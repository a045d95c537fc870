"""Uses the chat page of a running server as a person would, in a headless Chromium, and looks for what goes wrong.

Usage: check.py URL --api-key KEY --axe AXE.JS --screenshots FOLDER

The server has one API key, serves the demo model, and can be filled: it answers one request at a time (--parallel 1) and
lets one wait (--max-queue 1).
Screenshots are for a person to look at. Exits with an error at the first check that fails.
"""

import argparse
import json
import pathlib
import random
import re
import threading
import time
import urllib.error
import urllib.request

from browser import Browser
from texts import ATTRIBUTES, NASTY, RENDERED, SAMPLE, TAGS

CHECKS = []
SIZES = {"desktop": (1440, 900), "phone": (360, 740)}
ANSWER = ".message.answer:last-child"


def check(function):
    CHECKS.append(function)
    return function


class Page(Browser):
    """The chat page."""

    def __init__(self, url, key):
        super().__init__()
        self.url, self.key = url, key
        # The demo model's answers are short: for long ones, its end of text is passed over.
        self.call("Page.addScriptToEvaluateOnNewDocument", source="""
            const ask = window.fetch;
            window.fetch = (url, options = {}) => {
              if (window.endless && options.body) {
                options = { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true }) };
              }
              return ask(url, options);
            };""")

    def text(self, selector):
        return self.run(f"{self.find(selector)}?.innerText ?? null")

    def count(self, selector):
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def send(self, text):
        self.fill("#prompt", text)
        self.press("Enter")

    def finished(self):
        self.until(f"{self.find('#stop')}.hidden && {self.find(ANSWER + ' .actions')}", 60)

    def ask(self, text):
        self.send(text)
        self.until(f"{self.find(ANSWER)}")
        self.finished()
        return self.text(ANSWER + " .text")

    def set(self, **values):
        self.click("#open-settings")
        for name, value in values.items():
            self.fill(f"#{name}", value)
        self.press("Escape")
        self.until("!document.querySelector('dialog[open]')")

    def new(self):
        self.run("document.getElementById('new-conversation').click()")

    def bodies(self):
        """What the page asked the server for answers, since it was opened."""
        return [json.loads(request["postData"]) for request in self.requests if request.get("postData")]

    def expect_errors(self, *parts):
        """The console shows these and no other: a refused request is one."""
        self.run("0")
        for part in parts:
            matching = [error for error in self.errors if part in error]
            assert matching, f"no {part!r} in {self.errors}"
            self.errors = [error for error in self.errors if part not in error]


def ask_server(page, path, body=None):
    request = urllib.request.Request(page.url + path, data=json.dumps(body).encode() if body else None,
                                     headers={"authorization": f"Bearer {page.key}", "content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


def metric(page, name, label=""):
    """The sum of a metric's samples, of those that have the label."""
    lines = [line for line in ask_server(page, "/metrics").splitlines() if re.match(rf"{name}[{{ ]", line) and label in line]
    assert lines, f"no metric {name} with {label!r}"
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def eventually(holds, seconds=5):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


@check
def a_key_is_asked_for_and_kept_for_the_tab_only(page):
    page.until(f"{page.find('#notice')}.textContent.includes('API key')")
    page.expect_errors("401")
    page.click("#notice button")
    page.until("document.activeElement.id === 'key'")
    page.type(page.key)
    page.press("Escape")
    page.until(f"{page.find('#model')}.value !== '' && {page.find('#notice')}.textContent === ''")
    kept = page.run("JSON.stringify(localStorage)")
    assert page.key not in kept and page.key in page.run("JSON.stringify(sessionStorage)"), kept
    device = json.loads(ask_server(page, "/health"))["device"]["name"]
    page.until(f"{page.find('#device')}.textContent.startsWith({json.dumps(device)})")


@check
def an_answer_streams_in(page):
    page.run("window.endless = true")
    page.set(max_completion_tokens="120", temperature="0")
    page.run("""window.lengths = new Set();
        new MutationObserver(() => window.lengths.add(document.querySelector('.answer .text')?.innerText.length))
          .observe(document.getElementById('messages'), {subtree: true, childList: true, characterData: true})""")
    page.send("What is the capital of Norway?")
    page.until(f"{page.find('#send')}.hidden")
    page.finished()
    assert page.text(ANSWER + " .text").startswith("Oslo"), page.text(ANSWER)
    assert page.run("window.lengths.size") > 5, "the answer appeared at once"
    stats = page.text(ANSWER + " .stats")
    assert re.search(r"^\d+\.\d tokens/s · first token after \d+\.\d\d s · 120 tokens$", stats), stats
    assert "token limit" in page.text(ANSWER + " .stopped")
    page.until(f"{page.find('#announcements')}.textContent.startsWith('Answer: Oslo')")
    assert page.run(f"{page.find('#thread')}.closest('[aria-live]') === null"), "each token would be read out"


@check
def stop_stops_the_server_too(page):
    page.set(max_completion_tokens="")
    for stop in [lambda: page.click("#stop"), lambda: page.press("Escape")]:
        cancelled = ["hesper_requests_finished_total", 'outcome="cancelled"']
        before = metric(page, *cancelled)
        page.send("Tell me a very long story.")
        page.until(f"{page.find(ANSWER + ' .text')}?.innerText.length > 20")
        assert metric(page, "hesper_requests_running") == 1
        stop()
        page.finished()
        assert "stopped" in page.text(ANSWER + " .stopped")
        eventually(lambda: metric(page, "hesper_requests_running") == 0)
        eventually(lambda: metric(page, *cancelled) == before + 1)
        length = page.run(f"{page.find(ANSWER)}.innerText.length")
        time.sleep(0.3)
        assert page.run(f"{page.find(ANSWER)}.innerText.length") == length
    page.run("window.endless = false")


@check
def a_message_can_be_edited_and_answered_again(page):
    page.new()
    assert page.ask("What is the capital of Norway?") == "Oslo."
    page.ask("What is the capital of Sweden?")
    page.click(".message.user:first-child [aria-label='Edit message']")
    page.until("document.activeElement.matches('.edit textarea')")
    page.press("Escape")
    assert page.count(".edit") == 0 and page.count(".message") == 4
    page.click(".message.user:first-child [aria-label='Edit message']")
    page.run("document.activeElement.select()")
    page.type("What is the capital of Denmark?")
    page.press("Enter")
    page.until("document.querySelectorAll('.message').length === 2")
    page.finished()
    body = page.bodies()[-1]
    assert [message["content"] for message in body["messages"]] == ["What is the capital of Denmark?"], body
    first = page.text(ANSWER + " .text")
    sent = len(page.bodies())
    page.click(ANSWER + " [aria-label='Answer again']")
    page.until("document.querySelectorAll('.message').length === 2")
    page.finished()
    assert page.bodies()[-1] == body and len(page.bodies()) == sent + 1
    assert page.text(ANSWER + " .text") == first, "temperature 0 answers the same again"


@check
def settings_are_sent(page):
    page.new()
    page.set(system="Be brief.", temperature="0.5", top_p="0.9", top_k="40", min_p="0.05", max_completion_tokens="8", seed="-7")
    page.ask("Hello")
    body = page.bodies()[-1]
    assert body.pop("messages") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert body.pop("model") == page.run(f"{page.find('#model')}.value")
    assert body == {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_completion_tokens": 8, "seed": -7,
                    "stream": True, "stream_options": {"include_usage": True}}, body
    page.click("#open-settings")
    page.click("#reset-settings")
    page.press("Escape")
    page.ask("Hello again")
    assert set(page.bodies()[-1]) == {"messages", "model", "stream", "stream_options"}


@check
def enter_sends_and_shift_enter_does_not(page):
    page.new()
    page.fill("#prompt", "One")
    page.press("Enter", shift=True)
    page.type("Two")
    assert page.run(f"{page.find('#prompt')}.value") == "One\nTwo" and page.count(".message") == 0
    page.press("Enter")
    page.until("document.querySelector('.bubble')")
    assert page.text(".bubble") == "One\nTwo"
    page.finished()


@check
def conversations_outlive_a_reload_and_can_be_cleared(page):
    page.set(temperature="0")
    page.new()
    page.ask("What is the capital of Norway?")
    page.reload()
    page.until(f"{page.find('#model')}.value !== ''")
    assert page.text(".bubble") == "What is the capital of Norway?" and page.text(ANSWER + " .text") == "Oslo."
    assert page.run(f"{page.find('#temperature')}.value") == "0" and page.run(f"{page.find('#key')}.value") == page.key
    kept = page.count("#conversations li")
    assert kept >= 4
    page.click("#conversations li:nth-child(2) .title")
    page.until("document.querySelector('.bubble').innerText === 'One\\nTwo'")
    page.click("#conversations li:nth-child(2) [aria-label^='Delete']")
    page.until(f"document.querySelectorAll('#conversations li').length === {kept - 1}")
    page.click("#clear")
    page.click("#confirm [value='no']")
    assert page.count("#conversations li") == kept - 1
    page.click("#clear")
    page.click("#confirm [value='yes']")
    page.until("document.querySelectorAll('#conversations li, .message').length === 0")
    assert page.run("Object.keys(localStorage).filter((key) => key.includes('conversation')).length") == 0


@check
def errors_are_in_the_servers_words(page):
    page.set(temperature="3")
    page.send("Hello")
    page.until("document.querySelector('.error')")
    assert "`temperature` must be between 0 and 2, not 3" in page.text(".error"), page.text(".error")
    assert page.run("document.querySelector('.error').getAttribute('role')") == "alert"
    page.expect_errors("400")
    page.set(temperature="0")
    page.click(".error button")
    page.until("!document.querySelector('.error')")
    page.finished()


@check
def a_full_queue_says_when_to_try_again(page):
    full, refused = threading.Event(), threading.Event()

    def fill():
        while not full.is_set():
            try:
                ask_server(page, "/v1/completions", {"prompt": "One", "max_tokens": 100, "ignore_eos": True})
            except urllib.error.HTTPError as error:
                assert error.code == 429, error
                refused.set()
                time.sleep(0.005)

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        assert refused.wait(30), "the queue is never full"
        for _ in range(20):
            page.new()
            page.send("Hello")
            page.until("document.querySelector('.error') || document.querySelector('.answer .actions')", 60)
            if page.count(".error"):
                break
    finally:
        full.set()
        for thread in threads:
            thread.join()
    shown = page.text(".error")
    assert "The server is busy" in shown and re.search(r"It asks to try again in \d+ s\.", shown), shown
    page.expect_errors("429")
    page.click(".error button")
    page.until("!document.querySelector('.error')")
    page.finished()


@check
def markdown_never_becomes_html(page):
    seeded = random.Random(7)
    texts = ["".join(seeded.choices(NASTY, k=seeded.randint(1, 40))) for _ in range(3000)]
    seen = page.run("""(async (texts) => {
        const { render } = await import('./page/markdown.js');
        const [tags, attributes, links] = [new Set(), new Set(), new Set()];
        for (const text of texts) {
          const node = document.createElement('div');
          node.append(render(text));
          document.body.append(node);
          for (const each of node.querySelectorAll('*')) {
            tags.add(each.tagName);
            for (const { name } of each.attributes) attributes.add(name);
            if (each.href) links.add(each.protocol);
          }
          node.remove();
        }
        return { tags: [...tags], attributes: [...attributes], links: [...links], broken: window.broken ?? null };
      })(%s)""" % json.dumps(texts))
    assert set(seen["tags"]) <= TAGS and set(seen["attributes"]) <= ATTRIBUTES, seen
    assert {"PRE", "A", "EM", "STRONG", "UL", "BLOCKQUOTE", "TABLE"} <= set(seen["tags"]), "the texts hold markup"
    assert set(seen["links"]) <= {"http:", "https:", "mailto:"} and seen["broken"] is None, seen


@check
def markdown_is_shown_as_it_is_meant(page):
    for text, html in RENDERED:
        got = page.run("import('./page/markdown.js').then(({ render }) => { const node = document.createElement('div');"
                       f" node.append(render({json.dumps(text)})); return node.innerHTML; }})")
        assert got == html, f"{text!r}: {got}"
    # Within a time that grows with the text, not with its square.
    took = page.run("""(async () => {
        const { render } = await import('./page/markdown.js');
        const begin = performance.now();
        for (const part of ['*a ', '_a ', '[a', '`a ', '> ', '**', '|-', 'https://', '- ']) render(part.repeat(5000));
        return performance.now() - begin;
      })()""")
    assert took < 5000, f"{took} ms"


def sample(page):
    """A conversation that shows everything, as storage keeps it."""
    messages = [
        {"role": "user", "content": "How do I count the words of a file in Python?"},
        {"role": "assistant", "content": SAMPLE, "reasoning": "The user wants a word count. A Counter will do.",
         "tokens": 164, "firstMs": 180, "totalMs": 3220, "end": "stop"},
        {"role": "user", "content": "Thanks! And without the standard library?"},
        {"role": "assistant", "content": "", "error": {"status": 429, "retryAfterSeconds": 4,
         "message": "64 requests are waiting already; try again later"}},
    ]
    others = ["Why is Venus called the evening star?", "A haiku about rain", "What is the capital of Norway?"]
    entries = {f"{index}": [{"role": "user", "content": text}] for index, text in enumerate(others)} | {"9": messages}
    for index, said in entries.items():
        value = json.dumps({"id": index, "changed": int(index), "messages": said})
        page.run(f"localStorage.setItem('hesper.conversation.{index}', {json.dumps(value)})")


def violations(page, axe):
    page.run(axe + "; 0")
    found = page.run("axe.run(document, {resultTypes: ['violations']}).then(({ violations, passes }) =>"
                     " [passes.length, violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) =>"
                     " html.slice(0, 200) + ' ' + failureSummary).join(' | '))])")
    assert found[0] > 10, "axe-core looked at nothing"
    return found[1]


@check
def it_is_accessible_and_fits_in_light_and_dark(page):
    page.new()
    sample(page)
    states = {
        "welcome": "document.getElementById('new-conversation').click()",
        "chat": "[...document.querySelectorAll('#conversations .title')].find((each) => each.title.startsWith('How do I')).click()",
        "settings": "document.getElementById('open-settings').click()",
        "conversations": "document.querySelector('dialog[open]')?.close(), document.getElementById('open-sidebar').click()",
    }
    for size, (width, height) in SIZES.items():
        for scheme in ["light", "dark"]:
            page.view(width, height, scheme, motion="reduce")
            page.reload()
            page.until(f"{page.find('#model')}.value !== ''")
            for state, script in states.items():
                if state == "conversations" and size == "desktop":
                    continue
                page.run(script + ", 0")
                if state == "chat":
                    page.screenshot(page.folder / f"end-{size}-{scheme}.png")
                    page.run("document.getElementById('thread').scrollTop = 0, document.querySelector('.reasoning').open = true")
                page.screenshot(page.folder / f"{state}-{size}-{scheme}.png")
                found = violations(page, page.axe)
                assert not found, f"{state}, {size}, {scheme}: {found}"
                wide = page.run("document.documentElement.scrollWidth")
                assert wide <= width, f"{state}, {size}: {wide} wide"
            page.run("document.querySelector('dialog[open]')?.close()")


@check
def the_theme_can_be_chosen(page):
    page.view(*SIZES["desktop"], "light")
    page.reload()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.click("#theme")
    page.click("#theme")
    assert page.text("#theme") == "Theme: dark"
    dark = page.run(ground)
    assert dark != light
    page.reload()
    assert page.run(ground) == dark
    page.click("#theme")
    page.view(*SIZES["desktop"], "dark")
    assert page.text("#theme") == "Theme: as the system" and page.run(ground) == dark


@check
def the_keyboard_reaches_everything_in_order(page):
    page.view(*SIZES["desktop"])
    page.new()
    page.fill("#prompt", "x")
    page.run("document.activeElement.blur(), window.getSelection().removeAllRanges(), document.querySelector('.skip').focus()")
    order = []
    while "send" not in order and len(order) < 30:
        page.press("Tab")
        order.append(page.run("document.activeElement.id || document.activeElement.className"))
        width = page.run("getComputedStyle(document.activeElement).outlineStyle + getComputedStyle("
                         "document.activeElement.parentElement).outlineStyle")
        assert "solid" in width or "auto" in width, f"{order[-1]} shows no focus"
    expected = ["new-conversation", "theme", "clear", "open-settings", "prompt", "send"]
    assert [each for each in order if each in expected][:6] == expected, order


@check
def the_api_page_shows_every_endpoint(page):
    document = json.loads(ask_server(page, "/openapi.json"))
    for size, (width, height) in SIZES.items():
        for scheme in ["light", "dark"]:
            page.view(width, height, scheme)
            page.open(page.url + "/docs")
            page.until("document.querySelectorAll('.endpoint').length > 0")
            page.screenshot(page.folder / f"docs-{size}-{scheme}.png")
            assert page.run("document.documentElement.scrollWidth") <= width
            found = violations(page, page.axe)
            assert not found, found
    operations = [f"{method.upper()}{path}" for path, item in document["paths"].items() for method in item]
    shown = page.run("[...document.querySelectorAll('.endpoint h3')].map((each) => each.textContent)")
    assert sorted(shown) == sorted(operations), shown
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.until("document.querySelector('.endpoint details dl')")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--axe", type=pathlib.Path, required=True)
    parser.add_argument("--screenshots", type=pathlib.Path, required=True)
    parser.add_argument("--only")
    options = parser.parse_args()
    page = Page(options.url, options.api_key)
    page.axe, page.folder = options.axe.read_text(encoding="utf-8"), options.screenshots
    page.folder.mkdir(parents=True, exist_ok=True)
    try:
        page.view(*SIZES["desktop"])
        page.open(options.url + "/")
        for function in CHECKS:
            begin = time.monotonic()
            function(page)
            page.run("0")
            assert page.errors == [], f"the console shows {page.errors}"
            print(f"ok: {function.__name__.replace('_', ' ')} ({time.monotonic() - begin:.1f} s)", flush=True)
        foreign = {request["url"] for request in page.requests if not request["url"].startswith(options.url + "/")}
        assert not foreign, f"the page asks elsewhere: {foreign}"
        assert len(page.requests) > 50, "requests are seen"
        print("ok: no request goes elsewhere")
    finally:
        page.close()


if __name__ == "__main__":
    main()
