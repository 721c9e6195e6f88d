"""The page in a real browser, headless Chromium: somebody speaks into its microphone, and the words are read from it.

Needs the package playwright and a Chromium of the system: `apt-get install chromium`; another is named by CHROMIUM.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekit.runtime.events import Text
from edgekit.serving.limits import Limits
from edgekit.serving.watch import Watch
from tests.serving.http.conftest import CLIP, ROOT, WAIT_S, settle

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SCREENSHOT = ROOT / "docs/images/page.png"


@pytest.fixture(scope="module")
def browser_of(tmp_path_factory) -> Iterator:
    """Return a function that starts a browser whose microphone hears the clip again and again, or is denied."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    spoken, rate = soundfile.read(CLIP)
    heard = tmp_path_factory.mktemp("heard") / "clip.wav"
    quiet = np.random.default_rng(1).normal(0, 1e-3, rate * 2)
    soundfile.write(heard, np.concatenate([quiet[: rate // 2], spoken, quiet]), rate)
    with playwright.sync_playwright() as driver:

        def start(*, microphone: bool = True):
            flags = ["--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={heard}"]
            flags.append("--use-fake-ui-for-media-stream" if microphone else "--deny-permission-prompts")
            return driver.chromium.launch(executable_path=CHROMIUM, args=flags)

        yield start


@pytest.fixture(scope="module")
def service(serving, tiny_model):
    return serving(tiny_model)


@pytest.fixture
def opened(browser_of, service) -> Iterator:
    """Return a function that opens the page; nothing it does may be an error, or go anywhere else."""
    browsers, wrong = [], []

    def open_page(url: str = service.url, *, microphone: bool = True, scheme: str = "light"):
        browsers.append(browser_of(microphone=microphone))
        page = browsers[-1].new_page(color_scheme=scheme, viewport={"width": 900, "height": 640})
        page.set_default_timeout(WAIT_S * 1000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else wrong.append(request.url))
        page.on("websocket", lambda ws: None if ws.url.split(":", 1)[1].startswith(url.split(":", 1)[1])
                else wrong.append(ws.url))  # fmt: skip
        page.goto(url)
        return page

    yield open_page
    for browser in browsers:
        browser.close()
    assert wrong == []


def wait_for(page, script: str) -> None:
    """Wait until something is so; asked from outside, since the page's policy lets no text be run as a script."""
    end = time.monotonic() + WAIT_S
    while not page.evaluate(script):
        assert time.monotonic() < end, f"{script}: {page.inner_text('body')}"
        page.wait_for_timeout(50)


def test_words_spoken_into_the_browser_are_shown(opened, service):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "talk", "by keyboard"
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('#stable').textContent.length > 5")
    assert page.inner_text("#stable")
    wait_for(page, "document.querySelectorAll('#text p').length >= 1")
    said = page.inner_text("#text p:first-child")
    assert len({"might", "have", "been", "made", "himself"} & set(said.lower().replace(".", "").split())) >= 4, said
    wait_for(page, "document.querySelector('#final-p50').textContent !== '\u2013'")
    assert float(page.inner_text("#final-p50")) > 0
    assert page.inner_text("#lag").endswith(" s")
    wait_for(page, "document.querySelector('#meter').value > -50")
    wait_for(page, "document.querySelector('#stable').textContent.length > 5")
    assert page.inner_text("#level") in {level.name for level in service.server.model.manifest.levels}
    if os.environ.get("SCREENSHOT"):
        SCREENSHOT.parent.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOT)
    page.click("#talk")
    wait_for(page, "document.querySelector('#talk').getAttribute('aria-pressed') === 'false'")
    assert page.is_hidden("#error"), page.inner_text("#error")
    settle(service, lambda: not service.server.streams)
    page.click("#clear")
    assert page.inner_text("#text") == ""


def test_a_microphone_that_is_denied_is_told(opened):
    page = opened(microphone=False)
    page.click("#talk")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("The microphone was denied.")
    assert page.get_attribute("#talk", "aria-pressed") == "false"


@pytest.mark.parametrize(
    ("loaded", "says"), [(False, "The model is still being loaded"), (True, "All streams of this")]
)
def test_a_server_that_takes_no_stream_says_why(opened, serving, load, loaded, says):
    service = serving(load() if loaded else None, Limits(streams=1))
    if loaded:
        service.server.open(name="another")
    page = opened(service.url)
    page.click("#talk")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith(says)
    wait_for(page, "document.querySelector('#talk').getAttribute('aria-pressed') === 'false'")


def test_where_everybody_needs_a_token_the_page_asks_for_it(opened, serving, load):
    token = "a-token-of-these-tests"  # noqa: S105
    service = serving(load(), token=token)
    page = opened(service.url)
    page.fill("#token", "another-token-of-nobody")
    page.keyboard.press("Enter")
    page.click("#talk")
    page.wait_for_selector("#error:not([hidden])")
    assert "the token is not its own" in page.inner_text("#error")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.click("#talk")
    wait_for(page, "document.querySelector('#level').textContent !== '\u2013'")


def test_the_server_s_own_microphone_is_shown(opened, serving, load):
    watch = Watch()
    service = serving(load(), watch=watch)
    watch.served = service.server.open(name="microphone")
    page = opened(service.url)
    page.click("#watch")
    wait_for(page, "document.querySelector('#level').textContent !== '\u2013'")
    watch.publish(Text("héllo \U0001f600 world", False, 0.0, 1.0, stable=7))
    wait_for(page, "document.querySelector('#stable').textContent === 'héllo \U0001f600'")
    assert page.inner_text("#unstable") == " world"
    watch.publish(Text("<b>héllo</b>", True, 0.0, 1.0))
    wait_for(page, "document.querySelectorAll('#text p').length === 1")
    assert page.inner_text("#text p") == "<b>héllo</b>"
    page.click("#watch")
    wait_for(page, "document.querySelector('#watch').getAttribute('aria-pressed') === 'false'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(opened, scheme):
    page = opened(scheme=scheme)
    page.evaluate("document.querySelector('#error').hidden = false")
    colours = page.evaluate(
        """() => [...document.querySelectorAll('h1, p, button, dt, dd, caption, th, td, .stable, .unstable')]
            .filter(one => one.offsetParent).map(one => [getComputedStyle(one).color,
            getComputedStyle(document.body).backgroundColor])"""
    )
    assert len(colours) > 15
    assert min(contrast(*pair) for pair in colours) >= 4.5, "WCAG 2.2, 1.4.3"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG has it."""
    lights = sorted(_light(colour) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _light(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_screenshot_in_the_docs_is_there():
    assert Path(SCREENSHOT).stat().st_size > 10_000
