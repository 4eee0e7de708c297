"""Tests of ``sample:NAME``, the names of the sample pictures."""

import re
from pathlib import Path

import numpy as np
import pytest

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.samples import PREFIX, SAMPLES, sample_files

SMALL = ("--size=40", "--steps=1", "--scales=1")
SHALLOW = ("--content_layers=relu2_1", "--style_layers=relu1_1,relu2_1")
GET_STARTED = Path(__file__).parents[1] / "docs" / "index.md"


@pytest.mark.fast
@pytest.mark.parametrize("name", sample_files())
def test_samples_are_read_by_their_names(name):
    picture = tfstyle.load_image(f"sample:{name}")
    np.testing.assert_array_equal(picture, tfstyle.load_image(sample_files()[name]))


@pytest.mark.fast
def test_every_sample_has_a_name_and_the_documentation_lists_it():
    pictures = {file for file in SAMPLES.rglob("*.*") if file.suffix != ".md"}
    assert set(sample_files().values()) == pictures
    (table,) = re.findall(r"^\| samples .*?\n\n", GET_STARTED.read_text(), re.M | re.S)
    names = [name for name in re.findall(r"`(\w+)`", table) if name in sample_files()]
    assert set(names) == set(sample_files())


@pytest.mark.fast
def test_an_unknown_sample_is_refused_with_the_names_of_all(refused, folder):
    told = ["sample:dog: no such sample", *sample_files()]
    with pytest.raises(UsageError) as error:
        tfstyle.load_image("sample:dog")
    assert all(text in str(error.value) for text in told)
    code, line = refused("stylize", "sample:cat", "sample:waves,sample:dog", "out.png")
    assert code == 2 and all(text in line for text in told)


@pytest.mark.fast
def test_a_file_with_such_a_name_is_read_by_its_path(folder):
    (folder / "content.png").rename(folder / f"{PREFIX}cat")
    assert tfstyle.load_image(f"./{PREFIX}cat").shape == (1, 32, 40, 3)


def test_samples_may_stand_wherever_pictures_may(run, folder, tiny_backbone):
    words = ["sample:coffee", "sample:waves:0.3, sample:nocturne:0.7", *SMALL, *SHALLOW]
    words += ["--protect=sample:coffee_mask", "--init=sample:cat"]
    assert run("stylize", *words, "a.png")[0] == 0
    assert run("stylize", "--from_image=a.png", "--output=b.png")[0] == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    result = tfstyle.stylize(
        "sample:coffee",
        {"sample:waves": 0.3, "sample:nocturne": 0.7},
        protect="sample:coffee_mask",
        init="sample:cat",
        size=40,
        steps=1,
        scales=1,
        content_layers=["relu2_1"],
        style_layers=["relu1_1", "relu2_1"],
    )
    result.save("c.png")
    np.testing.assert_array_equal(*(tfstyle.load_image(f"{n}.png") for n in "ac"))
