"""The studio as a person sees it, in a real browser."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import hostile
import httpx
import numpy as np
import pytest
from browsers import AXE, chromium, needs_axe, needs_chromium
from hostile import PICTURE
from PIL import Image

from tfstyle import load_image, save_image
from tfstyle.images.samples import SAMPLES
from tfstyle.options.provenance import read_origin

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
pytestmark = needs_chromium
LONG = 60_000  # milliseconds; a busy machine takes its time
sync_api.expect.set_options(timeout=LONG)
NEVER_ENDS = "5000"  # steps


@contextlib.contextmanager
def studio(folder, number):
    """The address of a studio, started as a person starts it; a signal ends it."""
    words = ["studio", "--nobrowser", "--max_size=256", "--max_upload=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfstyle", *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        line = process.stdout.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    finally:
        process.kill()
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with studio(tmp_path_factory.mktemp("studio"), signal.SIGINT) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(server, browser):
    """Opens tabs; at the end, none has asked another server for anything."""
    contexts, foreign = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(LONG)
        own = (server, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(own) or foreign.append(r.url))
        page.goto(server)
        page.wait_for_selector("#start")
        sync_api.expect(page.locator(".loading")).to_have_count(0)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not foreign


@pytest.fixture
def pictures(tmp_path, content, style):
    for name, picture in (("photo", content), ("art", style)):
        save_image(np.kron(picture, np.ones([1, 4, 4, 1])), tmp_path / f"{name}.png")
    return tmp_path


def choose(page, label, path):
    """Gives a file to the picture of that label."""
    field = page.locator(".block", has=page.locator(f"label:text-is('{label}')")).last
    field.locator("input[type=file]").set_input_files(path)


def set_options(page, size="64", steps="4"):
    page.get_by_role("button", name="Advanced").click()
    fill(page.locator("#option_size input[type=number]"), size)
    fill(page.locator("#option_steps").get_by_role("textbox"), steps)


def fill(box, text):
    """Fills a box for good: a busy server's first answer puts the default back."""
    for _ in range(20):
        box.fill(text)
        box.press("Tab")
        box.page.wait_for_timeout(300)
        if box.input_value() == text:
            return


def give_pictures(page, pictures):
    choose(page, "Photograph", pictures / "photo.png")
    choose(page, "Painting", pictures / "art.png")
    sync_api.expect(chosen(page)).to_have_count(2)


def chosen(page):
    """The pictures that have been chosen and are shown."""
    return page.locator(".picture img").filter(visible=True)


def sample(page, name):
    """A sample photograph."""
    return page.locator(f".thumbnails button:has(img[src*='{name}'])").first


def status(page, pattern, timeout=LONG):
    """Waits until the status line is like that; gives it."""
    line = page.locator("#status p")
    sync_api.expect(line).to_have_text(re.compile(pattern), timeout=timeout)
    return line.inner_text()


def download(page, folder, name):
    with page.expect_download() as downloaded:
        page.click("#save")
    assert downloaded.value.suggested_filename == name
    path = folder / name
    downloaded.value.save_as(path)
    return path


def test_a_picture_forms_and_is_made_again(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page)
    page.click("#start")
    status(page, r"^Done in .* · 64×51$")
    sync_api.expect(page.locator("#slider")).to_have_count(0)
    page.get_by_role("button", name="How the loss fell").click()
    sync_api.expect(page.locator("#curves svg")).to_be_visible()
    page.get_by_role("button", name="Make it again").click()
    command = page.locator("#command textarea").input_value()
    assert command == (
        "tfstyle stylize --size=64 --steps=4 --content=photo.png --style=art.png "
        "--output=out.png"
    )
    path = download(page, pictures, "photo_art.png")
    assert Image.open(path).size == (64, 51)
    assert [s.file for s in read_origin(path).pictures["content"]] == ["photo.png"]
    words = ["stylize", f"--from_image={path}", "--output=again.png"]
    # In a process of its own, as the studio is: its precision is that of the CPU.
    program = [sys.executable, "-m", "tfstyle", *words]
    subprocess.run(program, cwd=pictures, check=True)
    again = Image.open(pictures / "again.png")
    np.testing.assert_array_equal(again, Image.open(path))


