package meta

import (
	"k8s.io/utils/lru"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

// maxParsed is how many networks' configurations are kept. The one that nobody has asked for the
// longest goes first.
const maxParsed = 1024

// parsed keeps the configurations of networks as they were parsed, so that a network is parsed once for
// all its pods, until it changes.
type parsed struct{ lists *lru.Cache } // version, by namespace/name

type version struct {
	name string
	list *cniconf.List
}

func newParsed() *parsed { return &parsed{lru.New(maxParsed)} }

// list returns the configuration of a network, as a copy: what one pod asks of a network is written
// into it.
func (p *parsed) list(n *Network) (*cniconf.List, error) {
	at := n.Namespace + "/" + n.Name
	if have, ok := p.lists.Get(at); ok && n.Version != "" && have.(version).name == n.Version {
		return have.(version).list.Clone(), nil
	}
	list, err := cniconf.Parse([]byte(n.Config), n.Name)
	if err != nil {
		return nil, err
	}
	p.lists.Add(at, version{n.Version, list})
	return list.Clone(), nil
}

func (p *parsed) drop(network string) { p.lists.Remove(network) }
