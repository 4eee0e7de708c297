from pathlib import Path

import pytest

import tfstyle

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
TOUR = Path(__file__).parents[1] / "docs" / "tfstyle.ipynb"
SMALLER = {
    "SIZE = 256": "SIZE = 64",
    "Stylizer(size": "Stylizer(optimizer='adam', steps=3, size",
}


def test_the_tour_runs_from_top_to_bottom(tmp_path):
    text = TOUR.read_text(encoding="utf-8")
    for large, small in SMALLER.items():
        assert large in text
        text = text.replace(large, small)
    notebook = nbformat.reads(text, as_version=4)
    kept = pictures(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert pictures(notebook) == kept > 0
    assert tfstyle.load_image(tmp_path / "cat.png").shape == (1, 43, 64, 3)


def pictures(notebook):
    """How many pictures the cells show."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/jpeg" in out.get("data", {}) for out in outputs)


@pytest.mark.fast
def test_the_tour_is_kept_with_its_pictures_and_without_traces_of_a_machine():
    text = TOUR.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    notebook = nbformat.reads(text, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    assert "stderr" not in text and "/tmp/" not in text
