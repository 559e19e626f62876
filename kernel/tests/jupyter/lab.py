"""A notebook in JupyterLab, in a browser without a screen and without a network, as somebody would use it.

    python lab.py FOLDER

Screenshots of each step lie in FOLDER afterwards, to be looked at. HEADLIGHT_CHROMIUM names the browser, if none is on
the path.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
from playwright.sync_api import sync_playwright

KERNEL = "Rust (headlight)"
SETTINGS = {
    # All cells are in the page, also those that are out of sight.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"renameUntitledFileOnSave": False},
}
FOUR = """let model = Model::open("built-in")?;
for text in ["the cat sat the cat sat", "the dog ran the dog ran", "a king and a queen", "one two one two"] {
    println!("{text}");
    show(&model.run_with_cache(text)?.pattern(1)?);
}"""
SLOW = """let slow = model.edit(("resid_pre", 0), "slow", |x| {
    std::thread::sleep(std::time::Duration::from_millis(30));
    Ok(x.clone())
})?;
slow.generate("the", &Sampling { max_new_tokens: 200, ..Sampling::default() })?"""
WRONG = """let name = "headlight";
let length: usize = name;"""
ENDLESS = """loop {
    slow.generate("the", &Sampling { max_new_tokens: 250, ..Sampling::default() })?;
}"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]


def browser_program():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("HEADLIGHT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or sys.exit("error: no Chromium is on the path. help: HEADLIGHT_CHROMIUM names one")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """JupyterLab on a folder, with nothing of the user's own settings."""

    def __init__(self, root, state, disabled=()):
        for name in ("config/labconfig", "settings", "workspaces", "data"):
            (state / name).mkdir(parents=True, exist_ok=True)
        for plugin, settings in SETTINGS.items():
            file = state / "settings" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings))
        page = {"disabledExtensions": {name: True for name in disabled}}
        (state / "config/labconfig/page_config.json").write_text(json.dumps(page))
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(state / "config"),
            "JUPYTER_DATA_DIR": str(state / "data"),
            "JUPYTERLAB_SETTINGS_DIR": str(state / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
            "HEADLIGHT_DATA": str(state / "data"),
        }
        environment.pop("JUPYTER_NO_CONFIG", None)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(state / "lab.log", "ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}",
             "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={root}"],
            env=environment, stdout=self.log, stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/api", timeout=2)
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, f"JupyterLab does not start: {state / 'lab.log'}"
                time.sleep(0.3)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # As ^C twice: it ends its kernels and itself.
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


class Notebook:
    def __init__(self, page, shots):
        self.page, self.shots, self.count = page, shots, 0

    def shot(self, name):
        self.page.screenshot(path=self.shots / f"{name}.png")

    @property
    def cells(self):
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def start(self, source):
        """Types a cell at the end and runs it; the cell."""
        cell = self.cells.last
        cell.locator(".cm-content").click()
        self.page.keyboard.insert_text(source)
        at = self.cells.count() - 1
        self.page.keyboard.press("Shift+Enter")
        return self.cells.nth(at)

    def end(self, cell, seconds):
        prompt = cell.locator(".jp-InputPrompt")
        end = time.monotonic() + seconds
        while not re.fullmatch(r"\[\d+\]:", prompt.inner_text().strip()):
            assert time.monotonic() < end, f"a cell has not ended after {seconds} s: {cell.inner_text()[:500]}"
            self.page.wait_for_timeout(100)
        self.page.wait_for_timeout(300)
        return cell

    def run(self, source, seconds=60):
        return self.end(self.start(source), seconds)


def plots(where):
    """The figures that are drawn by plotly: it may show the picture that came along until the mouse is over it."""
    return where.locator('.jp-RenderedPlotly:is(:has(.main-svg), :has(img.plot-img[src]))')


def check_fits(where):
    """Notes each figure that is wider than its cell."""
    for at in range(plots(where).count()):
        inner, outer = plots(where).nth(at).evaluate(
            "e => [Math.max(...[...e.querySelectorAll('.main-svg, img')].map(one => one.getBoundingClientRect().width)), e.parentElement.clientWidth]"
        )
        if inner > outer + 1:
            CUT_OFF.append(f"figure {at + 1} is {inner:.0f} wide in a cell of {outer:.0f}")


