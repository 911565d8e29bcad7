package delegates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

// A scribe is a delegate that writes down its calls; each fails that is named in broken.
type scribe struct {
	name   string
	calls  *[]string
	broken *[]string
}

func (s scribe) call(format string, args ...any) error {
	line := s.name + " " + fmt.Sprintf(format, args...)
	*s.calls = append(*s.calls, line)
	if slices.ContainsFunc(*s.broken, func(b string) bool { return strings.HasPrefix(line, b) }) {
		return errors.New(line + " is broken")
	}
	return nil
}

func (s scribe) Add(_ context.Context, _ Sandbox, as []*Attachment) error {
	for _, a := range as {
		a.Tried = true
		if a.Result != nil {
			a.Network = fmt.Sprint(a.Network, " behind ", a.Result.Interfaces[0].Name)
		}
		a.Result = &types100.Result{Interfaces: []*types100.Interface{{Name: s.name + " " + a.Interface}}}
	}
	return s.call("ADD %s", list(as))
}

func (s scribe) Del(_ context.Context, _ Sandbox, as []*Attachment) []error {
	return slices.Repeat([]error{s.call("DEL %s", list(as))}, len(as))
}

func (s scribe) Check(_ context.Context, _ Sandbox, as []*Attachment) error {
	return s.call("CHECK %s", list(as))
}
func (s scribe) Status(_ context.Context, l *cniconf.List) error {
	return s.call("STATUS %s", strings.Join(l.Types(), "+"))
}
func (s scribe) Handles(typ string) bool { return typ == s.name }
func (s scribe) Connected() bool         { return true }
func (s scribe) Leftovers(context.Context, func(Owner) bool, func() []Owner) ([]string, error) {
	return []string{"of " + s.name}, nil
}
func (s scribe) RemoveLeftovers(_ context.Context, names []string) error {
	return s.call("REMOVE %s", names)
}
func (s scribe) Installed(types, _ []string) error {
	return s.call("INSTALLED %s", strings.Join(slices.DeleteFunc(types, func(t string) bool { return t == "" }), ","))
}
func (s scribe) Mend(context.Context, Sandbox, *Attachment) (lost, err error) { return nil, nil }
func (s scribe) GC(_ context.Context, l *cniconf.List, _ []types.GCAttachment) error {
	return s.call("GC %s", strings.Join(l.Types(), "+"))
}
func (s scribe) IPAM(_ context.Context, command, typ string, _ Sandbox, a *Attachment) (*types100.Result, error) {
	return &types100.Result{}, s.call("IPAM %s %s for %s", command, typ, a.Interface)
}

func list(as []*Attachment) string {
	var l []string
	for _, a := range as {
		l = append(l, a.Interface+"="+strings.Join(a.Config.Types(), "+"))
	}
	return strings.Join(l, ",")
}

type chainTest struct {
	*Chain
	calls, broken []string
	sandbox       Sandbox
}

func newChainTest(broken ...string) *chainTest {
	c := &chainTest{broken: broken}
	scribe := func(name string) scribe { return scribe{name, &c.calls, &c.broken} }
	c.Chain = NewChain(scribe("exec"), scribe("ours"), scribe("other"))
	c.sandbox.Recorded = func() error { return scribe("record").call("awaited") }
	return c
}

// attachments have the lists of these plugin types; behind a colon the type of the first one's IPAM.
func attachments(t *testing.T, lists ...string) []*Attachment {
	t.Helper()
	var as []*Attachment
	for i, l := range lists {
		types, ipam, _ := strings.Cut(l, ":")
		var plugins []string
		for _, typ := range strings.Split(types, "+") {
			p := fmt.Sprintf(`{"type": %q}`, typ)
			if ipam != "" {
				p, ipam = fmt.Sprintf(`{"type": %q, "ipam": {"type": %q}}`, typ, ipam), ""
			}
			plugins = append(plugins, p)
		}
		conf, err := cniconf.Parse([]byte(`{"cniVersion": "1.1.0", "name": "n", "plugins": [`+strings.Join(plugins, ",")+`]}`), "")
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, &Attachment{Interface: fmt.Sprintf("net%d", i+1), Config: conf})
	}
	return as
}

