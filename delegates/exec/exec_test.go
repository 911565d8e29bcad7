package exec

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a plugin that writes down each call and does what files in its directory say.
const recorder = `#!/bin/sh
dir=$(dirname "$0") name=$(basename "$0")
conf=$(cat)
echo "$CNI_COMMAND $name netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS $conf" >> "$dir/log"
if [ -e "$dir/$name.$CNI_COMMAND" ]; then . "$dir/$name.$CNI_COMMAND"; fi
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$name'"}]}'
exit 0
`

type bench struct {
	*testing.T
	dir string
	d   *Delegate
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir()}
	for _, n := range []string{"one", "two", "three"} {
		b.write(n, recorder, 0o755)
	}
	b.d = New(Options{Dirs: []string{b.dir}, Deadline: 2 * time.Second, Limit: 4})
	return b
}

func (b *bench) write(name, text string, mode os.FileMode) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), mode); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) log() []string {
	text, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	_ = os.Remove(filepath.Join(b.dir, "log"))
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (b *bench) attachment(conf string) *delegates.Attachment {
	b.Helper()
	list, err := cniconf.Parse([]byte(conf), "n")
	if err != nil {
		b.Fatal(err)
	}
	return &delegates.Attachment{Interface: "net1", Config: list, Requests: delegates.Requests{Others: map[string]any{"mac": "m"}}}
}

const chain = `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one", "capabilities": {"mac": true}}, {"type": "two"}, {"type": "three"}]}`

var sandbox = delegates.Sandbox{ContainerID: "c", NetnsPath: "/run/netns/x", Args: "K8S_POD_NAME=p;X=a=b"}

func commands(log []string) string {
	var l []string
	for _, line := range log {
		f := strings.Fields(line)
		l = append(l, f[0]+" "+f[1])
	}
	return strings.Join(l, ", ")
}

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("N47 C33 C39 C40 C42 ADD runs the list in order, each plugin with the result before it", addRunsTheListInOrder)
	t.Run("N49 an attachment whose DEL fails does not keep the others from theirs", aFailedDelKeepsNoOther)
	t.Run("C04 C22 C36 CHECK runs the list, unless the list or its version says no", checkRunsTheList)
	t.Run("C05 C37 GC goes on after errors", gcGoesOnAfterErrors)
	t.Run("C24 STATUS asks every plugin", statusAsksEveryPlugin)
	t.Run("C34 C35 C51 DEL runs the list in reverse with the final result, again and again", delRunsInReverse)
	t.Run("C48 an empty result is accepted", anEmptyResultIsAccepted)
}

func addRunsTheListInOrder(t *testing.T) {
	b := newBench(t)
	a := b.attachment(chain)
	if err := b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a}); err != nil {
		t.Fatal(err)
	}
	log := b.log()
	if got := commands(log); got != "ADD one, ADD two, ADD three" {
		t.Error(got)
	}
	if strings.Contains(log[0], "prevResult") || !strings.Contains(log[1], `"prevResult":{"cniVersion":"1.0.0"`) || !strings.Contains(log[2], `{"name":"two"}`) {
		t.Errorf("prevResult: %q", log)
	}
	if !strings.Contains(log[0], `"runtimeConfig":{"mac":"m"}`) || strings.Contains(log[1], "runtimeConfig") || strings.Contains(log[0], "capabilities") { // C39, C40
		t.Errorf("runtimeConfig: %q", log)
	}
	if !strings.Contains(log[0], "args=K8S_POD_NAME=p;X=a=b") { // C42
		t.Errorf("CNI_ARGS: %q", log[0])
	}
	if a.Result == nil || a.Result.Interfaces[0].Name != "three" {
		t.Errorf("%+v", a.Result)
	}
}

func delRunsInReverse(t *testing.T) {
	b := newBench(t)
	a := b.attachment(chain)
	b.write("three.ADD", `echo '{"cniVersion":"1.0.0","code":42,"msg":"no","details":"why"}'; exit 1`, 0o644)
	err := b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a})
	var e *types.Error
	if !errors.As(err, &e) || e.Code != 42 || e.Msg != "no" || e.Details != "why" { // C51
		t.Fatalf("%v", err)
	}
	b.log()
	b.write("two.DEL", "exit 1", 0o644)
	if err := errors.Join(b.d.Del(context.Background(), sandbox, []*delegates.Attachment{a})...); err == nil {
		t.Error("a DEL that fails must say so")
	}
	log := b.log()
	if got := commands(log); got != "DEL three, DEL two, DEL one" {
		t.Errorf("a plugin that fails keeps the others of its list from their DEL: %s", got)
	}
	for _, l := range log {
		if !strings.Contains(l, `"prevResult":`) || !strings.Contains(l, `{"name":"two"}`) { // what ADD came to
			t.Errorf("prevResult: %s", l)
		}
	}
	if err := os.Remove(filepath.Join(b.dir, "two.DEL")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.d.Del(context.Background(), sandbox, []*delegates.Attachment{a})...); err != nil {
		t.Error(err)
	}
	if got := commands(b.log()); got != "DEL three, DEL two, DEL one" {
		t.Error(got)
	}
}

func aFailedDelKeepsNoOther(t *testing.T) {
	b := newBench(t)
	one, two := b.attachment(`{"cniVersion": "1.0.0", "name": "n", "type": "one"}`), b.attachment(`{"cniVersion": "1.0.0", "name": "n", "type": "two"}`)
	b.write("two.DEL", "exit 1", 0o644)
	if err := errors.Join(b.d.Del(context.Background(), sandbox, []*delegates.Attachment{one, two})...); err == nil || !strings.Contains(err.Error(), "plugin two") {
		t.Error(err)
	}
	if got := commands(b.log()); got != "DEL two, DEL one" {
		t.Error(got)
	}
}

