"""Methods compared on one task: a grid of runs that can be resumed."""

from keras_swd.comparison.running import compare as compare
