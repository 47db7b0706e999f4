"""A run whose target is the file's size ends in a file of that size."""

import pytest

from keras_swd import (
    PruningScheduler,
    SelectiveWeightDecay,
    TFLiteBytes,
    export,
    strip,
)
from keras_swd.demo.training import digits, fit, network

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]


@pytest.mark.parametrize(
    "target",
    [
        TFLiteBytes(40_000),
        TFLiteBytes(25_000, gzip=True),
        TFLiteBytes(10_000, quantization="int8", gzip=True),
    ],
    ids=str,
)
def test_the_exported_file_has_the_bytes_that_were_asked_for(tmp_path, target):
    x, y, test_x, test_y = digits(seed=0)
    model = network(SelectiveWeightDecay, seed=0)
    fit(model, x, y, 20, [PruningScheduler(target)])
    assert model.evaluate(test_x, test_y, verbose=0)[1] > 0.95
    config = target.get_config()
    report = export.to_tflite(
        strip(model),
        tmp_path / "digits.tflite",
        quantization=config["quantization"],
        sparse=False if config["gzip"] else "auto",
        representative_data=x[:200] if config["quantization"] else None,
    )
    written = report.gzip_bytes if config["gzip"] else report.bytes
    if not config["gzip"]:
        assert written == (tmp_path / "digits.tflite").stat().st_size
    assert 0.95 * target.bytes <= written <= target.bytes
