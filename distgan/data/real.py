"""The real images that quality is measured with: those to compare with, and as many others as a floor."""

import torch

from distgan.config.schema import DataConfig
from distgan.data.base import Dataset, load_dataset


def splits(train: Dataset, config: DataConfig, *, may_download: bool = True) -> tuple[Dataset, Dataset]:
    """The training images, and the test images beside them. Raises UserError.

    scikit-learn's digits have no test set: every sixth of the 1,797 stands for one, with all its variants. A GAN has
    been trained on these too, and so is measured against what it has seen.
    """
    if train.name != "digits":
        config = config.model_copy(update={"name": train.name})
        return train, load_dataset(config, "test", may_download=may_download)
    is_test = torch.arange(len(train.images)) // 10 % 6 == 5
    of = [
        train._replace(images=train.images[rows], labels=train.labels[rows]) for rows in (~is_test, is_test)
    ]
    return of[0], of[1]
