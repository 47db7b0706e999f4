"""Why kernels are not pruned."""

import keras
from keras import ops

from keras_swd.coupling.following import follow
from keras_swd.regularizers.base import (
    PruningRegularizer,
    is_adaptation,
    pruning_regularizer,
)
from keras_swd.selection import removed_count

#: Why a kernel has no zeros where others that share its target have.
LEFT_WHOLE = "all that was removed lies in other kernels"


def reasons_to_stay(model: keras.layers.Layer) -> dict[int, str]:
    """Returns why weights of coupled channels can lose none of them.

    Args:
        model: A built model or layer.

    Returns:
        Dictionary from the `id` of a variable that carries a regularizer of
        coupled channels to the reason.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay(
    ...     granularity=keras_swd.CoupledChannels()
    ... )
    >>> layer = keras.layers.Dense(2, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> reasons_to_stay(model)[id(layer.kernel)]
    'its channels must stay (input of the model, output of the model)'
    """
    carriers = {
        id(variable)
        for variable in model.weights
        if (regularizer := pruning_regularizer(variable)) is not None
        and regularizer.granularity.coupled
    }
    if not carriers:
        return {}
    try:
        whole = follow(model).whole()
    except ValueError:
        return dict.fromkeys(carriers, "the graph of the model is hidden")
    return {
        key: f"its channels must stay ({reason})"
        for key, reason in whole.items()
        if key in carriers
    }


def shares_target(regularizer: PruningRegularizer) -> bool:
    """Whether single kernels that carry it share a target with others."""
    return regularizer.sparsity is None and not regularizer.granularity.coupled


def reason_to_skip(
    variable: keras.Variable, staying: dict[int, str]
) -> str | None:
    """Returns why a kernel is not pruned; None if it will be.

    Args:
        variable: A variable of a model.
        staying: What `reasons_to_stay` returns for the model.

    Returns:
        String or None.
    """
    if is_adaptation(variable):
        return "a factor of low-rank adaptation"
    regularizer = pruning_regularizer(variable)
    if regularizer is None:
        return "no pruning regularizer"
    if not variable.trainable:
        return "frozen"
    granularity, target = regularizer.granularity, regularizer.sparsity
    try:
        granularity.check(variable.shape)
    except ValueError as error:
        # What was received is the shape, which the report shows anyway.
        needed = str(error).split(" Received:")[0].rstrip(".")
        return f"granularity does not fit: {needed}"
    if granularity.coupled:
        return staying.get(id(variable))
    if target is None:
        return None
    units = granularity.unit_scores(ops.ones(variable.shape)).shape[0]
    if removed_count(units, target):
        return None
    return f"too small: its own target of {target:g} removes none of {units}"