def test_the_picture_changes_while_it_forms_and_stop_keeps_it(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page, steps=NEVER_ENDS)
    page.click("#start")
    status(page, r"^Step \d+ of \d+ · \d+×\d+ · .* left$")
    bar = page.get_by_role("progressbar", name="Done")
    assert 0 < float(bar.get_attribute("value")) < 1
    image = page.locator("#preview img")
    first = image.get_attribute("src")
    page.wait_for_function(
        "first => document.querySelector('#preview img').src != first", arg=first
    )
    sync_api.expect(page.locator("#start")).to_be_disabled()
    page.click("#stop")
    status(page, r"^Stopped at step \d+: this is the picture so far · ")
    assert Image.open(download(page, pictures, "photo_art.png")).format == "PNG"
    sync_api.expect(page.locator("#start")).to_be_enabled()


def test_wrong_files_are_told_and_leave_the_page_alive(open_page, pictures):
    page = open_page()
    (pictures / "notes.jpg").write_text("not a picture")
    choose(page, "Photograph", pictures / "notes.jpg")
    sync_api.expect(page.locator(".note p")).to_have_text(
        "notes.jpg: not a PNG, JPEG, WebP, BMP, TIFF or GIF picture; convert it to PNG "
        "or JPEG first"
    )
    (pictures / "large.png").write_bytes(bytes(3 << 20))
    choose(page, "Photograph", pictures / "large.png")
    told = page.get_by_text("exceed the maximum allowed size of 2.0 Mb")
    sync_api.expect(told).to_be_visible()
    page.click("#start")
    status(page, "^Photograph: choose a photograph first$")
    sync_api.expect(page.locator(".note p")).to_contain_text("choose a photograph")
    page.reload()
    page.wait_for_selector("#start")
    give_pictures(page, pictures)
    set_options(page)
    page.click("#start")
    status(page, "^Done")


@pytest.fixture(scope="module")
def check(server):
    """Has the server look at a file of its own, as a page does after an upload."""
    client = httpx.Client(base_url=server, timeout=LONG / 1000)
    functions = client.get("config").json()["dependencies"]
    number = next(f["id"] for f in functions if f["api_name"] == "_check")

    def check(path):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = {"fn_index": number, "data": [file], "session_hash": "hostile"}
        return client.post("gradio_api/run/predict", json=call)

    check.client = client
    yield check
    client.close()


def test_hostile_uploads(check):
    chosen = (
        *("bomb.png", "bomb-frame.gif", "exif-many.jpg", "truncated-5.webp"),
        *("really-png.jpg", "really-text.png", "mode-cmyk.jpg", "animated.gif"),
        *("scans.jpg", "runs-skip.bmp", "junk.jpg"),
    )
    files = [file for file in hostile.hostile_files() if file[0] in chosen]
    assert len(files) == len(chosen)
    for name, data, expected in files:
        began = time.monotonic()
        answer = check.client.post("gradio_api/upload", files={"files": (name, data)})
        if len(data) > 2e6:
            assert answer.status_code == 413
            continue
        path = answer.json()[0]
        kept, said = check(path).json()["data"]
        assert time.monotonic() - began < 20, name
        if expected == PICTURE:
            assert said == "", name
        else:
            assert said.startswith(f'<p class="failed" role="alert">{name}: '), said
            assert kept is None and "\n" not in said and "Error" not in said


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero", "/proc/self/mem", "."])
def test_files_of_the_server_are_not_looked_at(check, path):
    answer = check(path)
    assert answer.status_code == 500
    assert "data" not in answer.json()


