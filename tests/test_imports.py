"""What `import keras_swd` brings along, and what it offers."""

import json
import subprocess
import sys

import keras
import pytest

import keras_swd

HEAVY = {
    "ai_edge_litert",
    "click",
    "joblib",
    "matplotlib",
    "sklearn",
    "spektral",
    "tensorboard",
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tflite_micro",
    "tf_keras",
}
SCRIPT = """
import json, sys
import keras
before = set(sys.modules)
import keras_swd
print(json.dumps(sorted({m.split(".")[0] for m in set(sys.modules) - before})))
"""


@pytest.mark.slow
def test_it_imports_nothing_heavy_beyond_keras():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
    )
    new = set(json.loads(result.stdout.splitlines()[-1]))
    assert "keras_swd" in new
    assert not new & HEAVY


def test_the_public_names_are_there():
    names = """
        SelectiveWeightDecay PruningScheduler Constant Linear Exponential
        Polynomial Unstructured Channel Block NM GlobalRanking Uniform LAMP
        ErdosRenyi Magnitude remove strip with_regularizer sparsity_report
        CoupledChannels Parameters Operations NetworkSlimming find_coupling
        shrink export graphs with_pruning PruningOptimizer AdaptiveSparsity
        IrrelevantWeights Lobster FloorScheduler MagnitudePruning
        LearningRateRewinding renew_statistics compare PruningSummaries
    """.split()
    assert [n for n in names if not hasattr(keras_swd, n)] == []
    assert callable(keras_swd.export.to_tflite)
    assert callable(keras_swd.export.check_tflite)


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow", reason="it loads on TensorFlow"
)
def test_a_graph_network_says_that_it_needs_tensorflow():
    with pytest.raises(ImportError, match=r"compute with TensorFlow"):
        keras_swd.load_pretrained("gcn-cora-90")
