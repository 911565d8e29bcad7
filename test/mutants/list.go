package main

// Tests that catch more than one.
var (
	simulation = test{pkg: "attach", run: "TestSimulation", args: []string{"-sim.runs=400"}}
	longer     = test{pkg: "attach", run: "TestSimulation", args: []string{"-sim.runs=5000"}} // for what needs a rare order
	conditions = test{pkg: "internal/etcd", run: "TestAConditionHoldsItsTransactionBack"}
)

// mutants are the faults, most of them ones that a project of this family has had.
var mutants = []mutant{
	// Addresses.
	{"a claim without its condition", "internal/etcd", "func (t Txn) IfAbsent(key string) Txn {", "func (t Txn) IfAbsent(key string) Txn { return t }\n\nfunc (t Txn) was(key string) Txn {", conditions},
	{"a claim in a pool that was redefined", "internal/etcd", "func (t Txn) IfRevision(key string, revision int64) Txn {", "func (t Txn) IfRevision(string, int64) Txn { return t }\n\nfunc (t Txn) was(key string, revision int64) Txn {", conditions},
	{"a claim that is another's by now is kept", "internal/etcd", "func (t Txn) IfHolds(key, value string) Txn {", "func (t Txn) IfHolds(key, value string) Txn { return t }\n\nfunc (t Txn) was(key, value string) Txn {", conditions},
	{"a pool with claims is removed", "internal/etcd", "func (t Txn) IfEmpty(prefix string) Txn {", "func (t Txn) IfEmpty(string) Txn { return t }\n\nfunc (t Txn) was(prefix string) Txn {", conditions},
	{"a release that frees whoever has the address", "internal/etcd", "clientv3.OpTxn([]clientv3.Cmp{condition{key: key, of: content, value: value}.compare()}, ", "clientv3.OpTxn(nil, ", conditions},
	{"a lost answer taken for a conflict", "internal/etcd", "if !lost || len(found) == 0 {", "if true {",
		test{pkg: "internal/etcd", run: "TestTheOutcomeOfATransactionWhoseAnswerIsLost"}},
	{"a conflict taken for a lost answer's", "internal/etcd", "if len(kvs) != 1 || !bytes.Equal(", "if len(kvs) > 1 && !bytes.Equal(",
		test{pkg: "internal/etcd", run: "TestTheOutcomeOfATransactionWhoseAnswerIsLost"}},
	{"a refused reservation keeps addresses", "ipam/node", "err = h.take(s, left); err != nil {\n\t\t\th.forget()", "err = h.take(s, left); err != nil {",
		test{pkg: "ipam/node", run: "TestARefusedReservationKeepsNoAddress"}},
	{"an address is given again at once", "ipam", "if now.Sub(freed) < s.pool.Cooldown {", "if now.Sub(freed) < 0 {",
		test{pkg: "ipam", run: "TestAFreedAddressRestsAndALateReleaseFreesNobodyElses"}},
	{"a late release frees the next owner's", "ipam", "had := s.used[a].SameInterface(o)", "had := true",
		test{pkg: "ipam", run: "TestAFreedAddressRestsAndALateReleaseFreesNobodyElses"}},
	{"pools that are defined at once don't see each other", "ipam/ledger", "IfRevision(l.guard, revisionOf(guard))", "IfRevision(\"/nobody\", revisionOf(guard[:0]))",
		test{pkg: "ipam/node", run: "TestOfPoolsDefinedAtOnceOneWins"}},
	{"a pool may be redefined", "ipam/ledger", "case have.OnlyOverlapDiffers(want):", "case true:", test{pkg: "ipam/node", run: "TestAPoolCantBeRedefined"}},

	{"a claim whatever the subnet's key says", "ipam/ledger", "t = t.IfRevision(l.subnet(pool, s), held)", "_ = held",
		test{pkg: "ipam/node", run: "TestASubnetThatIsAnotherNodesByNowGivesNoAddress"}},
	{"a subnet is given back with claims in it", "ipam/ledger", "still.IfEmpty(l.claimsIn(pool, s)).Delete(", "still.Delete(",
		test{pkg: "ipam/node", run: "TestASubnetInWhichAnAddressIsClaimedMeanwhileIsNotGivenBack"}},
	{"what rests is forgotten over a restart", "ipam/node", "s.Rest(addr, freed)", "_ = freed", test{pkg: "ipam/node", run: "TestAFreedAddressRestsOverARestart"}},
	{"a lost answer taken for a success", "internal/etcd", "return txn.ErrConflict\n\t\t}\n\t}", "return nil\n\t\t}\n\t}", test{pkg: "ipam/node", run: "TestHistoryIsLinearizable"}},
	{"a pool is exhausted while addresses rest no longer", "ipam", "delete(s.used, a)\n", "_ = a\n", test{pkg: "ipam/node", run: "TestAPoolGivesWhatIsFreeAndIsExhaustedOnlyThen"}},
	{"a panic keeps a pool's lock", "ipam/node", "if !settled { // or", "if !settled && recover() == nil { // or",
		test{pkg: "test/attack", run: "TestAPanicWhileAddressesAreChosenKeepsNone", bins: true}},

	// The engine.
	{"calls for a sandbox don't wait for each other", "attach", "lock: semaphore.NewWeighted(1)", "lock: semaphore.NewWeighted(2)", simulation},
	{"the error of a DEL is swallowed", "attach", "a := as[i]\n", "a := as[i]\n\t\terr = nil\n", simulation},
	{"no rollback", "attach", "if p.work.Tried {\n", "if false {\n", simulation},
	{"addresses freed before what has them is gone", "attach", "claims := releasable(gone)", "claims := releasable(append(gone, rest.Attachments...))", longer},
	{"an intent without its claims", "attach", "claims = txn.Join(claims, p.reservation.Txn())", "_ = claims", simulation},

	{"a repeated ADD makes everything again", "attach", "have.sameNamespace(&s) && have.has(wanted...)", "false",
		test{pkg: "test/attack", run: "TestAnADDRepeatedDoesNotUnmakeARunningPod", bins: true}},
	{"a sandbox of an earlier boot is kept", "attach", "if s.BootID != e.bootID && !s.over() {", "if false {",
		test{pkg: "test/attack", run: "TestARebootWithAttachmentsInEveryState", bins: true}},
	{"a DEL that failed is forgotten", "attach", "stuck, next = append(stuck, o), next.with(o.Attachment)", "stuck, next = append(stuck, o), next.without(o.Spec.Interface)", simulation},
	{"a panic behind a commit leaves the memory behind", "attach", "e.Records = steady{o.Records, o.Log}", "",
		test{pkg: "test/attack", run: "TestWhatIsDetachedStaysDetachedAfterAPanicBehindTheCommit", bins: true}},
	{"what failed is never tried again", "attach", "if len(undone) == 0 {", "if true {", simulation},

	// Collection needs evidence.

	{"GC whatever the network", "attach", `network == "" || s.CNINetwork != network || `, "",
		test{pkg: "test/attack", run: "TestGCCollectsOnlyWhatWasAddedUnderItsNetworkAndPlugin", bins: true}},
	{"a record that can't be read accounts for nothing", "attach", "unsure = slices.Contains(e.unreadable, o.ContainerID)", "unsure = false",
		test{pkg: "test/attack", run: "TestARecordThatCantBeReadCostsThePodNothing", bins: true}},
	{"another's ports are removed with ours", "delegates/ovs", "return !hostNamePattern.MatchString(n)", "return false",
		test{pkg: "delegates/ovs", run: "TestOnlyLeftoversWithNamesOfOursAreRemoved"}},
	{"a namespace is known by its path", "internal/netns", "if h.cookie != cookie {", "if false {",
		test{pkg: "internal/netns", run: "TestANamespaceIsKnownByItsCookie"}},
	{"a thread goes on in a pod's namespace", "internal/netns", "if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {", "if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); true {",
		test{pkg: "internal/netns", run: "TestT19AThreadThatCannotComeBackEnds"}},
	{"the host's namespace is entered", "internal/netns", "if h.cookie == host {", "if h.cookie == host && path == \"\" {",
		test{pkg: "internal/netns", run: "TestT6OnlyNetworkNamespacesOfPodsAreEntered"}},

	{"a namespace is known by its inode", "internal/netns", "cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)",
		"var st unix.Stat_t\n\terr = unix.Stat(\"/proc/thread-self/ns/net\", &st)\n\tcookie := st.Ino",
		test{pkg: "internal/netns", run: "TestANamespaceThatHasAnEarlierOnesInodeIsAnother"}},
	{"GC without its grace", "attach", "if gone < e.GCGrace {", "if gone < 0 {", test{pkg: "attach", run: "TestASandboxHasEndedOnlyWithEvidence"}},
	{"a runtime's silence is evidence", "attach", "return gone >= e.UnaskedGrace && !s.hasHostEnd()", "return !s.hasHostEnd()",
		test{pkg: "attach", run: "TestASandboxHasEndedOnlyWithEvidence"}},
	{"an earlier sandbox's DEL frees the name of the pod's next", "attach/store", "return t.DeleteIfHolds(s.podName(sb))", "key, _ := s.podName(sb)\n\treturn t.Delete(key)",
		test{pkg: "attach/store", run: "TestAPodsNameLeadsToTheSandboxThatCameLast"}},
	{"a node that is suspended writes", "internal/etcd", "if err := g.Verify(ctx); err != nil {\n\t\treturn nil, err", "if err := g.Verify(ctx); false {\n\t\treturn nil, err",
		test{pkg: "internal/etcd", run: "TestEachTransactionKnowsItsEtcd"}},
	{"ports are transient", "delegates/ovs", "t.Insert(rows...)\n", "t.Insert(rows...)\n\tt.Add([]ovsdb.Operation{{Op: \"mutate\", Table: \"Port\", Where: []ovsdb.Condition{{Column: \"name\", Function: \"==\", Value: p.port}}, " +
		"Mutations: []ovsdb.Mutation{{Column: \"other_config\", Mutator: \"insert\", Value: ovsdb.OvsMap{GoMap: map[any]any{\"transient\": \"true\"}}}}}}, nil)\n",
		test{pkg: "test/attack", run: "TestLine25PortsAreNotTransient", bins: true}},

	// DELs that wait.
	{"a damaged DEL holds the others", "internal/delqueue", "e.SetAside(err))\n\t\t\t\tcontinue", "e.SetAside(err))\n\t\t\t\treturn nil, errors.Join(errs...)",
		test{pkg: "internal/delqueue", run: "TestADamagedFileIsSetAside"}},
	{"the queue has no bound", "internal/delqueue", "if len(names) >= Max {", "if false {", test{pkg: "internal/delqueue", run: "TestAFullQueueSaysSo"}},

	// Who may what.
	{"isolation is off", "meta", "!p.cfg.NamespaceIsolation || podNamespace == networkNamespace", "true || podNamespace == networkNamespace",
		test{pkg: "meta", run: "TestConformance"}},
	{"isolation is off over REST", "meta", "if source != SourceDefault {", "if source != SourceDefault && source != SourceAPI {",
		test{pkg: "test/node", run: "TestRESTRefusesWithTheRightStatus", bins: true}},
	{"a forged record is executed", "attach/store", "if err != nil || s.Key.sealed(key, value) || s.Vet == nil {", "if true {", test{pkg: "attach/store", run: "TestOnlyWhatThisNodeHasWrittenIsTakenAsItIs"}},
	{"any pod chooses its cluster network", "meta", "may := slices.Concat(p.cfg.SystemNamespaces, p.cfg.Overriding)", "may := []string{\"*\"}", test{pkg: "meta", run: "TestWhoMayChooseTheClusterNetwork"}},
	{"plugins of any directory are executed", "delegates/exec", "dirs := d.path(caller)", "dirs := append(caller, d.path(caller)...)",
		test{pkg: "delegates/exec", run: "TestOnlyPermittedDirectoriesAreUsed"}},
	{"a plugin's children outlive it", "delegates/exec", "syscall.Kill(-cmd.Process.Pid", "syscall.Kill(cmd.Process.Pid",
		test{pkg: "delegates/exec", run: "TestAPluginThatHangsIsEndedWithItsChildren"}},
	{"a plugin's output is kept without a bound", "delegates/exec", "n := min(len(b), o.max-len(o.kept))", "n := len(b)",
		test{pkg: "delegates/exec", run: "TestWhatAPluginPrintsIsBounded"}},
	{"the installer writes over a plugin that runs", "internal/install", "f, err := os.CreateTemp(filepath.Dir(path), \".patchbay-*\")", "f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)",
		test{pkg: "internal/install", run: "TestARunningPluginIsReplaced"}},
}
