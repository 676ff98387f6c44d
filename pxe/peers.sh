#!/usr/bin/env bash
# Installs the servers that `make bench-pxe` measures beside fettle, from this
# machine's own apt sources, without starting any. atftpd conflicts with
# tftpd-hpa as a package: it is only unpacked, into .cache/peers.
set -euo pipefail
cd "$(dirname "$0")/.."
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
if [ ! -e /usr/sbin/policy-rc.d ]; then
	# Debian's way to keep packages from starting their daemons.
	printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null
	$sudo chmod 755 /usr/sbin/policy-rc.d
	trap '$sudo rm -f /usr/sbin/policy-rc.d' EXIT
fi
$sudo apt-get update -q
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
	kea-dhcp4-server isc-dhcp-server dnsmasq-base tftpd-hpa nginx-light iproute2 util-linux
mkdir -p .cache/peers
tmp=$(mktemp -d)
(cd "$tmp" && chmod 755 . && apt-get download -q atftpd && dpkg -x atftpd_*.deb out)
cp -r "$tmp"/out/usr .cache/peers/
rm -rf "$tmp"
