"""From a configured source to images and labels in memory."""

from pathlib import Path

from training.config import Cifar10, Cifar100, Digits, FashionMnist, ImageFolder, Mnist, Npz, Source
from training.data.cifar import CIFAR10, CIFAR100, read_cifar
from training.data.digits import read_digits
from training.data.idx import DIGIT_NAMES, FASHION_NAMES, read_mnist
from training.data.image_folder import read_image_folder
from training.data.messages import fault
from training.data.npz import read_npz
from training.data.raw import RawData
from training.data.schema import check_schema


def load_source(source: Source, root: Path | None) -> RawData:
    """Read a source and check its schema.

    Args:
        source: the section ``data.source``.
        root: where ``source.path`` lies on this computer; None for the embedded digits.

    Raises:
        DataError: files that are missing, damaged or of another form, or data that
            :func:`training.data.schema.check_schema` refuses.
    """
    if isinstance(source, Digits):
        raw = read_digits()
    elif root is None:
        raise fault("data.source.path", f"{source.name} needs a folder of files, but none was given")
    else:
        _check_kind(source, root)
        raw = _read(source, root)
    check_schema(raw, str(root or source.name))
    return raw


def _check_kind(source: Source, root: Path) -> None:
    if not root.exists():
        raise fault(root, "no such file or folder; correct data.source.path")
    if root.is_dir() == isinstance(source, Npz):
        wanted = "one .npz file" if isinstance(source, Npz) else "a folder"
        raise fault(root, f"data.source {source.name} needs {wanted}; correct data.source.path")


def _read(source: FashionMnist | Mnist | Cifar10 | Cifar100 | ImageFolder | Npz, root: Path) -> RawData:
    match source:
        case FashionMnist():
            return read_mnist(root, FASHION_NAMES)
        case Mnist():
            return read_mnist(root, DIGIT_NAMES)
        case Cifar10():
            return read_cifar(root, CIFAR10)
        case Cifar100():
            return read_cifar(root, CIFAR100)
        case ImageFolder():
            return read_image_folder(root, source)
        case Npz():
            return read_npz(root)
