"""A camera on the network: an RTSP server whose pictures carry the time, in a process that can be stopped and killed.

    python rtsp_server.py PORT [--size 320x240] [--fps 30] [--codec h264|jpeg] [--login user:password]

Prints `ready` when it listens. Each client gets pictures made for it, from its connection on.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

import gi
import numpy as np

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

from brixel_edge.runtimes.sources.clock_picture import paint_time  # noqa: E402

ENCODERS = {
    "h264": "videoconvert ! video/x-raw,format=I420 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast bitrate=3000 key-int-max=15 ! rtph264pay name=pay0 pt=96",
    "jpeg": "videoconvert ! video/x-raw,format=I420 ! jpegenc quality=90 ! rtpjpegpay name=pay0 pt=96",
}


class Camera(GstRtspServer.RTSPMediaFactory):
    """Gives each client its pipeline, fed by a thread."""

    def __init__(self, width: int, height: int, fps: int, codec: str) -> None:
        super().__init__()
        self.width, self.height, self.fps = width, height, fps
        self.set_launch(
            f"( appsrc name=source is-live=true do-timestamp=false format=time block=false max-bytes=0 "
            f"caps=video/x-raw,format=BGR,width={width},height={height},framerate={fps}/1 ! {ENCODERS[codec]} )"
        )
        self.connect("media-configure", self._configure)

    def _configure(self, _: object, media: GstRtspServer.RTSPMedia) -> None:
        source = media.get_element().get_child_by_name("source")
        stop = threading.Event()
        media.connect("unprepared", lambda *_: stop.set())
        threading.Thread(target=self._feed, args=(source, stop), daemon=True).start()

    def _feed(self, source: Gst.Element, stop: threading.Event) -> None:
        image = np.full((self.height, self.width, 3), 128, np.uint8)
        due_s = time.monotonic()
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + 1 / self.fps, time.monotonic() - 0.1)
            image[self.height // 2 :] = np.random.default_rng().integers(100, 156)
            clock = source.get_clock()
            if clock is None:  # not playing yet
                continue
            # Stamp and picture are of one moment, as a camera's: what this process is late by afterwards is true age.
            stamp_ns, now_s = clock.get_time() - source.get_base_time(), time.monotonic()
            paint_time(image, now_s)
            buffer = Gst.Buffer.new_wrapped(image.tobytes())
            buffer.pts, buffer.duration = max(0, stamp_ns), Gst.SECOND // self.fps
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--codec", choices=ENCODERS, default="h264")
    parser.add_argument("--login")
    arguments = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_service(arguments.port)
    server.set_address("127.0.0.1")
    width, height = map(int, arguments.size.split("x"))
    factory = Camera(width, height, arguments.fps, arguments.codec)
    if arguments.login:
        user, password = arguments.login.split(":", 1)
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/clock", factory)
    if server.attach(None) == 0:
        sys.exit("the port is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
