import math

import keras
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_swd import LAMP, ErdosRenyi, GlobalRanking, Uniform

ALLOCATIONS = [GlobalRanking(), Uniform(), LAMP(), ErdosRenyi()]

kernels = st.lists(
    hnp.arrays(
        "float32",
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=st.one_of(
            st.sampled_from([0.0, 0.5]), st.floats(0, 9, width=32)
        ),
    ),
    min_size=1,
    max_size=5,
)
sparsities = st.floats(0.0, 1.0, exclude_max=True)


def counts(allocation, arrays, sparsity):
    return allocation.counts(
        [a.ravel() for a in arrays], [a.shape for a in arrays], sparsity
    )


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
@given(arrays=kernels, sparsity=sparsities)
def test_counts_meet_the_target_exactly(allocation, arrays, sparsity):
    got = counts(allocation, arrays, sparsity)
    sizes = [a.size for a in arrays]
    assert all(0 <= c <= n for c, n in zip(got, sizes, strict=True))
    assert all(type(c) is int for c in got)
    if isinstance(allocation, Uniform):
        assert got == [round(sparsity * n) for n in sizes]
    else:
        assert sum(got) == round(sparsity * sum(sizes))


@pytest.mark.parametrize("diverged", [math.inf, math.nan])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_what_diverged_takes_no_counts_below_zero(diverged, sparsity):
    arrays = [np.array([1.0, diverged, 3.0, 2.0]), np.arange(1.0, 7.0)]
    got = counts(LAMP(), arrays, sparsity)
    assert min(got) >= 0
    assert sum(got) == round(sparsity * 10)


@given(arrays=kernels, sparsity=sparsities)
def test_global_ranking_is_one_sort_of_everything(arrays, sparsity):
    total = round(sparsity * sum(a.size for a in arrays))
    lowest = reference.lowest(arrays, total)
    expected = [sum(i == k for i, _ in lowest) for k in range(len(arrays))]
    assert counts(GlobalRanking(), arrays, sparsity) == expected


@given(
    arrays=st.lists(
        hnp.arrays(
            "float32",
            st.integers(1, 12),
            elements=st.integers(1, 4000),
            unique=True,
        ),
        min_size=1,
        max_size=4,
    ),
    sparsity=sparsities,
)
def test_lamp_agrees_with_its_definition(arrays, sparsity):
    total = round(sparsity * sum(a.size for a in arrays))
    assert counts(LAMP(), arrays, sparsity) == reference.lamp_counts(
        [a.tolist() for a in arrays], total
    )


@given(arrays=kernels, sparsity=sparsities)
def test_lamp_empties_no_kernel_while_another_has_two_units(arrays, sparsity):
    arrays = [a + 1.0 for a in arrays]
    kept = [
        a.size - c
        for a, c in zip(arrays, counts(LAMP(), arrays, sparsity), strict=True)
    ]
    if min(kept) == 0:
        assert max(kept) <= 1


def test_erdos_renyi_by_hand():
    # Densities 9/20 and 40/400 times f, with 20 * 9/20 f + 400 * 0.1 f = 49 f
    # = 84 kept: f = 12/7 gives 15.43 and 68.57, rounded to 15 and 69.
    arrays = [np.ones((4, 5)), np.ones((20, 20))]
    assert counts(ErdosRenyi(), arrays, 0.8) == [5, 331]


def test_erdos_renyi_keeps_a_small_kernel_whole():
    arrays = [np.ones((2, 2)), np.ones((100, 100))]
    got = counts(ErdosRenyi(), arrays, 0.5)
    assert got == [0, 5002]


def test_erdos_renyi_keeps_a_single_weight_whole():
    arrays = [np.ones((6, 8)), np.ones(())]
    assert counts(ErdosRenyi(), arrays, 0.1) == [5, 0]


def test_equal_scores_go_from_earlier_kernels_first():
    arrays = [np.ones(3), np.ones(3)]
    assert counts(GlobalRanking(), arrays, 0.5) == [3, 0]


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
def test_config_survives_a_round_trip(allocation):
    config = keras.saving.serialize_keras_object(allocation)
    assert keras.saving.deserialize_keras_object(config) == allocation


@given(
    st.lists(
        st.lists(st.integers(1, 6), min_size=2, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_no_kernel_gets_a_unit_back_as_the_target_grows(shapes):
    arrays = [np.ones(shape) for shape in shapes]
    total = sum(a.size for a in arrays)
    before = [0] * len(arrays)
    for gone in range(total):
        found = counts(ErdosRenyi(), arrays, gone / total)
        assert sum(found) == gone
        assert all(n <= m for n, m in zip(before, found, strict=True))
        before = found
