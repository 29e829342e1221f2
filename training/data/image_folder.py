"""PNG and JPEG files in a directory for each class, or in such directories below train/ and test/."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from training.config import ImageFolder
from training.data.messages import fault, listed, printable
from training.data.raw import ImageArray, RawData, RawSide

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
FORMATS = ("PNG", "JPEG")
SIDES = ("train", "test")
OPAQUE = 255


@dataclass(frozen=True)
class _Listing:
    """The image files of one tree, class by class; ``labels`` are indices into ``class_names``."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def read_image_folder(root: Path, source: ImageFolder) -> RawData:
    """Read every image below ``root``; classes and files are taken in the order of their names.

    Images are turned as their EXIF orientation says, converted to grey or RGB, and resized (bilinear,
    antialiased) to ``source.size`` where it is set. Names that start with a dot are ignored.

    Raises:
        DataError: no classes, a class without images, a file of another type or outside a class, train/
            and test/ with different classes, an image that cannot be decoded, is too large for Pillow's
            decompression-bomb limit, has 16-bit or transparent pixels, or images of different sizes.
    """
    fixed = {path.name for path in _entries(root)} == set(SIDES)
    listings = [_list_classes(root / side) for side in SIDES] if fixed else [_list_classes(root)]
    _check_same_classes(root, listings)
    paths = [path for listing in listings for path in listing.files]
    images = _decode_all(paths, source)
    ends = np.cumsum([len(listing.files) for listing in listings])[:-1]
    sides = [
        RawSide(
            part,
            np.array(listing.labels, dtype=np.int64),
            title,
            tuple(path.relative_to(root).as_posix() for path in listing.files),
        )
        for part, listing, title in zip(np.split(images, ends), listings, SIDES, strict=False)
    ]
    return RawData(sides[0], sides[1] if fixed else None, listings[0].class_names)


def _entries(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda p: p.name)


def _list_classes(root: Path) -> _Listing:
    folders = _entries(root)
    if not folders:
        raise fault(root, "is empty; give it a directory of images for each class")
    for folder in folders:
        if not folder.is_dir():
            msg = "is not a directory; put images in a directory for each class and nothing beside them"
            raise fault(folder, msg)
    files = [_list_images(folder) for folder in folders]
    return _Listing(
        class_names=tuple(folder.name for folder in folders),
        files=tuple(path for group in files for path in group),
        labels=tuple(label for label, group in enumerate(files) for _ in group),
    )


def _list_images(folder: Path) -> list[Path]:
    files = _entries(folder)
    if not files:
        msg = "holds no images; add PNG or JPEG files or remove the class"
        raise fault(folder, msg)
    for path in files:
        if path.is_dir():
            msg = "is a directory inside a class; give a directory for each class, or just train/ and test/"
            raise fault(path, msg)
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise fault(path, "is no PNG or JPEG file; remove or convert it")
    return files


def _check_same_classes(root: Path, listings: Sequence[_Listing]) -> None:
    classes = [set(listing.class_names) for listing in listings]
    different = sorted(classes[0] ^ classes[-1])
    if different:
        raise fault(root, f"only one of train/ and test/ has class {listed(different)}; give both")


def _decode_all(paths: Sequence[Path], source: ImageFolder) -> ImageArray:
    decoded = (_decode(path, source) for path in paths)
    first = next(decoded)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    images[0] = first
    for row, image in enumerate(decoded, start=1):
        if image.shape != first.shape:
            sizes = f"{_size(image)} but {printable(str(paths[0]))} is {_size(first)}"
            msg = f"is {sizes} (height x width); set data.source.size to resize all"
            raise fault(paths[row], msg)
        images[row] = image
    return images


def _size(image: ImageArray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def _decode(path: Path, source: ImageFolder) -> ImageArray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, for one
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                flaw = _flaw(image)
                pixels = np.empty(0) if flaw else _pixels(image, source)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        msg = f"has more than {Image.MAX_IMAGE_PIXELS} pixels; scale it down before it is read"
        raise fault(path, msg) from error
    except Exception as error:
        # Pillow's decoders raise many kinds of error for damaged bytes.
        raise fault(path, "cannot be decoded as PNG or JPEG; replace or remove it") from error
    if flaw:
        raise fault(path, flaw)
    return pixels.reshape(*pixels.shape[:2], source.channels).astype(np.uint8)


def _flaw(image: Image.Image) -> str:
    if image.mode.startswith(("I", "F")):
        return f"has {image.mode} pixels, more than 8 bits each; save it with 8 bits"
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A").getextrema()
        if alpha != (OPAQUE, OPAQUE):
            return "has transparent pixels; flatten it onto a background"
    return ""


def _pixels(image: Image.Image, source: ImageFolder) -> ImageArray:
    upright = ImageOps.exif_transpose(image)
    # Palettes and alpha go through RGB: Pillow warns about, or mixes up, transparency otherwise.
    colour = upright.convert("RGBA").convert("RGB") if upright.has_transparency_data else upright
    final = colour.convert("L" if source.channels == 1 else "RGB")
    if source.size is not None:
        height, width = source.size
        final = final.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(final, dtype=np.uint8)
