// Package overlay is frames and where they go, and the words that all packages
// share (AgentID, MAC, Instant). It is pure: it decides, and seals and opens
// bytes, but does no I/O, reads no clock and starts no goroutine.
//
// In the order in which a frame passes: Batch holds what a port read, Frame by
// Frame, finished or not (batch.go, frame.go); Switch finds its place by the
// Stations (switch.go, station.go), once it is known what it says (hear.go) and that it may
// (guard.go, keep.go, noisy.go); what is asked of all is answered by the Bindings, or goes to
// who can (bindings.go, answer.go, again.go), as far as it isn't multicast DNS, of which what the
// Names show to be news crosses (mdns.go, mdnsask.go, mdnsmessage.go). ClassOf finds its class (class.go); ClampMSS keeps
// TCP's segments short enough (mss.go); where the uplink is the bottleneck, it
// waits in the Shaper (shaper.go, fairqueue.go). Packer puts frames into
// datagrams (pack.go, item.go), which the Session of their receiver seals and
// opens (session.go, replay.go) in the layout of wire.go; Unpacker takes them
// apart again and rebuilds super-frames (unpack.go, super.go). Cutter finishes
// frames for ports that have no offload (cut.go, checksum.go). Sessions decides
// when sessions begin and end (sessions.go, contact.go) by the Handshaker's
// messages (handshake.go). What all are to get is packed once, behind a Spread that
// says of whom it is, and Floods tells what came before (spread.go).
//
// Of the packages below, route says which way frames go, and is pure too. The others do
// the I/O: link is the UDP sockets, tap and lan are ports, poll is what waits for them.
package overlay
