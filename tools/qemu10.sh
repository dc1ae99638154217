#!/bin/sh
# Unpacks QEMU 10 or newer beside the installed one, for models of STM32 parts that older releases lack:
#     tools/qemu10.sh FOLDER
# The package comes from the backports of the Debian release that this machine runs, on the mirror that its
# apt already uses.
# Ends with 77 and the reason where it cannot be had.
set -eu
[ $# = 1 ] || { echo "usage: tools/qemu10.sh FOLDER" >&2; exit 2; }
no() { echo "no QEMU 10: $1"; exit 77; }
command -v apt-get >/dev/null && command -v dpkg >/dev/null || no "this is not a Debian machine"
. /etc/os-release
[ "${ID:-}" = debian ] || no "the packages are Debian's, and this is ${ID:-another system}"
mkdir -p "$1"
to=$(cd "$1" && pwd)
[ ! -x "$to/usr/bin/qemu-system-arm" ] || { echo "$to: there already"; exit 0; }
site=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
    awk -v r="$VERSION_CODENAME" '$2 == r { print $1; exit }')
[ -n "$site" ] || no "apt knows no mirror of $VERSION_CODENAME (apt-get update first)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $site $VERSION_CODENAME-backports main" >"$work/list"
cd "$work"
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1 ||
        { tail -3 "$work/log"; no "apt-get $1 failed"; }
}
apt update
apt download -t "$VERSION_CODENAME-backports" qemu-system-arm qemu-system-common qemu-system-data
rm -rf "$to.new"
for package in *.deb; do dpkg -x "$package" "$to.new"; done
"$to.new/usr/bin/qemu-system-arm" --version | grep -Eq 'version [1-9][0-9]\.' ||
    { rm -rf "$to.new"; no "the mirror's backports hold an older one"; }
rmdir "$to"
mv "$to.new" "$to"
echo "$to: $("$to/usr/bin/qemu-system-arm" --version | head -1)"
