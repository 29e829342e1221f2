"""Sources: real files of each format, whole and damaged."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from training.config import Cifar10, Cifar100, Digits, FashionMnist, ImageFolder, Mnist, Npz, Source
from training.data.sources import load_source
from training.errors import DataError

RNG = np.random.default_rng(0)


def refusal(source: Source, root: Path | None) -> str:
    with pytest.raises(DataError) as caught:
        load_source(source, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- digits ---------------------------------------------------------------------------------------


def test_digits_scale_ink_to_bytes() -> None:
    raw = load_source(Digits(), None)
    assert raw.train.images.shape == (1797, 8, 8, 1)
    assert raw.train.images.dtype == np.uint8
    assert set(np.unique(raw.train.images)) == set(np.rint(np.arange(17) * 255 / 16).astype(int))
    assert raw.test is None
    assert raw.class_names == tuple("0123456789")
    assert raw.train.labels[:3].tolist() == [0, 1, 2]


# --- IDX ------------------------------------------------------------------------------------------


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, *, packed: bool = False) -> dict[str, npt.NDArray[np.uint8]]:
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    for prefix, n in (("train", 30), ("t10k", 20)):
        arrays[f"{prefix}-images-idx3-ubyte"] = RNG.integers(0, 256, (n, 5, 4), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        content = idx(array)
        (root / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_published(tmp_path: Path, *, packed: bool) -> None:
    arrays = write_mnist(tmp_path, packed=packed)
    raw = load_source(Mnist(name="mnist", path="x"), tmp_path)
    assert raw.test is not None
    assert np.array_equal(raw.train.images[..., 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(raw.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert raw.train.labels.dtype == np.int64
    assert raw.class_names[9] == "9"


def test_fashion_mnist_has_its_class_names(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    raw = load_source(FashionMnist(name="fashion-mnist"), tmp_path)
    assert raw.class_names[0] == "T-shirt/top"
    assert raw.class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda b: b[:-1], "only 599 are there"),
        (lambda b: b + b"\0", "more follow"),
        (lambda b: b[:9], "truncated within its header"),
        (lambda _: b"", "starts with nothing"),
        (lambda b: b"\0\0\x0d\3" + b[4:], "starts with 00000d03, not 00000803"),
        (lambda b: gzip.compress(b)[:-30], "truncated or damaged gzip"),
        (lambda b: gzip.compress(b)[:40] + b"\xff" * 40, "truncated or damaged gzip"),
        (lambda _: idx(np.zeros((29, 5, 4), np.uint8)), "29 images, but train-labels-idx1-ubyte has 30"),
        (lambda _: idx(np.zeros((30, 0, 4), np.uint8)), "none 0"),
    ],
)
def test_damaged_idx_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], expected: str) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(Mnist(name="mnist", path="x"), tmp_path)
    assert expected in message
    assert str(tmp_path) in message


def test_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte: missing" in refusal(Mnist(name="mnist", path="x"), tmp_path)


def test_idx_label_out_of_range_names_the_row(tmp_path: Path) -> None:
    labels = write_mnist(tmp_path)["train-labels-idx1-ubyte"]
    labels[17] = 10
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert "train row 17 (label 10)" in refusal(Mnist(name="mnist", path="x"), tmp_path)


def test_class_without_images_is_named(tmp_path: Path) -> None:
    labels = write_mnist(tmp_path)["train-labels-idx1-ubyte"]
    labels[labels == 8] = 0
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert "no train images of class Bag" in refusal(FashionMnist(name="fashion-mnist"), tmp_path)


# --- CIFAR ----------------------------------------------------------------------------------------


def cifar_rows(labels: npt.NDArray[np.int64], label_bytes: int) -> bytes:
    rows = RNG.integers(0, 256, (len(labels), label_bytes + 3072), dtype=np.uint8)
    rows[:, label_bytes - 1] = labels
    return rows.tobytes()


def write_cifar10(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_rows(np.arange(10), 1))
    (folder / "test_batch.bin").write_bytes(cifar_rows(np.arange(10), 1))
    (folder / "batches.meta.txt").write_text("\n".join(f"thing {n}" for n in range(10)) + "\n\n")


def write_cifar100(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(cifar_rows(np.arange(100), 2))
    (folder / "fine_label_names.txt").write_text("\n".join(f"thing {n}" for n in range(100)))


@pytest.mark.parametrize("inside", [".", "cifar-10-batches-bin"])
def test_cifar10_planes_become_channels(tmp_path: Path, inside: str) -> None:
    write_cifar10(tmp_path / inside)
    raw = load_source(Cifar10(name="cifar10", path="x"), tmp_path)
    row = np.frombuffer((tmp_path / inside / "data_batch_2.bin").read_bytes(), np.uint8)[:3073]
    assert raw.train.images.shape == (50, 32, 32, 3)
    assert raw.train.labels[10] == row[0]
    assert raw.train.images[10, 3, 5, 2] == row[1 + 2 * 1024 + 3 * 32 + 5]
    assert raw.class_names[3] == "thing 3"


@pytest.mark.parametrize("inside", [".", "cifar-100-binary"])
def test_cifar100_uses_fine_labels(tmp_path: Path, inside: str) -> None:
    write_cifar100(tmp_path / inside)
    raw = load_source(Cifar100(name="cifar100", path="x"), tmp_path)
    assert raw.test is not None
    assert raw.test.labels.tolist() == list(range(100))
    assert raw.test.images.shape == (100, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data_batch_4.bin", None, "data_batch_4.bin: missing"),
        ("data_batch_4.bin", b"\0" * 3072, "3072 bytes are not whole rows of 3073"),
        ("test_batch.bin", b"", "test_batch.bin: 0 bytes"),
        ("batches.meta.txt", None, "batches.meta.txt: missing"),
        ("batches.meta.txt", b"a\nb\n", "has 2 class names, not 10"),
        ("batches.meta.txt", b"\xff\xfe", "is not text"),
        ("data_batch_1.bin", b"\x0a" * 3073 * 2, "train row 0 (label 10), train row 1 (label 10)"),
    ],
)
def test_damaged_cifar_file_is_named(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    write_cifar10(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert expected in refusal(Cifar10(name="cifar10", path="x"), tmp_path)


# --- image folder ---------------------------------------------------------------------------------


def image(path: Path, shape: tuple[int, ...] = (6, 4, 3), **options: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


FOLDER = ImageFolder(name="image-folder", path="x")


def test_image_folder_takes_classes_and_files_by_name(tmp_path: Path) -> None:
    pixels = {name: image(tmp_path / name) for name in ("b/2.png", "b/10.PNG", "a/x.png")}
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / ".DS_Store").write_bytes(b"hidden")
    raw = load_source(FOLDER, tmp_path)
    assert raw.class_names == ("a", "b")
    assert raw.train.names == ("a/x.png", "b/10.PNG", "b/2.png")
    assert raw.train.labels.tolist() == [0, 1, 1]
    assert np.array_equal(raw.train.images[2], pixels["b/2.png"])
    assert raw.test is None


def test_image_folder_with_train_and_test_fixes_the_test_set(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.jpg", "test/b/1.jpeg"):
        image(tmp_path / name)
    raw = load_source(FOLDER, tmp_path)
    assert raw.test is not None
    assert raw.test.names == ("test/a/1.jpg", "test/b/1.jpeg")


def test_images_are_resized_and_made_grey(tmp_path: Path) -> None:
    image(tmp_path / "a/1.png", (6, 4, 3))
    image(tmp_path / "b/1.png", (9, 9))
    source = ImageFolder(name="image-folder", path="x", size=(5, 7), channels=1)
    assert load_source(source, tmp_path).train.images.shape == (2, 5, 7, 1)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = image(tmp_path / "a/1.png", (6, 4, 3), exif=exif)
    image(tmp_path / "b/1.png", (4, 6, 3))
    assert np.array_equal(load_source(FOLDER, tmp_path).train.images[0], np.rot90(pixels, -1))


def test_palette_and_opaque_alpha_are_read_as_rgb(tmp_path: Path) -> None:
    pixels = image(tmp_path / "a/1.png")
    opaque = np.concatenate([pixels, np.full((6, 4, 1), 255, np.uint8)], axis=2)
    (tmp_path / "b").mkdir()
    Image.fromarray(opaque).save(tmp_path / "b/1.png")
    Image.fromarray(pixels).quantize(256).save(tmp_path / "b/2.png")
    images = load_source(FOLDER, tmp_path).train.images
    assert np.array_equal(images[1], pixels)
    assert np.array_equal(images[2], pixels)


def damage_truncated(root: Path) -> None:
    image(root / "b/bad.png", (60, 40, 3))
    content = (root / "b/bad.png").read_bytes()
    (root / "b/bad.png").write_bytes(content[: len(content) // 2])


def damage_transparent(root: Path) -> None:
    pixels = np.zeros((6, 4, 4), np.uint8)
    Image.fromarray(pixels).save(root / "b/bad.png")


def damage_folder_in_class(root: Path) -> None:
    (root / "b" / "bad").mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "b/bad.png").write_bytes(b"not an image"), "b/bad.png: cannot be decoded"),
        (lambda root: (root / "b/bad.jpg").write_bytes(b""), "b/bad.jpg: cannot be decoded"),
        (damage_truncated, "b/bad.png: cannot be decoded"),
        (damage_transparent, "b/bad.png: has transparent pixels"),
        (damage_folder_in_class, "b/bad: is a directory inside a class"),
        (lambda root: (root / "b/bad.gif").write_bytes(b"GIF89a"), "b/bad.gif: is no PNG or JPEG"),
        (lambda root: (root / "b/bad.png").symlink_to("nowhere"), "b/bad.png: is no PNG or JPEG"),
        (lambda root: (root / "notes.txt").write_text("x"), "notes.txt: is not a directory"),
        (lambda root: (root / "empty").mkdir(), "empty: holds no images"),
        (lambda root: (root / "b/1.png").unlink(), "b: holds no images"),
        (lambda root: image(root / "b/bad.png", (4, 6, 3)), "b/bad.png: is 4 x 6 but "),
        (lambda root: Image.new("I;16", (4, 6)).save(root / "b/bad.png"), "b/bad.png: has I;16 pixels"),
        (lambda root: image(root / "train/a/1.png"), "train/a: is a directory inside a class"),
        (lambda root: image(root / "b/bad\nname.png", (4, 6, 3)), "bad\\nname.png"),
        (lambda root: (root / "b").rename(root / "new\nline"), "'new\\nline' is empty or cannot be printed"),
    ],
)
def test_bad_image_folder_names_the_file(
    tmp_path: Path, damage: Callable[[Path], object], expected: str
) -> None:
    image(tmp_path / "a/1.png")
    image(tmp_path / "b/1.png")
    damage(tmp_path)
    assert expected in refusal(FOLDER, tmp_path)


def test_images_of_different_sizes_name_both_files(tmp_path: Path) -> None:
    image(tmp_path / "a/1.png", (6, 4, 3))
    image(tmp_path / "b/1.png", (6, 5, 3))
    message = refusal(FOLDER, tmp_path)
    assert f"{tmp_path}/b/1.png: is 6 x 5 but {tmp_path}/a/1.png is 6 x 4" in message


@pytest.mark.parametrize("pixels", [500, 100])
def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    image(tmp_path / "a/1.png")
    image(tmp_path / "b/bomb.png", (30, 20, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    assert f"b/bomb.png: has more than {pixels} pixels" in refusal(FOLDER, tmp_path)


def test_empty_folder_and_single_class_are_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}: is empty" in refusal(FOLDER, tmp_path)
    image(tmp_path / "only/1.png")
    assert "1 class (only)" in refusal(FOLDER, tmp_path)


def test_train_and_test_must_have_the_same_classes(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"):
        image(tmp_path / name)
    assert "class b, c" in refusal(FOLDER, tmp_path)


# --- npz ------------------------------------------------------------------------------------------


def npz_arrays(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    arrays: dict[str, Any] = {"x": RNG.integers(0, 256, (6, 3, 4), np.uint8), "y": np.arange(6) % 2}
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


NPZ = Npz(name="npz", path="x")


def test_npz_grey_gains_a_channel_and_numbers_its_classes(tmp_path: Path) -> None:
    arrays = npz_arrays(y=np.arange(6, dtype=np.uint16) % 3)
    np.savez_compressed(tmp_path / "d.npz", **arrays)
    raw = load_source(NPZ, tmp_path / "d.npz")
    assert np.array_equal(raw.train.images[..., 0], arrays["x"])
    assert raw.class_names == ("0", "1", "2")
    assert raw.test is None


def test_npz_may_fix_the_test_set_and_name_classes(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (4, 3, 4, 3), np.uint8)
    arrays = npz_arrays(
        x=np.asfortranarray(colour), y=np.arange(4) % 2, x_test=colour[:2], y_test=np.arange(2)
    )
    np.savez(tmp_path / "d.npz", **arrays, class_names=np.array(["cat", "dog"]))
    raw = load_source(NPZ, tmp_path / "d.npz")
    assert raw.test is not None
    assert np.array_equal(raw.train.images, colour)
    assert raw.train.images.flags.c_contiguous
    assert raw.class_names == ("cat", "dog")


FLOATS = np.full((6, 3, 4), 0.5, np.float32)
NAN = FLOATS.copy()
NAN[2, 1, 1] = np.nan
LOUD = FLOATS.copy()
LOUD[4, 0, 0] = -3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x": FLOATS}, "x is float32; give uint8 0-255"),
        ({"x": NAN}, "x is float32 and a pixel of row 2 is NaN"),
        ({"x": LOUD}, "x is float32 and a pixel of row 4 is outside 0-255"),
        ({"x": np.zeros((6, 3, 4), np.int32)}, "x is int32; give uint8"),
        ({"x": np.array([object()] * 6)}, "x is an object array"),
        ({"y": np.array([{}] * 6)}, "y is an object array"),
        ({"x": np.zeros((6, 12), np.uint8)}, "x has shape (6, 12)"),
        ({"x": np.zeros((6, 3, 8, 8), np.uint8)}, "transpose it"),
        ({"x": np.zeros((5, 3, 4), np.uint8)}, "x has 5 rows but y 6"),
        ({"x": np.zeros((0, 3, 4), np.uint8), "y": np.zeros(0, np.int64)}, "0 class"),
        ({"y": np.zeros((6, 1), np.int64)}, "y is int64 of shape (6, 1)"),
        ({"y": np.zeros(6)}, "y is float64"),
        ({"y": np.zeros(6, bool)}, "y is bool"),
        ({"y": np.array([0, 1, 0, -1, 0, 1])}, "y row 3 is -1"),
        ({"y": np.array([0, 1, 0, 2**64 - 1, 0, 1], np.uint64)}, "y row 3 is 18446744073709551615"),
        ({"y": np.array([0, 1, 0, 3, 0, 1])}, "y has no row of class 2 but one of class 3"),
        ({"y": np.zeros(6, np.int64)}, "1 class (0)"),
        ({"x": None}, "array x is missing"),
        ({"x_test": np.zeros((2, 3, 4), np.uint8)}, "array y_test is missing"),
        ({"labels": np.zeros(6)}, "unknown array 'labels'"),
        ({"class_names": np.array([1, 2])}, "class_names is int64"),
        ({"class_names": np.array(["a", "a"])}, "class name a stands twice"),
        ({"class_names": np.array(["a", "b", "lost"])}, "no train images of class lost"),
        ({"class_names": np.array(["a", "b\nc"])}, "class name 'b\\nc'"),
        (
            {"x_test": np.zeros((2, 3, 4), np.uint8), "y_test": np.array([0, 2])},
            "test row 1 (label 2)",
        ),
        (
            {"x_test": np.zeros((2, 3, 5), np.uint8), "y_test": np.array([0, 1])},
            "train images have shape (3, 4, 1) but test images (3, 5, 1)",
        ),
    ],
)
def test_unusable_npz_arrays_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=True, **npz_arrays(**changes))
    message = refusal(NPZ, path)
    assert expected in message
    assert str(path) in message


def flip_middle(content: bytes) -> bytes:
    middle = len(content) // 3
    return (
        content[:middle]
        + bytes(255 - value for value in content[middle : middle + 8])
        + content[middle + 8 :]
    )


def zip_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", content)
    return stream.getvalue()


HUGE = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 2, 2)}" % 2**60
HUGE += b" " * (128 - 1 - len(HUGE)) + b"\n"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda _: b"", "is no .npz file"),
        (lambda content: content[:-40], "is no .npz file"),
        (lambda _: b"PK\x03\x04 and nothing else", "is no .npz file"),
        (flip_middle, "is damaged"),
        (lambda _: zip_of(b"no numpy header"), "is no array"),
        (lambda _: zip_of(b"\x93NUMPY\x01\x00\x04\x00{{{{"), "x is damaged"),
        (lambda _: zip_of(HUGE), "x is damaged"),
    ],
)
def test_damaged_npz_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], expected: str) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, **npz_arrays(x=RNG.integers(0, 256, (6, 30, 40), np.uint8)))
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(NPZ, path)
    assert expected in message
    assert str(path) in message


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        (FOLDER, "absent", "absent: no such file or folder"),
        (FOLDER, "file", "image-folder needs a folder"),
        (Cifar10(name="cifar10", path="x"), "file", "cifar10 needs a folder"),
        (NPZ, ".", "npz needs one .npz file"),
    ],
)
def test_wrong_kind_of_path_is_refused(tmp_path: Path, source: Source, name: str, expected: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert expected in refusal(source, tmp_path / name)


def test_a_source_of_files_needs_a_path() -> None:
    assert "data.source.path" in refusal(NPZ, None)
