"""Labels of addresses: no part of a password is in them, whatever it holds."""

from __future__ import annotations

import pytest

from brixel_edge.machine.addresses import address_for_libraries, credentials, label_from_address


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("rtsp://me:secret@10.0.0.7:554/1", "rtsp://***@10.0.0.7:554/1"),
        ("http://user:secret@host/x.mp4", "http://***@host/x.mp4"),
        ("rtsp://user:p/ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p@ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p@s/s@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p?ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p#ss@host/1", "rtsp://***@host/1"),
        ("rtsp://TOKEN@host/1", "rtsp://***@host/1"),
        ("RTSPS://user:secret@[fe80::1]:322/1", "RTSPS://***@[fe80::1]:322/1"),
        ("http://host/v?user=me&password=secret&channel=1", "http://host/v?user=***&password=***&channel=1"),
        ("http://host/v?access_token=abc&x=1", "http://host/v?access_token=***&x=1"),
        ("rtsp://host/user=admin_password=tlJ_channel=1.sdp", "rtsp://host/user=***"),
        ("rtsp://10.0.0.7:554/user=admin&password=s&channel=1", "rtsp://10.0.0.7:554/user=***&password=***&channel=1"),
        (
            'gst:rtspsrc location=rtsp://u:s@host/1 user-id=u user-pw="s e" ! appsink',
            "gst:rtspsrc location=rtsp://***@host/1 user-id=*** user-pw=*** ! appsink",
        ),
        ("cannot open rtsp://a:b@c/d and http://e:f@g", "cannot open rtsp://***@c/d and http://***@g"),
        ("rtsp://user:my own s@host/1", "rtsp://***@host/1"),
        ("cannot open rtsp://host:554/1 and http://e:f@g", "cannot open rtsp://host:554/1 and http://***@g"),
        ("rtsp:user:secret@host/1", "***@host/1"),
        ("source 'user:p@ss@host/x.mp4' is not there", "source '***@host/x.mp4' is not there"),
        ("//user:secret@host/1", "***@host/1"),
        ("gst:rtspsrc location=rtsp:/u:p@h ! x", "gst:rtspsrc ***@h ! x"),
        ("C:/videos/a@b.mp4 at 18:30", "***@b.mp4 at 18:30"),
        ("a@b.mp4 at 18:30", "a@b.mp4 at 18:30"),
        ("rtsp://10.0.0.7/a@b", "rtsp://10.0.0.7/a@b"),
        ("rtsp://10.0.0.7:554/1", "rtsp://10.0.0.7:554/1"),
        ("0?width=1280&fps=30", "0?width=1280&fps=30"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_a_label_has_no_secret(address, label):
    assert label_from_address(address) == label


def test_where_it_is_not_clear_more_is_hidden():
    assert label_from_address("rtsp://john.doe:1234/x@host/1") == "rtsp://***@host/1"


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("rtsp://user:p/ss@host/1", "rtsp://user:p%2Fss@host/1"),
        ("rtsp://user:p@ss@host/1", "rtsp://user:p%40ss@host/1"),
        ("rtsp://user:p%40ss@host/1", "rtsp://user:p%40ss@host/1"),
        ("rtsp://user:secret@host/1", "rtsp://user:secret@host/1"),
        ("rtsp://host:554/1?a=b", "rtsp://host:554/1?a=b"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
    ],
)
def test_libraries_get_what_they_can_read(typed, given):
    assert address_for_libraries(typed) == given


def test_credentials_are_decoded():
    assert credentials("rtsp://me:p%40s/s@host/1") == ("me", "p@s/s")
    assert credentials("rtsp://host/1") is None
    assert credentials("0") is None
