package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"farlan/overlay/link"
)

// checkBuffers looks at how long this process's sockets may keep datagrams: with a right
// as long as it likes, else what the system lets everybody.
func checkBuffers() []findingView {
	has, err := capabilities()
	if err != nil || has&(1<<unix.CAP_NET_ADMIN) != 0 {
		return nil
	}
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil { // in a container it isn't told, and then isn't this host's to change
		return nil
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return []findingView{buffersFinding(most, err)}
}

func buffersFinding(most int, err error) findingView {
	const check, limit = "socket buffers", "net.core.rmem_max"
	switch {
	case err != nil:
		return findingView{check, levelWarn, fmt.Sprintf("%s can't be read: %v", limit, err), "see that /proc is mounted"}
	case most >= link.ReceiveBuffer:
		return fine(check, "as long as they are for root")
	}
	return findingView{
		check, levelWarn, fmt.Sprintf("without CAP_NET_ADMIN they keep %d kB, a %dth of what it takes for bursts: some of those are lost, and bulk transfers are slower", most>>10, link.ReceiveBuffer/max(most, 1)),
		fmt.Sprintf("let root run 'sysctl -w %s=%d net.core.wmem_max=%[2]d', and write it to /etc/sysctl.d", limit, link.ReceiveBuffer),
	}
}
