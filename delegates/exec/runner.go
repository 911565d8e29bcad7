package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

// A Runner executes CNI plugins: found in the permitted directories only, a bounded number at a
// time, each with a deadline.
type Runner struct {
	RunnerOptions
	slots chan struct{}
}

// RunnerOptions are what a Runner is made of.
type RunnerOptions struct {
	Dirs []string // permitted
	// Root is where plugins see the file system's root, and where Dirs are: the host's root as a
	// container has it mounted. Empty: our own.
	Root     string
	Deadline time.Duration
	Limit    int      // plugins at a time
	Env      []string // added to each one's environment
}

// NewRunner returns a Runner.
func NewRunner(o RunnerOptions) *Runner {
	return &Runner{RunnerOptions: o, slots: make(chan struct{}, o.Limit)}
}

// A Call is the execution of one plugin.
type Call struct {
	Command     string
	Type        string
	ContainerID string
	Netns       string
	IfName      string
	Args        string
	Path        []string // CNI_PATH of the caller; only permitted directories in it are used
	Config      []byte
}

// Run executes the plugin and returns its standard output. A plugin's CNI error comes back as the
// *types.Error that it is.
func (r *Runner) Run(ctx context.Context, c Call) ([]byte, error) {
	bin, err := r.find(c.Type, c.Path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Deadline, fmt.Errorf("plugin %s did not finish %s within %s", c.Type, c.Command, r.Deadline))
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("plugin %s was not started: too many delegates are running", c.Type), "")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, bin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Config), &stdout, &stderr
	cmd.Env = r.environ(c)
	// The plugin's children die with it, and can't hold the call by holding its output.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Chroot: r.Root}
	if r.Root != "" {
		cmd.Dir = "/"
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, types.NewError(types.ErrTryAgainLater, context.Cause(ctx).Error(), strings.TrimSpace(stderr.String()))
	}
	if err != nil {
		return nil, pluginError(c, err, stdout.Bytes(), stderr.String())
	}
	return stdout.Bytes(), nil
}

func pluginError(c Call, err error, stdout []byte, stderr string) error {
	var e types.Error
	if json.Unmarshal(stdout, &e) == nil && (e.Code != 0 || e.Msg != "") {
		return fmt.Errorf("plugin %s: %w", c.Type, &e)
	}
	detail := strings.TrimSpace(stderr)
	if detail == "" {
		detail = strings.TrimSpace(string(stdout))
	}
	return types.NewError(cniwire.ErrDelegate, fmt.Sprintf("plugin %s: %s failed: %v", c.Type, c.Command, err), detail)
}

func (r *Runner) environ(c Call) []string {
	env := slices.Clone(r.Env)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CNI_") {
			env = append(env, e)
		}
	}
	return append(env, "CNI_COMMAND="+c.Command, "CNI_CONTAINERID="+c.ContainerID, "CNI_NETNS="+c.Netns,
		"CNI_IFNAME="+c.IfName, "CNI_ARGS="+c.Args, "CNI_PATH="+strings.Join(r.path(c.Path), string(os.PathListSeparator)))
}

// path is the permitted directories, those of the caller's CNI_PATH first.
func (r *Runner) path(caller []string) []string {
	var dirs []string
	for _, d := range slices.Concat(caller, r.Dirs) {
		for _, ok := range r.Dirs {
			if filepath.Clean(d) == filepath.Clean(ok) && !slices.Contains(dirs, ok) {
				dirs = append(dirs, ok)
			}
		}
	}
	return dirs
}

func (r *Runner) find(typ string, caller []string) (string, error) {
	if err := cniconf.CheckType(typ); err != nil {
		return "", err
	}
	dirs := r.path(caller)
	for _, d := range dirs {
		bin := filepath.Join(d, typ)
		if fi, err := os.Stat(filepath.Join(r.Root, bin)); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return bin, nil
		}
	}
	return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("CNI plugin %q is not in %s", typ, strings.Join(dirs, ", ")),
		"install it there, or add its directory to meta.cniBinDirs")
}

// parseResult reads a plugin's result in whatever version and returns it in 1.1.0's form. An empty
// result, as meta plugins give, is an empty result (C48).
func parseResult(version string, b []byte) (*types100.Result, error) {
	if len(bytes.TrimSpace(b)) == 0 || string(bytes.TrimSpace(b)) == "{}" {
		return &types100.Result{CNIVersion: types100.ImplementedSpecVersion}, nil
	}
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result is not JSON", explain.JSON(b, err))
	}
	if head.CNIVersion != "" {
		version = head.CNIVersion
	}
	generic, err := create.Create(version, b)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result can't be read", err.Error())
	}
	res, err := types100.NewResultFromResult(generic)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result can't be converted", err.Error())
	}
	return res, nil
}

// encodeResult gives a result in the version of a configuration, as prevResult.
func encodeResult(version string, res *types100.Result) (json.RawMessage, error) {
	if res == nil {
		return nil, nil
	}
	v, err := res.GetAsVersion(version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
