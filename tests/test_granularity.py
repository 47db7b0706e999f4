import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_swd import NM, Block, Channel, Unstructured

GRANULARITIES = [
    Unstructured(),
    Channel(),
    Channel(axis=0),
    Block((4, 1)),
    Block((2, 2)),
    NM(2, 4),
    NM(1, 2, axis=0),
]


def unit_scores(granularity, scores):
    scores = ops.convert_to_tensor(np.asarray(scores, "float32"))
    return ops.convert_to_numpy(granularity.unit_scores(scores))


def expand(granularity, units, shape):
    units = ops.convert_to_tensor(np.asarray(units, "float32"))
    return ops.convert_to_numpy(granularity.expand(units, shape))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("shape", [(8, 6), (2, 2, 4, 6), (4, 8, 2)])
def test_expand_gives_each_entry_the_value_of_its_unit(granularity, shape):
    scores = np.random.default_rng(0).random(shape)
    units = unit_scores(granularity, scores)
    again = unit_scores(granularity, expand(granularity, units, shape))
    np.testing.assert_allclose(again, units, rtol=1e-6)
    assert expand(granularity, units, shape).shape == shape


def test_channels_by_hand():
    scores = [[1.0, 2.0, 3.0], [3.0, 0.0, 5.0]]
    assert unit_scores(Channel(), scores).tolist() == [2.0, 1.0, 4.0]
    assert unit_scores(Channel(axis=0), scores) == pytest.approx([2.0, 8 / 3])
    assert expand(Channel(axis=0), [7.0, 8.0], (2, 3)).tolist() == [
        [7.0] * 3,
        [8.0] * 3,
    ]


def test_a_vector_has_channels_too():
    assert unit_scores(Channel(), [3.0, 1.0]).tolist() == [3.0, 1.0]


def test_blocks_by_hand():
    scores = np.arange(16.0).reshape(4, 4)
    assert unit_scores(Block((2, 2)), scores).tolist() == [2.5, 4.5, 10.5, 12.5]
    assert unit_scores(Block((4, 1)), scores).tolist() == [6.0, 7.0, 8.0, 9.0]
    assert expand(Block((2, 1)), [1, 2, 3, 4], (4, 2)).tolist() == [
        [1, 2],
        [1, 2],
        [3, 4],
        [3, 4],
    ]


def test_nm_ranks_each_group_earlier_entries_first_among_equals():
    ranks = unit_scores(NM(2, 4, axis=0), [4.0, 1.0, 4.0, 2.0, 0, 0, 0, 0])
    assert ranks.tolist() == [2, 0, 3, 1, 0, 1, 2, 3]


@given(
    n=st.integers(1, 3),
    extra=st.integers(1, 3),
    groups=st.integers(1, 3),
    columns=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_nm_selects_the_same_number_in_each_group(
    n, extra, groups, columns, seed
):
    m = n + extra
    scores = np.random.default_rng(seed).integers(0, 3, (groups * m, columns))
    granularity = NM(n, m)
    ranks = expand(granularity, unit_scores(granularity, scores), scores.shape)
    removed = (ranks < m - n).reshape(groups, m, columns)
    assert (removed.sum(axis=1) == m - n).all()
    assert granularity.fixed_sparsity == (m - n) / m


@pytest.mark.parametrize(
    ("granularity", "shape", "message"),
    [
        (Channel(axis=2), (3, 3), "has axis 2.*shape \\(3, 3\\)"),
        (Block((4, 1)), (6, 3), "multiples of \\(4, 1\\).*\\(6, 3\\)"),
        (Block((4, 1)), (8,), "last two axes"),
        (NM(2, 4), (6, 3), "multiple of 4.*\\(6, 3\\)"),
        (NM(2, 4), (8,), "axis -2"),
    ],
)
def test_a_kernel_that_does_not_fit_is_named(granularity, shape, message):
    with pytest.raises(ValueError, match=message):
        granularity.check(shape)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Channel(axis=0.5), "`axis`.*axis=0.5"),
        (lambda: Block((0, 1)), "`shape`.*\\(0, 1\\)"),
        (lambda: Block(4), "`shape`.*shape=4"),
        (lambda: Block((1, 2, 3)), "`shape`"),
        (lambda: NM(4, 4), "`n`.*n=4, m=4"),
        (lambda: NM(0, 4), "`n`.*n=0, m=4"),
        (lambda: NM("2", 4), "integers.*n='2'"),
    ],
)
def test_bad_arguments_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_config_survives_json(granularity):
    import json

    config = keras.saving.serialize_keras_object(granularity)
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert copy == granularity
    assert copy != Channel(axis=7)
