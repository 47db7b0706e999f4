"""Export of pruned models to files that are known to work."""

from keras_swd.export.agreement import check_tflite as check_tflite
from keras_swd.export.records import ExportError as ExportError
from keras_swd.export.records import OutputCheck as OutputCheck
from keras_swd.export.records import TFLiteCheck as TFLiteCheck
from keras_swd.export.records import TFLiteReport as TFLiteReport
from keras_swd.export.records import TFLiteVariant as TFLiteVariant
from keras_swd.export.tflite import to_tflite as to_tflite
