"""The pages in a real browser: what moves, what is read out, who can read it, and that nothing reaches out."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.made_up_runs import environment_of, make_run, picture, quality_of, training_lines

from distgan.cli import run_command

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = (360, 768, 1280)

# Each visible text whose contrast with what lies behind it is under 4.5, as "ratio text".
PALE = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const found = [];
  let seen = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
    if (!text || !element.checkVisibility() || !element.getClientRects().length) continue;
    if (element.closest("script, datalist")) continue;
    seen += 1;
    const style = getComputedStyle(element);
    const back = behind(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), back);
    const [high, low] = [light(ink), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className.baseVal ?? element.className} ${text}`);
  }
  return { found, seen };
}"""

# The picture of the samples that can be seen.
CURRENT = """async () => {
  const shown = [...document.querySelectorAll(".timeline .frame")].filter((frame) => frame.checkVisibility());
  if (shown.length !== 1) return { shown: shown.length };
  const image = shown[0].querySelector("img");
  await image.decode();
  const caption = shown[0].querySelector("figcaption").innerText;
  return { shown: 1, src: image.src, width: image.naturalWidth, caption };
}"""


def chromium() -> str:
    """Where there is none the tests are skipped; on CI that is a failure."""
    names = [os.environ.get("DISTGAN_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        message = "no Chromium here (chromium, chromium-browser, google-chrome or $DISTGAN_CHROMIUM)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of this file, with its own profile; it ends with them, however they end."""
    path = chromium()
    if os.environ.get("CI") != "true":
        pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=path, args=ARGUMENTS, headless=True
        )
        try:
            context.set_default_timeout(10_000)
            yield context
        finally:
            context.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab in which nothing may go wrong: no message, no error, no request but for the page itself."""
    page = browser.new_page()
    wrong: list[str] = []
    opened: list[str] = []
    page.on("console", lambda message: wrong.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: opened.append(request.url))
    yield page
    documents = {url.partition("#")[0] for url in opened if not url.startswith("data:")}
    page.close()
    assert not wrong
    assert all(url.startswith("file://") and url.endswith(".html") for url in documents), documents


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of a C-GAN's report, of a GAN's, and of a page that compares them."""
    folder = tmp_path_factory.mktemp("pages")
    cgan = make_run(folder / "cgan-1", quality=quality_of(alarms=["collapse"]))
    gan = make_run(
        folder / "vanilla-1", "GAN", lines=training_lines(kind="GAN"), quality=quality_of("GAN", fcd=9.0, missing=[6]),
        environment=environment_of(data={"name": "digits", "notice": "other digits", "num_images": 17_970}),
    )  # fmt: skip
    own = make_run(
        folder / "own-1", lines=training_lines(30, num_classes=100), num_samples=0,
        quality=quality_of(num_classes=100, source={"data": "own"}),
        environment=environment_of(data={"name": "own", "num_images": 500}),
    )  # fmt: skip
    for epoch in (1, 2):
        picture(own / "samples" / f"epoch-{epoch:04}.png", epoch, (6600, 500))
    for run in (cgan, gan, own):
        run_command("report", str(run), "--no-eval")
    run_command("compare", str(cgan), str(gan), "--no-eval", "--out", str(folder / "both.html"))
    places = {"cgan": cgan / "report.html", "gan": gan / "report.html", "both": folder / "both.html"}
    places["own"] = own / "report.html"
    return {name: path.as_uri() for name, path in places.items()}


# -- what moves -------------------------------------------------------------------------------------------


def test_the_slider_moves_the_picture_and_its_caption(tab: Any, pages: dict[str, str]) -> None:
    tab.goto(pages["cgan"])
    last = tab.evaluate(CURRENT)
    assert last["caption"] == "after epoch 41"
    assert last["width"] == 180
    slider = tab.get_by_label("Epoch of the samples")
    slider.focus()
    tab.keyboard.press("ArrowLeft")
    before = tab.evaluate(CURRENT)
    assert before["caption"] == "after epoch 31"
    assert before["src"] != last["src"]
    assert before["width"] == 180
    assert slider.get_attribute("aria-valuetext") == "epoch 31"
    # By mouse, to the left end.
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)
    first = tab.evaluate(CURRENT)
    assert first["caption"] == "after epoch 1"
    assert len({last["src"], before["src"], first["src"]}) == 3


def test_buttons_step_and_play(tab: Any, pages: dict[str, str]) -> None:
    tab.goto(pages["cgan"])
    tab.get_by_role("button", name="Previous").click()
    assert tab.evaluate(CURRENT)["caption"] == "after epoch 31"
    tab.get_by_role("button", name="Next").click()
    assert tab.evaluate(CURRENT)["caption"] == "after epoch 41"
    tab.get_by_role("button", name="Play").click()
    assert tab.evaluate(CURRENT)["caption"] == "after epoch 1"  # from the end it starts over
    tab.get_by_text("after epoch 11", exact=True).wait_for(state="visible")
    tab.get_by_role("button", name="Pause").click()
    assert tab.get_by_role("button", name="Play").is_visible()


def test_play_is_not_offered_to_who_wants_no_motion(tab: Any, pages: dict[str, str]) -> None:
    tab.emulate_media(reduced_motion="reduce")
    tab.goto(pages["cgan"])
    assert not tab.get_by_role("button", name="Play").is_visible()
    assert tab.get_by_role("button", name="Next").is_visible()


@pytest.mark.parametrize("name", ["cgan", "gan", "both", "own"])
def test_contents_lead_to_every_heading(tab: Any, pages: dict[str, str], name: str) -> None:
    tab.goto(pages[name])
    links = tab.evaluate("[...document.querySelectorAll('nav a')].map((a) => [a.hash.slice(1), a.textContent])")
    headings = "[...document.querySelectorAll('main h2, main h3')].filter((e) => !e.closest('.tables'))"
    texts = tab.evaluate(f"{headings}.map((e) => e.firstChild.textContent.trim())")
    assert [text for _, text in links] == texts
    assert len(links) >= 3
    for target, _ in links[:: max(1, len(links) // 4)]:
        tab.locator(f"nav a[href='#{target}']").click()
        assert tab.evaluate(f"document.getElementById('{target}').getBoundingClientRect().top") < 800
    tab.set_viewport_size({"width": 375, "height": 800})  # on a phone the sections alone
    assert tab.locator("nav .level2").first.is_visible()
    assert not any(each.is_visible() for each in tab.locator("nav .level3").all())


def test_the_keyboard_reaches_slider_and_charts(tab: Any, pages: dict[str, str]) -> None:
    tab.goto(pages["cgan"])
    reached = []
    for _ in range(50):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("(e => e.id || e.getAttribute('aria-label') || e.textContent)(document.activeElement)")
        )
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached[0] == "Skip to the first section"
    order = [reached.index(name) for name in ("Samples", "when", "Previous", "Losses, epoch by epoch")]
    assert order == sorted(order)


def test_a_chart_is_read_by_pointer_and_by_keyboard(tab: Any, pages: dict[str, str]) -> None:
    tab.goto(pages["cgan"])
    lines = training_lines()
    chart = tab.locator("#losses")
    cursor, readout = chart.locator(".cursor"), chart.locator(".readout")
    assert readout.inner_text().startswith("Point at the curve")
    cursor.scroll_into_view_if_needed()
    box = cursor.bounding_box()
    tab.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    assert readout.inner_text() == (f"epoch 40: D's loss {lines[-1]['d_loss']:.2f}, G's loss {lines[-1]['g_loss']:.3f}")
    # The dots lie on the curves: D's loss is as high as its tick would be.
    dot, low, high = (
        chart.locator(selector).first.bounding_box()
        for selector in (".cursor .dot.s0", ".grid text:text-is('0')", ".grid text:text-is('6')")
    )
    middles = [each["y"] + each["height"] / 2 for each in (dot, low, high)]
    value = 6 * (middles[1] - middles[0]) / (middles[1] - middles[2])
    assert value == pytest.approx(lines[-1]["d_loss"], abs=0.05)
    cursor.focus()
    tab.keyboard.press("Home")
    assert readout.inner_text().startswith(f"epoch 0.33: D's loss {lines[0]['d_loss']:.3f}")
    tab.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("epoch 0.67:")
    assert cursor.get_attribute("aria-valuetext") == readout.inner_text()
    # Intervals are read as well.
    quality = tab.locator("#q-fcd")
    quality.locator(".cursor").focus()
    tab.keyboard.press("End")
    assert "their moving average 0.500 (0.490 to 0.510)" in quality.locator(".readout").inner_text()


def test_the_page_can_be_read_without_scripts(browser: Any, tab: Any, pages: dict[str, str]) -> None:
    browser.new_cdp_session(tab).send("Emulation.setScriptExecutionDisabled", {"value": True})
    tab.goto(pages["cgan"])
    assert [frame.is_visible() for frame in tab.locator(".frame").all()] == [True] * 5
    assert not tab.locator(".player").is_visible()
    assert not tab.locator(".readout").first.is_visible()
    assert tab.locator("#losses svg").first.is_visible()


def test_commands_are_copied(browser: Any, tab: Any, pages: dict[str, str]) -> None:
    tab.goto(pages["cgan"])
    buttons = tab.locator("button.copy")
    assert buttons.count() == 5
    buttons.last.click()
    tab.wait_for_function("['Copied', 'Selected'].includes([...document.querySelectorAll('.copy')].pop().textContent)")


# -- who can read it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cgan", "gan", "both", "own"])
def test_no_page_is_wider_than_its_screen(tab: Any, pages: dict[str, str], name: str) -> None:
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 800})
        tab.goto(pages[name])
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        # What is wider scrolls in a box that the keyboard reaches, and that has a name.
        for box in tab.locator(".scroll").all():
            assert box.get_attribute("tabindex") == "0"
            assert box.get_attribute("aria-label")
        loose = tab.evaluate(
            "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, svg') && e.checkVisibility() "
            "&& e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.tagName + '.' + e.className)"
        )
        assert not loose


@pytest.mark.parametrize("name", ["cgan", "both", "own"])
def test_what_is_wider_than_the_screen_says_so(tab: Any, pages: dict[str, str], name: str) -> None:
    """Each box that scrolls sideways, and none that does not; with a shadow for who has no scripts."""
    for width in (375, 1400):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.goto(pages[name])
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        tab.wait_for_function(
            "[...document.querySelectorAll('.scroll')].every((box) => { const note = box.previousElementSibling; "
            "return note.className === 'sideways' && "
            "note.checkVisibility() === (box.scrollWidth > box.clientWidth + 1) })"
        )
        wide = tab.evaluate(
            "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"
        )
        assert width > 375 or wide >= 3
        shadows = tab.evaluate("getComputedStyle(document.querySelector('.scroll')).backgroundImage")
        assert shadows.count("linear-gradient") == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["cgan", "gan", "both", "own"])
def test_every_text_stands_out_in_both_themes(tab: Any, pages: dict[str, str], name: str, scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(pages[name])
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    result = tab.evaluate(PALE)
    assert result["seen"] > 300
    assert not result["found"]
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 24, 28)"}[scheme]


def test_every_shade_of_the_heat_map_can_be_read(tab: Any, pages: dict[str, str]) -> None:
    """The legend has them all, also those that no cell of these runs has."""
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(pages["cgan"])
        assert tab.locator(".key").count() == 12
        assert not [text for text in tab.evaluate(PALE)["found"] if "key" in text]


@pytest.mark.parametrize("name", ["cgan", "both", "own"])
def test_print_shows_all_pictures_and_no_controls(tab: Any, pages: dict[str, str], name: str) -> None:
    tab.emulate_media(media="print", color_scheme="dark")
    tab.set_viewport_size({"width": 690, "height": 900})  # an A4 page between its margins
    tab.goto(pages[name])
    assert all(frame.is_visible() for frame in tab.locator(".frame").all())
    for selector in (".player", ".copy", ".readout", ".cursor", "nav", ".skip", "button"):
        assert not any(each.is_visible() for each in tab.locator(selector).all()), selector
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.evaluate(PALE)["found"]
    cut = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((e) => e.checkVisibility() && (e.scrollWidth > "
        "innerWidth || getComputedStyle(e).overflow !== 'visible')).map((e) => e.getAttribute('aria-label'))"
    )
    assert not cut
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_structure_for_who_hears_the_page(tab: Any, pages: dict[str, str]) -> None:
    for address in pages.values():
        tab.goto(address)
        assert tab.evaluate("document.documentElement.lang") == "en"
        for landmark in ("banner", "navigation", "main", "contentinfo"):
            assert tab.get_by_role(landmark).count() == 1
        assert tab.evaluate("[...document.images].every((image) => image.alt.length > 10)")
        assert tab.evaluate("[...document.querySelectorAll('table')].every((table) => table.caption?.textContent)")
        assert tab.evaluate("[...document.querySelectorAll('th')].every((head) => head.scope)")
        assert tab.evaluate("[...document.querySelectorAll('svg[role=img]')].every((e) => e.ariaLabel.length > 20)")
        twice = tab.evaluate(
            "[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i)"
        )
        assert not twice
        dead = tab.evaluate(
            "[...document.querySelectorAll('a')].filter((a) => !document.querySelector(a.getAttribute('href')))"
            ".map((a) => a.href)"
        )
        assert not dead


# -- what must not happen ---------------------------------------------------------------------------------


def test_names_do_not_run(tab: Any, tmp_path: Path) -> None:
    attack = "<script>alert(1);window.hit=1</script>"
    run = make_run(
        tmp_path / "<img src=x onerror=alert(2);window.hit=1>",
        environment=environment_of(preset=attack, device=f"'\"></dd>{attack}", command=[attack]),
        quality=quality_of(alarms=[attack], notices=[f"</title>{attack}"]),
    )
    run_command("report", str(run), "--no-eval")
    run_command("compare", str(run), str(make_run(tmp_path / "b")), "--no-eval", "--out", str(tmp_path / "both.html"))
    for path in (run / "report.html", tmp_path / "both.html"):
        tab.goto(path.as_uri())
        tab.wait_for_load_state("load")
        assert tab.evaluate("window.hit") is None
        assert tab.locator("img[src=x]").count() == 0
        assert "<script>alert(1)" in tab.locator("body").inner_text()


def test_the_policy_stops_what_would_slip_through(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:
    """A page with a hole: the script and the picture of another host are both rejected."""
    text = Path(pages["cgan"].removeprefix("file://")).read_text()
    path = tmp_path / "hole.html"
    hole = '<script>window.hit=1</script><img src="http://127.0.0.1:9/x.png" onerror="window.hit=2">'
    path.write_text(text.replace('<main id="main"', f'{hole}<main id="main"'))
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("window.hit") is None
    page.close()
    assert len([text for text in messages if "Content Security Policy" in text]) >= 2
