// Package failpoint names the steps between which a crash must be harmless, so that tests can
// stop the daemon at each of them. Without the build tag "failpoints" Hit does nothing.
package failpoint

import "slices"

// The points, in the order an ADD, then a DEL, meets them.
const (
	AddBegin          = "add-begin"
	AddIntentWritten  = "add-intent-written"
	AddAddressesReady = "add-addresses-reserved"
	OvsLinkCreated    = "ovs-link-created"
	OvsLinkConfigured = "ovs-link-configured"
	OvsPortCommitted  = "ovs-port-committed"
	OvsPortUp         = "ovs-port-up"
	ExecPluginRan     = "exec-plugin-ran"
	AddMade           = "add-made"
	AddRecorded       = "add-recorded"
	UndoBegin         = "undo-begin"
	UndoUnmade        = "undo-unmade"
	DelBegin          = "del-begin"
	OvsPortDeleted    = "ovs-port-deleted"
	OvsLinkDeleted    = "ovs-link-deleted"
	DelUnmade         = "del-unmade"
	DelRecorded       = "del-recorded"
	RecoverSandbox    = "recover-sandbox"
	RecoverLeftovers  = "recover-leftovers"
)

// Names returns every point, sorted.
func Names() []string {
	return slices.Sorted(slices.Values([]string{
		AddBegin, AddIntentWritten, AddAddressesReady, OvsLinkCreated, OvsLinkConfigured,
		OvsPortCommitted, OvsPortUp, ExecPluginRan, AddMade, AddRecorded, UndoBegin, UndoUnmade,
		DelBegin, OvsPortDeleted, OvsLinkDeleted, DelUnmade, DelRecorded, RecoverSandbox, RecoverLeftovers,
	}))
}
