import math

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_swd import Constant, Exponential, Linear, Polynomial

GROWING = [Linear, Exponential, Polynomial]
shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Constant(7.0), 0.3, 7.0),
        (Linear(1.0, 5.0), 0.25, 2.0),
        (Linear(1.0, 5.0, begin=0.5), 0.5, 1.0),
        (Linear(1.0, 5.0, begin=0.5), 0.75, 3.0),
        (Linear(0.0, 1.0, begin=0.2, finish=0.6), 0.2, 0.0),
        (Linear(0.0, 1.0, begin=0.2, finish=0.6), 0.3, 0.25),
        (Exponential(0.1, 1000.0, finish=0.5), 0.25, 10.0),
        (Exponential(0.1, 1e5), 1 / 3, 10.0),
        (Exponential(0.1, 1e5), 0.5, 100.0),
        (Exponential(1.0, 100.0, begin=0.2, finish=0.6), 0.4, 10.0),
        (Polynomial(1.0, 9.0, power=2.0), 0.5, 7.0),
        (Polynomial(1.0, 9.0, power=1.0, finish=0.5), 0.25, 5.0),
        (Polynomial(0.0, 1.0, begin=0.5), 0.5, 0.0),
        (Polynomial(0.0, 1.0, begin=0.5), 0.75, 0.875),
    ],
)
def test_values_by_hand(schedule, progress, expected):
    assert schedule(progress) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cls", GROWING)
def test_growth_holds_before_begin_and_from_finish_on(cls):
    schedule = cls(0.5, 8.0, begin=0.25, finish=0.75)
    assert schedule(0.0) == schedule(0.25) == 0.5
    assert schedule(0.75) == pytest.approx(8.0)
    assert schedule(1.0) == schedule(0.75)


@pytest.mark.parametrize("cls", GROWING)
@given(one=shares, other=shares)
def test_growth_never_falls(cls, one, other):
    schedule = cls(0.1, 1e4, begin=0.1, finish=0.9)
    low, high = sorted((one, other))
    assert schedule(low) <= schedule(high) * (1 + 1e-12)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(2.0),
        Linear(0.1, 1.0, begin=0.1, finish=0.9),
        Exponential(0.1, 1.0, finish=0.5),
        Polynomial(0.1, 1.0, power=2.0),
    ],
)
def test_config_survives_a_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy == schedule
    assert copy(0.3) == schedule(0.3)
    assert hash(copy) == hash(schedule)


@pytest.mark.parametrize("cls", GROWING)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -0.1, "end": 1.0}, "`start`.*greater.*start=-0.1"),
        ({"start": 0.0, "end": 0.0}, "`(start|end)`.*greater than 0.*=0.0"),
        ({"start": 1.0, "end": -1.0}, "`end`.*greater than 0.*end=-1.0"),
        ({"start": 2.0, "end": 1.0}, "`start` must not exceed `end`"),
        ({"start": 1, "end": math.nan}, "`end`.*end=nan"),
        ({"start": "1", "end": 2.0}, "`start`.*start='1'"),
        ({"start": 1, "end": 2, "begin": -0.1}, "`begin`.*begin=-0.1"),
        ({"start": 1, "end": 2, "finish": 70}, "`finish`.*finish=70"),
        (
            {"start": 1, "end": 2, "begin": 0.7, "finish": 0.3},
            "`begin` must be less than `finish`.*begin=0.7, finish=0.3",
        ),
    ],
)
def test_bad_arguments_are_refused_when_built(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
def test_a_constant_must_be_a_number_not_below_zero(value):
    with pytest.raises(ValueError, match=f"`value`.*value={value!r}"):
        Constant(value)


def test_power_must_be_positive():
    with pytest.raises(ValueError, match=r"`power`.*power=-1"):
        Polynomial(1.0, 2.0, power=-1)
