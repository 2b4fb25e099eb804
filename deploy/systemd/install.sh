#!/bin/sh
# Install the proxy as a systemd service. The script can be run again at any time. It leaves everything that is up to date
# unchanged, and never changes an existing configuration.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh [--wheel FILE] [--dry-run]

  --wheel FILE   install this wheel; without it, one is built from the checkout that this script stands in
  --dry-run      print what would be done, and do nothing

Installs a virtual environment in /opt/xksproxy with the versions that requirements.lock pins, the unit
xksproxy.service, the user xksproxy, and a configuration in /etc/xksproxy if there is none. The service is neither
started nor restarted. PYTHON names the interpreter (3.11 or newer), python3 if not set.

To uninstall:
  systemctl disable --now xksproxy
  rm -r /etc/systemd/system/xksproxy.service* /etc/sysusers.d/xksproxy.conf /etc/tmpfiles.d/xksproxy.conf
  rm -r /opt/xksproxy /opt/xksproxy-releases /usr/local/sbin/as-xksproxy && systemctl daemon-reload
and, only if no ciphertext of its keys is needed any more, rm -r /etc/xksproxy /var/lib/xksproxy /var/log/xksproxy, then
userdel xksproxy: the state directory knows which version of each key encrypts. Remove the user only if none of its files
is left (find / -xdev -user xksproxy), because another user may get its number.
TEXT
}

say() { printf '%s\n' "install.sh: $*" >&2; }

fail() {
    say "$*"
    exit 2
}

# Run a command, or with --dry-run print it.
run() {
    if [ "$dry_run" = yes ]; then echo "$*"; else "$@"; fi
}

# A file with the wanted content is left unchanged; a unit that did not change needs no daemon-reload. Changes that
# somebody made in the file are kept beside it, because they would be lost without a word otherwise.
put() {
    cmp -s "$1" "$2" && return 0
    if [ -e "$2" ] && [ "$dry_run" = no ]; then
        say "replacing $2; the former file is $2.before. Own settings belong in a drop-in: systemctl edit xksproxy"
        cp -p "$2" "$2.before"
    fi
    run install -D -m "${3:-0644}" "$1" "$2"
}

# The example, with two changes for systemd: the PIN is a credential of the unit, and the health listener is on.
put_configuration() {
    [ ! -e /etc/xksproxy/xksproxy.toml ] || return 0
    if [ "$dry_run" = yes ]; then
        echo "install -m 0640 -o root -g xksproxy config/xksproxy.toml /etc/xksproxy/xksproxy.toml"
        return 0
    fi
    sed -e 's/^pin = { file = "pin" }$/pin = { credential = "hsm-1-pin" }/' \
        -e '/^\[health\]$/,/^\[/s/^# listen = /listen = /' "$top/config/xksproxy.toml" >"$work/xksproxy.toml"
    install -m 0640 -o root -g xksproxy "$work/xksproxy.toml" /etc/xksproxy/xksproxy.toml
}

# Each release has its own directory, made in its final place. /opt/xksproxy is a link to the release in use. So running
# workers keep the files that they started with, and one ln goes back to another release.
put_release() {
    if [ "$dry_run" = yes ]; then
        [ -n "$wheel" ] || echo "$PYTHON -m pip wheel --no-deps $top"
        echo "$PYTHON -m venv /opt/xksproxy-releases/VERSION-CHECKSUM"
        echo "pip install --constraint requirements.lock ${wheel:-the wheel}"
        echo "ln -s /opt/xksproxy-releases/VERSION-CHECKSUM /opt/xksproxy"
        return 0
    fi
    if [ -z "$wheel" ]; then
        say "building a wheel from $top"
        rm -rf "$top/build"
        # The time in the wheel is not that of the build, so an unchanged checkout makes an unchanged wheel.
        SOURCE_DATE_EPOCH=315532800
        export SOURCE_DATE_EPOCH
        "$PYTHON" -m venv "$work/build"
        "$work/build/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" "$top"
        wheel=$(echo "$work"/xksproxy-*.whl)
    fi
    version=$(basename "$wheel" | cut -d - -f 2)
    release=/opt/xksproxy-releases/$version-$({ cat "$wheel" "$top/requirements.lock" && "$PYTHON" --version; } | cksum | cut -d ' ' -f 1)
    if [ ! -e "$release/complete" ]; then
        say "installing $release"
        rm -rf "$release"
        mkdir -p /opt/xksproxy-releases
        "$PYTHON" -m venv "$release"
        "$release/bin/pip" install --quiet --disable-pip-version-check \
            --constraint "$top/requirements.lock" "$wheel"
        touch "$release/complete"
    fi
    [ "$(readlink /opt/xksproxy || true)" = "$release" ] || {
        ln -sfn "$release" /opt/xksproxy.new
        mv -T /opt/xksproxy.new /opt/xksproxy
    }
}

dry_run=no
wheel=""
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=yes ;;
    --wheel)
        [ -f "${2:-}" ] || fail "--wheel needs a file"
        wheel=$2
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
# Others must be able to read what is installed, whatever root's own umask is.
umask 022

[ "$dry_run" = yes ] || [ "$(id -u)" = 0 ] || fail "it changes the system: run it as root, or with --dry-run to see how"
[ -e "$top/requirements.lock" ] || fail "it stands in no checkout: $top/requirements.lock is missing"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is not Python 3.11 or newer"
"$PYTHON" -c 'import venv, ensurepip' || fail "$PYTHON cannot make virtual environments: apt-get install python3-venv"
# A part of the package is compiled when its wheel is built.
[ -n "$wheel" ] || command -v cc >/dev/null || fail "there is no C compiler: apt-get install gcc libc6-dev, or give --wheel"
[ -n "$wheel" ] || "$PYTHON" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    fail "the headers of $PYTHON are missing: apt-get install python3-dev, or give --wheel"
command -v systemd-sysusers >/dev/null || fail "systemd is missing"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

put_release
put "$here/xksproxy.sysusers.conf" /etc/sysusers.d/xksproxy.conf
put "$here/xksproxy.tmpfiles.conf" /etc/tmpfiles.d/xksproxy.conf
run systemd-sysusers /etc/sysusers.d/xksproxy.conf
run systemd-tmpfiles --create /etc/tmpfiles.d/xksproxy.conf
put_configuration
put "$here/as-xksproxy" /usr/local/sbin/as-xksproxy 0755
put "$here/xksproxy.service" /etc/systemd/system/xksproxy.service
put "$here/xksproxy.service.d/pkcs11-module.conf.example" \
    /etc/systemd/system/xksproxy.service.d/pkcs11-module.conf.example
# Without a running systemd, for example while an image is built, there is no service manager to reload.
[ ! -d /run/systemd/system ] || run systemctl daemon-reload

[ "$dry_run" = yes ] || say "done. Next: /etc/xksproxy/xksproxy.toml, the PIN in /etc/xksproxy/hsm-1-pin (mode 0600), then
  systemctl enable --now xksproxy     the first time
  systemctl restart xksproxy          after an upgrade"