func checkRunsTheList(t *testing.T) {
	b := newBench(t)
	a := b.attachment(chain)
	if err := b.d.Check(context.Background(), sandbox, []*delegates.Attachment{a}); err != nil {
		t.Error(err)
	}
	if got := commands(b.log()); got != "CHECK one, CHECK two, CHECK three" {
		t.Error(got)
	}
	for _, conf := range []string{strings.Replace(chain, `"name"`, `"disableCheck": true, "name"`, 1), strings.Replace(chain, "1.0.0", "0.3.1", 1)} {
		if err := b.d.Check(context.Background(), sandbox, []*delegates.Attachment{b.attachment(conf)}); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(b.dir, "log")); err == nil {
			t.Errorf("CHECK was run: %s", conf)
		}
	}
}

func gcGoesOnAfterErrors(t *testing.T) {
	b := newBench(t)
	b.write("one.GC", "exit 1", 0o644)
	conf := strings.Replace(chain, "1.0.0", "1.1.0", 1)
	err := b.d.GC(context.Background(), b.attachment(conf).Config, []types.GCAttachment{{ContainerID: "c", IfName: "net1"}})
	if err == nil || !strings.Contains(err.Error(), "plugin one") {
		t.Error(err)
	}
	log := b.log()
	if got := commands(log); got != "GC one, GC two, GC three" || !strings.Contains(log[2], `"cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1"}]`) {
		t.Errorf("%q", log)
	}
	if err := b.d.GC(context.Background(), b.attachment(strings.Replace(conf, `"name"`, `"disableGC": true, "name"`, 1)).Config, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "log")); err == nil {
		t.Error("GC was run though disabled")
	}
}

func statusAsksEveryPlugin(t *testing.T) {
	b := newBench(t)
	b.write("two.STATUS", `echo '{"code":50,"msg":"not now"}'; exit 1`, 0o644)
	err := b.d.Status(context.Background(), b.attachment(strings.Replace(chain, "1.0.0", "1.1.0", 1)).Config)
	var e *types.Error
	if !errors.As(err, &e) || e.Code != 50 {
		t.Error(err)
	}
}

func anEmptyResultIsAccepted(t *testing.T) {
	b := newBench(t)
	for _, out := range []string{":", "echo '{}'"} {
		b.write("one.ADD", out+"; exit 0", 0o644)
		a := b.attachment(`{"cniVersion": "1.0.0", "name": "n", "type": "one"}`)
		if err := b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a}); err != nil || a.Result == nil {
			t.Errorf("%q: %v", out, err)
		}
	}
}

func TestAPluginThatHangsIsEndedWithItsChildren(t *testing.T) {
	b := newBench(t)
	pipe := filepath.Join(b.dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	child, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0) // ends when nobody has it open to write
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	b.write("one.ADD", `(echo alive; exec sleep 1000) > "$dir/pipe" & sleep 1000`, 0o644)
	err = b.d.Add(context.Background(), sandbox, []*delegates.Attachment{b.attachment(`{"cniVersion": "1.0.0", "name": "n", "type": "one"}`)})
	var e *types.Error
	if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater || !strings.Contains(err.Error(), "did not finish ADD within 2s") {
		t.Error(err)
	}
	if err := child.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(child); err != nil || string(said) != "alive\n" {
		t.Errorf("the plugin's child said %q, and lives on: %v", said, err)
	}
}

// What a plugin prints is kept in memory, and of its errors a part goes to the API server: neither is without
// end, and a plugin that works and only talks much is none the worse for it.
func TestWhatAPluginPrintsIsBounded(t *testing.T) {
	b := newBench(t)
	allocated := func(do func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) >> 20
	}
	a := b.attachment(`{"cniVersion": "1.0.0", "name": "n", "type": "one"}`)
	b.write("one.ADD", "head -c 100M /dev/zero\n", 0o644)
	var err error
	if mb := allocated(func() { err = b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a}) }); mb > 32 {
		t.Errorf("100 MB of result cost %d MiB", mb)
	}
	if err == nil || !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("100 MB of result: %.200v", err)
	}
	b.write("one.ADD", "head -c 100M /dev/zero >&2\n", 0o644)
	if mb := allocated(func() { err = b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a}) }); err != nil || mb > 32 {
		t.Errorf("100 MB of chatter cost %d MiB, and %.200v", mb, err)
	}
	b.write("one.ADD", "head -c 100M /dev/zero | tr '\\0' x >&2; exit 3\n", 0o644)
	if err = b.d.Add(context.Background(), sandbox, []*delegates.Attachment{a}); err == nil || len(err.Error()) > 8<<10 {
		t.Errorf("100 MB of excuses: %.200v", err)
	}
}

func TestOnlyPermittedDirectoriesAreUsed(t *testing.T) {
	b := newBench(t)
	evil := t.TempDir()
	if err := os.WriteFile(filepath.Join(evil, "evil"), []byte("#!/bin/sh\ntouch "+evil+"/ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{"evil", "../evil", "/bin/sh", "..", ""} {
		if _, err := b.d.run(context.Background(), typ, cniwire.Request{Command: "ADD", Path: evil}); err == nil {
			t.Errorf("type %q was run", typ)
		}
	}
	if _, err := os.Stat(evil + "/ran"); err == nil {
		t.Error("a plugin outside meta.cniBinDirs was run")
	}
}
