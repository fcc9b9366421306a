"""Drives a headless Chromium through its debugging pipe; needs nothing but the browser."""

import base64
import json
import os
import select
import shutil
import subprocess
import time


def find():
    """Returns the path of a Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page of a headless browser; a context manager.

    Args:
      profile: an empty folder.
      size: (width, height) of the window.
    """

    def __init__(self, profile, size=(1100, 900)):
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # The browser reads commands from descriptor 3 and answers on descriptor 4.
        shell = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", shell, "bash", find()),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"),
                *("--disable-background-networking", f"--window-size={size[0]},{size[1]}"),
                *("--hide-scrollbars", "about:blank"),
            ],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._count, self._session = b"", 0, None
        self.events = []
        page = next(
            t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._write)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def _message(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            got = os.read(self._read, 1 << 16)
            if not got:
                raise ConnectionError("the browser ended")
            self._buffer += got
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _call(self, method, **parameters):
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while (message := self._message(60)).get("id") != self._count:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def open(self, address):
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """Returns the value of a JavaScript expression."""
        answer = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"never came true: {script}")
            time.sleep(0.1)

    def drop(self, data, name, kind, target="drop"):
        """Drops a file on the element with that id, as a person's mouse would."""
        encoded = base64.b64encode(data).decode()
        self.run(f"""(() => {{
            const raw = Uint8Array.from(atob("{encoded}"), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([raw], {json.dumps(name)}, {{type: "{kind}"}}));
            for (const event of ["dragenter", "dragover", "drop"])
                document.getElementById("{target}").dispatchEvent(new DragEvent(event,
                    {{bubbles: true, cancelable: true, dataTransfer: transfer}}));
        }})()""")

    def screenshot(self, path):
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)[
            "data"
        ]
        path.write_bytes(base64.b64decode(data))

    def complaints(self):
        """Errors of the console and addresses that were asked for beyond the page's own."""
        found = [
            e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"
        ]
        thrown = [e for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        return found + [str(e["params"]) for e in thrown]

    def requested(self):
        """Addresses that the page asked for."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in sent]


if __name__ == "__main__":
    # python tests/exporting/chromium.py ADDRESS IMAGE OUT.png: what the page shows of an image.
    import sys
    import tempfile
    from pathlib import Path

    address, image, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home, Browser(home, (1000, 860)) as browser:
        browser.open(address)
        browser.drop(Path(image).read_bytes(), Path(image).name, "")
        browser.wait_for("document.getElementById('state').textContent.startsWith('done')")
        browser.screenshot(Path(out))
