#!/bin/sh
# Builds a folder with a RabbitMQ of another version than the machine's, for RECEIVER_TEST_RABBITMQ_ROOT.
set -eu
usage() {
    cat <<END
Usage: sh tests/rabbitmq_root.sh VERSION FOLDER

Builds with debootstrap, as root, from the mirror that apt uses here, a small Debian with RabbitMQ in FOLDER (300 MB, a minute or so).
VERSION: 4.0 (Debian's trixie) or 4.3 (forky). Then, for any of the tests:

    RECEIVER_TEST_RABBITMQ_ROOT=FOLDER make test
END
}
case "${1:-}" in
    -h | --help) usage && exit 0 ;;
    4.0) release=trixie ;;
    4.3) release=forky ;;
    *) usage >&2 && exit 2 ;;
esac
[ $# = 2 ] || { usage >&2 && exit 2; }
version=$1 folder=$2
[ "$(id -u)" = 0 ] || { echo "Building a root needs root." >&2 && exit 1; }
[ ! -e "$folder" ] || { echo "$folder is there already." >&2 && exit 1; }
command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
# shellcheck disable=SC2016 # apt's own placeholders
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian here." >&2 && exit 1; }
mkdir -p "$folder"
# sid's script, which any later debootstrap and any release has
debootstrap --variant=minbase --include=rabbitmq-server,ca-certificates,procps,iproute2 \
    "$release" "$folder" "$mirror" /usr/share/debootstrap/scripts/sid
cp /etc/hosts "$folder/etc/hosts" # localhost, which is where the nodes are
rm -f "$folder"/var/cache/apt/archives/*.deb
# shellcheck disable=SC2016 # dpkg's own placeholders
found=$(chroot "$folder" dpkg-query --show --showformat '${Version}' rabbitmq-server)
echo "RabbitMQ $found is in $folder."
case "$found" in
    "$version".*) ;;
    *) echo "$release has another version by now." >&2 && exit 1 ;;
esac
