// Package cniwire is what the shim and the daemon say to each other: one CNI call as one HTTP/1.1
// request, POST /cni/v1/{plugin}, on the daemon's unix socket. The shim links it, so it uses the
// standard library and the CNI types only.
package cniwire

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// DefaultSocket is where the daemon listens for CNI calls.
const DefaultSocket = "/run/patchbay/cni.sock"

// SocketEnv and QueueEnv tell the shim another socket and another queue of DELs. The daemon sets them for the
// plugins that it executes, so that a main plugin's "ipam": {"type": "patchbay-ipam"} finds the same daemon.
const (
	SocketEnv = "PATCHBAY_CNI_SOCKET"
	QueueEnv  = "PATCHBAY_DEL_QUEUE"
)

// PathPrefix is followed by the name that the plugin was called by.
const PathPrefix = "/cni/v1/"

// Error codes that we use beside those of package types (CNI 1.1.0 section 5). From 100 on they are our own.
const (
	ErrPluginNotAvailable uint = 50
	ErrLimitedConnection  uint = 51
	ErrRefused            uint = 100 // the request can't be honoured as it is
	ErrDelegate           uint = 101 // a delegate gave no CNI error of its own
)

// SupportedVersions are the versions of the CNI specification that results can be given in.
var SupportedVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// A Request is one CNI call: the variables of the environment, and the standard input as Config.
type Request struct {
	Command     string          `json:"command"`
	ContainerID string          `json:"containerID"`
	Netns       string          `json:"netns"`
	IfName      string          `json:"ifName"`
	Args        string          `json:"args"`
	Path        string          `json:"path"`
	Config      json.RawMessage `json:"config"`
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// validID checks a container ID: a letter or digit, then letters, digits, '_', '.', '-'.
func validID(id string) bool {
	return id != "" && strings.Contains(alphanumeric, id[:1]) && strings.Trim(id, alphanumeric+"_.-") == ""
}

// Validate checks the parameters as CNI 1.1.0 section 2 demands for the command. If variables are missing it
// returns error 4 with their names.
func (r *Request) Validate() *types.Error {
	required := map[string][]string{
		"ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}, "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL": {"CNI_CONTAINERID", "CNI_IFNAME"}, "GC": {"CNI_PATH"}, "STATUS": {}, "VERSION": {},
	}
	names, ok := required[r.Command]
	if !ok {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_COMMAND must be ADD, DEL, CHECK, STATUS, GC or VERSION", "it is "+strconv.Quote(r.Command))
	}
	value := map[string]string{"CNI_CONTAINERID": r.ContainerID, "CNI_NETNS": r.Netns, "CNI_IFNAME": r.IfName, "CNI_PATH": r.Path}
	if missing := slices.DeleteFunc(names, func(n string) bool { return value[n] != "" }); len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "required env variables ["+strings.Join(missing, ",")+"] missing", "")
	}
	if r.ContainerID != "" && !validID(r.ContainerID) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "invalid characters in CNI_CONTAINERID", strconv.Quote(r.ContainerID))
	}
	if r.IfName != "" {
		if err := CheckIfName(r.IfName); err != "" {
			return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME: "+err, "")
		}
	}
	return nil
}

// CheckIfName returns why name can't be the name of a Linux interface, or "".
func CheckIfName(name string) string {
	switch {
	case name == "":
		return "interface name is empty"
	case len(name) > 15:
		return "interface name " + strconv.Quote(name) + " is longer than 15 bytes"
	case name == "." || name == "..":
		return "interface name can't be " + strconv.Quote(name)
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r <= ' ' || r == 0x7f }):
		return "interface name " + strconv.Quote(name) + " has a slash, colon, space or control character"
	}
	return ""
}
