#!/bin/busybox sh
# The first and only program of the lab's QEMU guests. It takes an address from
# the LAN, pings and fetches what the kernel's command line says (farlan.ping,
# farlan.url), and says on the console what it did, on lines that begin with
# "farlan-guest:". Then it stays, as a machine on the LAN does.
export PATH=/bin
busybox mkdir -p /proc /sys /tmp
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
ip link set eth0 up || say "failed no eth0"
say "up $(uptime)"

cat >/tmp/event <<'END'
#!/bin/sh
case $1 in
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface"
	[ -z "$router" ] || ip route add default via "$router"
	echo "farlan-guest: lease $ip from $serverid" >/dev/console
	;;
esac
END
chmod +x /tmp/event
udhcpc -f -i eth0 -s /tmp/event -x "hostname:$(argument farlan.host)" -t 3 -T 1 -A 1 >/tmp/udhcpc.log 2>&1 &
until ip -4 addr show dev eth0 | grep -q inet; do usleep 50000; done

host=$(argument farlan.ping)
if [ -n "$host" ]; then
	if ping -c 5 -i 0.2 -q "$host" >/tmp/ping.log; then
		say "ping $host $(sed -n 's/.* = //p' /tmp/ping.log)"
	else
		say "failed ping $host"
	fi
fi

url=$(argument farlan.url)
if [ -n "$url" ]; then
	start=$(uptime)
	if wget -q -O /tmp/file "$url"; then
		took=$(awk "BEGIN { print $(uptime) - $start }")
		say "fetched $(stat -c %s /tmp/file) $took $(sha256sum /tmp/file | cut -d' ' -f1)"
	else
		say "failed wget $url"
	fi
fi
say "done"
while :; do sleep 3600; done
