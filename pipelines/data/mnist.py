"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels in ten classes.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998.
H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
"""

import torchvision

from pipelines.data.published import PublishedImages


class MNIST(PublishedImages):
    """Handwritten digits."""

    name = "mnist"
    shape = (1, 28, 28)
    label_names = ("digit",)
    published = torchvision.datasets.MNIST
    published_classes = list("0123456789")
    folder = "MNIST/raw"


class FashionMNIST(PublishedImages):
    """Clothing in MNIST's format. Classes are sorted by name, unlike the published numbering."""

    name = "fashion_mnist"
    shape = (1, 28, 28)
    label_names = ("class",)
    published = torchvision.datasets.FashionMNIST
    published_classes = torchvision.datasets.FashionMNIST.classes
    folder = "FashionMNIST/raw"
