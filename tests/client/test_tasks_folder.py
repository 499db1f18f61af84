import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.tasks.folder import decode, find, other_files, read_groups, read_images
from common.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plant(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise(8, 8, 3, seed=number)).save(root / name / f"{number:02}.png")
    return root


def test_finds_every_suffix_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "b/2.JPG",
        "b/1.tif",
        "a/x.jpeg",
        "a/y.Bmp",
        "a/notes.txt",
        "a/2024-11/late/z.png",
        "a/.cache/z.png",
        "a/._x.jpg",
        ".c/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    classes, found = find(tmp_path)
    assert classes == ("a", "b")
    assert [(item.file, item.label) for item in found] == [
        ("a/2024-11/late/z.png", 0), ("a/x.jpeg", 0), ("a/y.Bmp", 0),
        ("b/1.tif", 1), ("b/2.JPG", 1),
    ]  # fmt: skip
    assert other_files(tmp_path, classes=classes) == [
        "class a has files of other kinds, passed over: 1 .txt"
    ]


def test_classes_asked_for_keep_their_order(tmp_path: Path) -> None:
    classes, found = find(plant(tmp_path, a=1, b=1, c=1), classes=("c", "a"))
    assert classes == ("c", "a")
    assert [item.file for item in found] == ["c/00.png", "a/00.png"]


@pytest.mark.parametrize(
    ("classes", "asked", "message"),
    [
        ({"a": 2, "b": 0}, (), "b must hold image files"),
        ({"a": 2}, (), r"at least two classes, got \['a'\]"),
        ({"a": 2, "b": 2}, ("a",), "at least two classes"),
        ({"a": 2, "b": 2}, ("a", "z"), r"\['z'\] missing; found \['a', 'b'\]"),
        ({}, (), r"at least two classes, got \[\]"),
    ],
)
def test_unfit_folders_are_refused_in_one_line(
    tmp_path: Path, classes: dict[str, int], asked: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find(plant(tmp_path, **classes), classes=asked)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_instead_of_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder must exist, got .*nowhere"):
        find(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be read: Not a directory"):
        find(tmp_path / "file")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    rgb = Image.fromarray(np.full((10, 12, 3), 200, np.uint8))
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    image = rgb.quantize() if mode == "P" else rgb.convert(mode)
    pixels = decode(encoded(image, kind), size=8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    if mode != "1":
        np.testing.assert_allclose(pixels, 200, atol=3)


@pytest.mark.parametrize(("top", "full"), [(65535, 65535), (4096, 65535), (4095, 4095)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(top: int, full: int, kind: str) -> None:
    values = np.full((6, 6), top, np.uint16)
    values[:3] = top // 2
    pixels = decode(encoded(Image.fromarray(values), kind), size=6)
    assert pixels[:, -1].tolist() == [[round(top * 255 / full)] * 6] * 3
    np.testing.assert_allclose(pixels[:, 0], top // 2 * 255 / full, atol=0.6)


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    with pytest.raises(DataError, match="8-bit or 16-bit"):
        decode(data, size=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(kind: str, mode: str) -> None:
    if mode == "I;16" and kind == "JPEG":
        pytest.skip("JPEG has no 16-bit grey")
    values = np.zeros((16, 16), np.uint16)
    values[:, 8:] = 65535  # bright on the right
    image = Image.fromarray(values)
    if mode == "RGB":
        image = Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise: bright at the bottom
    pixels = decode(encoded(image, kind, exif=exif), size=16)
    assert pixels[:, 12:].min() > 245
    assert pixels[:, :4].max() < 10


def test_a_large_jpeg_is_nearly_the_same_at_reduced_resolution() -> None:
    smooth = np.asarray(Image.fromarray(noise(8, 8, 3)).resize((800, 800)))
    expected = Image.fromarray(smooth).resize((32, 32), Image.Resampling.BILINEAR)
    pixels = decode(encoded(Image.fromarray(smooth), "JPEG", quality=95), size=32)
    np.testing.assert_allclose(
        pixels.transpose(1, 2, 0).astype(float), np.asarray(expected).astype(float), atol=8
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused_not_padded(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    with pytest.raises(DataError, match=r"damaged image|not a JPEG"):
        decode(data[: int(len(data) * share)], size=32)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "^empty file$"),
        (b"this is a text\n", "^not a JPEG, PNG, BMP or TIFF image$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^not a JPEG"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "^not a JPEG"),
    ],
)
def test_what_is_not_an_image_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        decode(data, size=8)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF"]),
    hits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_an_image_or_a_reason(kind: str, hits: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(noise(16, 16, 3)), kind))
    for place, value in hits:
        data[int(place * len(data))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(bytes(data), size=8).shape == (3, 8, 8)
        except DataError as error:
            assert str(error)  # noqa: PT017


def test_broken_files_are_reported_and_the_others_read(tmp_path: Path) -> None:
    plant(tmp_path, a=3)
    (tmp_path / "a/01.png").write_bytes(b"")
    files = ["a/00.png", "a/01.png", "a/02.png", "a/gone.png"]
    calls: list[tuple[int, int]] = []
    decoded = read_images(
        tmp_path, files=files, size=8, progress=lambda done, total: calls.append((done, total))
    )
    assert decoded.why == ("", "empty file", "", "cannot be read: No such file or directory")
    assert decoded.digests[3] == ""
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(decoded.images[2].transpose(1, 2, 0), noise(8, 8, 3, seed=2))
    assert not decoded.images[1].any()


def test_warnings_of_the_decoder_do_not_leak(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8)).convert("P")
    image.info["transparency"] = bytes(range(200))
    image.save(tmp_path / "a.png", transparency=bytes(range(200)))
    with warnings.catch_warnings(record=True) as direct:
        warnings.simplefilter("always")
        decode((tmp_path / "a.png").read_bytes(), size=8)
    assert direct, "Pillow no longer warns here; find another image for this test"
    assert read_images(tmp_path, files=["a.png"], size=8).why == ("",)


def write_manifest(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def test_groups_come_from_the_parents_manifest_or_the_folders_own(tmp_path: Path) -> None:
    folder = tmp_path / "steel"
    folder.mkdir()
    files = ["a/1.png", "a/2.png", "a/3.png"]
    assert read_groups(folder, files=files) == [None, None, None]
    write_manifest(tmp_path / "manifest.csv.gz", "x,file,group\n0,steel/a/1.png,g1\n0,a/2.png,no\n")
    assert read_groups(folder, files=files) == ["g1", None, None]
    assert read_groups(folder / ".." / "steel", files=files) == ["g1", None, None]
    write_manifest(folder / "manifest.csv.gz", "file,group\na/2.png,g2\na/3.png,\n")
    assert read_groups(folder, files=files) == [None, "g2", None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no gzip", "gzip-compressed CSV"),
        (gzip.compress(b"file,group\n" * 99, mtime=0)[:-12], "gzip-compressed CSV"),
        (gzip.compress(b"file,group\n\xff\xfe,1\n", mtime=0), "in UTF-8"),
        (
            gzip.compress(b"name,group\n", mtime=0),
            r"columns file and group, got \['name', 'group'\]",
        ),
        (gzip.compress(b"", mtime=0), r"columns file and group, got \[\]"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "manifest.csv.gz").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_groups(tmp_path, files=["a/1.png"])
