"""Export of pruned models to files that are known to work."""

from keras_swd.export.agreement import check_tflite as check_tflite
from keras_swd.export.contents import TFLiteContents as TFLiteContents
from keras_swd.export.contents import inspect_tflite as inspect_tflite
from keras_swd.export.decode import MicroTensor as MicroTensor
from keras_swd.export.micro import MicroReport as MicroReport
from keras_swd.export.micro import to_tflite_micro as to_tflite_micro
from keras_swd.export.preserving import keep_zeros as keep_zeros
from keras_swd.export.quantization_aware import (
    to_quantization_aware as to_quantization_aware,
)
from keras_swd.export.records import ExportError as ExportError
from keras_swd.export.records import OutputCheck as OutputCheck
from keras_swd.export.records import StoredKernel as StoredKernel
from keras_swd.export.records import TFLiteCheck as TFLiteCheck
from keras_swd.export.records import TFLiteReport as TFLiteReport
from keras_swd.export.records import TFLiteVariant as TFLiteVariant
from keras_swd.export.sizes import SizePlan as SizePlan
from keras_swd.export.sizes import information_limit as information_limit
from keras_swd.export.sizes import plan_sizes as plan_sizes
from keras_swd.export.speed import LayerSpeed as LayerSpeed
from keras_swd.export.speed import SpeedReport as SpeedReport
from keras_swd.export.speed import explain_speed as explain_speed
from keras_swd.export.tflite import to_tflite as to_tflite
from keras_swd.export.tfmot import from_tf_keras as from_tf_keras
from keras_swd.export.tfmot import to_tf_keras as to_tf_keras
from keras_swd.export.translations import (
    register_translation as register_translation,
)
