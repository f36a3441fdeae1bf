#!/bin/busybox sh
# The first program of the QEMU guests. It loads the modules, sets the interfaces up, runs the
# script that the RAM disk has, and then does what it is told on the second serial port, if
# there is one: a line is a number and a command. Its output is answered there, and then a line
# with "farlan-guest:", the word end, the number and the exit code.
export PATH=/bin
busybox mkdir -p /proc /sys /tmp /dev/pts
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox --install -s /bin

say() { echo "farlan-guest: $*"; }
argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }
uptime() { cut -d' ' -f1 /proc/uptime; }

while read -r module; do
	insmod "/modules/$module" || say "failed insmod $module"
done </modules/order
ip link set lo up
for card in /sys/class/net/eth*; do
	ip link set "${card##*/}" up || say "failed no eth0"
done
say "up $(uptime)"

. /start

mknod /dev/ttyS1 c 4 65
if exec 3<>/dev/ttyS1 && stty raw -echo <&3; then
	say "ready" >&3
	while read -r number line <&3; do
		(eval "$line") </dev/null >&3 2>&1 3<&-
		say "end $number $?" >&3
	done
fi 2>/dev/null
while :; do sleep 3600; done
