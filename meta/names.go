package meta

import "fmt"

// names gives interfaces their names: those asked for, else net1, net2, ... by position.
type names struct{ taken map[string]bool }

func newNames(made []Wanted, own []Selection) *names {
	n := &names{taken: map[string]bool{}}
	for _, w := range made {
		n.taken[w.Interface] = true
	}
	for _, s := range own {
		// A name asked for anywhere in the pod is not given to an element without one.
		if s.Interface != "" && !n.taken[s.Interface] {
			n.taken["="+s.Interface] = true
		}
	}
	return n
}

func (n *names) pick(asked string, position int) (string, error) {
	if asked != "" {
		if n.taken[asked] {
			return "", malformed("interface name %q is taken by an earlier attachment", asked)
		}
		n.taken[asked] = true
		return asked, nil
	}
	for i := position; ; i++ {
		name := fmt.Sprintf("net%d", i)
		if !n.taken[name] && !n.taken["="+name] {
			n.taken[name] = true
			return name, nil
		}
	}
}
