"""What image files say beside their pixels: orientation, transparency, more than 8 bits, several frames; each against a reference."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tutelage.data.image_kinds import endings, is_image
from tutelage.data.image_pixels import Fact, Form, Seen, read

STORED = {  # how an upright image is stored under each EXIF orientation: the inverse of what sets it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, **form: Any) -> tuple[np.ndarray, Seen]:
    return read(io.BytesIO(data), Form(**({"size": None, "channels": 3} | form)))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits: (H, W, 1 to 4 bands: grey, grey and alpha, colours, colours and alpha)."""
    height, width, bands = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [None, 6])
def test_every_orientation_is_set_upright(
    kind: str, options: dict, orientation: int, size: int | None
) -> None:
    smooth = Image.fromarray(random_image(4, 6, 3)).resize((24, 16), Image.Resampling.BICUBIC)
    stored = smooth.transpose(STORED[orientation]) if orientation in STORED else smooth
    exif = Image.Exif()
    exif[0x0112] = orientation
    (got, seen), (expected, _) = (
        decoded(encoded(image, kind, **options, **more), size=size)
        for image, more in ((stored, {"exif": exif}), (smooth, {}))
    )
    assert got.shape == expected.shape == ((3, 16, 24) if size is None else (3, 6, 6))
    np.testing.assert_allclose(got.astype(int), expected, atol=8 if kind == "JPEG" else 0)
    assert (Fact.TURNED in seen.facts) == (orientation > 1)


