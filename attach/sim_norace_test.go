//go:build !race

package attach

const defaultRuns = 10000
