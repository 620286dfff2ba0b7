"""Images and videos as sources: every frame, upright, in order; what is broken is left out and said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from brixel_edge.errors import BundleError
from brixel_edge.runtimes.sources.images import ImageFiles, images_from_folder
from brixel_edge.runtimes.sources.opening import open_source

COLOUR = (30, 60, 200)  # B, G, R


def flat(height=24, width=40, colour=COLOUR):
    return np.full((height, width, 3), colour, np.uint8)


def encoded(suffix, pixels, *options):
    done, data = cv2.imencode(suffix, pixels, list(options))
    assert done
    return data.tobytes()


def frames_of(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def test_a_folder_in_natural_order_with_its_broken_files_counted(tmp_path, warnings):
    for number in (10, 9, 1):
        (tmp_path / f"frame{number}.png").write_bytes(encoded(".png", flat(colour=(number, 0, 0))))
    (tmp_path / "frame2.jpg").write_bytes(encoded(".jpg", flat())[:60])
    (tmp_path / "frame3.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(encoded(".png", flat()))
    source = open_source(str(tmp_path))
    assert not source.is_live
    assert "5 images" in source.description
    frames = frames_of(source)
    assert [frame.name for frame in frames] == ["frame1.png", "frame9.png", "frame10.png"]
    assert [frame.image[0, 0, 0] for frame in frames] == [1, 9, 10]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert source.skipped == 2
    assert warnings.text.count("skipped") == 2
    assert "frame3.png: not an image, or cut short" in warnings.text


def test_a_glob_and_a_single_image(tmp_path, photograph_paths):
    (tmp_path / "a").mkdir()
    for name in ("a/x1.png", "a/x2.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(".png", flat()))
    assert [frame.name for frame in frames_of(open_source(str(tmp_path / "a" / "x*.png")))] == ["x1.png", "x2.png"]
    assert len(frames_of(open_source(str(tmp_path / "**" / "*.png")))) == 3
    [frame] = frames_of(open_source(str(photograph_paths[1])))
    assert (frame.image == cv2.imread(str(photograph_paths[1]))).all()


def test_refusals_of_files_say_what_to_type(tmp_path):
    empty, films, words = (tmp_path / name for name in ("empty", "films", "words"))
    for folder in (empty, films, words):
        folder.mkdir()
    (films / "drive.mp4").write_bytes(b"x")
    (words / "a.png").write_text("text")
    (tmp_path / "log.txt").write_text("line\n" * 500)  # FFmpeg would draw it as a film
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 20)
    for source, message in [
        (empty, "has no images; those end in"),
        (films, "it has the video drive.mp4, name that"),
        (tmp_path / "nothing.mp4", "is not there; give a video file"),
        (tmp_path / "no*.png", "no file matches"),
        (tmp_path / "log.txt", "is not a video that can be read"),
        (tmp_path / "junk.mp4", "is not a video that can be read"),
    ]:
        with pytest.raises(BundleError, match=message) as raised:
            open_source(str(source))
        assert raised.value.exit_code == 2
    with pytest.raises(BundleError, match="none of 1 files is an image that can be read"):
        frames_of(open_source(str(words)))


def test_an_unreadable_file_is_skipped_with_its_reason(tmp_path, warnings):
    good = tmp_path / "good.png"
    good.write_bytes(encoded(".png", flat()))
    source = ImageFiles([tmp_path / "gone.png", good], "list")
    assert len(frames_of(source)) == 1
    assert "gone.png: No such file" in warnings.text


@pytest.fixture
def film(tmp_path) -> Path:
    """12 frames at 10 fps whose brightness is their number."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_video_gives_every_frame_with_its_time(film):
    source = open_source(str(film))
    assert "64x48, 10 fps" in source.description
    frames = frames_of(source)
    assert [round(frame.image.mean() / 20) for frame in frames] == list(range(12))
    assert [frame.t_media_s for frame in frames] == pytest.approx([number / 10 for number in range(12)])
    stamps = [frame.t_capture_s for frame in frames]
    assert stamps == sorted(stamps)


def test_a_video_that_is_cut_short_gives_what_it_has_and_says_so(tmp_path, warnings):
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for number in range(40):
        writer.write(np.roll(noise, number, axis=0))
    writer.release()
    data = film.read_bytes()
    film.write_bytes(data[: len(data) // 2])
    frames = frames_of(open_source(str(film)))
    assert 10 < len(frames) < 25
    assert f"ends after {len(frames)} of 40 frames; it may be cut short" in warnings.text


@pytest.mark.parametrize("name", ["01_dog.mp4", "train.mov", "100_0306.AVI"])
def test_real_videos_are_read(shared, name):
    source = open_source(str(shared / "data" / "videos" / name))
    first, second = source.read(), source.read()
    source.close()
    assert first.image.shape == second.image.shape
    assert first.image.std() > 5
    assert (first.image != second.image).any()


def test_real_photographs_are_read(shared):
    paths = images_from_folder(shared / "data" / "photos")[:12]
    frames = frames_of(ImageFiles(paths, "photos"))
    assert [frame.name for frame in frames] == [path.name for path in paths]