def test_a_part_is_cut_from_the_upright_image() -> None:
    upright = Image.fromarray(random_image(16, 24, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(STORED[6]), "PNG", exif=exif)
    seen: list[tuple[int, int]] = []

    def box(height: int, width: int) -> tuple[float, ...]:
        seen.append((height, width))
        return 2, 4, 8, 8

    got, _ = read(io.BytesIO(turned), Form(8, 3), box)
    assert seen == [(16, 24)] and np.array_equal(got, np.asarray(upright).transpose(2, 0, 1)[:, 2:10, 4:12])


@pytest.mark.parametrize("shape", [(96, 192), (192, 96), (128, 128)])
@pytest.mark.parametrize(
    "box", [None, (24.0, 40.0, 48.0, 48.0), (16.0, 8.0, 64.0, 80.0), (0.0, 0.0, 96.0, 96.0)]
)
def test_a_part_of_a_jpeg_is_that_of_the_whole_image(shape: tuple[int, int], box: Any) -> None:
    """However much the decoder reduces it."""
    down, across = np.mgrid[: shape[0], : shape[1]].astype(float)
    smooth = np.stack([down + across / 2, 255 - down, across]).clip(0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(smooth.transpose(1, 2, 0)), "JPEG", quality=100, subsampling=0)
    got, _ = read(io.BytesIO(data), Form(12, 3), box and (lambda height, width: box))
    side = min(shape)
    top, left, height, width = box or ((shape[0] - side) / 2, (shape[1] - side) / 2, side, side)
    edges = left, top, min(left + width, shape[1]), min(top + height, shape[0])
    whole = Image.fromarray(smooth.transpose(1, 2, 0))
    slow = np.asarray(whole.resize((12, 12), Image.Resampling.BILINEAR, box=edges)).transpose(2, 0, 1)
    np.testing.assert_allclose(got.astype(int), slow, atol=3)


@pytest.mark.parametrize("noted", [0, 9, 77, "nonsense"])
def test_an_orientation_that_means_nothing_turns_nothing(noted: Any) -> None:
    exif = b"Exif\0\0broken" if noted == "nonsense" else Image.Exif()
    if noted != "nonsense":
        exif[0x0112] = noted
    image = Image.fromarray(random_image(4, 6, 3))
    got, seen = decoded(encoded(image, "PNG", exif=exif))
    assert np.array_equal(got, np.asarray(image).transpose(2, 0, 1)) and not seen.facts


def transparent_files() -> dict[str, bytes]:
    """A black square on a ground that is transparent, and black beneath."""
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[4:12, 4:12, 3] = 255
    rgba = Image.fromarray(pixels)
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.paste(1, (4, 4, 12, 12))
    grey = Image.fromarray(np.where(pixels[..., 3] > 0, 0, 9).astype(np.uint8))
    deep = np.where(pixels[..., 3:] > 0, 0, 900).astype(np.uint16)
    return {
        "RGBA": encoded(rgba, "PNG"),
        "LA": encoded(rgba.convert("LA"), "PNG"),
        "PA": encoded(rgba.convert("PA"), "TIFF"),
        "palette, one colour": encoded(palette, "PNG", transparency=0),
        "palette, alpha of each": encoded(palette, "PNG", transparency=bytes([0, 255])),
        "GIF": encoded(palette, "GIF", transparency=0),
        "WebP": encoded(rgba, "WEBP", lossless=True),
        "TIFF": encoded(rgba, "TIFF"),
        "TGA": encoded(rgba, "TGA"),
        "L, one value": encoded(grey, "PNG", transparency=9),
        "RGB, one colour": encoded(grey.convert("RGB"), "PNG", transparency=(9, 9, 9)),
        "16 bits, one value": png16(deep, chunk(b"tRNS", struct.pack(">H", 900))),
        "16 bits, one colour": png16(deep.repeat(3, axis=2), chunk(b"tRNS", struct.pack(">HHH", 900, 900, 900))),
        "16 bits and alpha": png16(np.concatenate([0 * deep, (deep == 0) * 65535], axis=2).astype(np.uint16)),
    }  # fmt: skip


@pytest.mark.parametrize("name", transparent_files())
@pytest.mark.parametrize(
    ("background", "shows"), [((255, 255, 255), (255,) * 3), ((255, 0, 51), (255, 0, 51))]
)
def test_what_is_transparent_lies_on_the_background(
    name: str, background: tuple[int, int, int], shows: tuple[int, ...]
) -> None:
    got, seen = decoded(transparent_files()[name], background=background)
    assert tuple(got[:, 0, 0]) == shows and tuple(got[:, 8, 8]) == (0, 0, 0)
    assert Fact.TRANSPARENT in seen.facts
    grey, _ = decoded(transparent_files()[name], background=background, channels=1)
    luminance = round(0.299 * shows[0] + 0.587 * shows[1] + 0.114 * shows[2])
    assert abs(int(grey[0, 0, 0]) - luminance) <= 1 and grey[0, 8, 8] == 0


def test_partly_transparent_pixels_are_mixed_and_opaque_ones_stay() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 100, 0, 40, 40, 40])
    palette.putpixel((1, 0), 1)
    got, _ = decoded(encoded(palette, "PNG", transparency=bytes([64, 255])))
    expected = [round(c * 64 / 255 + 255 * 191 / 255) for c in (200, 100, 0)]
    np.testing.assert_allclose(got[:, 0, 0], expected, atol=1)
    assert tuple(got[:, 0, 1]) == (40, 40, 40)
    opaque = Image.fromarray(np.dstack([random_image(5, 6, 3), np.full((5, 6), 255, np.uint8)]))
    got, seen = decoded(encoded(opaque, "PNG"))
    assert np.array_equal(got, np.asarray(opaque)[..., :3].transpose(2, 0, 1)) and not seen.facts


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [None, 4])
def test_sixteen_bits_are_kept(bands: int, size: int | None) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, bands)).astype(np.uint16)
    got, seen = decoded(png16(values), deep=True, size=size)
    exact = values / 65535
    if bands in (2, 4):
        exact = exact[..., :-1] * exact[..., -1:] + 1 - exact[..., -1:]
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(exact, 2, 0)]
    planes = [plane.resize((size, size), Image.Resampling.BILINEAR) if size else plane for plane in planes]
    np.testing.assert_allclose(got, np.stack(planes if len(planes) == 3 else planes * 3), atol=1e-5)
    assert got.dtype == np.float32 and Fact.DEEP in seen.facts
    if size is None and bands in (1, 3):
        assert len(np.unique(got)) > 60
    if bands in (2, 4):
        assert Fact.TRANSPARENT in seen.facts
        values[..., -1] = 65535
        assert Fact.TRANSPARENT not in decoded(png16(values), deep=True)[1].facts


