package attack

import (
	"errors"
	"os"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

func secured(t *testing.T, set ...string) *node {
	t.Helper()
	return &node{Node: testnode.Standard(t, set...), t: t}
}

// again reports whether a runtime is told to try again later.
func again(err error) bool {
	e := (*types.Error)(nil)
	return errors.As(err, &e) && e.Code == types.ErrTryAgainLater
}

// The node's password is changed while it runs, in etcd and then in its file.
func TestAPasswordThatIsChangedIsUsedWithoutARestart(t *testing.T) {
	e := testnode.StartSecureEtcd(t)
	e.Issue(t, "nobody") // a certificate lets it connect, the password says who it is
	file := e.Dir + "/password"
	password := func(is string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(is+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	password("first")
	t.Setenv("PASSWORD_FILE", file)
	e.AddNode(t, "n1")
	n := secured(t, append(e.Settings("nobody"), "etcd.username=patchbay-n1", "etcd.passwordFile="+file)...)
	n.Run(t, "a", "data")

	change := func(to string) {
		t.Helper()
		next := e.Dir + "/next"
		if err := os.WriteFile(next, []byte(to+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		e.Ctl(t, "user", "revoke-role", "patchbay-n1", "patchbay-n1")
		e.Ctl(t, "user", "delete", "patchbay-n1")
		t.Setenv("PASSWORD_FILE", next)
		e.AddNode(t, "n1")
	}
	change("second")
	// Until the file has it too, etcd is as good as away: nothing fails for good.
	if err := n.Remove("a"); err != nil {
		t.Errorf("a DEL meanwhile: %v", err)
	}
	if _, err := n.TryRun("early", "data"); err == nil || !again(err) {
		t.Errorf("an ADD meanwhile: %v", err)
	}
	password("second")
	n.AwaitQueue(t)
	testnode.Eventually(t, "the node is healthy", func() bool { well, _ := n.healthy("etcd"); return well })
	n.Run(t, "b", "data")

	// It starts without etcd, too, and lets itself in when etcd is there.
	n.Daemon.Stop()
	e.Stop()
	n.Launch(t)
	e.Start(t)
	if !n.Alive(t) {
		t.Fatal(n.LogTail())
	}
	testnode.Eventually(t, "the node is healthy", func() bool { well, _ := n.healthy("etcd"); return well })
	n.Run(t, "c", "data")
}

// The authority of etcd and of its clients is replaced, files one after the other, while the node runs.
func TestCertificatesThatAreReplacedAreUsedWithoutARestart(t *testing.T) {
	e := testnode.StartSecureEtcd(t)
	e.AddNode(t, "n1")
	n := secured(t, e.Settings("patchbay-n1")...)
	n.Run(t, "a", "data")

	e.Issue(t, "patchbay-n1") // renewed by the same authority
	e.Stop()
	e.Start(t)
	n.Run(t, "b", "data")

	e.Stop()
	e.NewAuthority(t)
	e.Start(t) // etcd has the new ones, and the node the new authority with the old certificate
	if _, err := n.TryRun("early", "data"); err == nil || !again(err) {
		t.Errorf("an ADD before the node's certificate is renewed: %v", err)
	}
	e.Issue(t, "patchbay-n1")
	testnode.Eventually(t, "the node is healthy", func() bool { well, _ := n.healthy("etcd"); return well })
	n.Run(t, "c", "data")
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
}
