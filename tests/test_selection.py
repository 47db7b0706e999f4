import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_swd import selection
from keras_swd.arguments import check_sparsity
from keras_swd.selection import (
    kth_smallest,
    lowest_units,
    removed_count,
    threshold_of_units,
)

#: Few distinct values, so that ties abound.
tied = hnp.arrays(
    "float32",
    st.integers(1, 200),
    elements=st.sampled_from([0.0, 0.5, -0.5, 2]),
)
spread = hnp.arrays(
    "float32", st.integers(1, 200), elements=st.floats(-9, 9, width=32)
)
arrays = st.one_of(tied, spread)


@pytest.mark.parametrize(
    ("size", "sparsity", "count"),
    [
        (100, 0.29, 29),
        (9, 0.45, 4),
        (5, 0.5, 2),
        (7, 0.5, 4),
        (1, 0.5, 0),
        (1, 0.51, 1),
        (61706, 0.99, 61089),
    ],
)
def test_counts_are_to_the_nearest_halves_to_even(size, sparsity, count):
    assert removed_count(size, sparsity) == count


@given(values=arrays, data=st.data())
def test_kth_smallest_is_that_of_a_sort(values, data):
    k = data.draw(st.integers(1, values.size))
    assert kth_smallest(values, k) == np.sort(np.abs(values))[k - 1]


@given(
    values=arrays,
    data=st.data(),
    chunk=st.integers(1, 64),
    sample=st.integers(1, 32),
)
def test_the_bracket_of_large_arrays_is_exact_too(values, data, chunk, sample):
    k = data.draw(st.integers(1, values.size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SMALL", sample)
        patch.setattr(selection, "CHUNK", chunk)
        patch.setattr(selection, "SAMPLE", sample)
        assert kth_smallest(values, k) == np.sort(np.abs(values))[k - 1]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999999, 1.0])
def test_kth_smallest_of_a_large_array(share):
    values = np.random.default_rng(0).standard_normal(1 << 21, "float32")
    k = max(round(share * values.size), 1)
    expected = np.partition(np.abs(values), k - 1)[k - 1]
    assert kth_smallest(values, k) == expected


def test_a_sorted_large_array_misses_no_bracket():
    values = np.arange(1 << 21, dtype="float32")
    assert kth_smallest(values, 1_000_000) == 999_999.0


@given(scores=arrays.map(np.abs), data=st.data())
def test_lowest_units_are_exactly_so_many_and_the_first_of_equals(scores, data):
    count = data.draw(st.integers(0, scores.size))
    expected = np.argsort(scores, kind="stable")[:count]
    marked = lowest_units(scores, count)
    assert np.flatnonzero(marked).tolist() == sorted(expected.tolist())


@given(scores=spread.map(np.abs).map(np.unique), data=st.data())
def test_the_threshold_of_units_selects_the_lowest(scores, data):
    count = data.draw(st.integers(0, scores.size))
    threshold = threshold_of_units(scores, count)
    assert np.count_nonzero(scores <= threshold) >= count
    if count in (0, scores.size):
        assert np.count_nonzero(scores <= threshold) == count


@pytest.mark.parametrize("sparsity", [0, 0.0, 0.5, np.float32(0.25), 0.999])
def test_a_fraction_is_a_sparsity(sparsity):
    assert check_sparsity(sparsity) == float(sparsity)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (1.0, r"in \[0, 1\). Received: sparsity=1.0"),
        (-0.1, "sparsity=-0.1"),
        (90, "For 90 percent, pass 0.9"),
        (float("nan"), "sparsity=nan"),
        ("0.9", "sparsity='0.9'"),
        (True, "sparsity=True"),
        (None, "sparsity=None"),
    ],
)
def test_anything_else_is_not(sparsity, message):
    with pytest.raises(ValueError, match=message):
        check_sparsity(sparsity)
