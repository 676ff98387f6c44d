#!/bin/sh
# Starts or stops virtlogd and libvirtd on a machine that has no systemd (a
# container, a CI runner), so that labs can use qemu:///system. Where systemd
# runs, start asks it for libvirtd if that does not answer, and stop does nothing.
#
#   labs/libvirtd.sh start    start what is not running; says what it started
#   labs/libvirtd.sh stop     stop what an earlier "start" started, unless
#                             domains are left on it; nothing else
#   labs/libvirtd.sh status   0 when libvirtd answers
#
# Where /dev/kvm exists but cannot run a guest, libvirtd asks QEMU about KVM
# again at every define (80 s were seen): such a /dev/kvm is hidden from it
# with a mount namespace. FETTLE_LIBVIRTD_KVM=yes|no overrides that check.
set -eu

run=${FETTLE_LIBVIRTD_RUN:-/run/fettle-libvirtd}
sock=/run/libvirt/libvirt-sock

say() { printf '%s\n' "$*"; }
die() { printf 'libvirtd.sh: %s\n' "$*" >&2; exit 1; }

# alive FILE NAME: the pid in FILE lives and is NAME.
alive() {
	[ -s "$1" ] || return 1
	pid=$(cat "$1")
	[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}

answers() { timeout 10 virsh -q -c qemu:///system uri >/dev/null 2>&1; }

# running NAME: somebody already runs it in our pid namespace.
running() {
	for c in /proc/[0-9]*/comm; do
		[ "$(cat "$c" 2>/dev/null)" = "$1" ] && return 0
	done
	return 1
}

# kvm_works: QEMU runs a guest with KVM: the ROM of testdata/kvmprobe.s.txt,
# which makes QEMU end with status 67.
kvm_works() {
	[ -c /dev/kvm ] || return 1
	rom=$run/probe.rom
	{
		head -c 65280 /dev/zero
		base64 -d <<ROM
+tvjuADwjthmDwEWsP8PIMBmg8gBDyLAZuog/w8ACABmuBAAjtjHBQAQAAADIAAAxwUAIAAAAzAA
AMcFADAAAIMAAAC4IAYAAA8i4LgAEAAADyLYuYAAAMAPMg0AAQAADzAPIMANAgAAgIPg+w8iwOp3
/w8AGAAPV8C5AC0xAf/JdfywIeb09Ov9jbQAAGaQAAAAAAAAAAD//wAAAJrPAP//AAAAks8A//8A
AACarwAfAJD/DwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAA6Q3/AAAAAAAAAAAAAAAAAA==
ROM
	} >"$rom"
	st=0
	timeout 5 qemu-system-x86_64 -accel kvm -machine pc -nodefaults -no-user-config -display none \
		-m 16 -no-reboot -bios "$rom" -device isa-debug-exit,iobase=0xf4,iosize=1 >/dev/null 2>&1 </dev/null || st=$?
	rm -f "$rom"
	[ "$st" -eq 67 ]
}

# wait_for TENTHS COMMAND...: until the command succeeds.
wait_for() {
	n=$1; shift
	while ! "$@"; do
		n=$((n - 1))
		[ "$n" -gt 0 ] || return 1
		sleep 0.1
	done
}

start() {
	if [ "$(id -u)" != 0 ]; then say "not root: labs use qemu:///session, whose libvirtd starts by itself"; return 0; fi
	if answers; then say "libvirtd answers already; nothing started"; return 0; fi
	for p in libvirtd virtlogd qemu-system-x86_64 virsh; do
		command -v "$p" >/dev/null || die "$p is not installed: apt-get install libvirt-daemon-system libvirt-clients qemu-system-x86 ovmf"
	done
	if [ -d /run/systemd/system ]; then
		systemctl start libvirtd && wait_for 300 answers || die "this machine runs systemd, and its libvirtd does not answer: see systemctl status libvirtd"
		say "systemd started libvirtd"
		return 0
	fi
	running libvirtd && die "a libvirtd is running but does not answer at $sock; look at its log"
	mkdir -p "$run" /run/libvirt /var/log/libvirt
	chmod 0755 /run/libvirt
	if ! running virtlogd; then
		rm -f "$run/virtlogd.pid" /run/virtlogd.pid
		setsid virtlogd --pid-file "$run/virtlogd.pid" >"$run/virtlogd.log" 2>&1 </dev/null &
		wait_for 100 test -S /run/libvirt/virtlogd-sock || die "virtlogd did not start: see $run/virtlogd.log"
	fi
	# Not /dev/null: libvirtd would find that accessible, and probe again and again.
	# Guests then share libvirtd's /dev: libvirt cannot move such a mount into a
	# guest's own. The change of qemu.conf is seen by this libvirtd only.
	mask=": >$run/nokvm && chmod 000 $run/nokvm && mount --bind $run/nokvm /dev/kvm &&
		{ sed '/^[[:space:]]*namespaces/d' /etc/libvirt/qemu.conf && echo 'namespaces = []'; } >$run/qemu.conf &&
		chmod 600 $run/qemu.conf && mount --bind $run/qemu.conf /etc/libvirt/qemu.conf"
	hide=:
	case ${FETTLE_LIBVIRTD_KVM:-} in
	yes) ;;
	no) hide=$mask ;;
	*) kvm_works || { [ ! -c /dev/kvm ] || hide=$mask; } ;;
	esac
	rm -f "$run/libvirtd.pid"
	setsid unshare -m sh -c "$hide && exec libvirtd --pid-file $run/libvirtd.pid" \
		>"$run/libvirtd.log" 2>&1 </dev/null &
	wait_for 300 answers || die "libvirtd did not answer within 30 s: see $run/libvirtd.log"
	say "started libvirtd (pid $(cat "$run/libvirtd.pid"))$([ "$hide" = : ] || printf ', /dev/kvm hidden from it because it cannot run a guest')"
}

stop() {
	[ "$(id -u)" = 0 ] || return 0 # then start started nothing
	# Other labs, or anybody's machines, may live on it by now.
	if alive "$run/libvirtd.pid" libvirtd; then
		left=$(timeout 10 virsh -q -c qemu:///system list --all --name 2>/dev/null | grep . || true)
		if [ -n "$left" ]; then
			say "libvirtd goes on, for" $left
			return 0
		fi
	fi
	for d in libvirtd virtlogd; do
		if alive "$run/$d.pid" "$d"; then
			pid=$(cat "$run/$d.pid")
			kill "$pid"
			wait_for 150 sh -c "! kill -0 $pid 2>/dev/null" || kill -9 "$pid"
			say "stopped $d (pid $pid)"
		fi
		rm -f "$run/$d.pid"
	done
	rm -rf "$run"
}

case ${1:-} in
start) start ;;
stop) stop ;;
status) answers ;;
*) die "usage: libvirtd.sh start|stop|status" ;;
esac
