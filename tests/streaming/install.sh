#!/usr/bin/env bash
# From Debian: GStreamer with its RTSP server and its Python bindings, for the environment of a given Python; a browser; a
# display that can be killed.
set -euo pipefail
python=$1
packages=(python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav
  chromium chromium-driver xvfb)
if ! dpkg --status "${packages[@]}" > /dev/null 2>&1; then
  as_root=$([ "$(id -u)" = 0 ] || echo sudo)
  $as_root apt-get update -qq
  $as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi
if ! "$python" -c "import gi" 2> /dev/null; then
  # The bindings are built for the system's Python; one of the same minor version can load them.
  version='import sys; print(sys.version_info[:2])'
  if [ "$("$python" -c "$version")" != "$(/usr/bin/python3 -c "$version")" ]; then
    echo "make test-stream needs Python $(/usr/bin/python3 -c "$version"), the system's: make PYTHON=/usr/bin/python3" >&2
    exit 1
  fi
  ln -sfn /usr/lib/python3/dist-packages/gi "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gi"
fi
