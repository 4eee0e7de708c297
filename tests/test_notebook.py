import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
TOUR = Path(__file__).parents[1] / "docs" / "tfstyle.ipynb"


def test_the_tour_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.read(TOUR, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    pictures = [out for out in outputs if "image/jpeg" in out.get("data", {})]
    assert len(pictures) == 9
    said = "".join(out.text for out in outputs if out.get("name") == "stdout")
    assert float(re.search(r"loss (\S+)", said)[1]) < 0.1
    assert float(re.search(r"largest difference.*: (\S+)", said)[1]) < 1 / 255


def test_the_tour_is_kept_with_its_pictures_and_without_traces_of_a_machine():
    text = TOUR.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    notebook = nbformat.reads(text, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    assert "stderr" not in text and "/tmp/" not in text
