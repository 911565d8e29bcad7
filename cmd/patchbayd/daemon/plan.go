package daemon

import (
	"fmt"
	"os"
	"slices"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

// planConfig returns the "meta" section, with a configuration of Multus over it if there is one, and the
// directories that plugins may be in.
func (d *Daemon) planConfig() (cfg meta.Config, binDirs []string, err error) {
	m := d.cfg.Meta
	cfg = meta.Config{ClusterNetwork: m.ClusterNetwork, DefaultNetworks: m.DefaultNetworks, SystemNamespaces: m.SystemNamespaces,
		NamespaceIsolation: m.NamespaceIsolation, GlobalNamespaces: m.GlobalNamespaces, Overriding: m.Overriding, CNIConfDir: m.CNIConfDir, ReadinessFile: m.ReadinessFile,
		Implied: map[string][]string{ovs.Type: ovs.Capabilities, ovs.ForeignType: ovs.Capabilities}, Devices: d.pods.devices,
		Trusted: d.pods.trusted, NeedsTrust: ovs.NeedsTrust}
	if d.cfg.OVS.TrustedNamespaces != nil {
		cfg.Trusted = d.cfg.OVS.TrustedNamespaces
	}
	if m.Multus == "" {
		return cfg, m.CNIBinDirs, nil
	}
	b, err := os.ReadFile(m.Multus)
	if err != nil {
		return cfg, nil, fmt.Errorf("meta.multus: %w", err)
	}
	theirs, notes, err := multus.Parse(b)
	if err == nil {
		cfg, err = theirs.Over(cfg)
	}
	if err != nil {
		return cfg, nil, fmt.Errorf("meta.multus %s: %w", m.Multus, err)
	}
	for _, n := range notes {
		d.log.Warn("configuration of Multus", "file", m.Multus, "note", n)
	}
	d.log.Info("configuration of Multus is in force", "file", m.Multus)
	if binDirs = m.CNIBinDirs; theirs.BinDir != "" && !slices.Contains(binDirs, theirs.BinDir) {
		binDirs = append(slices.Clone(binDirs), theirs.BinDir)
	}
	return cfg, binDirs, nil
}
