package daemon

import (
	"context"
	"os"
	"path/filepath"
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

// installation keeps the runtime's configuration in its place, if it has one, and looks whether the runtime takes it.
func (d *Daemon) installation() Task {
	dir, expected := d.cfg.Meta.CNIConfDir, ""
	if file := d.cfg.Install.ConfFile; file != "" {
		dir, expected = filepath.Dir(file), filepath.Base(file)
	}
	taken := install.NewTaken(dir, expected)
	before := ""
	return Task{Name: "cni-configuration", Check: func(context.Context) (string, error) { return taken.Check() },
		Run: every(installCheck, func(context.Context) {
			d.putInstalled()
			_, err := taken.Check()
			d.bypassed.Store(err != nil)
			if err != nil && err.Error() != before {
				d.log.Error("CNI configuration", "error", err)
			}
			if before = ""; err != nil {
				before = err.Error()
			}
		})}
}

// putInstalled writes the runtime's configuration, now that ADDs can be served, and again when it is
// lost. It stays when the daemon stops: pods then wait, rather than start without their interfaces.
func (d *Daemon) putInstalled() {
	if d.cfg.Install.ConfFile == "" {
		return
	}
	changed, err := install.Conf(d.cfg.Install.ConfFile, install.NetConf(d.cfg.Listen.CNI, d.queueDir()))
	switch {
	case err != nil:
		d.log.Error("CNI configuration", "error", err)
	case changed:
		d.log.Info("CNI configuration is in place", "file", d.cfg.Install.ConfFile)
	}
}