@pytest.mark.parametrize(("alpha", "mixed"), [(65535, False), (65534, True), (0, True)])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_deep_image_is_transparent_where_its_alpha_is_below_one(
    alpha: int, mixed: bool, bands: int
) -> None:
    values = np.full((2, 3, bands + 1), 65535, dtype=np.uint16)
    values[0, 0] = [100] * bands + [alpha]
    got, seen = decoded(png16(values), deep=True, background=(0, 0, 0))
    assert (Fact.TRANSPARENT in seen.facts) == mixed
    np.testing.assert_allclose(got[:, 0, 0], 100 / 65535 * alpha / 65535, atol=1e-7)
    np.testing.assert_allclose(got[:, 1], 1.0)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_of_sixteen_bits_is_read_alike(compression: str | None) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 9)).astype(np.uint16)
    got, _ = decoded(encoded(Image.fromarray(values), "TIFF", compression=compression), deep=True, channels=1)
    np.testing.assert_allclose(got[0], values / 65535, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_set_upright(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 65536, (6, 9)).astype(np.uint16)
    planes = [Image.fromarray(part.astype(np.uint8)) for part in (upright >> 8, upright & 255)]
    if orientation in STORED:
        planes = [plane.transpose(STORED[orientation]) for plane in planes]
    stored = np.asarray(planes[0]).astype(np.uint16) << 8 | np.asarray(planes[1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    note = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for data in (png16(stored[..., None], note), encoded(Image.fromarray(stored), "TIFF", exif=exif)):
        got, seen = decoded(data, deep=True, channels=1)
        np.testing.assert_allclose(got[0], upright / 65535, atol=1e-6)
        assert (Fact.TURNED in seen.facts) == (orientation > 1)


def tiff(values: np.ndarray, *, bits: int, signed: bool = False, turned: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of whole numbers: (H, W, 1 or 3), 16 bits, or 12 that are packed."""
    height, width, bands = values.shape
    if bits == 12:
        flat = values.reshape(-1, 2).astype(np.uint32)
        triples = np.stack(
            [flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255], axis=1
        )
        data = triples.astype(np.uint8).tobytes()
    else:
        data = values.astype("<i2" if signed else "<u2").tobytes()
    lengths = struct.pack(f"<{bands}H", *[bits] * bands)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, bits if bands == 1 else 8 + len(data)), (259, 3, 1, 1),
            (262, 3, 1, 1 if bands == 1 else 2), (273, 4, 1, 8),
            (274, 3, 1, turned), (277, 3, 1, bands), (278, 3, 1, height), (279, 4, 1, len(data)),
            (339, 3, 1, 2 if signed else 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(lengths)) + data + lengths + directory


def test_sixteen_bits_of_colour_in_a_tiff_are_kept() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    got, _ = decoded(tiff(values, bits=16), deep=True)
    np.testing.assert_allclose(got, values.transpose(2, 0, 1) / 65535, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_of_sixteen_bits_in_a_tiff_are_set_upright(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    ways = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
            6: lambda x: np.rot90(x), 7: lambda x: np.rot90(x.swapaxes(0, 1), 2), 8: lambda x: np.rot90(x, 3)}  # fmt: skip
    stored = np.ascontiguousarray(ways.get(orientation, lambda x: x)(upright))
    got, seen = decoded(tiff(stored, bits=16, turned=orientation), deep=True)
    np.testing.assert_allclose(got, upright.transpose(2, 0, 1) / 65535, atol=1e-6)
    assert (Fact.TURNED in seen.facts) == (orientation > 1)


def test_what_a_file_says_of_white_is_heeded_and_a_setting_goes_before_it() -> None:
    values = np.arange(0, 4096, 64).astype(np.uint16).reshape(8, 8, 1)
    twelve = tiff(values, bits=12)
    got, _ = decoded(twelve, deep=True, channels=1)
    np.testing.assert_allclose(got[0], values[..., 0] / 4095, atol=1e-5)
    pgm = b"P5\n8 8\n4095\n" + values.astype(">u2").tobytes()
    got, _ = decoded(pgm, deep=True, channels=1)
    np.testing.assert_allclose(got[0], values[..., 0] / 4095, atol=5e-5)
    got, seen = decoded(png16(values), deep=True, channels=1, white=4095)
    np.testing.assert_allclose(got[0], values[..., 0] / 4095, atol=1e-5)
    assert seen.largest == pytest.approx(4032 / 4095)
    with pytest.raises(ValueError, match=r"between 0 and 4032, white is 4000: set `white`"):
        decoded(png16(values), white=4000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(Image.fromarray(np.array([[0, 0.5], [1, 0.2]], np.float32)), "TIFF"), r"from 0 to 1, .* `white` .*\(1, say\)"),
        (encoded(Image.fromarray(np.array([[0, 0.5], [1, 0.2]], np.float32)), "PPM"), r"from 0 to 1, .* `white` .*\(1, say\)"),
        (encoded(Image.fromarray(np.array([[0, 700], [1, 2]], np.int32)), "TIFF"), r"from 0 to 700, .* `white` .*\(1023, say\)"),
        (encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), r"no numbers \(NaN\)"),
        (tiff(np.array([[[-5], [9]]]), bits=16, signed=True), r"from -5 to 9"),
    ],
)  # fmt: skip
def test_values_without_a_known_range_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(data)


def test_numbers_of_32_bits_are_read_where_white_is_said() -> None:
    values = np.array([[0, 0.5], [1, 0.25]], np.float32)
    got, _ = decoded(encoded(Image.fromarray(values), "TIFF"), white=1, deep=True, channels=1)
    np.testing.assert_allclose(got[0], values, atol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_several_frames_are_noted_and_the_first_is_read(kind: str) -> None:
    first = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    data = encoded(first, kind, save_all=True, append_images=[Image.fromarray(random_image(8, 8, 3))])
    got, seen = decoded(data)
    assert Fact.FRAMES in seen.facts
    np.testing.assert_allclose(got, 200, atol=4)


def test_inks_and_colour_profiles_are_noted() -> None:
    image = Image.fromarray(random_image(4, 6, 3))
    assert Fact.INKS in decoded(encoded(image.convert("CMYK"), "JPEG"))[1].facts
    assert Fact.PROFILE in decoded(encoded(image, "PNG", icc_profile=b"Display P3"))[1].facts
    assert not decoded(encoded(image, "PNG", icc_profile=b"IEC61966-2.1 sRGB"))[1].facts


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_files_are_what_pillow_says(mode: str, channels: int) -> None:
    for kind in ("PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP"):
        try:
            data = encoded(Image.fromarray(random_image(9, 7, 3)).convert(mode), kind)
        except (OSError, ValueError):  # the format has no such mode
            continue
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
        got, _ = decoded(data, channels=channels)
        assert np.array_equal(got, expected[None] if channels == 1 else expected.transpose(2, 0, 1))


def test_no_file_is_handed_to_another_program() -> None:
    """Pillow has Ghostscript draw an EPS, whatever the file is called."""
    with pytest.raises(OSError, match="cannot identify"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert not is_image("a.eps") and not is_image("a.pdf")


def test_what_pillow_reads_is_an_image_in_upper_and_lower_case() -> None:
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".bmp", ".mpo"} <= endings()
    assert is_image("a/b.JFIF") and is_image("IMG.1.JPeG")
    assert not any(is_image(name) for name in ("a.txt", "jpg", "a.jpg/b", ".jpg", "a.mp4", "a.h5", "a"))


@pytest.mark.parametrize(("mode", "profile", "noted"), [
    ("RGB", b"Display P3", True), ("RGB", b"IEC sRGB", False), ("RGB", b"s\0R\0G\0B", False), ("RGB", b"", False),
    ("L", b"Display P3", False),
    ("1", b"Display P3", False), ("P", b"Display P3", True),
])  # fmt: skip
def test_a_colour_profile_is_noted_of_colours_that_are_not_srgb(
    mode: str, profile: bytes, noted: bool
) -> None:
    image = Image.fromarray(random_image(4, 6, 3)).convert(mode)
    more = {"icc_profile": profile} if profile else {}
    assert (Fact.PROFILE in decoded(encoded(image, "PNG", **more))[1].facts) == noted


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("part", [None, (2, 3, 4, 6), (5, 4, 9, 9)])
def test_a_part_of_a_deep_image_is_that_of_its_values(
    bands: int, channels: int, size: int | None, part: tuple[int, ...] | None
) -> None:
    """What a part has beyond the image is cut off; without a size a part is brought to the whole one's, and the whole left as it is."""
    values = np.random.default_rng(0).integers(0, 65536, (8, 11, bands)).astype(np.uint16)
    got, _ = read(
        io.BytesIO(png16(values)),
        Form(size, channels, deep=True),
        None if part is None else lambda height, width: part,
    )
    exact = values / 65535
    if channels == 1 and bands == 3:
        exact = (exact * np.array([0.299, 0.587, 0.114])).sum(axis=2, keepdims=True)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(exact, 2, 0)]
    if size is not None or part is not None:
        top, left, height, width = part or (0, 1, 8, 8)
        box = (left, top, min(left + width, 11), min(top + height, 8))
        goal = (11, 8) if size is None else (size, size)
        planes = [plane.resize(goal, Image.Resampling.BILINEAR, box=box) for plane in planes]
    expected = np.stack([np.asarray(plane) for plane in planes])
    np.testing.assert_allclose(got, np.broadcast_to(expected, (channels, *expected.shape[1:])), atol=1e-5)


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("part", [None, (2, 3, 4, 6), (5, 4, 9, 9), (0, 0, 8, 11)])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_part_of_an_image_of_bytes_is_pillows(
    size: int | None, part: tuple[int, ...] | None, turned: int
) -> None:
    pixels = random_image(8, 11, 3)
    exif = Image.Exif()
    exif[0x0112] = turned
    upright = Image.fromarray(pixels)
    stored = upright.transpose(STORED[6]) if turned == 6 else upright
    data = encoded(stored, "PNG", exif=exif)
    got, _ = read(io.BytesIO(data), Form(size, 3), None if part is None else lambda height, width: part)
    expected = upright
    if size is not None or part is not None:
        top, left, height, width = part or (0, 1, 8, 8)
        box = (left, top, min(left + width, 11), min(top + height, 8))
        expected = upright.resize(
            (11, 8) if size is None else (size, size), Image.Resampling.BILINEAR, box=box
        )
    assert np.array_equal(got, np.asarray(expected).transpose(2, 0, 1))