def check_alive(page):
    """Each figure is plotly's once the mouse is over it."""
    for at in range(plots(page).count()):
        figure = plots(page).nth(at)
        figure.scroll_into_view_if_needed()
        figure.hover(position={"x": 60, "y": 60})
        figure.locator(".main-svg").first.wait_for(timeout=20000)


CUT_OFF = []
# Four of the loop, what was generated, and one after the stop.
FIGURES = 6


def pictures(where):
    return where.locator('img[src^="data:image/png"]')


def until(page, what, found, seconds):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        page.wait_for_timeout(100)
    return value


def until_count(page, what, count, wanted, seconds):
    try:
        until(page, what, lambda: count() == wanted, seconds)
    except AssertionError:
        raise AssertionError(f"{what}: {count()} where {wanted} should be") from None


def work_in_lab(page, server, shots):
    page.goto(f"{server.url}/lab?reset", timeout=60000)
    card = page.locator(f'.jp-LauncherCard[data-category="Notebook"][title^="{KERNEL}"]')
    card.wait_for(timeout=60000)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / "01-launcher.png")
    assert card.locator("img").count() == 1, "the kernel has no logo"
    card.click()
    notebook = Notebook(page, shots)
    notebook.cells.first.locator(".cm-content").wait_for(timeout=60000)
    # Lab drops a cell that is run before it has heard of its kernel.
    page.get_by_text(f"{KERNEL} | Idle").wait_for(timeout=60000)
    page.wait_for_timeout(500)

    began = time.monotonic()
    first = notebook.start(FOUR)
    page.wait_for_timeout(1200)
    notebook.shot("02-first-cell-waits")
    notebook.end(first, 240)
    until_count(page, "four figures of plotly", plots(first).count, 4, 30)
    print(f"four figures after {time.monotonic() - began:.1f} s from a new notebook")
    assert [line for line in first.locator(".jp-OutputArea").inner_text().splitlines() if line.startswith("the cat sat the cat")]
    page.set_viewport_size({"width": 1200, "height": 2600})
    page.wait_for_timeout(1500)
    notebook.shot("03-four-figures")
    check_fits(first)
    page.set_viewport_size({"width": 1200, "height": 1000})

    slow = notebook.start(SLOW)
    bar = slow.locator(".jp-OutputArea").get_by_text(re.compile(r"\d+/200"))
    bar.wait_for(timeout=60000)
    half = lambda: int(re.search(r"(\d+)/200", bar.first.inner_text())[1]) if bar.count() else 200
    until(page, "the bar at a half", lambda: half() >= 70, 60)
    notebook.shot("04-progress")
    assert half() < 200, "the bar was seen only when all was done"
    assert bar.count() == 1, "the bar is drawn anew instead of in place"
    notebook.end(slow, 120)
    assert bar.count() == 0, "the bar stays"
    notebook.shot("05-after-progress")

    wrong = notebook.run(WRONG)
    shown = wrong.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]')
    text = shown.first.inner_text()
    assert "E0308" in text and "line 2" in text and re.search(r"2 \| let length: usize = name;", text), text
    assert wrong.locator("[class*=ansi-]").count() > 0, "the error has no colours"
    wrong.scroll_into_view_if_needed()
    notebook.shot("06-error")

    endless = notebook.start(ENDLESS)
    endless.locator(".jp-OutputArea").get_by_text(re.compile(r"\d+/250")).wait_for(timeout=60000)
    page.wait_for_timeout(500)
    asked = time.monotonic()
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    notebook.end(endless, 10)
    print(f"stopped {time.monotonic() - asked:.1f} s after the button")
    after = notebook.run("model.dims().n_heads")
    assert re.search(r"^\d+$", after.locator(".jp-OutputArea-executeResult .jp-OutputArea-output").inner_text().strip())
    figure = notebook.run('slow.run_with_cache("the cat sat")?.pattern(0)?')
    until_count(page, "figures after the stop", plots(figure).count, 1, 30)
    figure.scroll_into_view_if_needed()
    notebook.shot("07-stopped-and-used")

    # Completion and inspection in the page.
    cell = notebook.cells.last
    cell.locator(".cm-content").click()
    page.keyboard.insert_text("model.run_w")
    page.keyboard.press("Tab")
    names = page.locator(".jp-Completer-item")
    names.first.wait_for(timeout=20000)
    notebook.shot("08-completion")
    assert "run_with_cache" in " ".join(names.all_inner_texts())
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("Model::open")
    page.keyboard.press("Shift+Tab")
    tip = page.locator(".jp-Tooltip")
    tip.wait_for(timeout=20000)
    notebook.shot("09-inspection")
    assert "built-in" in tip.inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")

    page.keyboard.press("Control+s")
    page.wait_for_timeout(2500)
    page.goto(f"{server.url}/lab/tree/Untitled.ipynb", timeout=60000)
    until_count(page, "figures after a reload", plots(page).count, FIGURES, 30)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / "10-reloaded.png")
    # Only now, and not saved: plotly then puts a picture of its own in the place of ours.
    check_alive(page)
    page.screenshot(path=shots / "10b-under-the-mouse.png")


