package meta

import "strconv"

// names are the interface names of a pod that can't be given to an attachment that asks for none:
// those that are in use, and those that another one asks for.
type names map[string]bool

// free returns the first free one of net1, net2, ... from a position on, and takes it.
func (n names) free(position int) string {
	for n["net"+strconv.Itoa(position)] {
		position++
	}
	name := "net" + strconv.Itoa(position)
	n[name] = true
	return name
}
