"""Which channels of which layers must go together, read from the graph."""

from keras_swd.coupling.groups import ChannelGroup as ChannelGroup
from keras_swd.coupling.groups import Coupling as Coupling
from keras_swd.coupling.groups import Member as Member
from keras_swd.coupling.groups import find_coupling as find_coupling
