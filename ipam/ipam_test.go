package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pool(t *testing.T, config string) *Pool {
	t.Helper()
	p, err := ParseConfig([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func owner(i int) Owner {
	return Owner{Node: "n1", ContainerID: fmt.Sprintf("c%d", i), IfName: "net1"}
}

func TestTwoSettingsAreAPool(t *testing.T) {
	p := pool(t, `{"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24}`)
	if n := p.Networks[0]; p.Name != "10.12.0.0-16" || n.SubnetBits != 24 || n.Min.String() != "10.12.0.0" || n.Max.String() != "10.12.255.0" {
		t.Errorf("%+v", p)
	}
	v6 := pool(t, `{"networks": ["10.13.0.0/16", "fd00:13::/48"], "subnetLen": 24}`)
	if v6.Networks[1].SubnetBits != 56 || v6.Networks[1].Max.String() != "fd00:13:0:ff00::" {
		t.Errorf("%+v", v6)
	}
}

func TestBadPoolsAreRefused(t *testing.T) {
	for config, want := range map[string]string{
		`{"subnetLen": 24}`:                                                                             "network is missing",
		`{"network": "10.0.0.0/16"}`:                                                                    "subnetLen is missing",
		`{"network": "10.0.0.1/16", "subnetLen": 24}`:                                                   "write 10.0.0.0/16",
		`{"network": "ten", "subnetLen": 24}`:                                                           "not a CIDR",
		`{"network": "10.0.0.0/16", "subnetLen": 8}`:                                                    "between 16 and 30",
		`{"network": "10.0.0.0/16", "subnetLen": 31}`:                                                   "between 16 and 30",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "subnetMin": "10.0.1.1"}`:                          "subnetMin",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "subnetMax": "10.1.0.0"}`:                          "subnetMax",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "subnetMin": "10.0.9.0", "subnetMax": "10.0.8.0"}`: "above",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "exclude": ["x"]}`:                                 "exclude",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "gateway": "192.0.2.1"}`:                           "gateway",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "cooldown": "soon"}`:                               "cooldown",
		`{"network": "10.0.0.0/16", "subnetlen": 24, "colour": 1}`:                                      "colour",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "pool": "A/B"}`:                                    "pool name",
		`{"network": "2000::/3", "subnetLen": 66}`:                                                      "2^62",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "mode": "cluster"}`:                                `mode "cluster"`,
		`{"networks": ["10.1.0.0/16"` + strings.Repeat(`, "10.1.0.0/16"`, 32) + `], "subnetLen": 24}`:   "33 networks are too many",
		`{"networks": ["10.0.0.0/16", "10.0.0.0/17"], "subnetLen": 24}`:                                 "networks 10.0.0.0/16 and 10.0.0.0/17 of the pool overlap",
		`{"network": "10.0.0.0/16", "networks": ["10.0.0.0/16"], "subnetLen": 24}`:                      "overlap",
		`{"network": "::ffff:10.12.0.0/112", "subnetLen": 120}`:                                         "write 10.12.0.0/16",
		`{"network": "0.0.0.0/0", "subnetLen": 24}`:                                                     "0.0.0.0/0 has addresses in it that no interface of a pod can have (0.0.0.0/8)",
		`{"network": "127.1.0.0/16", "subnetLen": 24}`:                                                  "(127.0.0.0/8)",
		`{"network": "ff02::/64", "subnetLen": 80}`:                                                     "(ff00::/8)",
		`{"network": "::/64", "subnetLen": 80}`:                                                         "choose another network",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "exclude": ["::ffff:10.0.0.9"]}`:                   "write 10.0.0.9",
		`{"network": "fd00::/48", "subnetLen": 64, "exclude": ["fd00::9%eth0"]}`:                        "write fd00::9",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "gateway": "::ffff:10.0.0.9"}`:                     "write 10.0.0.9",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "subnetMin": "::ffff:10.0.9.0"}`:                   "subnetMin \"::ffff:10.0.9.0\" is an IPv4 address",
		`{"network": "10.0.0.0/16", "subnetLen": 24, "routes": [{"dst": "::ffff:10.0.0.0/104"}]}`:       "write 10.0.0.0/8",
	} {
		if _, err := ParseConfig([]byte(config), nil); err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

// The specification is a contract with other releases: one that is written otherwise is another pool's.
func TestASpecificationIsWrittenAsItAlwaysWas(t *testing.T) {
	for config, want := range map[string]string{
		`{"network": "10.12.0.0/16", "subnetLen": 24}`: `{"mode":"node","networks":[{"network":"10.12.0.0/16","subnetLen":24,"subnetMin":"10.12.0.0","subnetMax":"10.12.255.0"}]}`,
		`{"networks": ["10.12.0.0/16", "fd00::/48"], "subnetLen": 24, "subnetMin": "10.12.8.0", "exclude": ["10.12.0.9", "fd00::/64"], "gateway": "10.12.0.1", "overlap": "allow"}`: `{"mode":"node","networks":[{"network":"10.12.0.0/16","subnetLen":24,"subnetMin":"10.12.8.0","subnetMax":"10.12.255.0"},` +
			`{"network":"fd00::/48","subnetLen":56,"subnetMin":"fd00::","subnetMax":"fd00:0:0:ff00::"}],"exclude":["10.12.0.9/32","fd00::/64"],"gateway":"10.12.0.1","overlap":"allow"}`,
	} {
		p := pool(t, config)
		if p.Value() != want {
			t.Errorf("%s: %s, want %s", config, p.Value(), want)
		}
		if read, err := ParseSpec([]byte(want)); err != nil || read.Value() != want {
			t.Errorf("%s: %+v, %v", want, read, err)
		}
	}
}

// TestChoiceIsSound checks by random runs what must hold of any choice: inside the subnet, not its
// own, gateway's or broadcast address, not excluded, never with two owners, exhausted only if full.
func TestChoiceIsSound(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		bits := 24 + r.IntN(6)
		p := pool(t, fmt.Sprintf(`{"network": "10.0.0.0/16", "subnetLen": %d, "cooldown": "0s", "exclude": ["10.0.0.%d", "10.0.0.%d/31"]}`, bits, r.IntN(20), 2*r.IntN(20)))
		s := NewSubnet(p, netip.MustParsePrefix(fmt.Sprintf("10.0.0.0/%d", bits)), nil)
		have := map[netip.Addr]int{}
		for i := range 600 {
			if r.IntN(3) == 0 && len(have) > 0 {
				for a, n := range have {
					s.Release(a, owner(n), time.Now())
					delete(have, a)
					break
				}
				continue
			}
			a, err := s.Choose(owner(i), time.Now())
			if errors.Is(err, ErrExhausted) {
				for a := s.Prefix.Addr().Next().Next(); s.Prefix.Contains(a.Next()); a = a.Next() {
					if _, used := have[a]; !used && !s.excluded(a) {
						t.Fatalf("seed %d: exhausted with %s free", seed, a)
					}
				}
				continue
			}
			if _, twice := have[a]; twice || err != nil || !s.Prefix.Contains(a) || a == s.Gateway || a == s.Prefix.Addr() || a == lastAddr(s.Prefix) || s.excluded(a) {
				t.Fatalf("seed %d: chose %s (%v)", seed, a, err)
			}
			have[a] = i
		}
	}
}

func TestAFreedAddressRestsAndALateReleaseFreesNobodyElses(t *testing.T) {
	p := pool(t, `{"network": "10.0.0.0/29", "subnetLen": 29, "cooldown": "30s"}`)
	s := NewSubnet(p, netip.MustParsePrefix("10.0.0.0/29"), nil)
	now := time.Now()
	var all []netip.Addr
	for i := range 5 {
		a, err := s.Choose(owner(i), now)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	s.Release(all[2], owner(2), now)
	if a, err := s.Choose(owner(9), now.Add(29*time.Second)); !errors.Is(err, ErrExhausted) {
		t.Errorf("%s is given out again at once", a)
	}
	if err := s.Request(Request{Addr: all[2]}, owner(7)); err != nil {
		t.Error(err)
	}
	s.Forget(all[2], owner(7)) // its request came to nothing: nobody has had the address meanwhile
	if a, err := s.Choose(owner(9), now.Add(29*time.Second)); !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "in use 4, resting after release 1 ") {
		t.Errorf("%s no longer rests, as a pod asked for it: %v", a, err)
	}
	if a, err := s.Choose(owner(9), now.Add(31*time.Second)); err != nil || a != all[2] {
		t.Errorf("%s, %v", a, err)
	}
	s.Release(all[2], owner(2), now) // the old owner, again
	if s.Owner(all[2]) != owner(9) {
		t.Error("a late release freed an address that has a new owner")
	}
}

func TestMACsAreMadeFromAddresses(t *testing.T) {
	if m := MAC(netip.MustParseAddr("10.12.0.2")).String(); m != "0a:58:0a:0c:00:02" {
		t.Error(m)
	}
	if m := MAC(netip.MustParseAddr("fd00::1")); len(m) != 6 || m[0] != 0x0a {
		t.Error(m)
	}
}

func TestTextPrefixCoversTheSubnet(t *testing.T) {
	for _, text := range []string{"10.12.0.0/24", "10.12.2.0/23", "10.12.0.128/25", "fd00:13::/56", "fd00:13:0:500::/56", "fd00:0:0:5::/64", "2001:db8:1:2::/64"} {
		s := netip.MustParsePrefix(text)
		prefix := TextPrefix(s)
		a := s.Addr()
		for range 2000 {
			if !strings.HasPrefix(a.String(), prefix) {
				t.Fatalf("%s does not begin with %q", a, prefix)
			}
			b := a.AsSlice()
			for i := s.Bits(); i < len(b)*8; i++ {
				if rand.IntN(3) == 0 {
					b[i/8] ^= 1 << (7 - i%8)
				}
			}
			a, _ = netip.AddrFromSlice(b)
		}
	}
}

func TestRequestsAreAddressesAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{"10.43.0.9": "", "10.43.0.9/24": "", "fd00::9/64": "", "::ffff:10.43.0.9": "write 10.43.0.9",
		"::ffff:10.43.0.9/24": "write 10.43.0.9/24", "::ffff:10.43.0.9/120": "write 10.43.0.9/24", "fe80::1%eth0": "write fe80::1", "ten": "neither"} {
		if _, err := ParseRequest(text); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestAPoolsNameIsReadFromWhateverThereIs(t *testing.T) {
	for config, want := range map[string]string{
		`{"pool": "lab", "network": 7, "subnetLen": "x", "colour": 1}`: "lab",
		`{"network": "10.12.0.0/16"}`:                                  "10.12.0.0-16",
		`{"networks": ["10.13.0.0/16", "FD00::/48"], "overlap": []}`:   "10.13.0.0-16.fd00::-48",
		`{"subnetLen": 24}`: "",
		`{"pool": "../x"}`:  "",
		`[`:                 "",
	} {
		if name, err := NameOf([]byte(config)); name != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", config, name, err)
		}
	}
}

// Whatever the exclusions' order and however they overlap, exactly the others are given out; and many of
// them, or huge ones, cost nothing.
func TestChoosingStepsOverExclusions(t *testing.T) {
	p, err := ParseConfig([]byte(`{"network": "10.1.2.0/24", "subnetLen": 24, "cooldown": "0s",
 "exclude": ["10.1.2.200/29", "10.1.2.8/29", "10.1.2.16/28", "10.1.2.12", "10.1.2.12/30", "10.1.2.254", "0.0.0.0/29", "10.1.2.3"]}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSubnet(p, p.Networks[0].Prefix, nil)
	given := map[netip.Addr]bool{}
	for i := 0; ; i++ {
		a, err := s.Choose(Owner{ContainerID: fmt.Sprint(i)}, time.Now())
		if err != nil {
			break
		}
		if given[a] {
			t.Fatalf("%s was given twice", a)
		}
		given[a] = true
	}
	for a := netip.MustParseAddr("10.1.2.2"); a.Less(netip.MustParseAddr("10.1.2.255")); a = a.Next() {
		excluded := false
		for _, x := range p.Exclude {
			excluded = excluded || x.Contains(a)
		}
		if given[a] == excluded {
			t.Errorf("%s: given %v, excluded %v", a, given[a], excluded)
		}
	}
	whole, err := ParseConfig([]byte(`{"network": "fd00::/48", "subnetLen": 64, "exclude": ["fd00::/64"]}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := NewSubnet(whole, netip.MustParsePrefix("fd00::/64"), nil).Choose(Owner{}, time.Now()); !errors.Is(err, ErrExhausted) {
		t.Errorf("%s, %v", a, err)
	}
}
