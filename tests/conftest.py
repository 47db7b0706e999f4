"""What every test shares: seeds, backends, the data folder."""

import os
import pathlib

import hypothesis
import pytest

# These are read when the packages are first imported. Keras is imported inside
# the functions: what TensorFlow then says is captured with a test, and the
# process that only hands tests to others never loads it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

SEED = 20240229

# Compiled steps and first calls are slow, so no example has a deadline.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=25)
# The same examples in every run: a failure in CI is never down to luck.
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("dev"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items):
    import keras

    backend = keras.backend.backend()
    skip = pytest.mark.skip(reason=f"needs TensorFlow, this is {backend}")
    for item in items:
        if backend != "tensorflow" and item.get_closest_marker("tensorflow"):
            item.add_marker(skip)
        if isinstance(item, pytest.DoctestItem):
            _import_for_example(item.dtest.globs)


def _import_for_example(names):
    """Lets a docstring's example start without these imports.

    The fixture `doctest_namespace` does not reach from here to the package.
    """
    import keras
    import numpy as np

    import keras_swd

    for name, value in {
        "keras": keras,
        "keras_swd": keras_swd,
        "np": np,
        "ops": keras.ops,
    }.items():
        names.setdefault(name, value)


@pytest.fixture(autouse=True)
def _seeds():
    """Starts every test from the same random state."""
    import keras

    keras.utils.set_random_seed(SEED)


@pytest.fixture(autouse=True)
def _global_state():
    """Fails a test that leaves a global setting of Keras changed."""
    import keras

    backend = os.environ.get("KERAS_BACKEND")
    policy = keras.config.dtype_policy()
    yield
    left = []
    if os.environ.get("KERAS_BACKEND") != backend:
        left.append(f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND')}")
        if backend is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = backend
    if keras.config.dtype_policy().name != policy.name:
        left.append(f"dtype policy {keras.config.dtype_policy().name}")
        keras.config.set_dtype_policy(policy)
    if left:
        pytest.fail(f"The test left behind: {', '.join(left)}.")


@pytest.fixture(scope="session")
def data_dir():
    """The folder of data sets that KERAS_SWD_DATA names."""
    folder = os.environ.get("KERAS_SWD_DATA")
    if not folder:
        pytest.skip("KERAS_SWD_DATA names no folder of data sets")
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        pytest.fail(f"KERAS_SWD_DATA={folder} is not a folder.")
    return folder
