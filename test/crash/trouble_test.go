package crash

import "time"

// trouble returns what makes trouble, another kind each time, and what ends it.
func (c *crash) trouble() func() (over func()) {
	kinds := []func() (over func()){
		func() func() { c.toEtcd.Delay(50 * time.Millisecond); return c.toEtcd.Pass },
		func() func() { c.toEtcd.Hang(); time.AfterFunc(3*time.Second, c.toEtcd.Pass); return c.toEtcd.Pass },
		func() func() { t := time.AfterFunc(50*time.Millisecond, c.toEtcd.Cut); return func() { t.Stop() } },
		func() func() { c.etcd.Stop(); return func() { c.etcd.Start(c.t) } },
		func() func() { c.toOVS.Delay(50 * time.Millisecond); return c.toOVS.Pass },
		func() func() { c.toOVS.Hang(); return c.toOVS.Pass },
		func() func() { t := time.AfterFunc(50*time.Millisecond, c.toOVS.Cut); return func() { t.Stop() } },
		func() func() { return c.OVS.FreezeServer() },
		func() func() { return c.OVS.FreezeSwitch() },
	}
	return func() func() { return kinds[c.rand.IntN(len(kinds))]() }
}
