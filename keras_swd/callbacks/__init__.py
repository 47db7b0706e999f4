"""Callbacks that run a method: when, how hard, and which weights."""

from keras_swd.callbacks.floor_scheduler import FloorScheduler as FloorScheduler
from keras_swd.callbacks.pruning_scheduler import (
    PruningScheduler as PruningScheduler,
)
