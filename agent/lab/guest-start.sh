# What the lab's QEMU guests do: take an address from the LAN, ping and fetch what the
# kernel's command line says (farlan.ping, farlan.url), and say on the console what they did,
# on lines that begin with "farlan-guest:".

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