def test_two_tabs_take_turns(open_page, pictures):
    first, second = open_page(), open_page()
    for page, steps in ((first, NEVER_ENDS), (second, "4")):
        give_pictures(page, pictures)
        set_options(page, steps=steps)
    first.click("#start")
    status(first, "^Step")
    second.click("#start")
    status(second, "^Waiting for its turn")
    sync_api.expect(second.get_by_text(re.compile("queue: 1/1"))).to_be_visible()
    first.click("#stop")
    status(first, "^Stopped at step")
    status(second, "^Done")
    assert download(first, pictures, "photo_art.png").stat().st_size
    steps = [
        read_origin(download(page, pictures, "photo_art.png")).options["steps"]
        for page in (first, second)
    ]
    assert steps == [NEVER_ENDS, "4"]


def test_what_waits_can_be_stopped(open_page, pictures):
    first, second = open_page(), open_page()
    for page in (first, second):
        give_pictures(page, pictures)
        set_options(page, steps=NEVER_ENDS)
        page.click("#start")
        status(page, "^Step" if page is first else "^Waiting")
    second.click("#stop")
    first.close()  # a tab that is closed ends its run
    status(second, "^Stopped before it began$")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(open_page, scheme):
    page = open_page(
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    page.get_by_text("Real-time style").tap()
    sample(page, "cat").tap()
    sync_api.expect(chosen(page)).to_have_count(1)
    page.locator("#start").tap()
    status(page, "^Done in .* · 256×170$")
    sync_api.expect(page.locator("#status")).to_be_in_viewport()
    sync_api.expect(page.locator("#slider")).to_be_hidden()
    page.locator("#compare").tap()
    sync_api.expect(page.locator("#slider")).to_be_visible()
    page.locator("#compare").tap()
    sync_api.expect(page.locator("#preview img")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(x) for x in re.findall(r"\d+", colour)[:3]])
    assert (brightness > 128) == (scheme == "light")
    # The result stands right below the buttons.
    assert (
        page.locator("#status").bounding_box()["y"]
        < (page.get_by_role("button", name="Adjust").bounding_box()["y"])
    )


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.get_by_label("Style transfer").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    sync_api.expect(page.get_by_label("Real-time style")).to_be_checked()
    sample(page, "cat").click()  # a file dialog has keys of its own
    sync_api.expect(chosen(page)).to_have_count(1)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start":
            break
    page.keyboard.press("Enter")
    status(page, "^Done")


@pytest.mark.parametrize(
    ("method", "name", "command"),
    [
        ("Texture", "art_texture.png", "texture"),
        ("Feature inversion", "photo_invert.png", "invert"),
    ],
)
def test_methods(open_page, pictures, method, name, command):
    page = open_page()
    give_pictures(page, pictures)
    page.get_by_label(method).check()
    set_options(page)
    page.click("#start")
    status(page, "^Done")
    assert read_origin(download(page, pictures, name)).command == command


def test_painting_keeps_parts(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page)
    page.get_by_role("button", name="Paint parts that stay").click()
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)  # the canvas is laid out without a sign of its end
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    for i in range(7):
        page.mouse.move(x - 30 + 10 * i, y + 2 * (i % 2), steps=3)
    page.mouse.up()
    page.get_by_role("button", name=re.compile("mask in use")).click()
    page.click("#start")
    status(page, "^Done")
    path = download(page, pictures, "photo_art.png")
    assert set(read_origin(path).pictures) == {"content", "protect", "style"}
    photo, picture = load_image(pictures / "photo.png", 64), load_image(path)
    kept = np.abs(photo - picture).max(-1)[0] < 1 / 255
    assert 0.01 < kept.mean() < 0.7


