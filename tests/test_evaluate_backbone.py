import numpy as np
import pytest
from conftest import load_script


@pytest.fixture(scope="module")
def evaluate():
    load_script("distil_backbone")
    return load_script("evaluate_backbone")


def test_scores_are_compared_at_equal_content(evaluate):
    runs = [
        {"content": 0.4, "style": 0.02},
        {"content": 0.1, "style": 0.08},
        {"content": 0.2, "style": 0.04},
    ]
    assert evaluate.at_equal_content(runs, 0.2, "style") == pytest.approx(0.04)
    # Half way in logarithms.
    between = evaluate.at_equal_content(runs, np.sqrt(0.1 * 0.2), "style")
    assert between == pytest.approx(np.sqrt(0.08 * 0.04))


def test_the_table_gives_ratios_to_vgg19(evaluate):
    means = {
        "vgg19": {"vgg19": 0.02, "deep": 0.1, "squeezenet": 0.2, "content": 1},
        "slim19": {"vgg19": 0.03, "deep": 0.1, "squeezenet": 0.2, "content": 1},
    }
    table = evaluate.table(means, {"vgg19": 1.25, "slim19": 0.2})
    assert "| slim19 | 0.0300 | 1.50× | 0.100 | 0.200 | 1.00 | 0.200 |" in table


def test_random_weights_keep_the_scale_of_activations(evaluate):
    weights = evaluate.he_normal(np.random.default_rng(0), (3, 3, 64, 256))
    assert weights.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert not evaluate.he_normal(np.random.default_rng(0), (7,)).any()


def test_the_sheet_has_a_row_per_pair(evaluate):
    row = [np.full((1, 20, 30, 3), shade) for shade in (0.2, 0.9)]
    sheet = evaluate.contact_sheet([row, row], ["content", "style"])
    assert sheet.height == 18 + 2 * (180 + 4)
    assert sheet.getpixel((5, 100)) == (51, 51, 51)


def test_styles_are_compared_by_their_means(evaluate):
    styles = load_script("evaluate_styles")
    rows = {
        f"{photo}:{style}": {
            "photograph": 0.5,
            "network": network,
            "optimised": 0.1,
            "ratio": network / 0.1,
        }
        for photo, style, network in (("a", "x", 0.1), ("b", "x", 0.3), ("a", "y", 0.2))
    }
    lines = styles.table(rows).splitlines()
    assert lines[2:] == [
        "| x | 0.5 | 0.2 | 0.1 | 2 |",
        "| y | 0.5 | 0.2 | 0.1 | 2 |",
        "| all | 0.5 | 0.2 | 0.1 | 2 |",
    ]
