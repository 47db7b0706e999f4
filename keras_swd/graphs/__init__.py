"""Graph convolutional networks: their data, their layers, their export."""

from keras_swd.graphs import layers as layers
from keras_swd.graphs.baking import bake as bake
from keras_swd.graphs.baking import with_edges as with_edges
from keras_swd.graphs.gcn import gcn as gcn
from keras_swd.graphs.planetoid import load_cora as load_cora
from keras_swd.graphs.planetoid import load_planetoid as load_planetoid
from keras_swd.graphs.planetoid import read_planetoid as read_planetoid
