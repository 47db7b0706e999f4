"""A smaller dense model without the channels that add nothing."""

from keras_swd.shrinking.shrink import shrink as shrink
