"""The page in a real browser: upload, paste, drop, keyboard, dark, phone, two networks; nothing leaves."""

import base64
import shutil

import httpx
import pytest
from PIL import Image

from _serving import NAMES, encoded, pixels

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TRANSFER = """(data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
  return transfer;
}"""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, server):
    """Open the page as some device; at the end, nothing may have gone elsewhere or wrong."""
    contexts, trouble = [], []

    def open_one(**device):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **device})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda sent: trouble.append(sent.url) if not local(sent.url, server) else None)
        page.goto(server)
        until(page, "document.getElementById('status').textContent === 'Ready.'")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert trouble == []


def until(page, condition, seconds=60):
    """Wait for an expression to hold; playwright's own way is an eval, which the page's policy forbids."""
    for _ in range(20 * seconds):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}; status: {page.text_content('#status')}")


def local(url, server):
    return url.startswith((server, "data:", f"blob:{server}"))


def upload(page, data=None):
    page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": data or encoded()})


def answered(page, networks=2):
    until(page, f"document.querySelectorAll('#results:not(.waiting) article').length === {networks}")
    return page.text_content("#status")


def test_upload_shows_what_both_networks_say(open_page, server):
    page = open_page()
    upload(page)
    said = answered(page)
    assert said.startswith("mine.png: ")
    articles = page.locator("article")
    api = httpx.post(f"{server}predict", files={"image": encoded()}, timeout=120)
    (row,) = api.json()["predictions"]
    assert articles.nth(0).locator(".ranking").first.locator("li .name").all_text_contents() == [
        r["class"] for r in row
    ]
    assert articles.nth(0).locator(".funnel > li").count() == 4
    assert articles.nth(0).locator("tbody tr").count() == 3
    assert articles.nth(1).locator(".funnel, table").count() == 0
    # the class to explain, and one network alone
    page.select_option("#class", "=hen")
    until(page, "document.querySelector('figcaption').textContent.includes('hen')")
    page.select_option("#second", "")
    answered(page, 1)
    assert "“hen”" in page.text_content("figcaption")


def test_scores_that_round_to_zero_have_no_sign(open_page, server):
    tools = f"import('{server}static/tools.js')"
    script = tools + ".then(({ signed }) => [-0.001, -0.25, 0.3, -10].map((value) => signed(value, 2)))"
    assert open_page().evaluate(script) == ["0.00", "−0.25", "0.30", "−10.00"]


def test_paste_and_drop(open_page):
    page = open_page()
    data = base64.b64encode(encoded(pixels(3))).decode()
    transfer = page.evaluate_handle(TRANSFER, data)
    page.evaluate(
        "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        transfer,
    )
    assert answered(page).startswith("pasted image: ")
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    until(page, "document.getElementById('status').textContent.startsWith('given.png: ')")


def test_keyboard_alone(open_page):
    page = open_page()
    until(page, "document.querySelectorAll('.examples button').length === 2")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.examples') !== null"):
            break
    page.keyboard.press("Enter")
    assert answered(page).startswith("picture 0: ")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    before = page.text_content("figcaption")
    assert "row 3 of 4, column 3 of 4" in before or "row 2 of 4, column 2 of 4" in before
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    after = page.text_content("figcaption")
    assert after != before
    until(page, "document.getElementById('spoken').textContent.includes('taps moved by')")


def test_pointing_moves_the_taps(open_page):
    page = open_page()
    upload(page)
    answered(page)
    canvas = page.locator("canvas").first
    box = canvas.bounding_box()
    shots = []
    for share in (0.35, 0.65):
        canvas.hover(position={"x": share * box["width"], "y": share * box["height"]})
        shots.append((page.text_content("figcaption"), canvas.evaluate("canvas => canvas.toDataURL()")))
    assert "row 1 of 4, column 1 of 4" in shots[0][0] or "row 2 of 4, column 2 of 4" in shots[0][0]
    assert shots[0] != shots[1]
    assert shots[0][1] != shots[1][1]
    # without its heat map it is another picture
    page.fill("#opacity", "0")
    assert canvas.evaluate("canvas => canvas.toDataURL()") != shots[1][1]


def width_of_the_photo(page, number):
    """The width in pixels of the canvas that the photo takes, found by its colours: it is red all over."""
    return (
        page.locator("canvas.points, article > figure > canvas")
        .nth(number)
        .evaluate(
            """(canvas) => {
          const row = Math.floor(canvas.height / 2);
          const pixels = canvas.getContext("2d").getImageData(0, row, canvas.width, 1).data;
          let count = 0;
          for (let x = 0; x < canvas.width; x++) if (pixels[4 * x] > pixels[4 * x + 1] + 40) count++;
          return count;
        }"""
        )
    )


def test_both_pictures_show_the_photo_at_one_scale_and_taps_can_be_turned_off(open_page):
    page = open_page()
    upload(page, encoded(Image.new("RGB", (40, 40), (230, 40, 40))))
    answered(page)
    page.fill("#opacity", "0")
    first, second = (width_of_the_photo(page, number) for number in (0, 1))
    assert first == pytest.approx(second, rel=0.12)  # taps cover a little of the first
    wide = page.locator("canvas").first.evaluate("(canvas) => canvas.width")
    assert second < 0.9 * wide  # taps of the first network read outside: both pictures leave room for them
    page.check("input[name=stage][value=none]")
    assert "Stage" not in page.text_content("figcaption")
    assert all(width_of_the_photo(page, number) >= wide - 6 for number in (0, 1))


