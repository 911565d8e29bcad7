package main

// Tests that catch more than one.
var (
	simulation = test{pkg: "attach", run: "TestSimulation", args: []string{"-sim.runs=400"}}
	history    = test{pkg: "ipam/node", run: "TestHistoryIsLinearizable"}
)

// mutants are the faults, most of them ones that a project of this family has had.
var mutants = []mutant{
	// Addresses.
	{"a claim without its condition", "ipam/ledger/ledger.go", "t = t.IfAbsent(l.claimKey(c))", "", history},
	{"a subnet that is taken without a condition", "ipam/ledger/ledger.go", "etcd.Txn{}.IfAbsent(key).", "etcd.Txn{}.", history},
	{"a release that frees whoever has the address", "ipam/ledger/ledger.go", "t = t.DeleteIfHolds(l.claimKey(c), c.Owner.Value())", "t = t.Delete(l.claimKey(c))", history},
	{"a lost answer taken for a conflict", "internal/etcd/commit.go", "if !lost || len(found) == 0 {", "if true {",
		test{pkg: "internal/etcd", run: "TestTheOutcomeOfATransactionWhoseAnswerIsLost"}},
	{"a conflict taken for a lost answer's", "internal/etcd/commit.go", "if len(kvs) != 1 || !bytes.Equal(kvs[0].Value, op.ValueBytes()) {", "if false {",
		test{pkg: "internal/etcd", run: "TestTheOutcomeOfATransactionWhoseAnswerIsLost"}},
	{"a refused reservation keeps addresses", "ipam/node/allocator.go", "if len(left) > 0 {\n\t\th.forget()", "if len(left) > 0 {",
		test{pkg: "ipam/node", run: "TestARefusedReservationKeepsNoAddress"}},
	{"an address is given again at once", "ipam/subnet.go", "if now.Sub(freed) < s.pool.Cooldown {", "if false {",
		test{pkg: "ipam", run: "TestAFreedAddressRestsAndALateReleaseFreesNobodyElses"}},
	{"a late release frees the next owner's", "ipam/subnet.go", "had := s.used[a].SameInterface(o)", "had := true",
		test{pkg: "ipam", run: "TestAFreedAddressRestsAndALateReleaseFreesNobodyElses"}},
	{"pools that are defined at once don't see each other", "ipam/ledger/pools.go", ".IfRevision(l.guard, revisionOf(guard))", "",
		test{pkg: "ipam/node", run: "TestOfPoolsDefinedAtOnceOneWins"}},
	{"a pool may be redefined", "ipam/ledger/pools.go", "case have.OnlyOverlapDiffers(want):", "case true:", test{pkg: "ipam/node", run: "TestAPoolCantBeRedefined"}},

	// The engine.
	{"calls for a sandbox don't wait for each other", "attach/engine.go", "semaphore.NewWeighted(1)", "semaphore.NewWeighted(2)", simulation},
	{"the error of a DEL is swallowed", "attach/del.go", "a := as[i]\n", "a := as[i]\n\t\terr = nil\n", simulation},
	{"no rollback", "attach/undo.go", "if p.work.Tried {\n", "if false {\n", simulation},
	{"addresses freed before what has them is gone", "attach/del.go", "claims := releasable(gone)", "claims := releasable(append(gone, rest.Attachments...))", simulation},
	{"an intent without its claims", "attach/add.go", "claims = txn.Join(claims, p.reservation.Txn())", "_ = claims", simulation},
	{"a failed ADD keeps its addresses", "attach/undo.go", "p.reservation.Cancel()", "_ = kept", simulation},
	{"a repeated ADD makes everything again", "attach/add.go", "have.sameNamespace(&s) && have.has(wanted...)", "false", simulation},
	{"a sandbox of an earlier boot is kept", "attach/recover.go", "if s.BootID != e.bootID && !s.over() {", "if false {", simulation},
	{"what failed is never tried again", "attach/recover.go", "if len(undone) == 0 {", "if true {", simulation},

	// Collection needs evidence.
	{"collected at the first sight", "attach/gc.go", "return time.Since(slot.goneAt) >= e.GCGrace", "return true", simulation},
	{"a namespace that can't be opened is gone", "attach/gc.go", "gone := errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrOther)", "gone := true", simulation},
	{"GC whatever the network", "attach/gc.go", `network == "" || s.CNINetwork != network || `, "",
		test{pkg: "test/attack", run: "TestGCCollectsOnlyWhatWasAddedUnderItsNetworkAndPlugin", bins: true}},
	{"a record that can't be read accounts for nothing", "attach/recover.go", "unsure = slices.Contains(e.unreadable, o.ContainerID)", "unsure = false",
		test{pkg: "test/attack", run: "TestARecordThatCantBeReadCostsThePodNothing", bins: true}},
	{"another's ports are removed with ours", "delegates/ovs/ports.go", "return marked && HostName(id, p.ExternalIDs[idIf]) == p.Name", "return marked",
		test{pkg: "delegates/ovs", run: "TestOnlyLeftoversWithNamesOfOursAreRemoved"}},
	{"a namespace is known by its path", "internal/netns/netns.go", "if h.cookie != cookie {", "if false {",
		test{pkg: "internal/netns", run: "TestANamespaceIsKnownByItsCookie"}},
	{"a thread goes on in a pod's namespace", "internal/netns/netns.go", "if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {", "if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); true {",
		test{pkg: "internal/netns", run: "TestT19AThreadThatCannotComeBackEnds"}},
	{"the host's namespace is entered", "internal/netns/netns.go", "if h.cookie == host {", "if false {",
		test{pkg: "internal/netns", run: "TestT6OnlyNetworkNamespacesOfPodsAreEntered"}},

	// DELs that wait.
	{"a damaged DEL holds the others", "internal/delqueue/delqueue.go", "os.Rename(path, path+\".bad\"))\n\t\t\t\tcontinue", "os.Rename(path, path+\".bad\"))\n\t\t\t\treturn nil, errors.Join(errs...)",
		test{pkg: "internal/delqueue", run: "TestADamagedFileIsSetAside"}},
	{"the queue has no bound", "internal/delqueue/delqueue.go", "if len(names) >= Max {", "if false {", test{pkg: "internal/delqueue", run: "TestAFullQueueSaysSo"}},

	// Who may what.
	{"isolation is off", "meta/planner.go", "!p.cfg.NamespaceIsolation || podNamespace == networkNamespace", "true || podNamespace == networkNamespace",
		test{pkg: "meta", run: "TestConformance"}},
	{"any pod chooses its cluster network", "meta/planner.go", "may := slices.Concat(p.cfg.SystemNamespaces, p.cfg.Overriding)", "may := []string{\"*\"}", test{pkg: "meta", run: "TestWhoMayChooseTheClusterNetwork"}},
	{"plugins of any directory are executed", "delegates/exec/run.go", "dirs := d.path(caller)", "dirs := append(caller, d.path(caller)...)",
		test{pkg: "delegates/exec", run: "TestOnlyPermittedDirectoriesAreUsed"}},
	{"a plugin's children outlive it", "delegates/exec/run.go", "syscall.Kill(-cmd.Process.Pid", "syscall.Kill(cmd.Process.Pid",
		test{pkg: "delegates/exec", run: "TestAPluginThatHangsIsEndedWithItsChildren"}},
	{"a plugin's output is kept without a bound", "delegates/exec/run.go", "n := min(len(b), o.max-len(o.kept))", "n := len(b)",
		test{pkg: "delegates/exec", run: "TestWhatAPluginPrintsIsBounded"}},
	{"the installer writes over a plugin that runs", "internal/install/install.go", "f, err := os.CreateTemp(filepath.Dir(path), \".patchbay-*\")", "f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)",
		test{pkg: "internal/install", run: "TestARunningPluginIsReplaced"}},
}
