"""The page of --preview in a real browser: it loads, its pictures move, a click changes the heat map, a wrong token is
shown nothing, and nothing comes from anywhere else. By keyboard and at a phone's width, too.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_model

pytestmark = pytest.mark.stream

# What a canvas shows, small enough to compare.
PIXELS = """
const small = document.createElement("canvas");
small.width = 32; small.height = 24;
small.getContext("2d").drawImage(document.getElementById(arguments[0]), 0, 0, 32, 24);
return Array.from(small.getContext("2d").getImageData(0, 0, 32, 24).data);
"""


@pytest.fixture
def browser(tmp_path):
    """Chromium without a screen, its log and its traffic recorded."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if shutil.which("chromedriver") is None:
        pytest.skip("chromium-driver is not installed; make test-stream installs it")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    # Without a sandbox, as root must; in /tmp, for containers have little shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    opened.set_window_size(1280, 1000)
    yield opened
    opened.quit()


@pytest.fixture
def run(tmp_path):
    """run(*arguments) -> the address of the page of a run."""
    graph = tiny_model.save(tmp_path / "tiny.onnx", bias=0.0)
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "brixel_edge.commands.run", str(graph), "--headless", "--quiet", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
        started.append(process)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"preview: (http://\S+)", line):
                return found[1]
        raise AssertionError("".join(lines))

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def until(condition, seconds=40):
    """The first result of `condition` that is true."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come about")


def number_of(browser):
    from selenium.webdriver.common.by import By

    return int(browser.find_element(By.TAG_NAME, "body").get_attribute("data-frame") or 0)


def pixels(browser, canvas):
    return browser.execute_script(PIXELS, canvas)


def difference(one, other):
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requested(browser):
    """Every address that the browser asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]


def test_the_page_loads_moves_and_takes_a_click(browser, run):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    url = run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0")
    browser.get(url)
    until(lambda: number_of(browser) >= 2)
    before = pixels(browser, "frame")
    until(lambda: difference(pixels(browser, "frame"), before) > 0)
    until(lambda: browser.find_element(By.ID, "health").text == "running")
    assert browser.find_element(By.ID, "model").text == "tiny.onnx"
    assert browser.find_element(By.ID, "mapname").text == "Colours of the features"
    colours = pixels(browser, "map")
    ActionChains(browser).click(browser.find_element(By.ID, "frame")).perform()
    until(lambda: browser.find_element(By.ID, "mapname").text == "Similarity to object")
    shown = number_of(browser)
    until(lambda: number_of(browser) > shown + 1)
    first = pixels(browser, "map")
    assert difference(first, colours) > 10
    # Another click, far from the first, is part of the thing, too: the heat map changes again.
    frame = browser.find_element(By.ID, "frame")
    ActionChains(browser).move_to_element_with_offset(frame, -200, -100).click().perform()
    until(lambda: difference(pixels(browser, "map"), first) > 3)
    ActionChains(browser).context_click(browser.find_element(By.ID, "map")).perform()
    until(lambda: browser.find_element(By.ID, "said").text == "Noted: not here.")
    browser.find_element(By.ID, "colours").click()
    until(lambda: browser.find_element(By.ID, "mapname").text == "Colours of the features")
    asked = requested(browser)
    # Beside our page only the empty one that the browser opens with.
    assert url in asked and not [one for one in asked if not one.startswith((url, "data:", "chrome:"))]
    assert not errors(browser)