def check_file(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) == FIGURES, f"{len(figures)} figures were saved"
    assert all("image/png" in figure.data and "text/plain" in figure.data for figure in figures)
    assert notebook.metadata.language_info.name == "rust"
    assert "signature" not in notebook.metadata
    return notebook


def open_and_count(context, server, name, shot, count):
    page = context.new_page()
    page.set_viewport_size({"width": 1200, "height": 2600})
    page.goto(f"{server.url}/lab/tree/{name}?reset", timeout=60000)
    until_count(page, f"figures of {name}", lambda: count(page), FIGURES, 30)
    page.wait_for_timeout(1500)
    page.screenshot(path=shot)
    page.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    shots = parser.parse_args().folder.resolve()
    shots.mkdir(parents=True, exist_ok=True)
    outside = []
    with tempfile.TemporaryDirectory(prefix="headlight-lab-", ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        folder = Path(folder)
        root = folder / "notebooks"
        root.mkdir()
        context = playwright.chromium.launch_persistent_context(
            str(folder / "browser"), executable_path=browser_program(), headless=True, args=ARGUMENTS,
            viewport={"width": 1200, "height": 1000},
        )

        def guard(route):
            # No network: what is asked of it is noted, and refused.
            if re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:|file:", route.request.url):
                route.continue_()
            else:
                outside.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        page = context.new_page()
        failures = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("requestfailed", lambda request: failures.append(f"{request.url}: {request.failure}"))
        try:
            with Server(root, folder / "state") as server:
                try:
                    work_in_lab(page, server, shots)
                except BaseException:
                    page.screenshot(path=shots / "failed.png")
                    print(*failures, sep="\n", file=sys.stderr)
                    raise
                page.close()
                notebook = check_file(root / "Untitled.ipynb")
                # A change by another hand: nobody has signed this one.
                notebook.cells.insert(0, nbformat.v4.new_markdown_cell("From elsewhere."))
                nbformat.write(notebook, root / "Untrusted.ipynb")
                open_and_count(context, server, "Untrusted.ipynb", shots / "11-untrusted.png", lambda page: plots(page).count())
            with Server(root, folder / "without", disabled=["jupyterlab-plotly"]) as server:
                # Without the extension of plotly, pictures take the figures' place.
                open_and_count(context, server, "Untrusted.ipynb", shots / "12-without-plotly.png", lambda page: pictures(page).count())
            html = folder / "page.html"
            subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", str(root / "Untitled.ipynb"), "--output", str(html)],
                           check=True, capture_output=True, timeout=120)
            page = context.new_page()
            page.set_viewport_size({"width": 1200, "height": 3600})
            page.goto(html.as_uri(), timeout=60000)
            page.wait_for_timeout(2500)
            drawn = pictures(page).evaluate_all("all => all.filter(one => one.complete && one.naturalWidth > 100).length")
            page.screenshot(path=shots / "13-nbconvert.png")
            assert drawn + plots(page).count() == FIGURES, f"{drawn} pictures in the page that nbconvert writes"
        finally:
            context.close()
    # nbconvert's pages ask for scripts that figures do not need.
    asked = sorted({url for url in outside if "cdnjs.cloudflare.com" not in url and "mathjax" not in url.lower()})
    print(f"asked of the network, in vain: {asked or 'nothing'}")
    print(f"errors in the page: {failures or 'none'}")
    assert not CUT_OFF, f"figures are cut off: {CUT_OFF}"
    print(f"all is well; look at {shots}")


if __name__ == "__main__":
    main()
