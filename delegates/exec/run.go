package exec

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniresult"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

// run executes the plugin typ and returns its standard output. A plugin's CNI error comes back as the
// *types.Error that it is.
func (d *Delegate) run(ctx context.Context, typ string, r cniwire.Request) ([]byte, error) {
	bin, err := d.find(typ, filepath.SplitList(r.Path))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.Deadline, fmt.Errorf("plugin %s did not finish %s within %s", typ, r.Command, d.Deadline))
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("plugin %s was not started: too many delegates are running", typ), "")
	}
	if err := failpoint.Hit("exec-run"); err != nil {
		return nil, err
	}
	stdout, stderr := output{max: maxResult, refuses: true}, output{max: maxDetail}
	cmd := exec.CommandContext(ctx, bin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(r.Config), &stdout, &stderr
	cmd.Env = d.environ(r)
	// The plugin's children die with it, and can't hold up the call by keeping its output open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Chroot: d.Root}
	if d.Root != "" {
		cmd.Dir = "/"
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // on a busy machine it takes a while until what was printed is read
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, types.NewError(types.ErrTryAgainLater, context.Cause(ctx).Error(), stderr.text())
	}
	if err := failpoint.Hit("exec-ran"); err != nil {
		return nil, err
	}
	if stdout.more { // it may have failed for that
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("plugin %s: %s printed more than %d MiB", typ, r.Command, maxResult>>20), stderr.text())
	}
	if err != nil {
		return nil, pluginError(typ, r.Command, err, stdout.kept, stderr.text())
	}
	return stdout.kept, nil
}

const (
	maxResult = 1 << 20 // etcd's records have 1.5 MiB at most
	maxDetail = 4 << 10 // of what is passed on in an error
)

// An output is the beginning of what a plugin prints. The rest is passed over, or, if it refuses that,
// ends the plugin's writing.
type output struct {
	max     int
	refuses bool
	kept    []byte
	more    bool
}

func (o *output) Write(b []byte) (int, error) {
	n := min(len(b), o.max-len(o.kept))
	o.kept = append(o.kept, b[:n]...)
	o.more = o.more || n < len(b)
	if o.more && o.refuses {
		return n, io.ErrShortWrite
	}
	return len(b), nil
}

func (o *output) text() string { return strings.TrimSpace(string(o.kept)) }

func pluginError(typ, command string, err error, stdout []byte, stderr string) error {
	var e types.Error
	if json.Unmarshal(stdout, &e) == nil && (e.Code != 0 || e.Msg != "") {
		return fmt.Errorf("plugin %s: %w", typ, &e)
	}
	detail := cmp.Or(stderr, strings.TrimSpace(string(stdout[:min(len(stdout), maxDetail)])))
	return types.NewError(cniwire.ErrDelegate, fmt.Sprintf("plugin %s: %s failed: %v", typ, command, err), detail)
}

func (d *Delegate) environ(r cniwire.Request) []string {
	own := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "CNI_") })
	return append(slices.Concat(d.Env, own), "CNI_COMMAND="+r.Command, "CNI_CONTAINERID="+r.ContainerID, "CNI_NETNS="+r.Netns, "CNI_IFNAME="+r.IfName, "CNI_ARGS="+r.Args,
		"CNI_PATH="+strings.Join(d.path(filepath.SplitList(r.Path)), string(os.PathListSeparator)))
}

// path returns the permitted directories, those of the caller's CNI_PATH first.
func (d *Delegate) path(caller []string) []string {
	var dirs []string
	for _, dir := range slices.Concat(caller, d.Dirs) {
		for _, ok := range d.Dirs {
			if filepath.Clean(dir) == filepath.Clean(ok) && !slices.Contains(dirs, ok) {
				dirs = append(dirs, ok)
			}
		}
	}
	return dirs
}

func (d *Delegate) find(typ string, caller []string) (string, error) {
	if err := cniconf.CheckType(typ); err != nil {
		return "", err
	}
	dirs := d.path(caller)
	for _, dir := range dirs {
		bin := filepath.Join(dir, typ)
		if fi, err := os.Stat(filepath.Join(d.Root, bin)); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return bin, nil
		}
	}
	return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("CNI plugin %q is not in %s", typ, strings.Join(dirs, ", ")),
		"install it there, or add its directory to meta.cniBinDirs")
}

// encodeResult returns a result in the version of a configuration, as prevResult.
func encodeResult(version string, res *types100.Result) (json.RawMessage, error) {
	if res == nil {
		return nil, nil
	}
	v, err := cniresult.As(res, version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
