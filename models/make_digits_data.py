"""Write `digits.npz`: scikit-learn's handwritten digits, split into a training and a held-out part."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FILE = Path(__file__).with_name("digits.npz")
HELD_OUT = 360  # a fifth of the 1,797 images
BRIGHTEST = 16  # each pixel counts the inked ones of a 4x4 block


def main() -> None:
    digits = load_digits()
    images = digits.images[:, np.newaxis].astype(np.float32) / BRIGHTEST
    labels = digits.target.astype(np.int64)
    train_image, test_image, train_labels, test_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=0
    )
    np.savez_compressed(
        FILE, train_image=train_image, train_labels=train_labels, test_image=test_image, test_labels=test_labels
    )
    print(f"{FILE.name}: {len(train_labels)} training and {len(test_labels)} held-out images, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
