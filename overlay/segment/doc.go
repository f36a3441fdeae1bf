// Package segment has agents whose ports stand on one LAN segment agree on one of them that
// forwards: two home proxies on one LAN, bridges that meet, a cable that somebody put between
// two sites. Without that each of them would carry what the other wrote, in a circle.
//
// Ports tell each other by beacons, Ethernet frames on that LAN that prove the network's key.
// All that hear each other are one segment. One of them, the leader, forwards, by a lease that
// all others that it hears must grant it, again and again; nobody else decides.
//
//   - A port that hears a leader grants it the lease in each beacon, by the number of the
//     leader's beacon that it heard last, and promises by that neither to forward nor to grant
//     anybody else's lease for Promise after it heard that one.
//   - A leader forwards until Lease after it sent the beacon that is granted, by its own
//     clock: of all ports that it has heard within Silence, the one whose grant ends first
//     counts. Lease is so much shorter than Promise that clocks may differ by a tenth. So a
//     leader that was frozen, or that the others don't hear, has stopped by itself before
//     another one starts, however long frames were under way.
//   - Two that both forward, as halves of a LAN that were cut apart do, stop as soon as they
//     hear each other. The one that has the lower name goes on when the other grants it.
//   - Who starts, or didn't run for a while, listens for Listen before it forwards. It says so
//     at once, and who forwards answers at once.
//
// What follows from that, with frames that take at most d from one port to the other:
//
//   - As long as either of two ports hears one of any two beacons of the other, never do both
//     forward.
//   - A leader that dies is replaced after Promise, and what the others take to hear each
//     other: 1.8 s. One that leaves in order says so, and is replaced at once.
//   - A new leader's agent claims the machines that it heard on the LAN: all of them if the old
//     leader's agent is silent on the wide area, too, or has left; otherwise the LAN was cut, and
//     those that it has heard since, and each other one when it speaks: it asks those whose
//     IPv4 address it knows.
//   - When the LAN is cut in two, the half without a leader has one after the same time, and
//     both halves are right to have one each. When it is whole again both forward for as long
//     as it takes until either hears the other: Alone and d, longer only by beacons that are
//     lost; and who goes on asks for the machines of the other. This is also how long a loop that somebody makes by a cable lasts.
//   - The wide area doesn't matter: beacons take the LAN. Who hasn't any other agent to
//     forward to leaves the lease to one that has.
//   - A leader that is frozen and wakes forwards nothing but the batch of frames that it had
//     begun: its agent looks at the lease's end after it read each batch.
//   - One that becomes leader more than calmTakeovers times a minute waits longer each time,
//     up to maxHold: a LAN that loses most beacons has a slow takeover rather than many.
//
// Where something passes frames but no beacons, the two sides are apart for this package. An
// agent notices then that what came by the overlay comes back from its LAN (overlay.Returns),
// and blocks its port for a while.
//
// A replayed beacon isn't believed: its number must rise, and it must be of this time, by the
// wall clock or because it repeats a number that was told a moment ago.
//
// The package is pure: times are arguments. They are of a clock that goes on while the machine
// sleeps, as CLOCK_BOOTTIME does.
package segment
