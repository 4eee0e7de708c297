"""The page that needs no server, in a real browser, with a tiny network."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browsers import chromium, needs_chromium
from PIL import Image

from tfstyle import load_image, save_image
from tfstyle.cli.web import serving

sync_api = pytest.importorskip("playwright.sync_api")
runtime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
WEB = Path(__file__).resolve().parents[1] / "web"
pytestmark = [
    needs_chromium,
    pytest.mark.skipif(
        not (WEB / "node_modules" / ".bin" / "vite").exists(),
        reason="needs `npm ci` in the folder web",
    ),
]
LONG = 60_000  # milliseconds; a busy machine takes its time
sync_api.expect.set_options(timeout=LONG)

# The style of a picture is the mean and the deviation of its colours.
ENCODE = """<ir_version: 8, opset_import: ["" : 17]>
encode (float[1, H, W, 3] style)
    => (float[1, 1, 1, 3] mean, float[1, 1, 1, 3] deviation) {
  mean = ReduceMean <axes = [1, 2]> (style)
  difference = Sub (style, mean)
  square = Mul (difference, difference)
  variance = ReduceMean <axes = [1, 2]> (square)
  deviation = Sqrt (variance)
}"""
STYLIZE = """<ir_version: 8, opset_import: ["" : 17]>
stylize (float[1, H, W, 3] content, float[1, 1, 1, 3] mean,
         float[1, 1, 1, 3] deviation) => (float[1, H, W, 3] stylized) {
  own_mean = ReduceMean <axes = [1, 2]> (content)
  difference = Sub (content, own_mean)
  square = Mul (difference, difference)
  variance = ReduceMean <axes = [1, 2]> (square)
  own_deviation = Sqrt (variance)
  ratio = Div (deviation, own_deviation)
  scaled = Mul (difference, ratio)
  moved = Add (scaled, mean)
  loss = Constant <value_float = 0.9> ()
  stylized = Mul (moved, loss)
}"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, text in (("encode", ENCODE), ("stylize", STYLIZE)):
        onnx.save(onnx.parser.parse_model(text), folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """The folder of the page, built as for use."""
    folder = tmp_path_factory.mktemp("page")
    for words in (["tsc"], ["vite", "build", f"--outDir={folder}", "--emptyOutDir"]):
        program = WEB / "node_modules" / ".bin" / words[0]
        environment = {**os.environ, "TFSTYLE_MODELS": str(models)}
        done = subprocess.run(
            [program, *words[1:]],
            cwd=WEB,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(built):
    with serving(built) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium("--use-fake-device-for-media-stream") as browser:
        yield browser


@pytest.fixture
def open_page(address, browser):
    """Opens tabs; at the end, none has complained or asked another server."""
    contexts, wrong = [], []

    def open_page(url=address, script="", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(LONG)
        if script:
            page.add_init_script(script)
        page.on(
            "request",
            lambda r: r.url.startswith((url, "blob:")) or wrong.append(r.url),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda m: m.type in ("error", "warning") and wrong.append(m.text)
        )
        page.goto(url)
        page.wrong = wrong
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def status(page, pattern):
    line = page.locator("#status")
    sync_api.expect(line).to_have_text(re.compile(pattern), timeout=LONG)
    return line.inner_text()


def finished(page, title):
    """Waits for a finished picture of that title."""
    sync_api.expect(page.locator("#title")).to_have_text(title)
    sync_api.expect(page.locator("#save")).to_be_enabled()


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def choose(page, gallery, name):
    page.locator(f"#{gallery}").get_by_role("radio", name=name).check()


def saved(page, folder):
    with page.expect_download() as downloaded:
        page.click("#save")
    path = folder / downloaded.value.suggested_filename
    downloaded.value.save_as(path)
    return path


@pytest.fixture
def pictures(tmp_path, content, style):
    for name, picture in (
        ("photo", content),
        ("art", style),
        ("b", style[:, ::-1] ** 2),
    ):
        save_image(np.kron(picture, np.ones([1, 4, 4, 1])), tmp_path / f"{name}.png")
    return tmp_path


def bring(page, gallery, path):
    page.locator(f"#{gallery} input[type=file]").set_input_files(path)


def expected(models, pictures, shares):
    """The same in Python: a picture of the weighted mean of several styles.

    What drawing loses of the photograph is added by the photograph's own weight.
    """
    encode, stylize = (
        runtime.InferenceSession(models / f"{name}.onnx")
        for name in ("encode", "stylize")
    )
    codes = [
        encode.run(None, {"style": load_image(pictures / f"{name}.png")})
        for name in shares
    ]
    photo = load_image(pictures / "photo.png")

    def drawn(code):
        named = dict(zip(("mean", "deviation"), code, strict=True))
        return stylize.run(None, {"content": photo, **named})[0]

    mean = np.tensordot(np.array(list(shares.values()), "float32"), codes, 1)
    lost = shares.get("photo", 0) * (photo - drawn(codes[-1]))
    return np.clip(drawn(mean) + lost, 0, 1)[0]


def test_a_picture_equals_that_of_python(open_page, models, pictures):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    bring(page, "photographs", pictures / "photo.png")
    bring(page, "paintings", pictures / "art.png")
    finished(page, "photo, after art")
    path = saved(page, pictures)
    assert path.name == "photo_art.png"
    wanted = expected(models, pictures, {"art": 1.0})
    assert np.abs(load_image(path)[0] - wanted).max() < 2 / 255

    bring(page, "paintings", pictures / "b.png")
    page.get_by_role("switch").check()
    choose(page, "seconds", "art")
    slide(page, "share", 25)
    slide(page, "strength", 60)
    finished(page, "photo, after b and art")
    status(page, "^160 × 128 pixels")
    path = saved(page, pictures)
    wanted = expected(models, pictures, {"b": 0.45, "art": 0.15, "photo": 0.4})
    assert np.abs(load_image(path)[0] - wanted).max() < 2 / 255

    slide(page, "strength", 0)
    status(page, "^160 × 128 pixels")
    finished(page, "photo, after b and art")
    photo = load_image(pictures / "photo.png")
    assert np.abs(load_image(saved(page, pictures)) - photo).max() < 1 / 255


def test_it_works_without_a_network_after_the_first_load(built, browser):
    with browser.new_context() as context:
        page = context.new_page()
        with serving(built) as url:
            page.goto(url)
            finished(page, "Cat, after Nocturne")
            page.evaluate(
                """async () => {
                  const kept = async () => (await (await caches.open('tfstyle')).keys())
                    .filter(({ url }) => url.includes('/samples/')).length;
                  while (await kept() < 9) await new Promise(r => setTimeout(r, 100));
                }"""
            )
        page.close()  # the server has ended
        page = context.new_page()
        page.goto(url)
        choose(page, "photographs", "Rocket")
        finished(page, "Rocket, after Nocturne")


def test_pictures_that_cannot_be_used_are_told_beside_their_gallery(
    open_page, pictures
):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    said = page.locator("#paintings .message")
    (pictures / "notes.jpg").write_text("not a picture")
    bring(page, "paintings", pictures / "notes.jpg")
    sync_api.expect(said).to_have_text(
        "notes.jpg is not a picture that this browser can read. Choose a JPEG, PNG or "
        "WebP file."
    )
    Image.new("1", (20_000, 20_000)).save(pictures / "huge.png")
    bring(page, "paintings", pictures / "huge.png")
    sync_api.expect(said).to_contain_text("huge.png is too large: 20000 × 20000 pixels")
    whole = (pictures / "art.png").read_bytes()
    (pictures / "torn.png").write_bytes(whole[:60])
    bring(page, "paintings", pictures / "torn.png")
    sync_api.expect(said).to_contain_text("torn.png")
    bring(page, "paintings", pictures / "art.png")
    sync_api.expect(said).to_be_empty()
    finished(page, "Cat, after art")


def test_a_lost_worker_is_told_and_replaced(open_page):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    page.workers[-1].evaluate("() => { onmessage = () => close() }")
    choose(page, "photographs", "Coffee")
    status(page, "^The picture was not finished: .* try again.$")
    page.get_by_role("button", name="Try again").click()
    finished(page, "Coffee, after Nocturne")
    sync_api.expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    assert page.wrong == ["tfstyle: the worker ended"]
    page.wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_accessible(open_page, scheme, width):
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    finished(page, "Cat, after Nocturne")
    page.get_by_role("switch").check()
    finished(page, "Cat, after Nocturne and Waves")
    page.click("#compare")
    axe = WEB / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(r => r.violations)")
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_by_keyboard_alone(open_page):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    finished(page, "Coffee, after Nocturne")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "compare":
            break
    page.keyboard.press("Enter")
    divider = page.get_by_label("Share of the photograph")
    sync_api.expect(divider).to_be_visible()
    page.keyboard.press("Shift+Tab")
    assert divider.evaluate("node => node === document.activeElement")
    page.keyboard.press("Home")
    sync_api.expect(divider).to_have_attribute("aria-valuetext", "0 % photograph")


def test_dropped_files_reach_the_gallery_below_them(open_page, pictures):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    for target, name in (("#paintings", "art"), ("#wall", "photo")):
        data = list((pictures / f"{name}.png").read_bytes())
        transfer = page.evaluate_handle(
            "([data, name]) => { const t = new DataTransfer();"
            " t.items.add(new File([new Uint8Array(data)], name)); return t; }",
            [data, f"{name}.png"],
        )
        page.dispatch_event(target, "drop", {"dataTransfer": transfer})
    finished(page, "photo, after art")


def test_the_camera_is_live_and_takes_a_picture(open_page):
    page = open_page(permissions=["camera"])
    finished(page, "Cat, after Nocturne")
    page.get_by_role("button", name="Camera").click()
    status(page, r"^Live, [\d.]+ pictures a second$")
    slide(page, "strength", 50)
    page.get_by_role("button", name="Take the picture").click()
    finished(page, "Camera, after Nocturne")
    sync_api.expect(page.get_by_role("button", name="Compare")).to_be_enabled()


def test_a_camera_that_is_refused(open_page):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    page.get_by_role("button", name="Camera").click()
    said = page.locator("#photographs .message")
    sync_api.expect(said).to_have_text(re.compile("^The camera is blocked"))
    finished(page, "Cat, after Nocturne")


def test_a_browser_that_cannot_do_it_is_told(open_page):
    page = open_page(script="delete globalThis.WebAssembly")
    status(page, "^This browser has no WebAssembly, or it is turned off. A current")


def test_the_policy_lets_nothing_out(open_page, address):
    page = open_page()
    finished(page, "Cat, after Nocturne")
    assert page.evaluate("crossOriginIsolated")
    for where in (page, page.workers[-1]):
        send = "fetch('https://example.org/', {method: 'POST'}).then(() => 1, () => 0)"
        assert where.evaluate(send) == 0
    assert all("Content Security Policy" in text for text in page.wrong[:2])
    page.wrong.clear()


def test_the_size_bounds_the_picture(open_page):
    page = open_page()
    choose(page, "photographs", "Astronaut")
    slide(page, "size", 256)
    status(page, "^256 × 256 pixels")
    slide(page, "size", 1024)
    status(page, "^512 × 512 pixels")  # nothing is enlarged


def test_the_command_serves_the_page_until_a_signal(built):
    words = [*("-m", "tfstyle", "web"), "--nobrowser", f"--page={built}"]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert re.search(r"http://127\.0\.0\.1:80\d\d/ \(Ctrl-C ends it\)", line)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
