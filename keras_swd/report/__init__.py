"""What is pruned in a model, kernel by kernel: a table, a picture, JSON."""

from keras_swd.report.sparsity import KernelSparsity as KernelSparsity
from keras_swd.report.sparsity import SparsityReport as SparsityReport
from keras_swd.report.sparsity import Totals as Totals
from keras_swd.report.sparsity import sparsity_report as sparsity_report
