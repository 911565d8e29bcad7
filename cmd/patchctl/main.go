// Command patchctl shows and changes attachments of running pods. Installed as kubectl-patchbay it
// is a plugin of kubectl.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// errUsage marks mistakes in how the command was called.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	var silent failedCheck
	if !errors.As(err, &silent) {
		fmt.Fprintln(os.Stderr, "Error:", strings.TrimPrefix(err.Error(), "usage: "))
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, "Run with --help for usage.")
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// failedCheck ends the command with exit code 1 after it has printed its findings.
type failedCheck struct{}

func (failedCheck) Error() string { return "a check failed" }

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

// options are the flags that all commands have.
type options struct {
	server    string
	tokenFile string
	namespace string
	output    string
}

func command() *cobra.Command {
	o := &options{}
	name := "patchctl"
	if filepath.Base(os.Args[0]) == "kubectl-patchbay" {
		name = "kubectl-patchbay"
	}
	root := &cobra.Command{
		Use: name, Short: "Show, attach and detach network interfaces of running pods", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	server := os.Getenv("PATCHBAY_SERVER")
	if server == "" {
		server = client.DefaultServer
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.server, "server", server, "the daemon's REST API: unix:///path or https://host:port ($PATCHBAY_SERVER)")
	flags.StringVar(&o.tokenFile, "token", "", "file with a bearer token, for https")
	flags.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the pod")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	root.AddCommand(attachCommand(o), detachCommand(o), getCommand(o), describeCommand(o), ipamCommand(o), leftoversCommand(o), doctorCommand(o), sandboxCommand(o), migrateCommand(o))
	return root
}

func (o *options) client() (*client.Client, error) {
	token := ""
	if o.tokenFile != "" {
		b, err := readFile("--token", o.tokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(b))
	}
	c, err := client.New(o.server, token)
	if err != nil {
		return nil, usage("%v", err)
	}
	return c, nil
}

// readFile reads a file that a flag names.
func readFile(flag, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	var cause *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usage("%s %s: there is no such file", flag, path)
	case errors.As(err, &cause):
		return nil, usage("%s %s can't be read: %v", flag, path, cause.Err)
	}
	return b, err
}

// podName reads pod/NAME, pods/NAME or NAME.
func podName(arg string) (string, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		return arg, nil
	}
	if kind != "pod" && kind != "pods" || name == "" {
		return "", usage("%q is not pod/NAME", arg)
	}
	return name, nil
}

// exactly is cobra.ExactArgs with a usage error.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("give %s", what)
		}
		return nil
	}
}

// completePods completes the pods of the namespace.
func completePods(o *options) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := o.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := c.Sandboxes(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, s := range all {
			if s.Namespace == o.namespace {
				names = append(names, "pod/"+s.Pod)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
