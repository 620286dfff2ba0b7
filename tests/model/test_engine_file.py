"""A plan's file name."""

from __future__ import annotations

from brixel_edge.model.engine_file import identity_from_name


def test_file_names_are_read_back():
    for name in ("engine.sm87.10.3.0.fp16.plan", "engine.sm86+sm89+sm120.rtx1.7.1.116.int8.plan"):
        identity = identity_from_name(name)
        assert identity is not None and identity.file_name == name
    assert identity_from_name("model.plan") is None
    rtx = identity_from_name("engine.sm86+sm89.rtx1.7.1.fp32.plan")
    assert rtx is not None and (rtx.kind, rtx.compute_capabilities, rtx.version) == ("trt-rtx", (86, 89), "1.7.1")
