"""Photographs of every awkward kind: used rightly, or left out with a reason and counted."""

import http.server
import io
import logging
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from brixel_edge.errors import DataError, SourceError, SpecError
from brixel_edge.image.resize import resize_image
from brixel_edge.training import photograph_stream
from brixel_edge.training.photograph_index import index_photographs
from brixel_edge.training.photograph_sources import expand_range, resolve_sources
from brixel_edge.training.photograph_stream import StreamedPhotographs, StreamPosition, shard_photographs
from brixel_edge.training.photographs import UnusablePhotograph, photograph_view
from brixel_edge.training.views import TOO_SMALL, ViewSettings, crop_box

SIZE = (16, 16)  # teacher's view: 64 x 64


def whole(height, width):
    return 0.0, 0.0, float(width), float(height)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def picture():
    """Smooth colours, 96 high and 128 wide, with a red top left and a blue bottom right corner."""
    y, x = np.mgrid[0:96, 0:128]
    pixels = np.stack((200 - y - x / 2, 90 + 0 * x, 40 + y + x / 2), axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def close(view, picture, tolerance):
    return np.abs(view.astype(int) - np.asarray(picture).astype(int)).max() <= tolerance


def test_plain_pixels_come_through_unchanged(picture):
    assert np.array_equal(photograph_view(encoded(picture), 96, 128, whole), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(picture, orientation):
    # What a camera stores for a scene that looks like `picture`: the inverse of the turn that EXIF asks for.
    inverse = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(inverse(np.asarray(picture))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    view = photograph_view(encoded(stored, "JPEG", quality=98, exif=exif), 96, 128, whole)
    assert close(view, picture, 8)


def test_gray_becomes_equal_channels(picture):
    gray = picture.convert("L")
    assert np.array_equal(photograph_view(encoded(gray), 96, 128, whole), np.asarray(gray)[..., None].repeat(3, -1))


def test_cmyk_keeps_its_colours(picture):
    view = photograph_view(encoded(picture.convert("CMYK"), "JPEG", quality=98), 96, 128, whole)
    assert close(view, picture, 12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(kind):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    view = photograph_view(encoded(Image.fromarray(values.astype(np.uint16)), kind), 64, 64, whole)
    assert np.abs(view[..., 0] - values / 257).max() <= 0.51


def test_floating_point_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((64, 64), np.float32)), "TIFF")
    with pytest.raises(UnusablePhotograph, match="pixel format"):
        photograph_view(data, 64, 64, whole)


def test_transparent_pixels_show_white_and_opaque_ones_themselves(picture):
    alpha = np.full((96, 128), 255, np.uint8)
    alpha[:, 64:] = 0
    cut = picture.copy()
    cut.putalpha(Image.fromarray(alpha))
    view = photograph_view(encoded(cut), 96, 128, whole)
    assert np.array_equal(view[:, :64], np.asarray(picture)[:, :64])
    assert (view[:, 64:] == 255).all()


def test_palette_images_keep_their_colours(picture):
    palette = picture.quantize(32)
    assert np.array_equal(photograph_view(encoded(palette), 96, 128, whole), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_photograph_is_refused_and_never_half_gray(picture, kind):
    data = encoded(picture, kind)
    with pytest.raises(UnusablePhotograph, match="truncated or damaged"):
        photograph_view(data[: len(data) * 2 // 3], 96, 128, whole)


def test_a_hundred_megapixels_are_decoded_small(tmp_path):
    path = tmp_path / "huge.jpg"
    Image.linear_gradient("L").resize((12500, 8000)).save(path, quality=80)
    view = photograph_view(path, 64, 64, lambda h, w: crop_box(h, w, SIZE, ViewSettings(sizes=(SIZE,))))
    assert np.abs(view[:, :, 0].mean(1) - np.linspace(2, 253, 64)).max() < 3


def test_more_than_the_limit_is_refused_by_its_header():
    header = b"P6 30000 20000 255\n"
    with pytest.raises(UnusablePhotograph, match="larger than 300 megapixels"):
        photograph_view(header + b"\0" * 64, 64, 64, whole)


def test_reduced_decoding_shows_what_full_decoding_shows(photograph_paths):
    with Image.open(photograph_paths[0]) as image:
        large = image.convert("RGB").resize((2048, 2048), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    view = photograph_view(data, 256, 256, whole)  # 1/4 of the margin allows decoding at 1/4
    full = np.asarray(Image.open(io.BytesIO(data)).resize((256, 256), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(view - full).mean() < 1.0


def test_the_students_view_is_the_papers_bicubic_quarter(photograph_paths):
    view = photograph_view(photograph_paths[0], 256, 256, whole)
    expected = functional.interpolate(
        torch.tensor(view).permute(2, 0, 1)[None].float(), size=(64, 64), mode="bicubic", antialias=True
    )
    found = torch.tensor(resize_image(view, 64, 64)).permute(2, 0, 1)[None]
    assert (found - expected.clamp(0, 255)).abs().max() < 0.51


# ---- views ----


def test_the_centre_view_is_the_largest_centred_part_of_its_shape():
    settings = ViewSettings(sizes=((16, 16), (16, 32)))
    assert crop_box(100, 300, (16, 16), settings) == (100.0, 0.0, 200.0, 100.0)
    assert crop_box(300, 300, (16, 32), settings) == (0.0, 75.0, 300.0, 225.0)


def test_random_views_lie_inside_keep_their_shape_and_are_never_enlarged():
    settings = ViewSettings(sizes=((16, 32),), crops="random")
    boxes = [crop_box(200, 300, (16, 32), settings, np.random.default_rng(seed)) for seed in range(300)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        assert (right - left) / (bottom - top) == pytest.approx(2.0)
        assert right - left >= 128 - 1e-6
    widths = [box[2] - box[0] for box in boxes]
    assert min(widths) < 140 and max(widths) > 285


def test_a_small_photograph_is_left_out_unless_enlarging_is_allowed():
    with pytest.raises(UnusablePhotograph, match=TOO_SMALL):
        crop_box(63, 80, SIZE, ViewSettings(sizes=(SIZE,)))
    left, top, right, bottom = crop_box(48, 80, SIZE, ViewSettings(sizes=(SIZE,), max_upscale=1.34))
    assert (right - left, bottom - top) == (48, 48)
    with pytest.raises(UnusablePhotograph):
        crop_box(40, 80, SIZE, ViewSettings(sizes=(SIZE,), max_upscale=1.34))


@pytest.mark.parametrize(
    "settings", [{"sizes": ()}, {"sizes": (SIZE, SIZE)}, {"crops": "corner"}, {"max_upscale": 0.5}]
)
def test_view_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(SpecError):
        ViewSettings(**settings)


# ---- folders and shards ----


@pytest.fixture
def mixed_folder(tmp_path, picture):
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    (folder / "b.png").write_bytes(encoded(picture))
    (folder / "deeper" / "a.jpeg").write_bytes(encoded(picture.rotate(90, expand=True), "JPEG"))
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    return folder


def test_a_folder_is_searched_and_what_is_no_photograph_is_counted(mixed_folder, caplog):
    with caplog.at_level(logging.WARNING):
        index = index_photographs([mixed_folder])
    assert [p.name for p in index.photographs] == ["b.png", "deeper/a.jpeg"]
    assert [(p.height, p.width) for p in index.photographs] == [(96, 128), (128, 96)]
    assert index.left_out.counts == {"not an image": 1, "not readable": 2}
    assert "using 2" in caplog.text and "notes.txt" in caplog.text


def test_links_in_a_circle_do_not_hang(mixed_folder):
    (mixed_folder / "deeper" / "up").symlink_to(mixed_folder)
    assert len(index_photographs([mixed_folder])) == 2


@pytest.mark.parametrize("content", [{}, {"a.txt": b"x"}])
def test_a_folder_without_photographs_is_an_error(tmp_path, content):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="no photographs"):
        index_photographs([tmp_path])


def test_the_data_hash_tells_data_apart_but_not_places(mixed_folder, tmp_path):
    first = index_photographs([mixed_folder]).data_hash
    moved = mixed_folder.rename(tmp_path / "moved")
    assert index_photographs([moved]).data_hash == first
    (moved / "b.png").write_bytes(encoded(Image.new("RGB", (64, 64))))
    assert index_photographs([moved]).data_hash != first


def write_shard(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard_members(picture):
    pictures = {f"{n:03d}.png": encoded(picture.resize((64 + n, 70))) for n in range(6)}
    return {name: data for key, value in pictures.items() for name, data in ((key, value), (key[:3] + ".json", b"{}"))}


def test_members_of_a_shard_are_read_in_any_order(tmp_path, shard_members):
    shard = write_shard(tmp_path / "part.tar", shard_members)
    index = index_photographs([shard])
    assert [p.name for p in index.photographs] == [f"part.tar:{n:03d}.png" for n in range(6)]
    for photograph in reversed(index.photographs):
        assert photograph.read() == shard_members[photograph.name.split(":")[1]]
    assert index.left_out.counts == {}
    assert [p.width for p in index_photographs([tmp_path]).photographs] == [64, 65, 66, 67, 68, 69]


def test_a_shard_that_was_cut_off_gives_what_is_whole(tmp_path, shard_members):
    shard = write_shard(tmp_path / "part.tar", shard_members)
    cut = index_photographs([shard]).photographs[4].offset + 10
    shard.write_bytes(shard.read_bytes()[:cut])
    index = index_photographs([shard])
    assert [p.width for p in index.photographs] == [64, 65, 66, 67]
    assert index.left_out.counts["cut off at the end of its shard"] == 1


def test_eligibility_follows_the_size_of_each_view(tmp_path, picture):
    picture.resize((64, 64)).save(tmp_path / "a.png")
    picture.resize((128, 80)).save(tmp_path / "b.png")
    eligible = index_photographs([tmp_path]).eligible([(16, 16), (16, 32)], 1.0)
    assert eligible.tolist() == [[True, False], [True, True]]


# ---- streams ----


def names_of(photographs, count):
    return [next(photographs).name.rsplit(":", 1)[1] for _ in range(count)]


@pytest.fixture
def three_shards(tmp_path, shard_members):
    pictures = [(name, data) for name, data in shard_members.items() if name.endswith("png")]
    return [str(write_shard(tmp_path / f"s{k}.tar", {f"{k}-{n}": d for n, d in pictures})) for k in range(3)]


def test_a_stream_goes_on_exactly_where_it_stopped(three_shards):
    photographs = StreamedPhotographs(three_shards, seed=5)
    run = photographs.photographs(StreamPosition())
    seen = [next(run) for _ in range(40)]
    for stop in (0, 3, 5, 17, 18, 25):
        resumed = photographs.photographs(seen[stop].after)
        assert [next(resumed).name for _ in range(10)] == [item.name for item in seen[stop + 1 : stop + 11]]


def test_an_epoch_of_all_processes_sees_every_photograph_once(three_shards):
    seen = []
    for rank in range(2):
        for item in StreamedPhotographs(three_shards, rank, 2, seed=1).photographs(StreamPosition()):
            if item.position.epoch:
                break
            seen.append(item.name)
    assert len(seen) == len(set(seen)) == 18


def test_windows_are_shuffled_and_epochs_differ(three_shards, monkeypatch):
    monkeypatch.setattr(photograph_stream, "WINDOW", 4)
    run = StreamedPhotographs(three_shards[:1], seed=2).photographs(StreamPosition())
    first, second = names_of(run, 6), names_of(run, 6)
    assert sorted(first) == sorted(second) and first != second and first != sorted(first)
    assert sorted(first[:4]) == [f"0-{n:03d}.png" for n in range(4)]


def test_fewer_shards_than_processes_are_refused(three_shards):
    with pytest.raises(DataError, match="at least one a process"):
        StreamedPhotographs(three_shards, 0, 4)


def test_a_shard_can_come_compressed_or_out_of_a_command(tmp_path, shard_members):
    packed = write_shard(tmp_path / "s.tar.gz", shard_members, "w:gz")
    plain = write_shard(tmp_path / "s.tar", shard_members)
    expected = [(name, data) for name, data in shard_members.items() if name.endswith("png")]
    assert list(shard_photographs(str(packed))) == expected
    assert list(shard_photographs(f"pipe:cat {plain}")) == expected


def test_a_command_that_fails_is_an_error_after_some_attempts(caplog):
    command = f'pipe:{sys.executable} -S -c "raise SystemExit(3)"'
    with pytest.raises(SourceError, match="could not be read beyond its first 0"):
        list(shard_photographs(command, wait_s=0))


class FlakyServer(http.server.BaseHTTPRequestHandler):
    """Breaks the first connection in the middle of the shard."""

    content = b""
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if self.requests == 1 else self.content)

    def log_message(self, *_):
        pass


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path, shard_members):
    handler = type("Handler", (FlakyServer,), {"content": write_shard(tmp_path / "s.tar", shard_members).read_bytes()})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = list(shard_photographs(f"http://127.0.0.1:{server.server_port}/s.tar", wait_s=0))
        server.shutdown()
    assert found == [(name, data) for name, data in shard_members.items() if name.endswith("png")]
    assert handler.requests == 2


def test_ranges_in_names_are_expanded():
    assert list(expand_range("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]


def test_sources_are_paths_or_streams_but_not_both(tmp_path, three_shards):
    assert [p.name for p in resolve_sources([str(tmp_path / "s{0..2}.tar")]).paths] == ["s0.tar", "s1.tar", "s2.tar"]
    assert [p.name for p in resolve_sources([str(tmp_path / "*.tar")]).paths] == ["s0.tar", "s1.tar", "s2.tar"]
    mixed = resolve_sources(["https://example.org/a-{0..1}.tar", three_shards[0]])
    assert mixed.streams == ("https://example.org/a-0.tar", "https://example.org/a-1.tar", three_shards[0])
    with pytest.raises(DataError, match="shards only"):
        resolve_sources(["https://example.org/a.tar", str(tmp_path)])
    with pytest.raises(DataError, match="no such data"):
        resolve_sources([str(tmp_path / "nothing")])
