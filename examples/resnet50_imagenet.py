"""Prunes ResNet-50 on ImageNet while it trains, on every GPU of a machine.

python examples/resnet50_imagenet.py --data-dir DIR --folder FOLDER --mixed

Killed or interrupted, the same command goes on after the last whole epoch.
"""

import argparse
import json
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_swd

RATE = 0.1  # for 256 images a step, in proportion for others
WARM_UP = 0.05  # share of the run in which the rate rises
WEIGHT_DECAY = 5e-4
STRENGTH = keras_swd.Exponential(0.1, 1e4, finish=0.8)

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument("--dataset", default="imagenet2012")
parser.add_argument("--folder", required=True, help="backup, log and model")
parser.add_argument("--pretrained", action="store_true", help="from Keras")
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--steps", type=int, help="of an epoch; all images if none")
parser.add_argument("--batch", type=int, default=256, help="of all GPUs")
parser.add_argument("--size", type=int, default=224, help="of the images")
parser.add_argument("--smoothing", type=float, default=0.0, help="of labels")
parser.add_argument("--mixed", action="store_true", help="mixed_bfloat16")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--json", metavar="FILE", help="write the result here")
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)
if args.mixed:
    keras.config.set_dtype_policy("mixed_bfloat16")


def prepared(jpeg, window):
    """The window of an image, resized, as Keras' ResNet-50 takes it."""
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3)
    image = tf.image.resize(image, (args.size, args.size))
    return keras.applications.resnet50.preprocess_input(image)


def augmented(jpeg):
    """A random part of an image, of random shape, flipped or not."""
    start, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(jpeg),
        tf.zeros((0, 0, 4)),
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([start[:2], extent[:2]], axis=0)
    return tf.image.random_flip_left_right(prepared(jpeg, window))


def center(jpeg):
    """The middle square of an image, 7/8 of its shorter side."""
    sides = tf.io.extract_jpeg_shape(jpeg)[:2]
    side = tf.reduce_min(sides) * 7 // 8
    start = (sides - side) // 2
    return prepared(jpeg, tf.concat([start, [side, side]], axis=0))


def batches(data, view, whole=True):
    """Batches of images, each seen in one way, and of one-hot labels.

    They are whole unless asked: of others a GPU may get nothing, and fail.
    """
    return data.map(
        lambda x: (view(x["image"]), tf.one_hot(x["label"], classes)),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).batch(args.batch, drop_remainder=whole)


(train, test), info = tfds.load(
    args.dataset,
    split=["train", "validation"],
    data_dir=args.data_dir,
    download=False,
    shuffle_files=True,
    decoders={"image": tfds.decode.SkipDecoding()},
    with_info=True,
)
classes = info.features["label"].num_classes
steps = args.steps or info.splits["train"].num_examples // args.batch
train = batches(train.shuffle(10_000).repeat(), augmented).prefetch(2)
every_test = batches(test, center, whole=False).prefetch(2)
test = batches(test, center).prefetch(2)

devices = tf.config.list_logical_devices("GPU")
devices = devices or tf.config.list_logical_devices("CPU")
strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
with strategy.scope():
    model = keras.applications.ResNet50(
        weights="imagenet" if args.pretrained else None,
        input_shape=(args.size, args.size, 3),
        classes=classes,
        classifier_activation=None,
    )
    # Losses and metrics compute in float32, also with `--mixed`.
    outputs = keras.layers.Activation("linear", dtype="float32")(model.output)
    model = keras.Model(model.input, outputs, name="resnet50")
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(model, swd)
    total = args.epochs * steps
    warm_up = int(WARM_UP * total)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        total - warm_up,
        warmup_target=RATE * args.batch / 256,
        warmup_steps=warm_up,
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=args.smoothing
        ),
        metrics=[
            "accuracy",
            keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
        ],
    )

folder = Path(args.folder)
folder.mkdir(parents=True, exist_ok=True)
history = model.fit(
    train,
    steps_per_epoch=steps,
    epochs=args.epochs,
    validation_data=test,
    shuffle=False,
    verbose=2,
    callbacks=[
        keras.callbacks.BackupAndRestore(
            folder / "backup", double_checkpoint=True
        ),
        keras_swd.PruningScheduler(args.sparsity, STRENGTH),
        keras.callbacks.CSVLogger(folder / "log.csv", append=True),
    ],
)
if not history.epoch:
    # An earlier process was killed when only the removal was left.
    keras_swd.remove(model, args.sparsity)

model = keras_swd.strip(model)
model.save(folder / "model.keras")
report = keras_swd.sparsity_report(model)
found = model.evaluate(every_test, verbose=0, return_dict=True)
result = vars(args) | {
    "devices": len(devices),
    "accuracy_before_removal": history.history.get("val_accuracy", [None])[-1],
    "accuracy": found["accuracy"],
    "top5": found["top5"],
    "sparsity_of_kernels": report.prunable.sparsity,
}
print(report)
print(json.dumps(result))
if args.json:
    Path(args.json).write_text(json.dumps(result))
