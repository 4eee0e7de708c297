import numpy as np
import pytest
from conftest import load_script
from PIL import Image

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def evaluate():
    load_script("distil_backbone")
    return load_script("evaluate_backbone")


def test_at_equal_content_interpolates_in_logarithms(evaluate):
    runs = [
        {"content": 0.4, "style": 0.02},
        {"content": 0.1, "style": 0.08},
        {"content": 0.2, "style": 0.04},
    ]
    assert evaluate.at_equal_content(runs, 0.2, "style") == pytest.approx(0.04)
    # Half way in logarithms.
    between = evaluate.at_equal_content(runs, np.sqrt(0.1 * 0.2), "style")
    assert between == pytest.approx(np.sqrt(0.08 * 0.04))


def test_table_has_ratios_to_vgg19(evaluate):
    means = {
        "vgg19": {"vgg19": 0.02, "deep": 0.1, "squeezenet": 0.2, "content": 1},
        "slim19": {"vgg19": 0.03, "deep": 0.1, "squeezenet": 0.2, "content": 1},
    }
    table = evaluate.table(means, {"vgg19": 1.25, "slim19": 0.2})
    assert "| slim19 | 0.0300 | 1.50× | 0.100 | 0.200 | 1.00 | 0.200 |" in table


def test_he_normal_keeps_the_scale_of_activations(evaluate):
    weights = evaluate.he_normal(np.random.default_rng(0), (3, 3, 64, 256))
    assert weights.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert not evaluate.he_normal(np.random.default_rng(0), (7,)).any()


def test_save_sheet_has_a_row_per_pair_of_any_shapes(evaluate, tmp_path):
    row = [np.full((1, 20, 30, 3), 0.2), np.full((40, 30, 3), 0.8)]
    evaluate.save_sheet(tmp_path / "sheet.png", [row, row], ["content", "style"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    height, width, _ = sheet.shape
    assert 2 * 180 < height < 2 * 180 + 100 and 2 * 180 < width < 2 * 180 + 100
    for y in (height // 4, 3 * height // 4):
        assert (sheet[y, width // 4] == 51).all()
        assert (sheet[y, 3 * width // 4] == 204).all()


def test_judges_score_the_style_itself_as_near_and_the_content_as_far(
    evaluate, content, style, tmp_path
):
    judges = object.__new__(evaluate.Judges)
    judges.vgg = judges.deep = TinyJudge(evaluate.VGG_STYLE + evaluate.DEEP_STYLE)
    judges.squeezenet = TinyJudge(evaluate.SQUEEZENET_STYLE)
    own = judges.score(style[0], style, style)
    other = judges.score(content, content, style)
    for judge in ("vgg19", "deep", "squeezenet"):
        assert own[judge] < 1e-6 < 0.01 < other[judge]
    layers = [other[f"squeezenet/{layer}"] for layer in evaluate.SQUEEZENET_STYLE]
    assert other["squeezenet"] == pytest.approx(np.mean(layers))
    assert other["content"] == own["content"] == 0


class TinyJudge:
    """The picture and powers of it, as features."""

    def __init__(self, layers):
        self.layers = layers

    def __call__(self, images):
        return {layer: images**i for i, layer in enumerate(self.layers, 1)}


def test_table_of_styles_has_their_means(evaluate):
    styles = load_script("evaluate_styles")
    rows = {
        f"{photo}:{style}": {
            "photograph": 0.5,
            "network": network,
            "content": 2.0,
            "optimised": 0.1,
            "ratio": network / 0.1,
        }
        for photo, style, network in (("a", "x", 0.1), ("b", "x", 0.3), ("a", "y", 0.2))
    }
    lines = styles.table(rows).splitlines()
    assert lines[2:] == [
        "| x | 0.5 | 0.2 | 2 | 0.1 | 2 |",
        "| y | 0.5 | 0.2 | 2 | 0.1 | 2 |",
        "| all | 0.5 | 0.2 | 2 | 0.1 | 2 |",
    ]
