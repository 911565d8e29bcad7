//go:build race

package attach

// defaultRuns is what the race detector has the patience for.
const defaultRuns = 500
