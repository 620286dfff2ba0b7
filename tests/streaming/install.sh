#!/usr/bin/env bash
# From Debian: GStreamer with its RTSP server and its Python bindings, for the environment of a given Python; a browser; a
# display that can be killed. Asks nothing; where it cannot, it says in one line what to type.
set -euo pipefail
python=$1
packages=(python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav
  chromium chromium-driver xvfb python3-venv python3-tk)

refuse() {
  echo "make test-stream: $*" >&2
  exit 1
}

missing=()
for package in "${packages[@]}"; do
  # A package that was removed, or half unpacked, has a status too.
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null) || true
  [ "$state" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
  by_hand="as root: apt-get install --no-install-recommends ${missing[*]}"
  command -v apt-get > /dev/null || refuse "this is no Debian; install GStreamer with gst-rtsp-server, PyGObject, Chromium with its driver and Xvfb"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2> /dev/null || refuse "sudo wants a password; type, $by_hand"
    as_root=(sudo -n)
  fi
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef
    -o Dpkg::Options::=--force-confold -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
  # One archive of several that cannot be reached, or whose key is old, need not be the one that has the packages.
  "${apt[@]}" update < /dev/null > "$log" 2>&1 || true
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" < /dev/null >> "$log" 2>&1 ||
    refuse "apt-get fails ($(grep -m 1 '^E: ' "$log" || tail -n 1 "$log")); with a network, $by_hand"
fi

if ! "$python" -c "import gi" 2> /dev/null; then
  # The bindings are built for the system's Python; one of the same minor version can load them.
  version='import sys; print("{}.{}".format(*sys.version_info))'
  if [ "$("$python" -c "$version")" != "$(/usr/bin/python3 -c "$version")" ]; then
    refuse "Python $("$python" -c "$version") cannot load gi of Debian's $(/usr/bin/python3 -c "$version"); type:" \
      "make test-stream VENV=.venv-debian PYTHON=/usr/bin/python3"
  fi
  ln -sfn /usr/lib/python3/dist-packages/gi "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gi"
  "$python" -c "import gi" || refuse "$python does not load gi from /usr/lib/python3/dist-packages"
fi
