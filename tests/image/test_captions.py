"""Lines of text for pictures: all of it is there, whatever the width."""

from __future__ import annotations

import numpy as np

from brixel_edge.image.captions import BACKGROUND, LINE_PX, caption_strip


def inked_columns(strip):
    return np.flatnonzero((strip != BACKGROUND).any(axis=(0, 2)))


def test_a_short_line_is_written_in_full_size_at_the_left():
    narrow, wide = caption_strip("model", 200), caption_strip("model", 900)
    assert wide.shape == (LINE_PX, 900, 3)
    assert (narrow == wide[:, :200]).all()
    assert (wide[:, 200:] == BACKGROUND).all()


def test_a_long_line_is_made_smaller_until_it_fits():
    text = "graph.fp16.onnx, ort: passed, cosine mean 0.999998"
    whole, squeezed = inked_columns(caption_strip(text, 900)), inked_columns(caption_strip(text, 200))
    assert whole[-1] > 300
    assert 150 < squeezed[-1] < 198


def test_a_notice_has_a_colour_of_its_own():
    plain, notice = caption_strip("untrained", 200), caption_strip("untrained", 200, is_notice=True)
    assert (inked_columns(plain) == inked_columns(notice)).all()
    assert (plain != notice).any()
