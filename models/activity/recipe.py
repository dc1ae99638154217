"""A 1-D CNN on accelerometer and gyroscope windows, pre-trained on the phones of eight subjects, for the
watches of others.

1.28 s at 50 Hz, six channels; 64 features, head 64→5. Needs the activity recordings as packed in the shared
data (or --data FOLDER, QUANTFL_DATA).

    python models/activity/recipe.py --out models/activity/activity_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow, tflite_accuracy

from quantfl.data.activity import CHANNELS, CLASSES, WINDOW, load_activity

SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of spsw_har.npz")
    args = parser.parse_args()
    phone, watch = load_activity(args.data, "phone"), load_activity(args.data, "watch")
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    net = tf.keras.Sequential(
        [
            layers.Input((WINDOW, CHANNELS)),
            layers.Conv1D(16, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1D(32, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1D(64, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.2),
            layers.Dense(len(CLASSES), name="head"),
            layers.Softmax(),
        ]
    )
    net.compile(tf.keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(phone.x_train, phone.y_train, epochs=60, batch_size=32, verbose=0)
    for ds, where in ((phone, "phones (domain of pre-training)"), (watch, "watches of the fleet")):
        score = float((net.predict(ds.x_test, verbose=0).argmax(1) == ds.y_test).mean())
        print(f"{where}: float accuracy {score:.4f} on {len(ds.y_test):,} test windows")
    data = quantise(tf, net, phone.x_train[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")
    for ds, where in ((phone, "phones (domain of pre-training)"), (watch, "watches of the fleet")):
        score = tflite_accuracy(tf, data, ds.x_test, ds.y_test)
        print(f"{where}: int8 accuracy {score:.4f} on {len(ds.y_test):,} test windows")


if __name__ == "__main__":
    main()
