// Command patchctl shows and changes attachments of running pods. Installed as kubectl-patchbay it
// is a plugin of kubectl.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

var (
	// errUsage marks mistakes in how the command was called.
	errUsage = errors.New("usage")
	// errFailedCheck ends the command with exit code 1 after it has printed its findings.
	errFailedCheck = errors.New("a check failed")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if !errors.Is(err, errFailedCheck) {
		fmt.Fprintln(os.Stderr, "Error:", strings.TrimPrefix(err.Error(), "usage: "))
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, "Run with --help for usage.")
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

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
	root := &cobra.Command{
		Use: "patchctl", Short: "Show, attach and detach network interfaces of running pods", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	asPlugin(root, os.Args)
	server := cmp.Or(os.Getenv("PATCHBAY_SERVER"), client.DefaultServer)
	flags := root.PersistentFlags()
	flags.StringVar(&o.server, "server", server, "the daemon's REST API: unix:///path or https://host:port ($PATCHBAY_SERVER)")
	flags.StringVar(&o.tokenFile, "token", "", "file with a bearer token, for https")
	flags.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the pod")
	root.SetFlagErrorFunc(flagError)
	group(root, attachCommand(o), detachCommand(o), getCommand(o), describeCommand(o), ipamCommand(o), leftoversCommand(o), recoverCommand(o), doctorCommand(o), sandboxCommand(o), migrateCommand(o),
		uninstallCommand(o), installPluginCommand())
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

// call makes the RunE of a command that asks the daemon.
func (o *options) call(run func(cmd *cobra.Command, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := o.client()
		if err != nil {
			return err
		}
		return run(cmd, c, args)
	}
}

// ofPod makes cmd one that asks the daemon about a pod, its only argument.
func (o *options) ofPod(cmd *cobra.Command, run func(cmd *cobra.Command, c *client.Client, pod string) error) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = exactly(1, "one pod: pod/NAME"), completePods(o)
	cmd.RunE = o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
		pod, err := podName(args[0])
		if err != nil {
			return err
		}
		return run(cmd, c, pod)
	})
	return cmd
}

// complete completes a word with names that the daemon knows.
func (o *options) complete(names func(ctx context.Context, c *client.Client, args []string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := o.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := names(cmd.Context(), c, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// readFile reads a file that a flag names.
func readFile(flag, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	var cause *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usage("%s %s does not exist", flag, path)
	case errors.As(err, &cause):
		return nil, usage("%s %s can't be read: %v", flag, path, cause.Err)
	}
	return b, err
}

// objectName is what Kubernetes takes for a pod's name.
var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// podName reads pod/NAME, pods/NAME or NAME.
func podName(arg string) (string, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		kind, name = "pod", arg
	}
	if kind != "pod" && kind != "pods" || !objectName.MatchString(name) {
		return "", usage("%q is not pod/NAME, with a name of lower-case letters, digits, dashes and dots", arg)
	}
	return name, nil
}

// group gives cmd its subcommands. Called without one it shows them; one that it does not have is refused.
func group(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subcommands...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range subcommands {
			names = append(names, c.Name())
		}
		return usage("%s has no command %q%s", cmd.CommandPath(), args[0], explain.Hint(args[0], names))
	}
	return cmd
}

// flagError says in words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var novalue *pflag.ValueRequiredError
	var bad *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
		name := "--" + unknown.GetSpecifiedName()
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		return usage("unknown flag %s%s", name, explain.Hint(name, names))
	case errors.As(err, &novalue):
		return usage("flag --%s needs a value", novalue.GetFlag().Name)
	case errors.As(err, &bad):
		wanted := bad.GetFlag().Value.Type()
		if wanted == "bool" {
			wanted = "true or false"
		}
		return usage("flag --%s must be %s, not %q", bad.GetFlag().Name, wanted, bad.GetValue())
	}
	return usage("%v", err)
}

// atMost is cobra.MaximumNArgs with a usage error.
func atMost(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usage("%s takes %s, not %q", cmd.CommandPath(), what, strings.Join(args, " "))
		}
		return nil
	}
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
	return o.complete(func(ctx context.Context, c *client.Client, args []string) (names []string, err error) {
		if len(args) > 0 {
			return nil, nil
		}
		all, err := c.Sandboxes(ctx)
		for _, s := range all {
			if s.Namespace == o.namespace {
				names = append(names, "pod/"+s.Pod)
			}
		}
		return names, err
	})
}