def test_a_sweep_and_the_history(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page)
    page.click("#start")
    status(page, "^Done in")
    page.get_by_role("button", name="Compare several values").click()
    page.get_by_role("textbox", name="Values").fill("1, x")
    page.click("#start_sweep")
    status(page, "^Style: x does not fit: give a number")
    sync_api.expect(page.locator(".wrong")).to_contain_text("x does not fit")
    page.get_by_role("textbox", name="Values").fill("1, 100")
    page.click("#start_sweep")
    status(page, "^Done: 2 pictures$")
    assert Image.open(download(page, pictures, "sheet.png")).width > 128
    for value in (1, 100):
        name = f"photo_art_style_weight={value}.png"
        sync_api.expect(page.locator("#files")).to_contain_text(name[:20])
    thumbnails = page.locator("#history button.thumbnail-item")
    sync_api.expect(thumbnails).to_have_count(2)
    thumbnails.nth(1).click()
    status(page, "^Done in")
    download(page, pictures, "photo_art.png")


def test_a_signal_ends_the_studio_in_the_middle_of_a_run(browser, pictures, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    with browser.new_context() as context, studio(folder, signal.SIGTERM) as address:
        page = context.new_page()
        page.goto(address)
        give_pictures(page, pictures)
        set_options(page, steps=NEVER_ENDS)
        page.click("#start")
        status(page, "^Step")
        assert list(folder.rglob("*.png"))


def test_a_published_experiment_fills_the_options(open_page):
    page = open_page()
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Published experiment").click()
    page.get_by_role("option", name="vgg19-lbfgs-1e4").click()
    status(page, "^Options of vgg19-lbfgs-1e4$")
    sync_api.expect(page.locator("#option_backbone input")).to_have_value("vgg19")


def test_what_is_wrong_with_an_option_stands_beside_it(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page, steps="abc")
    page.click("#start")
    assert status(page, "^Steps: abc does not fit: give").count("steps=") == 0
    field = page.locator("#option_steps.wrong, .wrong:has(#option_steps)").first
    sync_api.expect(field).to_contain_text("abc does not fit")
    fill(page.locator("#option_steps").get_by_role("textbox"), "4")
    page.click("#start")
    status(page, "^Done")
    sync_api.expect(page.locator(".wrong")).to_have_count(0)


def test_sliders_change_the_method_s_own_values(open_page, pictures):
    page = open_page()
    give_pictures(page, pictures)
    set_options(page)
    page.locator("#option_style_weight input[type=range]").fill("1")
    page.locator("#option_style_scale input[type=range]").fill("-1")
    page.click("#start")
    status(page, "^Done")
    found = read_origin(download(page, pictures, "photo_art.png")).options
    assert (found["style_weight"], found["style_scale"]) == ("4.0", "0.75")


def test_a_learned_style_is_chosen_by_its_picture(open_page, pictures):
    page = open_page()
    page.get_by_label("Real-time style").check()
    choose(page, "Photograph", pictures / "photo.png")
    sync_api.expect(chosen(page)).to_have_count(1)
    style = page.locator("#learned button.thumbnail-item").nth(1)
    title = style.locator("img").get_attribute("alt")
    style.click()
    page.click("#start")
    status(page, "^Done")
    download(page, pictures, f"photo_{title.lower().replace(' ', '_')}.png")


def test_any_painting_is_drawn_at_once(open_page, pictures):
    page = open_page()
    page.get_by_label("Real-time style").check()
    strength = page.locator("#option_strength")
    sync_api.expect(strength).to_be_hidden()
    choose(page, "Photograph", pictures / "photo.png")
    sync_api.expect(chosen(page)).to_have_count(1)
    choose(page, "Painting", pictures / "art.png")
    status(page, "^Done")
    sync_api.expect(strength).to_be_visible()
    found = read_origin(download(page, pictures, "photo_art.png"))
    assert found.command == "apply" and set(found.pictures) == {"content", "style"}
    page.locator("#learned button.thumbnail-item").nth(1).click()
    sync_api.expect(strength).to_be_hidden()
    sync_api.expect(page.locator("#history button.thumbnail-item")).to_have_count(2)


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(r => r.violations)")
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []


def test_other_files_of_the_server_are_not_served(server):
    for path in ("/etc/passwd", str(SAMPLES.parent / "setup.cfg")):
        address = f"{server}gradio_api/file={path}"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address)