func TestTheChainChooses(t *testing.T) {
	for name, c := range map[string]struct {
		lists    []string
		broken   []string
		add, del string
	}{
		"neighbours of one native delegate go to it together, what is executed waits for the record": {[]string{"ours", "ours", "x", "other", "ours"}, nil,
			"ours ADD net1=ours,net2=ours; record awaited; exec ADD net3=x; other ADD net4=other; ours ADD net5=ours",
			"ours DEL net5=ours; other DEL net4=other; exec DEL net3=x; ours DEL net1=ours,net2=ours"},
		"a native head, and the executor behind it": {[]string{"ours+x+y"}, nil,
			"record awaited; ours ADD net1=ours; exec ADD net1=x+y", "exec DEL net1=x+y; ours DEL net1=ours"},
		"another IPAM plugin is asked before, and told after": {[]string{"ours:host-local", "ours"}, nil,
			"record awaited; exec IPAM ADD host-local for net1; ours ADD net1=ours,net2=ours", "ours DEL net1=ours,net2=ours; exec IPAM DEL host-local for net1"},
		"our own IPAM is asked by the engine": {[]string{"ours:patchbay-ipam", "x:patchbay-ipam"}, nil,
			"ours ADD net1=ours; record awaited; exec ADD net2=x", "exec DEL net2=x; ours DEL net1=ours"},
		"a head is unmade though the executor fails": {[]string{"ours+x"}, []string{"exec DEL"}, "record awaited; ours ADD net1=ours; exec ADD net1=x", "exec DEL net1=x; ours DEL net1=ours"},
		"nothing is executed that can't be recorded": {[]string{"x", "ours"}, []string{"record"}, "record awaited", ""},
		"no address is freed of what is still there": {[]string{"ours:host-local"}, []string{"ours DEL"}, "", "ours DEL net1=ours"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := newChainTest(c.broken...)
			as := attachments(t, c.lists...)
			_ = ch.Add(context.Background(), ch.sandbox, as)
			if got := strings.Join(ch.calls, "; "); c.add != "" && got != c.add {
				t.Errorf("ADD: %s", got)
			}
			ch.calls = nil
			errs := ch.Del(context.Background(), ch.sandbox, as)
			if got := strings.Join(ch.calls, "; "); c.del != "" && got != c.del {
				t.Errorf("DEL: %s", got)
			}
			if failed := errors.Join(errs...) != nil; failed != (len(c.broken) > 0 && strings.Contains(c.broken[0], "DEL")) {
				t.Errorf("DEL: %v", errs)
			}
		})
	}
}

func TestAnExecutedPluginIsGivenTheHeadsResult(t *testing.T) {
	ch := newChainTest()
	as := attachments(t, "ours+x")
	if err := ch.Add(context.Background(), ch.sandbox, as); err != nil {
		t.Fatal(err)
	}
	if a := as[0]; !a.Tried || a.Result.Interfaces[0].Name != "exec net1" || len(a.Config.Plugins) != 2 {
		t.Errorf("%+v", a)
	}
	if tail := ch.tail(as[0]); tail.Result != as[0].Result {
		t.Error("DEL is not given the final result")
	}
}

func TestWhoAsksForAddressesAndWhatMustBeInstalled(t *testing.T) {
	for l, want := range map[string]struct {
		asks, cheap bool
		installed   string
	}{
		"ours": {true, true, ""}, "ours:patchbay-ipam": {true, true, ""}, "ours:host-local": {false, true, "host-local"},
		"ours+x:patchbay-ipam": {true, false, "x"}, "x:patchbay-ipam": {false, false, "x,patchbay-ipam"}, "x+ours": {false, false, "x,ours"},
	} {
		ch := newChainTest()
		conf := attachments(t, l)[0].Config
		err := ch.Installed(conf, nil)
		if ch.Asks(conf) != want.asks || ch.Cheap(conf) != want.cheap || err != nil || ch.calls[0] != "exec INSTALLED "+want.installed {
			t.Errorf("%s: asks %v, cheap %v, %q", l, ch.Asks(conf), ch.Cheap(conf), ch.calls)
		}
	}
}

func TestTheOtherVerbsReachEachPart(t *testing.T) {
	ch := newChainTest()
	as := attachments(t, "ours+x:host-local", "other", "y")
	ctx := context.Background()
	err := ch.Check(ctx, ch.sandbox, as)
	for _, a := range as {
		err = errors.Join(err, ch.Status(ctx, a.Config), ch.GC(ctx, a.Config, nil))
	}
	left, leftErr := ch.Leftovers(ctx, nil, nil)
	if err = errors.Join(err, leftErr, ch.RemoveLeftovers(ctx, left)); err != nil {
		t.Fatal(err)
	}
	want := []string{"ours CHECK net1=ours", "exec CHECK net1=x", "exec IPAM CHECK host-local for net1", "other CHECK net2=other", "exec CHECK net3=y",
		"ours STATUS ours+x", "exec STATUS x", "exec GC x", "other STATUS other", "exec STATUS y", "exec GC y", "ours REMOVE [of other of ours]", "other REMOVE [of other of ours]"}
	if !slices.Equal(ch.calls, want) {
		t.Errorf("%q", ch.calls)
	}
}
