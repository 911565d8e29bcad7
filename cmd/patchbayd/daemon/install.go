package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/install"
)

// installCheck is how often the runtime's configuration is looked at, as others write there, too.
const installCheck = 10 * time.Second

// installPlugin puts the plugin in place, from beside this program.
func (d *Daemon) installPlugin() error {
	if d.cfg.Install.BinDir == "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return install.Plugin(filepath.Join(filepath.Dir(self), "patchbay"), d.cfg.Install.BinDir)
}

// installation keeps the runtime's configuration in its place, if it has one.
func (d *Daemon) installation() []Task {
	if d.cfg.Install.ConfFile == "" {
		return nil
	}
	return []Task{{Name: "cni-configuration", Run: every(installCheck, d.putInstalled), Check: d.checkInstalled}}
}

// putInstalled writes the runtime's configuration, now that ADDs can be served, and again when it is
// lost. It stays when the daemon stops: pods then wait, rather than start without their interfaces.
func (d *Daemon) putInstalled(context.Context) {
	changed, err := install.Conf(d.cfg.Install.ConfFile, install.NetConf(d.cfg.Listen.CNI, d.queueDir()))
	switch {
	case err != nil:
		d.log.Error("CNI configuration", "error", err)
	case changed:
		d.log.Info("CNI configuration is in place", "file", d.cfg.Install.ConfFile)
	}
}

// checkInstalled reports whether the runtime would call us.
func (d *Daemon) checkInstalled(context.Context) (string, error) {
	path := d.cfg.Install.ConfFile
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	first, err := install.Before(path)
	if err == nil && len(first) > 0 {
		err = fmt.Errorf("the runtime takes %s before %s: pods start without Patchbay", strings.Join(first, ", "), filepath.Base(path))
	}
	return path + " is the runtime's first", err
}
