"""The notebook runs from its first cell to its last."""

import pathlib
import re

import pytest

PATH = pathlib.Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def last_line(notebook):
    """What its last piece of code printed."""
    cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    printed = "".join(
        output.text for output in cell.outputs if output.get("name") == "stdout"
    )
    pattern = r"([\d.]+)% zeros, ([\d.]+)% accuracy, ([\d,]+) bytes"
    zeros, accuracy, size = re.fullmatch(pattern, printed.strip()).groups()
    return float(zeros), float(accuracy), int(size.replace(",", ""))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_notebook_runs_and_shows_what_it_says(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    if not PATH.exists():
        pytest.skip("the examples are not part of this checkout")
    notebook = nbformat.read(PATH, as_version=4)
    shown = last_line(notebook)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    zeros, accuracy, size = last_line(notebook)
    assert zeros == shown[0] == 95.0
    assert accuracy == pytest.approx(shown[1], abs=1.5)
    assert size == pytest.approx(shown[2], rel=0.02)
    assert (tmp_path / "digits.tflite").stat().st_size == size
