package meta

import (
	"sync"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

// What is kept of networks: so many bytes of their texts, with a share for what every one of them costs
// besides. A text of many short keys takes a multiple of its length.
const (
	maxParsed  = 4 << 20
	parsedCost = 1 << 10
)

// parsed keeps the configurations of networks as they were parsed, by what they were parsed from: a text is
// parsed once for all pods. Now and then it begins anew.
type parsed struct {
	mu    sync.Mutex
	lists map[text]*cniconf.List
	size  int
}

// A text is a network's configuration, with the name that it has if it names none.
type text struct{ config, name string }

func newParsed() *parsed { return &parsed{lists: map[text]*cniconf.List{}} }

// list returns the configuration of a network, as a copy: what one pod asks of a network is written
// into it.
func (p *parsed) list(n *Network) (*cniconf.List, error) {
	if len(n.Config) > maxConfig {
		return nil, malformed("its configuration has %d KiB, and can have %d", len(n.Config)>>10, maxConfig>>10)
	}
	from := text{n.Config, n.Name}
	p.mu.Lock()
	have := p.lists[from]
	p.mu.Unlock()
	if have != nil {
		return have.Clone(), nil
	}
	list, err := cniconf.Parse([]byte(n.Config), n.Name)
	if err != nil {
		return nil, err
	}
	p.keep(from, list)
	return list.Clone(), nil
}

func (p *parsed) keep(from text, list *cniconf.List) {
	cost := len(from.config) + parsedCost
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size+cost > maxParsed {
		clear(p.lists)
		p.size = 0
	}
	if p.lists[from] == nil {
		p.lists[from] = list
		p.size += cost
	}
}
