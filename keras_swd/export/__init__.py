"""Export of pruned models to files that are known to work."""

from keras_swd.export.micro.decode import MicroTensor as MicroTensor
from keras_swd.export.micro.writing import MicroReport as MicroReport
from keras_swd.export.micro.writing import to_tflite_micro as to_tflite_micro
from keras_swd.export.sizes.plan import SizePlan as SizePlan
from keras_swd.export.sizes.plan import information_limit as information_limit
from keras_swd.export.sizes.plan import plan_sizes as plan_sizes
from keras_swd.export.speed.verdicts import LayerSpeed as LayerSpeed
from keras_swd.export.speed.verdicts import SpeedReport as SpeedReport
from keras_swd.export.speed.verdicts import explain_speed as explain_speed
from keras_swd.export.tflite.agreement import check_tflite as check_tflite
from keras_swd.export.tflite.contents import TFLiteContents as TFLiteContents
from keras_swd.export.tflite.contents import inspect_tflite as inspect_tflite
from keras_swd.export.tflite.records import ExportError as ExportError
from keras_swd.export.tflite.records import OutputCheck as OutputCheck
from keras_swd.export.tflite.records import StoredKernel as StoredKernel
from keras_swd.export.tflite.records import TFLiteCheck as TFLiteCheck
from keras_swd.export.tflite.records import TFLiteReport as TFLiteReport
from keras_swd.export.tflite.records import TFLiteVariant as TFLiteVariant
from keras_swd.export.tflite.writing import to_tflite as to_tflite
from keras_swd.export.tfmot.equal_models import from_tf_keras as from_tf_keras
from keras_swd.export.tfmot.equal_models import to_tf_keras as to_tf_keras
from keras_swd.export.tfmot.preserving import keep_zeros as keep_zeros
from keras_swd.export.tfmot.quantization_aware import (
    to_quantization_aware as to_quantization_aware,
)
from keras_swd.export.tfmot.translations import (
    register_translation as register_translation,
)
