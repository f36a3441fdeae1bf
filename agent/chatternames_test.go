package agent

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// What machines say by multicast DNS, as RFC 6762 has it: each looks three times whether its name
// is free (§ 8.1) and announces it twice (§ 8.3); who looks for services goes on asking at intervals
// that double from a second to an hour (§ 5.2), and says in each question what it knows (§ 7.1); who
// has one says so unless it is known, 20 to 120 ms later, and once a second at most (§ 6). A service
// is a PTR record, and beside it SRV and TXT (RFC 6763 § 4, § 12.1). Names of machines have 120
// seconds to live, others 75 minutes (RFC 6762 § 10).
const (
	serviceName           = "_ssh._tcp.local."
	hostTTL, otherTTL     = 120, 4500
	classFlush            = dnsmessage.ClassINET | 0x8000
	classAlone            = dnsmessage.ClassINET | 0x8000
	firstBrowse, mostWait = time.Second, time.Hour
)

func (vm *chatterVM) host() string {
	return fmt.Sprintf("vm-%02d-%03d.local.", vm.site.index, vm.mac[5])
}

func (vm *chatterVM) instance() string {
	return fmt.Sprintf("vm-%02d-%03d.%s", vm.site.index, vm.mac[5], serviceName)
}

func headerOf(name string, class dnsmessage.Class, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: class, TTL: ttl}
}

func (vm *chatterVM) address(class dnsmessage.Class) dnsmessage.Resource {
	return dnsmessage.Resource{Header: headerOf(vm.host(), class, hostTTL), Body: &dnsmessage.AResource{A: vm.ip.As4()}}
}

func pointer(to string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: headerOf(serviceName, dnsmessage.ClassINET, otherTTL), Body: &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(to)}}
}

// details are what belongs to a service but for its pointer.
func (vm *chatterVM) details(class dnsmessage.Class) []dnsmessage.Resource {
	return []dnsmessage.Resource{
		{Header: headerOf(vm.instance(), class, hostTTL), Body: &dnsmessage.SRVResource{Port: 22, Target: dnsmessage.MustNewName(vm.host())}},
		{Header: headerOf(vm.instance(), class, otherTTL), Body: &dnsmessage.TXTResource{TXT: []string{""}}},
	}
}

// takeName has a machine take its name, say it, and look for services if it does.
func (c *chatter200) takeName(vm *chatterVM) {
	look := dnsmessage.Message{
		Questions:   []dnsmessage.Question{{Name: dnsmessage.MustNewName(vm.host()), Type: dnsmessage.TypeALL, Class: classAlone}},
		Authorities: []dnsmessage.Resource{vm.address(dnsmessage.ClassINET)},
	}
	said := dnsmessage.Message{Header: dnsmessage.Header{Response: true, Authoritative: true}, Answers: []dnsmessage.Resource{vm.address(classFlush)}}
	if vm.serves {
		look.Questions = append(look.Questions, dnsmessage.Question{Name: dnsmessage.MustNewName(vm.instance()), Type: dnsmessage.TypeALL, Class: classAlone})
		look.Authorities = append(look.Authorities, vm.details(dnsmessage.ClassINET)[0])
		said.Answers = append(append(said.Answers, pointer(vm.instance())), vm.details(classFlush)...)
	}
	first := time.Duration(c.rng.Int64N(int64(250 * time.Millisecond)))
	for i := range 3 {
		c.after(first+time.Duration(i)*250*time.Millisecond, func() { c.say(vm, &look) })
	}
	for i := range 2 {
		c.after(first+750*time.Millisecond+time.Duration(i)*time.Second, func() {
			vm.said = c.now
			c.say(vm, &said)
		})
	}
	if vm.browses {
		c.browse(vm, 20*time.Millisecond+time.Duration(c.rng.Int64N(int64(100*time.Millisecond))), firstBrowse)
	}
}

// browse looks for services again and again.
func (c *chatter200) browse(vm *chatterVM, in, next time.Duration) {
	c.after(in, func() {
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(serviceName), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
		for _, name := range slices.Sorted(maps.Keys(vm.services)) {
			q.Answers = append(q.Answers, pointer(name))
		}
		c.say(vm, &q)
		c.browse(vm, next, min(2*next, mostWait))
	})
}

// say sends a message of a machine's to all.
func (c *chatter200) say(vm *chatterVM, m *dnsmessage.Message) {
	dns, err := m.Pack()
	if err != nil || len(dns) > 1472 { // it would take two packets (§ 7.2)
		c.t.Errorf("%d bytes: %v", len(dns), err)
		return
	}
	from := vm.ip.As4()
	p := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 255, 17, 0, 0}, from[:], []byte{224, 0, 0, 251, 0x14, 0xe9, 0x14, 0xe9, 0, 0, 0, 0}, dns)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
	c.send(vm, slices.Concat([]byte{1, 0, 0x5e, 0, 0, 0xfb}, vm.mac[:], []byte{8, 0}, p))
}

// deliverDNS hands a message to the machines of a site.
func (c *chatter200) deliverDNS(s *chatterSite, but *chatterVM, dns []byte) {
	var m dnsmessage.Message
	if err := m.Unpack(dns); err != nil {
		c.t.Error(err)
		return
	}
	pointers := make(map[string]bool)
	for _, r := range m.Answers {
		if p, ok := r.Body.(*dnsmessage.PTRResource); ok && r.Header.Name.String() == serviceName {
			pointers[p.PTR.String()] = true
		}
	}
	asks := slices.ContainsFunc(m.Questions, func(q dnsmessage.Question) bool {
		return q.Type == dnsmessage.TypePTR && q.Name.String() == serviceName
	})
	for _, vm := range s.vms {
		switch {
		case vm == but || !vm.up:
		case m.Response && vm.browses:
			maps.Copy(vm.services, pointers)
		case !m.Response && asks && vm.serves && !vm.says && !pointers[vm.instance()]:
			vm.says = true
			c.after(20*time.Millisecond+time.Duration(c.rng.Int64N(int64(100*time.Millisecond))), func() { c.answerService(vm) })
		}
	}
}

// answerService says a machine's service, unless it did within the last second.
func (c *chatter200) answerService(vm *chatterVM) {
	vm.says = false
	if c.now-vm.said < time.Second {
		return
	}
	vm.said = c.now
	c.say(vm, &dnsmessage.Message{
		Header: dnsmessage.Header{Response: true, Authoritative: true}, Answers: []dnsmessage.Resource{pointer(vm.instance())},
		Additionals: append(vm.details(classFlush), vm.address(classFlush)),
	})
}
