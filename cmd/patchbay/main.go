// Command patchbay is the CNI plugin: a shim that hands one CNI call to patchbayd over a unix
// socket and prints the answer. Installed as patchbay it is the meta-plugin, as patchbay-ovs the
// Open vSwitch delegate, as patchbay-ipam the IPAM. Its start-up is paid for every pod, so it links
// little.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

const (
	defaultWait = 10 * time.Second
	// callTimeout is longer than any call of the daemon's takes.
	callTimeout = 100 * time.Second
	// soonTimeout is as much for the calls that the daemon answers soon: those that must not hold anybody up.
	soonTimeout = 15 * time.Second
)

func main() {
	plugin := filepath.Base(os.Args[0])
	if os.Getenv("CNI_COMMAND") == "" {
		fmt.Fprintf(os.Stderr, "%s is a CNI plugin of Patchbay: container runtimes execute it, with CNI_COMMAND set.\nTry patchctl sandbox run.\n", plugin)
		os.Exit(1)
	}
	out, err := run(plugin)
	if err != nil {
		out, _ = json.Marshal(err) // a CNI error always marshals
	}
	if _, werr := os.Stdout.Write(out); werr != nil || err != nil {
		os.Exit(1)
	}
}

// netconf is what the shim itself reads of the configuration.
type netconf struct {
	CNIVersion  string `json:"cniVersion"`
	Socket      string `json:"socket"`
	DelQueue    string `json:"delQueue"`
	WaitSeconds *int   `json:"waitSeconds"`
}

// A failure is an answer of the daemon that is an error: printed as it came.
type failure struct{ answer json.RawMessage }

func (f failure) Error() string                { return string(f.answer) }
func (f failure) MarshalJSON() ([]byte, error) { return f.answer, nil }

func run(plugin string) ([]byte, error) {
	req := cniwire.Request{Command: os.Getenv("CNI_COMMAND"), ContainerID: os.Getenv("CNI_CONTAINERID"), Netns: os.Getenv("CNI_NETNS"),
		IfName: os.Getenv("CNI_IFNAME"), Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH")}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, types.NewError(types.ErrIOFailure, "read standard input", err.Error())
	}
	var conf netconf
	if len(bytes.TrimSpace(stdin)) > 0 {
		if err := json.Unmarshal(stdin, &conf); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "network configuration on standard input: "+explain.JSON(stdin, err), "")
		}
		req.Config = stdin
	} else if req.Command != "VERSION" {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration on standard input is missing", "")
	}
	// Whoever writes a network does not choose where the daemon is that executes it.
	conf.Socket = cmp.Or(os.Getenv(cniwire.SocketEnv), conf.Socket, cniwire.DefaultSocket)
	conf.DelQueue = cmp.Or(os.Getenv(cniwire.QueueEnv), conf.DelQueue, delqueue.DefaultDir)
	if filepath.Base(conf.DelQueue) != delqueue.Name { // nor into which directory root writes
		if req.Command == "DEL" {
			conf.DelQueue = delqueue.DefaultDir // it must not fail for that
			return forward(plugin, conf, req)
		}
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("delQueue %q: a daemon's queue is the directory %s of its stateDir", conf.DelQueue, delqueue.Name), "")
	}
	return forward(plugin, conf, req)
}

func forward(plugin string, conf netconf, req cniwire.Request) ([]byte, error) {
	wait, timeout := defaultWait, callTimeout
	switch {
	case slices.Contains([]string{"VERSION", "STATUS", "DEL"}, req.Command):
		// These have an answer without the daemon. A runtime asks for STATUS every few seconds, and does
		// nothing else meanwhile.
		wait, timeout = 0, soonTimeout
	case conf.WaitSeconds != nil:
		wait = time.Duration(*conf.WaitSeconds) * time.Second
	}
	out, err := send(plugin, conf.Socket, req, wait, timeout)
	if !away(err) {
		return out, err
	}
	switch req.Command {
	case "VERSION":
		return version(conf.CNIVersion)
	case "STATUS":
		return nil, types.NewError(cniwire.ErrPluginNotAvailable, "patchbayd does not answer on "+conf.Socket, why(err))
	case "DEL":
		if err := delqueue.Put(conf.DelQueue, delqueue.Call{Plugin: plugin, Request: req}); err != nil {
			return nil, types.NewError(types.ErrTryAgainLater, "patchbayd does not answer on "+conf.Socket+" and the DEL can't be queued", err.Error())
		}
		return nil, nil
	}
	return nil, types.NewError(types.ErrTryAgainLater, "patchbayd does not answer on "+conf.Socket, why(err)+"; is patchbayd running?")
}

func version(asked string) ([]byte, error) {
	if asked == "" {
		asked = cniwire.SupportedVersions[len(cniwire.SupportedVersions)-1]
	}
	return json.Marshal(map[string]any{"cniVersion": asked, "supportedVersions": cniwire.SupportedVersions})
}

// errAway says that there was no answer: the daemon is not there, or went away during the call.
var errAway = errors.New("no answer")

func away(err error) bool { return errors.Is(err, errAway) }

// why says in words why there was no answer.
func why(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it went away during the call"
	}
	return err.Error()
}

func send(plugin, socket string, req cniwire.Request, wait, timeout time.Duration) ([]byte, error) {
	conn, err := dial(socket, wait)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	defer conn.Close()
	ok, answer, err := cniwire.Call(conn, plugin, &req, time.Now().Add(timeout))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errAway, err)
	case !ok && !json.Valid(answer):
		return nil, types.NewError(types.ErrInternal, "patchbayd gave an answer that is not JSON", string(answer))
	case !ok:
		return nil, failure{bytes.TrimSpace(answer)}
	}
	return answer, nil
}

// dial waits for the socket. Nothing tells when a socket is listened on again, so it tries.
func dial(socket string, wait time.Duration) (net.Conn, error) {
	deadline := time.Now().Add(wait)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
