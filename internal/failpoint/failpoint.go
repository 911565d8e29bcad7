// Package failpoint names the steps between which a crash must be harmless, so that tests can
// stop the daemon at each of them. A point is declared where it is hit:
//
//	if err := failpoint.Hit("del-begin"); err != nil {
//
// and gen lists those that it finds in the code. Without the build tag "failpoints" Hit does nothing.
package failpoint

//go:generate go run ./gen

// Names returns every point, sorted.
func Names() []string {
	all := make([]string, len(points))
	for i, p := range points {
		all[i] = p.name
	}
	return all
}

// A point, and the file that declares it.
type point struct{ name, file string }
