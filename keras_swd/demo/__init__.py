"""`keras-swd demo`: a small network, pruned from start to finish."""

from keras_swd.demo.running import run_demo as run_demo