def test_things_are_named_chosen_and_forgotten_and_names_are_text(browser, run):
    from selenium.webdriver.common.by import By

    browser.get(run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0"))
    until(lambda: number_of(browser) >= 1)
    name = "<b>cup</b>"
    browser.find_element(By.ID, "name").send_keys(name)
    browser.find_element(By.CSS_SELECTOR, "#new button").click()
    until(lambda: name in browser.find_element(By.ID, "things").text)
    browser.find_element(By.ID, "frame").click()
    until(lambda: browser.find_element(By.ID, "mapname").text == f"Similarity to {name}")
    assert not browser.find_elements(By.CSS_SELECTOR, "#things b")
    browser.find_element(By.CSS_SELECTOR, f"button[aria-label='Forget {name}']").click()
    until(lambda: name not in browser.find_element(By.ID, "things").text)
    assert not errors(browser)


def test_the_keyboard_alone_is_enough(browser, run):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    browser.get(run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0"))
    until(lambda: number_of(browser) >= 1)
    keys = ActionChains(browser).send_keys(Keys.TAB)
    keys.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT)
    keys.perform()
    assert browser.switch_to.active_element.get_attribute("id") == "frame"
    ring = browser.find_element(By.CSS_SELECTOR, "#frame + .cross")
    assert ring.is_displayed()
    assert [round(float(ring.value_of_css_property(side)[:-2]) / ring.find_element(By.XPATH, "..").size[extent], 2)
            for side, extent in (("left", "width"), ("top", "height"))] == [0.42, 0.52]  # fmt: skip
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(lambda: browser.find_element(By.ID, "mapname").text == "Similarity to object")
    # Everything that can be pressed is reached by Tab, and shows where one is.
    reached = set()
    for _ in range(20):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        here = browser.switch_to.active_element
        reached.add(here.get_attribute("id") or here.text or here.get_attribute("aria-label"))
        if here.tag_name in ("button", "input", "canvas"):
            assert here.value_of_css_property("outline-style") == "solid"
    assert {"map", "yes", "no", "colours", "heat", "object", "Forget", "name", "Begin", "Snapshot"} <= reached


def test_a_phone_needs_no_sideways_scrolling(browser, run):
    from selenium.webdriver.common.by import By

    things = [part for name in ("cup", "the long-named plate of my aunt") for part in ("--query", f"{name}=9,9")]
    browser.get(run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0", *things))
    until(lambda: number_of(browser) >= 1)
    # A window cannot be so narrow; an emulated phone can.
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    widths = "return [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
    until(lambda: browser.execute_script(widths) == [360, 360])
    frame, beside = (browser.find_element(By.ID, name).rect for name in ("frame", "map"))
    assert beside["y"] >= frame["y"] + frame["height"]
    assert frame["width"] > 300
    for button in browser.find_elements(By.TAG_NAME, "button"):
        assert not button.is_displayed() or button.rect["height"] >= 44  # a finger's width


def test_two_browsers_see_the_same_run(browser, run):
    from selenium.webdriver.common.by import By

    url = run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0")
    browser.get(url)
    first = browser.current_window_handle
    until(lambda: number_of(browser) >= 1)
    shown = browser.find_element(By.ID, "mapname").text
    assert shown != "Similarity to object"
    browser.switch_to.new_window("window")
    browser.get(url)
    until(lambda: number_of(browser) >= 1)
    browser.find_element(By.ID, "frame").click()
    browser.switch_to.window(first)
    name = browser.find_element(By.ID, "mapname")
    until(lambda: name.text != shown)
    assert name.text == "Similarity to object"


def test_a_wrong_token_sees_nothing_and_the_right_one_leaves_the_address(browser, run):
    from selenium.webdriver.common.by import By

    url = run("--source", "test:pattern?fps=10", "--preview", "0.0.0.0:0").replace("0.0.0.0", "127.0.0.1")
    base, _, token = url.partition("?token=")
    for address in (base, f"{base}?token={token[:-1]}x", f"{base}snapshot.png"):
        browser.get(address)
        assert "the token is missing or wrong" in browser.find_element(By.TAG_NAME, "body").text
        assert not browser.find_elements(By.TAG_NAME, "canvas")
    browser.get(url)
    until(lambda: number_of(browser) >= 1)
    assert browser.current_url == base
    browser.refresh()
    until(lambda: number_of(browser) >= 1)


def test_another_site_can_neither_read_nor_change_the_run(browser, run, tmp_path):
    """A page of another origin, which tries what it can."""
    url = run("--source", "test:pattern?fps=10", "--preview", "127.0.0.1:0")
    page = tmp_path / "other.html"
    page.write_text("<html><body></body></html>")
    browser.get(page.as_uri())
    script = """
    const [url, done] = arguments, told = [];
    const image = await new Promise(settle => {
      const image = new Image();
      image.onload = () => settle("shown"); image.onerror = () => settle("refused"); image.src = url + "snapshot.png";
    });
    const read = await fetch(url + "state").then(() => "read", () => "refused");
    const asked = JSON.stringify({choose: "stranger"});
    const headers = {"Content-Type": "application/json"};
    const sent = fetch(url + "requests", {method: "POST", headers, body: asked});
    const json = await sent.then(() => "sent", () => "refused");
    await fetch(url + "requests", {method: "POST", mode: "no-cors", body: asked}).catch(() => 0);
    done([image, read, json]);
    """
    wrapped = f"(async function() {{{script}}}).apply(null, arguments)"
    assert browser.execute_async_script(wrapped, url) == ["refused", "refused", "refused"]
    browser.get(url)
    until(lambda: number_of(browser) >= 1)
    assert "stranger" not in browser.page_source