def test_a_photo_that_is_wider_than_what_the_network_sees_stays_whole(open_page):
    page = open_page()
    upload(page, encoded(Image.new("RGB", (60, 32), (230, 40, 40))))
    answered(page)
    page.check("input[name=stage][value=none]")
    canvas = page.locator("canvas").first
    assert canvas.evaluate("(canvas) => canvas.width / canvas.height") == pytest.approx(60 / 32, rel=0.02)


def test_attention_follows_the_point(open_page):
    page = open_page()
    page.select_option("#second", "")
    page.select_option("#first", "third")
    upload(page)
    answered(page, 1)
    here, everywhere = (
        page.get_by_label(name, exact=True) for name in ("Kernels at the point", "Kernels everywhere")
    )
    first = here.locator("canvas").first
    before = first.evaluate("(canvas) => canvas.toDataURL()"), first.get_attribute("aria-label")
    page.locator("canvas.points").focus()
    page.keyboard.press("ArrowUp")
    after = first.evaluate("(canvas) => canvas.toDataURL()"), first.get_attribute("aria-label")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert [one.split()[-2:] for one in everywhere.locator("canvas").evaluate_all(
        "(all) => all.map((one) => one.ariaLabel)"
    )] == [["static", "context"], ["dynamic", "context"]]  # fmt: skip
    assert "attention counts" in everywhere.text_content()


def test_long_names_are_not_cut_and_negative_scores_have_bars(open_page):
    page = open_page(viewport={"width": 390, "height": 700})
    upload(page)
    answered(page)
    cut = page.evaluate(
        """() => { const one = document.querySelector(".funnel .name");
             one.textContent = "an uncommonly long name of a class";
             return one.scrollWidth > one.clientWidth + 1; }"""
    )
    assert not cut
    parts = page.evaluate(
        """async () => { const { breakable } = await import(new URL("tools.js",
             document.querySelector("script[type=module]").src));
             return breakable("motor_left/x.png").map((part) => part.tagName ?? part); }"""
    )
    assert parts == ["motor_", "WBR", "left/", "WBR", "x.", "WBR", "png"]
    negative = page.evaluate(
        """() => [...document.querySelectorAll(".funnel li li")].filter((row) =>
             row.querySelector(".value").textContent.startsWith("−")).map((row) => {
               const bar = getComputedStyle(row.querySelector(".bar"), "::before");
               return [parseFloat(bar.width), parseFloat(bar.left) + parseFloat(bar.width)
                 - row.querySelector(".bar").clientWidth / 2]; })"""
    )
    assert negative
    assert all(width > 0 and abs(end) < 1 for width, end in negative)  # they end at the middle


def test_dark_as_the_system_says_and_by_the_button(open_page):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = open_page(color_scheme="dark")
    assert ground(page) == "rgb(20, 23, 27)"
    for theme in ("light", "dark"):
        page.click("#theme")
        assert page.text_content("#theme") == f"Theme: {theme}"
        assert ground(page) == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]


def test_phone_has_no_sideways_scrolling(open_page):
    page = open_page(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    upload(page)
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    before = page.text_content("figcaption")
    canvas = page.locator("canvas").first
    box = canvas.bounding_box()
    canvas.tap(position={"x": 0.75 * box["width"], "y": 0.75 * box["height"]})
    assert page.text_content("figcaption") != before


def test_a_refusal_is_said(browser, server):
    page = browser.new_page()
    page.goto(server)
    until(page, "document.getElementById('status').textContent === 'Ready.'")
    upload(page)
    answered(page)
    upload(page, b"no image")
    until(page, "document.getElementById('status').classList.contains('bad')")
    assert page.locator("article").count() == 0  # the answer to the image before would look like one to this
    assert page.text_content("#status") == "mine.png: not an image; send JPEG, PNG, WebP, AVIF, GIF or BMP"
    page.close()


def test_the_api_page_renders_the_schema(open_page, server):
    page = open_page()
    page.goto(f"{server}docs")
    page.wait_for_selector("h2 code:text('/predict')")
    assert page.locator("section").count() > 10


def test_names_for_screen_readers(open_page):
    page = open_page()
    upload(page)
    answered(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, canvas, img, fieldset")].filter((one) =>
             one.offsetParent !== null && !(one.ariaLabel || one.textContent.trim() || one.title ||
             one.labels?.length || one.hasAttribute("alt"))).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("main").count() == page.locator("h1").count() == 1
    assert page.locator("[role=status]").count() == 1
    page.keyboard.press("Tab")
    page.locator("summary").press("Enter")
    assert page.get_by_text("Yellow places hold what speaks for the class").is_visible()
    assert page.get_by_label("Class explained").locator("option").all_text_contents() == ["its answer", *NAMES]
