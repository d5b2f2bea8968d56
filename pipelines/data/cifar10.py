"""CIFAR-10: 50,000 + 10,000 photographs of 32x32 pixels in ten classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import torchvision

from pipelines.data.published import PublishedImages


class CIFAR10(PublishedImages):
    """The original pixels (cifar10_jpeg.yaml reads a lossy copy; results on it are not comparable)."""

    name = "cifar10"
    shape = (3, 32, 32)
    label_names = ("class",)
    published = torchvision.datasets.CIFAR10
    published_classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
    folder = torchvision.datasets.CIFAR10.base_folder
