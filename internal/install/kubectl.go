package install

import (
	"fmt"
	"os"
	"path/filepath"
)

// The names under which kubectl finds a plugin, and what completes its words.
const (
	KubectlPlugin     = "kubectl-patchbay"
	KubectlCompletion = "kubectl_complete-patchbay"
)

// Kubectl puts patchctl into a directory, with the names by which it is kubectl's plugin beside it.
func Kubectl(patchctl, dir string) error {
	b, err := os.ReadFile(patchctl)
	if err != nil {
		return fmt.Errorf("install patchctl: %w", err)
	}
	if err := replace(filepath.Join(dir, "patchctl"), b, 0o755); err != nil {
		return fmt.Errorf("install patchctl: %w", err)
	}
	for _, n := range []string{KubectlPlugin, KubectlCompletion} {
		if err := relink("patchctl", filepath.Join(dir, n)); err != nil {
			return fmt.Errorf("install %s: %w", n, err)
		}
	}
	return nil
}
