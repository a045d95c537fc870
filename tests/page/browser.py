"""A headless Chromium, driven over its DevTools protocol. <https://chromedevtools.github.io/devtools-protocol/>

Needs the `websocket-client` package and Chromium or Chrome (`HESPER_BROWSER` names one that is not found by itself).
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

import websocket

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"

# No host but this machine has a name, so that a request that leaves it fails, and is seen to.
RESOLVER = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
SWITCHES = ["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb", RESOLVER, "about:blank"]

# Key, code and Windows' number of the keys that the tests press.
KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}
SHIFT = 8


def executable():
    named = os.environ.get("HESPER_BROWSER")
    found = [named] if named else [shutil.which(name) for name in NAMES] + [MAC]
    for path in found:
        if path and pathlib.Path(path).exists():
            return path
    raise SystemExit("no Chromium is installed (apt-get install chromium); HESPER_BROWSER names another place")


class Browser:
    """One page of a browser of its own. What went wrong in it is in `errors`, what it asked for in `requests`."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="hesper-browser-")
        # Chromium's sandbox does not work for root.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [executable(), f"--user-data-dir={self.profile}", *root, *SWITCHES]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket = websocket.create_connection(self._address(), suppress_origin=True, timeout=60)
        self.last_id = 0
        self.errors, self.requests = [], []
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def _address(self):
        port = pathlib.Path(self.profile, "DevToolsActivePort")
        for _ in range(300):
            if self.process.poll() is not None:
                raise SystemExit(f"the browser ended with status {self.process.returncode} as it started")
            if port.exists() and port.read_text().strip():
                number = port.read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{number}/json/list", timeout=10) as response:
                    pages = [page for page in json.load(response) if page["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.1)
        raise SystemExit("the browser did not start within 30 s")

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method, **params):
        """The result of a command; what happens meanwhile is noted."""
        self.last_id += 1
        self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.last_id:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"])

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise AssertionError(f"{script}: {details.get('exception', {}).get('description', details['text'])}")
        return result["result"].get("value")

    def until(self, script, seconds=20):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {script}\n{self.run('document.body.innerText')[-1500:]}")
            time.sleep(0.02)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def reload(self):
        self.run("window.reloading = true")
        self.call("Page.reload")
        self.until("!window.reloading && document.readyState === 'complete'")

    def press(self, key, shift=False):
        code, number, text = KEYS[key]
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": SHIFT if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def fill(self, selector, text):
        self.run(f"{self.find(selector)}.focus(), {self.find(selector)}.select()")
        if text:
            self.type(text)
        else:
            self.run("document.execCommand('delete')")

    @staticmethod
    def find(selector):
        return f"document.querySelector({json.dumps(selector)})"

    def click(self, selector):
        """Clicks where the element is seen: what covers it would be hit instead."""
        self.until(f"{self.find(selector)}?.getClientRects().length")
        box = self.run(
            f"(() => {{ const node = {self.find(selector)}; node.scrollIntoView({{block: 'nearest'}});"
            " const box = node.getBoundingClientRect();"
            " const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            " const hit = document.elementFromPoint(x, y);"
            " return [x, y, node.contains(hit), hit?.outerHTML.slice(0, 200)]; })()")
        assert box[2], f"{selector} is covered by {box[3]}"
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def view(self, width, height, scheme="light", motion="no-preference"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        pathlib.Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
