package p2p

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"

	"farlan/discovery"
)

const (
	// searchDelay lets connections that come together share one search.
	searchDelay = 300 * time.Millisecond
	// After a start, after having been alone, and after SetServer, searches
	// follow each other after 1, 2, 4 and then each 8 seconds for half a minute, or
	// until Keep says that this agent knows whom it wants: others come at the same
	// time. Then the records tell who is here, and the DHT is
	// only needed for newcomers and for a network that fell apart. A search takes about
	// 6 kB for every server that isn't connected, and there may be hundreds whom the
	// servers serve. So these search rarely, and the servers as often as it takes to
	// stay where others look: under this hour's rendezvous or the last one's.
	searchFirst    = time.Second
	searchMost     = 8 * time.Second
	searchEager    = 30 * time.Second
	searchByServer = 50 * time.Minute
	searchByClient = 12 * time.Hour
	// welcomeFor is how long after its start an agent that knows no server searches when
	// somebody comes.
	welcomeFor = time.Minute
	// searchTimeout bounds one round through the DHT.
	searchTimeout = 15 * time.Second

	// maxTable is how many servers an agent knows, several times as many as there
	// should be. Kademlia's k, on how many servers an agent's record lies and how many
	// a search asks, is above it, so these are all: where a bucket is full, kad-dht
	// drops one server for another and back again, without end.
	maxTable = 32
	dhtK     = 2 * maxTable
	// maxChecks is how many servers are asked at once whether they answer.
	maxChecks = 8

	// provideValid is how long servers believe it: this hour's rendezvous and
	// the last one's are looked at.
	provideValid = 3 * time.Hour
	// maxProvided is how many (agent, rendezvous) pairs a server holds; what
	// comes beyond is refused until old ones expire.
	maxProvided = 16384
)

// newDHT makes the network's own DHT on a host: its own protocol name, client
// until SetServer, no values, only usable addresses.
func newDHT(h host.Host, cfg Config, network discovery.NetworkKey) (*dht.IpfsDHT, error) {
	return dht.New(h,
		dht.ProtocolPrefix(protocol.ID(network.ProtocolPrefix())),
		dht.Mode(dht.ModeAuto),
		dht.DisableValues(),
		dht.BucketSize(dhtK),
		dht.RoutingTableFilter(func(d any, p peer.ID) bool {
			t := d.(*dht.IpfsDHT).RoutingTable()
			return t.Size() < maxTable || t.Find(p) != ""
		}),
		dht.LookupCheckConcurrency(maxChecks),
		dht.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr { return cfg.multiaddrs(cfg.addrPorts(addrs)) }),
		// It would ask every server each two minutes: a small table is never full.
		// Searches refresh it too.
		dht.DisableAutoRefresh(),
		dht.ProviderDatastore(dssync.MutexWrap(&bounded{MapDatastore: ds.NewMapDatastore()})),
		dht.ProviderManagerOpts(records.ProvideValidity(provideValid), records.ProviderAddrTTL(provideValid)),
	)
}

// A table is the DHT of one network key.
type table struct {
	network discovery.NetworkKey
	dht     *dht.IpfsDHT
}

// setTables makes and closes DHTs, so that there is one for each key. Where that
// fails, members with that key aren't found by it.
func (n *Node) setTables(keys []Key) {
	old := *n.tables.Load()
	tables := make([]table, 0, len(keys))
	for _, k := range keys {
		i := slices.IndexFunc(old, func(t table) bool { return t.network == k.Network })
		if i >= 0 {
			tables = append(tables, old[i])
			continue
		}
		d, err := newDHT(n.host, n.cfg, k.Network)
		if err != nil {
			n.cfg.Log.Error("no DHT under a new network key", "error", err)
			continue
		}
		tables = append(tables, table{k.Network, d})
	}
	n.tables.Store(&tables)
	for _, t := range old {
		if !slices.Contains(tables, t) {
			n.spawn(func() { _ = t.dht.Close() })
		}
	}
	n.searchSoon()
}

// bounded is a datastore in memory that refuses to grow beyond maxProvided.
type bounded struct {
	*ds.MapDatastore
	n int
}

var errFull = errors.New("datastore is full")

// Put implements ds.Datastore.
func (b *bounded) Put(ctx context.Context, k ds.Key, v []byte) error {
	has, err := b.Has(ctx, k)
	if err != nil {
		return err
	}
	if !has && b.n >= maxProvided {
		return errFull
	}
	if !has {
		b.n++
	}
	return b.MapDatastore.Put(ctx, k, v)
}

