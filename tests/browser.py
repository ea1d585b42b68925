"""A headless Chromium, where there is one: renders a page at several widths and says what a person would see."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio")

MEASURE = """<!doctype html><meta charset="utf-8"><body><pre id="out"></pre><script>
const page = %s, widths = %s, results = {};
function visible(element) { const s = getComputedStyle(element); return s.visibility !== "hidden" && s.display !== "none"; }
function texts(doc) {
  const found = [], walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, title, desc, .skip") || !visible(element)) continue;
    const clip = element.closest(".scroll, .names, .names span")?.getBoundingClientRect();
    const range = doc.createRange();
    range.selectNodeContents(node);
    for (const r of range.getClientRects()) {
      const c = clip ?? r, left = Math.max(r.left, c.left), right = Math.min(r.right, c.right);
      const top = Math.max(r.top, c.top), bottom = Math.min(r.bottom, c.bottom);
      const text = node.data.trim().slice(0, 40);
      if (left < right && top < bottom) found.push({ node, r: { left, right, top, bottom }, text });
    }
  }
  return found;
}
function overlaps(doc) {
  const found = texts(doc).sort((a, b) => a.r.top - b.r.top), bad = [];
  for (let i = 0; i < found.length; i++)
    for (let j = i + 1; j < found.length && found[j].r.top < found[i].r.bottom - 3; j++) {
      const a = found[i], b = found[j];
      if (a.node !== b.node && Math.min(a.r.right, b.r.right) - Math.max(a.r.left, b.r.left) > 3)
        bad.push(a.text + " | " + b.text);
    }
  return bad;
}
function measure(frame, width, errors) {
  const doc = frame.contentDocument, root = doc.documentElement;
  results[width] = {
    errors, overflow: root.scrollWidth - root.clientWidth, height: root.scrollHeight, overlaps: overlaps(doc),
    sections: [...doc.querySelectorAll("main > section")].map((section) => ({
      name: section.id, title: section.querySelector("h2").textContent,
      height: section.getBoundingClientRect().height, visible: visible(section),
    })),
    wide: [...doc.body.querySelectorAll("*")].filter((e) => !e.closest(".scroll, .skip, svg, .ticks")
      && e.getBoundingClientRect().right > root.clientWidth + 1).map((e) => e.tagName + "." + e.className).slice(0, 9),
  };
}
async function all() {
  for (const width of widths) {
    const frame = document.createElement("iframe"), errors = [];
    frame.style.cssText = `border:0;width:${width}px;height:900px`;
    window.report = (text) => errors.push(String(text));
    frame.srcdoc = "<scr" + "ipt>addEventListener('error', e => parent.report(e.message));"
      + "console.error = console.warn = (...t) => parent.report(t.join(' '));</scr" + "ipt>" + page;
    const loaded = new Promise((done) => frame.addEventListener("load", done));
    document.body.append(frame);
    await loaded;
    measure(frame, width, errors);
    frame.remove();
  }
  document.getElementById("out").textContent = JSON.stringify(results);
}
all();
</script>"""
"""The quirks mode that a script before the doctype brings is not wanted: the doctype of `page` is moved to its front."""


def find_browser() -> str | None:
    """The path of a browser: $HPCC_BROWSER, a name on the path, or one that playwright has installed."""
    named = os.environ.get("HPCC_BROWSER")
    if named:
        return named
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    installed = [path for name in ("headless_shell", "chrome") for path in sorted(cache.glob(f"chromium*/*/{name}"))]
    return str(installed[-1]) if installed else None


def rendered(browser: str, page: str, widths: Sequence[int], folder: Path) -> Mapping[str, Any]:
    """What the page is like at each width (its key as text): errors, overflow, sections, texts that overlap."""
    doctype = "<!doctype html>"
    assert page.lstrip().startswith(doctype)
    body = json.dumps(page.lstrip().removeprefix(doctype)).replace("</", "<\\/")
    script = MEASURE % (body, json.dumps(list(widths)))
    script = script.replace('frame.srcdoc = "<scr"', f'frame.srcdoc = "{doctype}<scr"')
    wrapper = folder / "measure.html"
    wrapper.write_text(script, encoding="utf-8")
    done = _run(browser, "--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri())
    match = re.search(r'<pre id="out">(.*?)</pre>', done, re.DOTALL)
    assert match is not None, done[:2000]
    assert match[1], done[:2000]
    return json.loads(html.unescape(match[1]))


def screenshot(browser: str, page: Path, width: int, height: int, picture: Path) -> bytes:
    """A PNG of the top of the page."""
    _run(browser, f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri())
    return picture.read_bytes()


def _run(browser: str, *arguments: str) -> str:
    command = [browser, *FLAGS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
