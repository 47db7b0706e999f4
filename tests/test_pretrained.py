"""Networks that come with the package: what their cards say is so."""

import hashlib
import importlib.util
import json
import pathlib
import shutil

import keras
import pytest

import keras_swd
from keras_swd import pretrained

FOLDER = pathlib.Path(__file__).parents[1] / "saved_models"
CARDS = [json.loads(p.read_text()) for p in sorted(FOLDER.glob("*.json"))]
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def recipes():
    """The program `saved_models/make.py` as a module."""
    if not (FOLDER.parent / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of this checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER.parent / "benchmarks")
        path = FOLDER / "make.py"
        spec = importlib.util.spec_from_file_location("make_models", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def agrees(card, data):
    """Whether both files reach what the card says, to a few test samples."""
    few = 3 / card["tested"]
    model = keras_swd.load_pretrained(card["name"])
    file = FOLDER / f"{card['name']}.tflite"
    assert data.of_keras(model) == pytest.approx(
        card["accuracy"]["keras"], abs=few
    )
    assert data.of_tflite(file) == pytest.approx(
        card["accuracy"]["tflite"], abs=few
    )


def test_the_digits_are_classified_as_the_card_says(recipes):
    pytest.importorskip("sklearn")
    (card,) = [card for card in CARDS if card["data"] == "digits"]
    agrees(card, recipes.Digits(None))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cifar10", "mnist", "cora"])
def test_the_test_set_is_classified_as_the_cards_say(kind, recipes, data_dir):
    folder = "planetoid" if kind == "cora" else "tensorflow_datasets"
    data = recipes.DATA[kind](data_dir / folder)
    cards = [card for card in CARDS if card["data"] == kind]
    assert cards
    for card in cards:
        agrees(card, data)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card["name"])
def test_a_card_tells_what_the_files_hold(card):
    for kind in ("keras", "tflite"):
        content = (FOLDER / f"{card['name']}.{kind}").read_bytes()
        told = card["files"][kind]
        assert len(content) == told["bytes"]
        assert hashlib.sha256(content).hexdigest() == told["sha256"]
    model = keras_swd.load_pretrained(card["name"])
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    zeros = sum(int((w == 0.0).sum()) for w in kernels)
    assert model.count_params() == card["parameters"]
    assert zeros / sum(w.size for w in kernels) == card["sparsity"]


def test_the_list_is_made_from_the_cards(recipes):
    recipes.made()
    text = (FOLDER / "README.md").read_text()
    cards = {card["name"]: card for card in CARDS}
    assert sorted(recipes.made()) == sorted(cards)
    assert recipes.table([cards[name] for name in recipes.made()]) in text


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"`name` must be one of \['digits-95'"
    ):
        keras_swd.load_pretrained("lenet")


def test_a_changed_file_is_not_loaded(tmp_path, monkeypatch):
    shutil.copy(FOLDER / "digits-95.json", tmp_path)
    content = (FOLDER / "digits-95.keras").read_bytes()
    (tmp_path / "digits-95.keras").write_bytes(content[:-1] + b"?")
    monkeypatch.setattr(pretrained, "_folder", lambda: tmp_path)
    monkeypatch.setattr(
        keras.saving, "load_model", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(ValueError, match=r"damaged or was changed"):
        keras_swd.load_pretrained("digits-95")
