package shield

import (
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// arpIn is NF_ARP_IN, linux/netfilter_arp.h.
const arpIn = 0

// tableName is the name of both tables.
const tableName = "patchbay"

// rules are one for each way into the node's stack, the same but for where they hang:
//
//	table inet patchbay { chain pods { type filter hook prerouting priority raw; iifgroup 0x7062 drop } }
//	table arp  patchbay { chain pods { type filter hook input priority filter; iifgroup 0x7062 drop } }
//
// They name the group of the links, which a link has from its first moment: an ADD adds no rule.
type rules struct{ group uint32 }

// chains returns the chains that have a rule, in their tables.
func chains() []*nftables.Chain {
	chain := func(family nftables.TableFamily, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: "pods", Table: &nftables.Table{Name: tableName, Family: family},
			Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority}
	}
	return []*nftables.Chain{
		chain(nftables.TableFamilyINet, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw),
		chain(nftables.TableFamilyARP, nftables.ChainHookRef(arpIn), nftables.ChainPriorityFilter),
	}
}

// there reports whether each chain has its rule.
func (r rules) there() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	for _, chain := range chains() {
		have, err := c.GetRules(chain.Table, chain)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, err
		}
		if len(have) != 1 {
			return false, nil
		}
	}
	return true, nil
}

// place replaces the tables, in one transaction of the kernel's.
func (r rules) place() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, chain := range chains() {
		c.AddTable(chain.Table) // or removing it would fail
		c.DelTable(chain.Table)
		c.AddTable(chain.Table)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(r.group)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	return c.Flush()
}

func (r rules) remove() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, chain := range chains() {
		c.AddTable(chain.Table) // or removing it would fail
		c.DelTable(chain.Table)
	}
	return c.Flush()
}
