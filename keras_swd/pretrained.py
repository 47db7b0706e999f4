"""Networks that come with the package, pruned while they trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import keras


def load_pretrained(name: str) -> keras.Model:
    """Loads a pruned network that comes with the package.

    `saved_models/README.md` lists them with their accuracies and the commands
    that made them; a JSON card beside each file describes its inputs.

    Args:
        name: String, e.g. `"lenet5-mnist-95"`.

    Returns:
        A plain `keras.Model`, not compiled. That of a graph needs Spektral and
        TensorFlow.

    Raises:
        ValueError: If no network has that name, or its file is not the one
            that the card names.
        ImportError: If it needs Spektral, which is missing, or TensorFlow, and
            Keras runs on another backend.

    Example:

    >>> model = load_pretrained("digits-95")
    >>> model.output_shape
    (None, 10)
    """
    folder = _folder()
    names = sorted(path.stem for path in folder.glob("*.json"))
    if name not in names:
        raise ValueError(
            f"Argument `name` must be one of {names}. Received: name={name!r}."
        )
    card = json.loads((folder / f"{name}.json").read_text())
    path = folder / f"{name}.keras"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != (expected := card["files"]["keras"]["sha256"]):
        raise ValueError(
            f"File {str(path)!r} is damaged or was changed: its SHA-256 is "
            f"{found}, not {expected}. Install the package again."
        )
    if card["data"] == "cora":
        from keras_swd.graphs.layers import GCNConv  # noqa: F401, or says why
    return keras.saving.load_model(path, compile=False)


def _folder() -> Path:
    """Where the files are: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "saved_models"
    return installed if installed.is_dir() else package.parent / "saved_models"
