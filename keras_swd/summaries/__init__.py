"""What happened in a run: a record of each epoch, and TensorBoard's files."""

from keras_swd.summaries.callback import PruningSummaries as PruningSummaries
