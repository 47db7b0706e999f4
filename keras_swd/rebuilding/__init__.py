"""The same model again, with or without pruning regularizers."""

from keras_swd.rebuilding.regularizing import (
    with_regularizer as with_regularizer,
)
from keras_swd.rebuilding.stripping import strip as strip
