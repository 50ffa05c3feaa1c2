"""The pages in headless Chromium, opened from files: no request, no error, and every control does what it says."""

from __future__ import annotations

import os
import shutil
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import FAILED, WARNED, content_of, maps_of

from covsev.labels import OVERLAY_SUFFIX, REPORT_SUFFIX
from covsev.report.overlay import write_overlay
from covsev.report.page.index import write_index
from covsev.report.page.page import write_report
from covsev.report.tables import failed_row, row

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser():
    """Chromium: the one that COVSEV_CHROMIUM names, the system's, or playwright's."""
    found = os.environ.get("COVSEV_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=found, args=SOFTWARE_GL)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: install the package chromium, or run playwright install chromium ({error.name})")
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(phantom, healthy, tmp_path_factory):
    """Two reports, a scan without a result, and the page over all three."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [failed_row("broken scan", "b.nii.gz", "unreadable", "b.nii.gz: cannot be read")]
    for chest, flags in ((phantom, WARNED), (healthy, ())):
        content = content_of(chest, flags) | {"po_without_recovery_pct": None}
        case = content["case"]
        write_report(content, chest.scan, *maps_of(chest), folder / f"{case}{REPORT_SUFFIX}")
        write_overlay(chest.scan, *maps_of(chest), folder / f"{case}{OVERLAY_SUFFIX}", caption=case)
        rows.append(row(content))
    write_report(content_of(phantom, FAILED), phantom.scan, *maps_of(phantom), folder / "failed.html")
    write_index(rows, folder / "index.html")
    return folder


@pytest.fixture
def open_page(browser):
    """A function that opens a page; at the end: nothing was requested but files of the folder, nothing went wrong."""
    troubles, contexts = [], []

    def opened(path: Path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url[:200]}"))
        page.on("request", lambda request: _is_local(request.url, path) or troubles.append(request.url[:200]))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def _is_local(url: str, path: Path) -> bool:
    return url.startswith(("data:", "blob:", path.parent.as_uri()))


def shown(page, selector):
    return zlib.crc32(page.locator(selector).first.screenshot())


def test_the_slider_changes_the_slice_by_mouse_and_keys(folder, open_page):
    page = open_page(folder / f"phantom{REPORT_SUFFIX}")
    viewer = page.locator('.viewer[data-plane="axial"]')
    slider, text = viewer.locator("input[type=range]"), viewer.locator("output")
    first_text, first_picture = text.text_content(), shown(page, ".viewer svg.slice")
    assert first_text.startswith("axial slice ")
    slider.focus()
    page.keyboard.press("ArrowRight")
    second_text = text.text_content()
    assert second_text != first_text
    assert (
        slider.get_attribute("aria-valuetext") == second_text == viewer.locator("svg.slice").get_attribute("aria-label")
    )
    assert shown(page, ".viewer svg.slice") != first_picture
    page.keyboard.press("ArrowLeft")
    assert text.text_content() == first_text
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert slider.input_value() == slider.get_attribute("max")


def test_the_overview_leads_to_the_slice(folder, open_page):
    page = open_page(folder / f"phantom{REPORT_SUFFIX}")
    button = page.locator('.montage button[data-plane="coronal"]').first
    button.focus()
    page.keyboard.press("Enter")
    viewer = page.locator('.viewer[data-plane="coronal"]')
    assert viewer.locator("use").get_attribute("href") == f"#{button.get_attribute('data-slice')}"
    assert f"Show {viewer.locator('output').text_content()}" == button.get_attribute("aria-label")


def test_outlines_can_be_hidden(folder, open_page):
    page = open_page(folder / f"phantom{REPORT_SUFFIX}")
    pictures = {shown(page, ".viewer svg.slice")}
    for box in page.locator("#outlines input").all():
        box.uncheck()
        pictures.add(shown(page, ".viewer svg.slice"))
    assert len(pictures) == 4  # each of the three took something away


@pytest.mark.parametrize("name", [f"phantom{REPORT_SUFFIX}", "index.html"])
def test_the_theme_follows_the_system_and_the_button(folder, open_page, name):
    page = open_page(folder / name, color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(back)
    page.click("#theme")
    light = page.evaluate(back)
    page.click("#theme")
    assert dark == page.evaluate(back) != light
    assert light == open_page(folder / name, color_scheme="light").evaluate(back)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [f"phantom{REPORT_SUFFIX}", "failed.html", "index.html"])
def test_text_has_contrast(folder, open_page, name, scheme):
    page = open_page(folder / name, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => [r, g, b].map(c => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = parts(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour; } return [255, 255, 255]; };
  const texts = "h1,h2,h3,p,li,td,th,dt,dd,figcaption,label,output,button,a,span,strong,caption";
  return [...document.querySelectorAll(texts)]
    .filter(node => node.getClientRects().length && [...node.childNodes].some(c => c.nodeType === 3 && c.data.trim()))
    .map(node => {
      const both = [luminance(parts(getComputedStyle(node).color)), luminance(behind(node))];
      const [a, b] = both.sort((x, y) => y - x);
      return [(a + .05) / (b + .05), node.tagName, node.className, node.textContent.slice(0, 40)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [f"phantom{REPORT_SUFFIX}", "failed.html", "index.html"])
def test_nothing_sticks_out_of_the_window(folder, open_page, name, width):
    page = open_page(folder / name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", [f"phantom{REPORT_SUFFIX}", "index.html"])
def test_everything_has_a_name_for_those_who_do_not_see(folder, open_page, name):
    page = open_page(folder / name)
    nameless = page.evaluate("""() => [...document.querySelectorAll("img,button,input,select,svg,a")]
        .filter(node => !node.closest("[aria-hidden=true]") && !node.hidden)
        .filter(node => !(node.getAttribute("aria-label") || node.alt || node.labels?.length
            || node.textContent.trim() || node.querySelector("img[alt]")))
        .map(node => node.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_without_scripts_the_overview_is_there(folder, open_page):
    page = open_page(folder / f"phantom{REPORT_SUFFIX}", java_script_enabled=False)
    assert page.locator(".montage figure").count() == 9
    assert page.locator("#theme").is_hidden()


def test_it_prints_on_a_few_pages_of_a4(folder, open_page, tmp_path):
    page = open_page(folder / f"phantom{REPORT_SUFFIX}", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".viewer").first.is_hidden()
    printed = page.pdf(prefer_css_page_size=True)
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 5
    assert b"/MediaBox [0 0 594.95996 841.91998]" in printed or b"/MediaBox [0 0 595" in printed


# ---- the page over all scans -------------------------------------------------------------------------------------


def cases(page):
    return page.evaluate(
        "[...document.querySelectorAll('#table tbody tr')].filter(r => !r.hidden).map(r => r.dataset.case)"
    )


def test_the_index_sorts_by_every_column(folder, open_page):
    page = open_page(folder / "index.html")
    assert cases(page) == ["broken scan", "phantom", "healthy"]
    head = page.locator("th[data-kind=number]", has_text="po chaganti2020").first
    for direction, expected in (("ascending", ["healthy", "phantom"]), ("descending", ["phantom", "healthy"])):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert cases(page) == [*expected, "broken scan"]  # what has no value comes last
    page.locator("th button", has_text="case").click()
    assert cases(page) == ["broken scan", "healthy", "phantom"]
    assert page.locator("th[aria-sort]").count() == 1


def test_the_index_filters(folder, open_page):
    page = open_page(folder / "index.html")
    page.fill("#find", "slices far")
    assert cases(page) == ["phantom"]
    assert page.text_content("#count") == "1 of 3 shown"
    page.fill("#find", "")
    page.select_option("#quality", "no result")
    assert cases(page) == ["broken scan"]


def test_the_index_leads_to_the_reports(folder, open_page):
    page = open_page(folder / "index.html")
    page.get_by_role("link", name="healthy", exact=True).click()
    assert page.title() == "healthy: covsev report"


# ---- NiiVue ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ipyniivue") is None, reason="ipyniivue is not installed")
def test_the_viewer_starts_and_shows_the_scan(phantom, open_page, tmp_path):
    path = tmp_path / "viewer.html"
    write_report(content_of(phantom), phantom.scan, *maps_of(phantom), path, viewer=True)
    assert path.stat().st_size < 15_000_000
    page = open_page(path, viewport={"width": 500, "height": 700})
    page.click("#start-viewer")
    page.wait_for_function(
        "!['', 'Loading'].includes(document.getElementById('viewer-state').textContent)", timeout=90_000
    )
    state = page.text_content("#viewer-state")
    if "WebGL" in state:
        pytest.skip(f"this Chromium has no WebGL 2: {state}")
    assert state == "Ready"
    assert page.locator("#niivue canvas").count() == 1
