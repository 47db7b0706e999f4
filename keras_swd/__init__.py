"""Prunes Keras networks while they train."""

from keras_swd import export as export
from keras_swd import graphs as graphs
from keras_swd.allocation import LAMP as LAMP
from keras_swd.allocation import Allocation as Allocation
from keras_swd.allocation import ErdosRenyi as ErdosRenyi
from keras_swd.allocation import GlobalRanking as GlobalRanking
from keras_swd.allocation import Uniform as Uniform
from keras_swd.callbacks.floor_scheduler import FloorScheduler as FloorScheduler
from keras_swd.callbacks.pruning_scheduler import (
    PruningScheduler as PruningScheduler,
)
from keras_swd.comparison import compare as compare
from keras_swd.coupling import find_coupling as find_coupling
from keras_swd.criteria import Magnitude as Magnitude
from keras_swd.export.sizes.limit import TFLiteBytes as TFLiteBytes
from keras_swd.granularity import NM as NM
from keras_swd.granularity import Block as Block
from keras_swd.granularity import Channel as Channel
from keras_swd.granularity import CoupledChannels as CoupledChannels
from keras_swd.granularity import Granularity as Granularity
from keras_swd.granularity import Unstructured as Unstructured
from keras_swd.optimizers import PruningOptimizer as PruningOptimizer
from keras_swd.optimizers import with_pruning as with_pruning
from keras_swd.pretrained import load_pretrained as load_pretrained
from keras_swd.rebuilding import strip as strip
from keras_swd.rebuilding import with_regularizer as with_regularizer
from keras_swd.regularizers.adaptive_sparsity import (
    AdaptiveSparsity as AdaptiveSparsity,
)
from keras_swd.regularizers.growing import GReg1 as GReg1
from keras_swd.regularizers.growing import GReg2 as GReg2
from keras_swd.regularizers.irrelevance import (
    IrrelevantWeights as IrrelevantWeights,
)
from keras_swd.regularizers.irrelevance import Lobster as Lobster
from keras_swd.regularizers.magnitude_pruning import (
    MagnitudePruning as MagnitudePruning,
)
from keras_swd.regularizers.network_slimming import (
    NetworkSlimming as NetworkSlimming,
)
from keras_swd.regularizers.selective_weight_decay import (
    SelectiveWeightDecay as SelectiveWeightDecay,
)
from keras_swd.removal import remove as remove
from keras_swd.report.sparsity import sparsity_report as sparsity_report
from keras_swd.rewinding import LearningRateRewinding as LearningRateRewinding
from keras_swd.schedules import Constant as Constant
from keras_swd.schedules import Exponential as Exponential
from keras_swd.schedules import Linear as Linear
from keras_swd.schedules import Polynomial as Polynomial
from keras_swd.schedules import Schedule as Schedule
from keras_swd.shrinking import shrink as shrink
from keras_swd.statistics import renew_statistics as renew_statistics
from keras_swd.summaries import PruningSummaries as PruningSummaries
from keras_swd.targets.budgets import Operations as Operations
from keras_swd.targets.budgets import Parameters as Parameters
from keras_swd.tradeoffs.checkpoint import ParetoCheckpoint as ParetoCheckpoint
from keras_swd.tradeoffs.sensitivity import sensitivity as sensitivity

__version__ = "0.1.0"
