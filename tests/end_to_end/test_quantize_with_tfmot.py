"""From real images through tfmot to a file in 8 bits."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

ROOT = pathlib.Path(__file__).parents[2]
PRUNABLE = 61_470  # kernels of LeNet-5, which has 61,706 parameters

if not importlib.util.find_spec("tensorflow_model_optimization"):
    pytest.skip("needs tfmot", allow_module_level=True)


def test_zeros_and_accuracy_arrive_in_the_file(data_dir, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    result = tmp_path / "result.json"
    subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "quantize_with_tfmot.py",
            *("--data-dir", data_dir / "tensorflow_datasets"),
            *("--epochs", "1"),
            *("--sparsity", "0.9"),
            *("--json", result),
        ],
        check=True,
        capture_output=True,
    )
    result = json.loads(result.read_text())
    zeros = result["zeros"]
    assert sum(kernel["pruned"] for kernel in zeros) == round(0.9 * PRUNABLE)
    assert all(kernel["in_file"] >= kernel["pruned"] for kernel in zeros)
    assert result["accuracy"] > 0.95
    assert result["accuracy_quantization_aware"] > 0.95
    assert result["accuracy_in_file"] > result["accuracy"] - 0.01
    # A byte for each weight, and not four.
    assert result["bytes"] < 1.2 * PRUNABLE