// Delete implements ds.Datastore.
func (b *bounded) Delete(ctx context.Context, k ds.Key) error {
	if has, err := b.Has(ctx, k); err != nil || !has {
		return err
	}
	b.n--
	return b.MapDatastore.Delete(ctx, k)
}

// Batch implements ds.Batching.
func (b *bounded) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(b), nil }

// hours returns the hours since the Unix epoch of the rendezvous to look under:
// the current one first, under which this agent is found, the last one, and
// shortly before the next that one too, for agents whose clocks are ahead.
func hours(now time.Time) []int64 {
	h := now.Unix() / 3600
	out := []int64{h, h - 1}
	if now.Unix()%3600 >= 55*60 {
		out = append(out, h+1)
	}
	return out
}

// rendezvous returns the content id of an hour's rendezvous.
func rendezvous(k discovery.NetworkKey, hour int64) (cid.Cid, error) {
	h, err := multihash.Encode(k.Rendezvous(hour), multihash.SHA2_256)
	return cid.NewCidV1(cid.Raw, h), err
}

// searchSoon asks for a search.
func (n *Node) searchSoon() { nudge(n.search) }

// seek tells the DHT that this agent is here and looks for others, until the
// node ends.
func (n *Node) seek() {
	var eager time.Time // since when others are expected to come
	gap, next := searchFirst, time.Now()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.search:
			if !n.sleep(searchDelay) {
				return
			}
			eager, gap = time.Now(), searchFirst
		case <-time.After(time.Until(next)):
		}
		now := time.Now()
		told := n.provide(now)
		n.find(now)
		server, settled := n.standing()
		next = time.Now().Add(searchGap(now.Sub(eager), gap, told, settled, server))
		gap = min(2*gap, searchMost)
	}
}

// searchGap returns how long to wait between two searches: eager is for how long no
// other agent was expected, gap what to wait if one is, told whether the DHT took where
// this agent is, and settled whether it knows the others.
func searchGap(eager, gap time.Duration, told, settled, server bool) time.Duration {
	switch {
	case eager < searchEager && !settled || !told:
		return gap
	case server:
		return searchByServer
	}
	return searchByClient
}

// welcome asks for a search because somebody has come: at once after having
// been alone, and in the first minute as long as no server is known, as the newcomer
// may be one.
func (n *Node) welcome(first bool) {
	if first || time.Since(n.born) < welcomeFor && !slices.ContainsFunc(*n.tables.Load(), func(t table) bool { return t.dht.RoutingTable().Size() > 0 }) {
		n.searchSoon()
	}
}

// provide tells the DHT where this agent is, and says whether it knows now; if
// nobody is connected, there is nobody to tell.
func (n *Node) provide(now time.Time) (told bool) {
	ctx, cancel := context.WithTimeout(n.ctx, searchTimeout)
	defer cancel()
	var failed error // of the current key's
	tables := *n.tables.Load()
	each(n, tables, func(t table) {
		c, err := rendezvous(t.network, hours(now)[0])
		if err == nil {
			err = t.dht.Provide(ctx, c, true)
		}
		if err != nil && t == tables[0] {
			failed = err
		}
	})
	if err := failed; err != nil && n.Joined() {
		n.cfg.Log.Debug("DHT does not take our address", "error", err)
		return false
	}
	return true
}

// find looks for others, under all rendezvous of the moment at the same time.
func (n *Node) find(now time.Time) {
	if !n.Joined() {
		return // a connection starts the next search
	}
	ctx, cancel := context.WithTimeout(n.ctx, searchTimeout)
	defer cancel()
	each(n, *n.tables.Load(), func(t table) {
		each(n, hours(now), func(hour int64) { n.findUnder(ctx, t, hour) })
	})
}

// findUnder looks for others in one DHT, under the rendezvous of an hour.
func (n *Node) findUnder(ctx context.Context, t table, hour int64) {
	c, err := rendezvous(t.network, hour)
	if err != nil {
		return
	}
	for info := range t.dht.FindProvidersAsync(ctx, c, 0) {
		id, ok := agentID(info.ID)
		if !ok || id == n.self || n.host.Network().Connectedness(info.ID) == network.Connected {
			continue
		}
		if addrs := n.cfg.addrPorts(info.Addrs); len(addrs) > 0 {
			n.cfg.Found(id, addrs)
		}
	}
}
